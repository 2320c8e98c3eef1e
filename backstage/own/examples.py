"""What a learner has drawn or said, read as what the network was trained on."""

import torch

from backstage.data.datasets import RECORDINGS
from backstage.data.spoken_digits import class_names
from backstage.own.handwriting import read_own_digit
from backstage.own.voice import read_own_sound
from backstage.terminal import UserError, print_image


def read_own(
    image_path: str, sound_path: str, trained_on: str | None
) -> tuple[torch.Tensor, list[str]]:
    """Return your own picture or recording as the network sees it, and show it.

    Args:
        image_path: a picture of a handwritten digit, or "".
        sound_path: a recording of a spoken digit; it counts if it is not "".
        trained_on: the name of the data set that the network knows; None if unknown.

    Returns:
        The image, uint8 [28, 28], and the name of each class.

    Raises:
        UserError: the file cannot be used, or the network knows nothing of its kind.
    """
    if trained_on and bool(sound_path) != (trained_on in RECORDINGS):
        needed, flag = ("recordings", "spoken") if sound_path else ("images", "auto")
        raise UserError(
            f"the network was trained on {trained_on}, and for this it must know "
            f"{needed}: run 03_train_mnist.py --dataset {flag} first"
        )
    image = read_own_sound(sound_path) if sound_path else read_own_digit(image_path)
    print_image(image)
    return image, class_names(trained_on or "")
