"""The data sets by name, and where they are kept."""

import os
from pathlib import Path
from typing import NamedTuple

import torch

from backstage.data.mnist import load_mnist
from backstage.data.spoken_digits import (
    VOICES,
    Recording,
    class_names,
    read_recordings,
    split_recordings,
)
from backstage.data.synthetic_digits import load_synthetic
from backstage.sound import to_image
from backstage.terminal import BadSettingError, UserError, print_wrapped

DATA_DIR = Path(
    os.path.expanduser(os.environ.get("MNIST_DATA_DIR", ""))
    or Path(__file__).resolve().parents[2] / "data"
)

RECORDINGS = {  # name -> what it holds
    "spoken": "recordings of digits",
    "speakers": "recordings of speakers",
    "new-voices": "recordings of new voices",
}
DATASETS = ("auto", "mnist", "synthetic", *RECORDINGS)

VALIDATION_SIZE = 5_000  # of the 60,000 training images of handwriting
SPLIT_SEED = 0  # the same 5,000 in every script and every run


class RawData(NamedTuple):
    """A data set as it is stored: values from 0 (paper, silence) to 255 (ink, loud)."""

    name: str  # "MNIST", "synthetic", ...
    title: str  # what it holds, such as "MNIST digits"
    unit: str  # what one image shows: "image" of handwriting, or "recording"
    scale: str  # what the values mean: "0 paper, 255 ink"
    axes: str  # what the directions of an image mean, where it is not handwriting
    classes: list[str]  # the name of each class: label 3 means classes[3]
    train_images: torch.Tensor  # uint8 [N, 28, 28]
    train_labels: torch.Tensor  # int64 [N]
    test_images: torch.Tensor  # uint8 [M, 28, 28]
    test_labels: torch.Tensor  # int64 [M]
    order: torch.Tensor  # positions of the training images, int64 [N]
    val_size: int  # the last ones in that order are for validation
    test_recordings: list[Recording] | None = None  # what the test images were made of

    def split(self, train_samples: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return which training images to learn from, and which to validate with.

        Args:
            train_samples: how many to learn from; None means all.

        Raises:
            BadSettingError: train_samples is less than 1 or more than there are.
        """
        train_part = self.order[: -self.val_size]
        available = len(train_part)
        if train_samples is not None and not 1 <= train_samples <= available:
            raise BadSettingError(
                f"there are {available:,} training images of {self.title}, so "
                f"--train-samples cannot be {train_samples}: use fewer, or all"
            )
        return train_part[:train_samples], self.order[-self.val_size :]


def load_raw_data(dataset: str = "auto", stranger: str = "lucas") -> RawData:
    """Return images and labels as stored, or as made from recordings.

    Real MNIST comes from DATA_DIR/MNIST/raw, or is downloaded to it once. Without
    files and without internet, "auto" falls back on the synthetic digits and says so.

    Args:
        dataset: one of DATASETS.
        stranger: the voice, one of VOICES, that "new-voices" tests on.

    Raises:
        BadSettingError: no such data set or voice.
        UserError: the data can be neither found nor downloaded.
    """
    dataset = dataset.lower()  # a run's record says "MNIST"
    if dataset not in DATASETS:
        raise BadSettingError(
            f"the data set must be one of {', '.join(DATASETS)}, got {dataset!a}"
        )
    if stranger not in VOICES:
        raise BadSettingError(
            f"the stranger must be one of {', '.join(VOICES)}, got {stranger!a}"
        )
    if dataset in RECORDINGS:
        return _recordings(dataset, stranger)
    if dataset == "synthetic":
        return _handwriting("synthetic", load_synthetic(DATA_DIR))
    try:
        return _handwriting("MNIST", load_mnist(DATA_DIR))
    except OSError as error:
        folder = DATA_DIR / "MNIST" / "raw"
        reason = f"MNIST is not complete in {folder} and cannot be downloaded: {error}"
        advice = (
            "To get the real digits, connect to the internet and run again, or copy "
            f"the four MNIST .gz files into {folder}"
        )
        if dataset == "mnist":
            raise UserError(f"{reason}. {advice}.") from error
    print_wrapped(f"NOTICE: {reason}.")
    print_wrapped(
        "Going on with synthetic digits, drawn by this project: everything works, but "
        "figures differ from those in the guide."
    )
    print_wrapped(f"{advice}.")
    return _handwriting("synthetic", load_synthetic(DATA_DIR))


def _handwriting(name: str, tensors: tuple[torch.Tensor, ...]) -> RawData:
    words = (f"{name} digits", "image", "0 paper, 255 ink", "", class_names(name))
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    order = torch.randperm(len(tensors[0]), generator=generator)
    return RawData(name, *words, *tensors, order, VALIDATION_SIZE)


def _recordings(name: str, stranger: str) -> RawData:
    train, val, test = split_recordings(load_recordings(), name, stranger)

    def images(recordings: list[Recording]) -> torch.Tensor:
        return torch.stack([to_image(recording.samples) for recording in recordings])

    def labels(recordings: list[Recording]) -> torch.Tensor:
        if name == "speakers":
            return torch.tensor([VOICES.index(r.voice) for r in recordings])
        return torch.tensor([recording.digit for recording in recordings])

    return RawData(
        name,
        RECORDINGS[name],
        "recording",
        "0 silence, 255 loudest",
        "Each image: time to the right (1 s), frequency upwards (50 to 4,000 Hz)",
        class_names(name),
        images(train + val),
        labels(train + val),
        images(test),
        labels(test),
        order=torch.arange(len(train) + len(val)),
        val_size=len(val),
        test_recordings=test,
    )


def load_recordings() -> list[Recording]:
    """Return all 3,000 recordings of spoken digits, sorted by name.

    Each has `digit` (0 to 9), `voice` (one of six names), `index` (0 to 49; 0 to 4 are
    for testing, 5 to 9 for validation) and `samples` (float32 [n], -1 to 1, 8,000 per
    second).

    Raises:
        UserError: they can be neither found nor downloaded.
    """
    return read_recordings(DATA_DIR)
