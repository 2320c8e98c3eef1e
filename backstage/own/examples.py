"""The learner's own examples: one to read, or a file of many to train with.

my_digits.png and my_voice.wav are made on the page of lesson 4, and are what they look
and sound like, with the label as the place. In the picture, cells of 28 x 28 pixels
hold digits as the network sees them; the column is the digit. In the sound, every
second holds a word; second i is the digit i % 10.
"""

import wave
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from backstage.data.batches import ImageDataset
from backstage.data.datasets import RECORDINGS
from backstage.data.spoken_digits import Recording, class_names
from backstage.files import check_can_read
from backstage.own.handwriting import read_own_digit
from backstage.own.voice import read_own_sound
from backstage.sound import IMAGE_SIZE, SAMPLE_RATE, to_image
from backstage.terminal import UserError, print_image

SHEET_WIDTH = 10 * IMAGE_SIZE  # pixels: a column for each digit
MOST_ROWS = 200  # cells below each other; and as many times ten seconds
LEAST_INK = 64  # of 255: a cell in which nothing is darker is empty
# Of each digit the 2nd, 7th, 12th ... is kept back to measure with. The place among
# those of its digit decides, so that one more example moves none into training.
KEEP_EVERY, KEEP_FROM = 5, 1
MADE = "it is made on the page of lesson 4, my_network.html"


def read_own(
    image_path: str, sound_path: str, run: dict[str, str]
) -> tuple[torch.Tensor, list[str]]:
    """Return your own picture or recording as the network sees it, and show it.

    Args:
        image_path: a picture of a handwritten digit, or "".
        sound_path: a recording of a spoken digit; it counts if it is not "".
        run: the record of the network's training; empty if there is none.

    Returns:
        The image, uint8 [28, 28], and the name of each class.

    Raises:
        UserError: the file cannot be used, or the network knows nothing of its kind.
    """
    trained_on = run.get("dataset", "")
    if trained_on and bool(sound_path) != (trained_on in RECORDINGS):
        needed, flag = ("recordings", "spoken") if sound_path else ("images", "auto")
        raise UserError(
            f"the network was trained on {trained_on}, and for this it must know "
            f"{needed}: run 03_train_mnist.py --dataset {flag} first"
        )
    path = sound_path or image_path
    try:
        image = read_own_sound(path) if sound_path else read_own_digit(path)
    except UserError:
        if _holds_many(path, _read_voice if sound_path else _read_sheet):
            raise UserError(
                f"{path} holds many examples, to train with: python 03_train_mnist.py "
                f"--own {path}"
            ) from None
        raise
    print_image(image)
    return image, class_names(trained_on, own=bool(run.get("own")))


def read_own_examples(
    path: str, train_set: ImageDataset
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the examples in a file that the page of lesson 4 has saved.

    With `speakers`, they are a seventh class, "you".

    Args:
        path: my_digits.png, or my_voice.wav.
        train_set: the data set that they are to join.

    Returns:
        Images, uint8 [N, 28, 28]; labels, int64 [N]; and which of them to keep back to
        measure with, bool [N].

    Raises:
        UserError: the file cannot be used, or its kind is not that of the data set.
    """
    check_can_read(path, MADE)
    with open(path, "rb") as file:
        start = file.read(12)
    hears = train_set.name in RECORDINGS
    is_sound = start[:4] == b"RIFF" and start[8:] == b"WAVE"
    is_picture = start[:4] == b"\x89PNG"
    if is_picture if hears else is_sound:
        holds, flag = ("a voice", "spoken") if is_sound else ("pictures", "auto")
        raise UserError(
            f"{path} holds {holds}, and {train_set.title} are something else: use "
            f"--dataset {flag}"
        )
    cells = _read_voice(path) if hears else _read_sheet(path)
    images, digits, kept = [], [], []
    for position, image in enumerate(cells):
        if image is not None:
            digit = position % 10
            kept.append(digits.count(digit) % KEEP_EVERY == KEEP_FROM)
            digits.append(digit)
            images.append(image)
    if not images:
        raise UserError(f"{path} holds no example: {MADE}")
    labels = torch.tensor(digits)
    if train_set.name == "speakers":
        train_set.classes.append("you")
        labels.fill_(len(train_set.classes) - 1)
    return torch.stack(images), labels, torch.tensor(kept)


def _holds_many(path: str, read: Callable[[str], list]) -> bool:
    try:
        return bool(read(path))
    except UserError:
        return False


def read_own_words(path: str) -> list[Recording]:
    """Return the words in my_voice.wav as recordings of the voice "you".

    Each has `digit`, `voice`, `index` (0 for the first ten seconds) and `samples`, like
    those of load_recordings.

    Raises:
        UserError: the file cannot be used, or holds no word.
    """
    check_can_read(path, MADE)
    words = []
    for position, second in enumerate(_read_seconds(path)):
        (sound,) = torch.nonzero(second, as_tuple=True)
        if len(sound):  # zeros around the word only bring it into its second
            samples = second[sound[0] : sound[-1] + 1]
            words.append(Recording(position % 10, "you", position // 10, samples))
    if not words:
        raise UserError(f"{path} holds no example: {MADE}")
    return words


def _read_sheet(path: str) -> list[torch.Tensor | None]:
    """Return what is in each cell of a sheet, row by row; None where it is empty."""
    try:
        with Image.open(path) as file:
            width, height = file.size
            rows, rest = divmod(height, IMAGE_SIZE)
            fits = width == SHEET_WIDTH and not rest and 1 <= rows <= MOST_ROWS
            pixels = np.array(file.convert("RGB")) if fits else None
    except UnidentifiedImageError:
        raise UserError(f"{path} is no picture: {MADE}") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read ({error}): {MADE}") from None
    if not fits:
        raise UserError(
            f"{path} is {width} x {height} pixels, no sheet of examples ({MADE}); to "
            f"read a single digit: python 04_load_model.py --image {path}"
        )
    if (pixels != pixels[:, :, :1]).any():
        raise UserError(f"{path} has colours, which no sheet of examples has: {MADE}")
    grey = torch.from_numpy(pixels[:, :, 0].copy())
    # [28 * rows, 280] -> [rows, 28, 10, 28] -> [rows, 10, 28, 28]
    cells = grey.reshape(rows, IMAGE_SIZE, 10, IMAGE_SIZE).transpose(1, 2).flatten(0, 1)
    return [cell if cell.max() > LEAST_INK else None for cell in cells]


def _read_voice(path: str) -> list[torch.Tensor | None]:
    """Return the image of each second of a recording; None where it is silent."""
    # They were trimmed and centred when they were kept; trimmed again, a word differs.
    return [
        to_image(second) if second.any() else None for second in _read_seconds(path)
    ]


def _read_seconds(path: str) -> tuple[torch.Tensor, ...]:
    """Return each second of a recording, float32 [8000]."""
    try:
        with wave.open(path) as file:
            kind = (file.getframerate(), file.getsampwidth(), file.getnchannels())
            count = file.getnframes()
            seconds, rest = divmod(count, SAMPLE_RATE)
            fits = kind == (SAMPLE_RATE, 2, 1) and not (rest or seconds % 10)
            fits = fits and 10 <= seconds <= 10 * MOST_ROWS
            content = file.readframes(count) if fits else b""
    except (wave.Error, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error}): {MADE}") from None
    if not fits or len(content) != 2 * count:
        raise UserError(
            f"{path} is no file of examples ({MADE}); to hear a single digit: "
            f"python 04_load_model.py --sound {path}"
        )
    samples = torch.from_numpy(np.frombuffer(content, "<i2").astype(np.float32)) / 2**15
    return samples.split(SAMPLE_RATE)
