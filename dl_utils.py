"""What the five scripts share, in the order in which they need it.

    Errors and devices    UserError, get_device
    Data                  load_raw_digits, normalize, load_mnist_data
    Training              set_seed, count_parameters, check_architectures,
                          evaluate_model
    Diagnosis             diagnose_training, has_diverged
    Results               atomic_path, check_can_write, explain_model_errors,
                          save_figure, plot_training_history, record_run
    Running a script      print_section, print_table, parse_settings, run_script

A first-time reader needs get_device, load_mnist_data, evaluate_model and
diagnose_training; the rest is machinery that keeps the lessons free of clutter.
"""

import os
import signal
import sys


def _stop_while_loading(*_) -> None:
    print("\nStopped.", file=sys.stderr)
    os._exit(130)


# Loading PyTorch takes seconds, in which Ctrl-C would end in a traceback. The scripts
# import this module first, so this covers them; run_script does so from then on.
_handler_before = signal.signal(signal.SIGINT, _stop_while_loading)

import argparse
import atexit
import contextlib
import csv
import gzip
import hashlib
import http.client
import io
import itertools
import math
import queue
import re
import socket
import tempfile
import textwrap
import threading
import time
import urllib.request
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

# "Agg" draws into files and needs no screen, so the scripts also run on a server. Set
# in this way, it also replaces the backend that a notebook hands down.
os.environ["MPLBACKEND"] = "Agg"

import synthetic_digits

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
)
from tqdm import tqdm

signal.signal(signal.SIGINT, _handler_before)

# ------------------------------------------------------------------------------
# Errors and devices
# ------------------------------------------------------------------------------


class UserError(Exception):
    """Something the person at the terminal can put right.

    Its message is one clear line: what happened and what to do. run_script prints it
    without a traceback.
    """


def get_device() -> str:
    """Return the device to compute on: "cuda" when an NVIDIA GPU works, else "cpu".

    A GPU can be listed and still be unusable (card too old for this PyTorch, driver
    too old), so a tiny matrix product is tried on it first.

    Apple's "mps" is not chosen: it has no float64, which train_epoch in
    03_train_mnist.py uses for exact sums, and the figures in the guide come from the
    CPU. A network as small as ours keeps no accelerator busy anyway.
    """
    with warnings.catch_warnings(record=True) as reasons:  # an old driver: a warning
        warnings.simplefilter("always")
        try:
            if torch.cuda.is_available():
                ones = torch.ones(2, 2, device="cuda")
                (ones @ ones).sum().item()
                return "cuda"
        except RuntimeError as error:
            reasons.append(error)
    if reasons:
        reason = str(getattr(reasons[-1], "message", reasons[-1])).split("\n")[0]
        print_wrapped(f"A GPU was found but does not work ({reason}). Using the CPU.")
        # PyTorch's optimizers ask again, and would fail on it.
        torch.cuda.is_available = lambda: False
    return "cpu"


# ------------------------------------------------------------------------------
# Data
# ------------------------------------------------------------------------------

DATA_DIR = Path(
    os.path.expanduser(os.environ.get("MNIST_DATA_DIR", ""))
    or Path(__file__).resolve().parent / "data"
)

DATASETS = ("auto", "mnist", "synthetic")

# 60,000 training images are split into 55,000 to learn from and 5,000 to validate on.
TRAINING_SIZE = 55_000
VALIDATION_SIZE = 5_000
SPLIT_SEED = 0  # the same 5,000 in every script and every run, so results compare

# Mean and standard deviation of all training pixels on the scale 0..1.
# 02_load_mnist.py computes them.
MNIST_MEAN = 0.1307
MNIST_STD = 0.3081

# Evaluation needs no gradients, so more images fit into memory, and fewer, larger
# batches are faster. The result does not depend on the batch size.
EVALUATION_BATCH_SIZE = 1000

# Seconds without an answer after which a download server counts as dead.
DOWNLOAD_TIMEOUT = 10

# Unpacked size in bytes and MD5 checksum of the four original files. (torchvision
# knows the checksums of the packed files only.)
MNIST_FILES = {
    "train-images-idx3-ubyte": (47_040_016, "6bbc9ace898e44ae57da46a324031adb"),
    "train-labels-idx1-ubyte": (60_008, "a25bea736e30d166cdddb491f175f624"),
    "t10k-images-idx3-ubyte": (7_840_016, "2646ac647ad5339dbf082846283269ea"),
    "t10k-labels-idx1-ubyte": (10_008, "27ae3e4e09519cfbb04c329615203637"),
}


class RawDigits(NamedTuple):
    """A data set as it is stored: grey values 0 (paper) to 255 (ink), labels 0 to 9."""

    name: str  # "MNIST" or "synthetic"
    train_images: torch.Tensor  # uint8 [60000, 28, 28]
    train_labels: torch.Tensor  # int64 [60000]
    test_images: torch.Tensor  # uint8 [10000, 28, 28]
    test_labels: torch.Tensor  # int64 [10000]


class DigitDataset(TensorDataset):
    """Images and labels held in memory as two tensors, and the data set's name."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, name: str) -> None:
        super().__init__(images, labels)
        self.name = name


def load_mnist_data(
    batch_size: int = 64,
    dataset: str = "auto",
    train_samples: int = TRAINING_SIZE,
    seed: int = 0,
) -> tuple[DataLoader, DataLoader, DataLoader]:
    """Return the training, validation and test loaders.

    Three sets, three jobs: the network learns from the training images, we choose
    between networks by the validation images, and the test images judge the one that
    was chosen, once.

    Args:
        batch_size: training images per batch, at least 1.
        dataset: "mnist", "synthetic", or "auto": MNIST if possible, else synthetic.
        train_samples: how many of the 55,000 training images to use, from the first.
        seed: decides the order of the training images in every epoch.

    Returns:
        Three DataLoaders. A batch is images, float32 [N, 1, 28, 28], normalized to
        about mean 0 and standard deviation 1, and labels, int64 [N], 0 to 9. Training
        batches come in a new random order in every epoch; validation and test batches
        come always in the same order. `loader.dataset.name` is "MNIST" or "synthetic".

    Raises:
        ValueError: batch_size or train_samples out of range, or no such dataset.
        UserError: dataset is "mnist" and MNIST can be neither found nor downloaded.
    """
    if batch_size < 1 or not 1 <= train_samples <= TRAINING_SIZE:
        raise ValueError(
            f"batch_size must be at least 1 and train_samples 1 to {TRAINING_SIZE}, "
            f"got {batch_size} and {train_samples}"
        )
    digits = load_raw_digits(dataset)

    # Shuffle before splitting, so that both parts are alike.
    order = torch.randperm(
        len(digits.train_images), generator=torch.Generator().manual_seed(SPLIT_SEED)
    )
    train_part, val_part = order[:train_samples], order[-VALIDATION_SIZE:]

    def loader(images, labels, batch_size, shuffle_seed=None):
        dataset = DigitDataset(normalize(images), labels, digits.name)
        return make_loader(dataset, batch_size, shuffle_seed)

    images, labels = digits.train_images, digits.train_labels
    return (
        loader(images[train_part], labels[train_part], batch_size, shuffle_seed=seed),
        loader(images[val_part], labels[val_part], EVALUATION_BATCH_SIZE),
        loader(digits.test_images, digits.test_labels, EVALUATION_BATCH_SIZE),
    )


def make_loader(
    dataset: DigitDataset, batch_size: int, shuffle_seed: int | None = None
) -> DataLoader:
    """Return a loader of batches; see load_mnist_data.

    Args:
        dataset: images and labels in memory.
        batch_size: images per batch; the last batch may be smaller.
        shuffle_seed: decides the random order, a new one in every epoch; None keeps
            the order of the data set.
    """
    if shuffle_seed is None:
        sampler = SequentialSampler(dataset)
    else:
        # The order has a random generator of its own: whatever else draws random
        # numbers (one more layer, Dropout), the images still come in the same order.
        generator = torch.Generator().manual_seed(shuffle_seed)
        sampler = RandomSampler(dataset, generator=generator)
    # By default a DataLoader fetches images one by one and stacks them. Ours are in
    # one tensor already, so the sampler hands over a whole batch of indices, and
    # images[indices] is one operation. batch_size=None means "the sampler does it".
    return DataLoader(
        dataset,
        sampler=BatchSampler(sampler, batch_size, drop_last=False),
        batch_size=None,
    )


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Turn stored pixels into what the networks are fed.

    Networks learn fastest from inputs around 0 with a spread of about 1. Training,
    validation, test and your own images must all be normalized in the same way.

    Args:
        images: uint8 [N, 28, 28], 0 to 255.

    Returns:
        float32 [N, 1, 28, 28], about -0.42 (paper) to 2.82 (ink). The new dimension
        is the colour channel that image layers expect: 1 for grey.
    """
    # [N, 28, 28] -> [N, 1, 28, 28]; the operations ending in "_" work in place.
    return images.unsqueeze(1).float().div_(255).sub_(MNIST_MEAN).div_(MNIST_STD)


def load_raw_digits(dataset: str = "auto") -> RawDigits:
    """Return the images and labels as stored; see load_mnist_data for `dataset`.

    Real MNIST comes from DATA_DIR/MNIST/raw, or is downloaded to it once. Without
    files and without internet, "auto" falls back on the synthetic digits and says so.

    Raises:
        ValueError: no such dataset.
        UserError: dataset is "mnist" and MNIST can be neither found nor downloaded.
    """
    if dataset not in DATASETS:
        raise ValueError(f"dataset must be one of {DATASETS}, got {dataset!r}")
    if dataset == "synthetic":
        return _load_synthetic()
    try:
        return _load_mnist()
    except OSError as error:
        raw_dir = DATA_DIR / "MNIST" / "raw"
        reason = f"MNIST is not in {raw_dir} and cannot be downloaded: {error}"
        advice = (
            "To get the real digits, connect to the internet and run again, or copy "
            f"the four MNIST .gz files into {raw_dir}"
        )
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            advice += (
                ". About the certificate: on macOS, run 'Install Certificates.command' "
                "in Python's folder in Applications; behind a company's firewall, set "
                "the environment variable SSL_CERT_FILE to its certificate file"
            )
        if dataset == "mnist":
            raise UserError(f"{reason}. {advice}.") from error
        print_wrapped(f"NOTICE: {reason}.")
        print_wrapped(
            "Going on with synthetic digits, drawn by this project: everything works, "
            "but figures differ from those in the guide."
        )
        print_wrapped(f"{advice}.")
        return _load_synthetic()


def _load_mnist() -> RawDigits:
    """Read the four MNIST files; OSError when one can be neither found nor downloaded.

    The IDX format (http://yann.lecun.com/exdb/mnist) is a header of 16 bytes (images)
    or 8 bytes (labels), then one byte per pixel or label.
    """

    def images(name: str) -> torch.Tensor:
        pixels = np.frombuffer(_mnist_file(name), dtype=np.uint8, offset=16)
        return torch.from_numpy(pixels.copy()).reshape(-1, 28, 28)

    def labels(name: str) -> torch.Tensor:
        values = np.frombuffer(_mnist_file(name), dtype=np.uint8, offset=8)
        return torch.from_numpy(values.astype(np.int64))

    return RawDigits(
        "MNIST",
        images("train-images-idx3-ubyte"),
        labels("train-labels-idx1-ubyte"),
        images("t10k-images-idx3-ubyte"),
        labels("t10k-labels-idx1-ubyte"),
    )


def _mnist_file(name: str) -> bytes:
    """Return the content of one unpacked MNIST file, in the cheapest way that works."""
    unpacked = DATA_DIR / "MNIST" / "raw" / name
    packed = unpacked.with_name(f"{name}.gz")

    content = _read_verified(unpacked)
    if content is not None:
        return content
    if unpacked.exists():
        print(f"{unpacked} is damaged: making it again.")
    content = _read_verified(packed)
    if content is None:
        _download(packed)
        content = _read_verified(packed)
    if content is None:  # the server and torchvision agree on it, but we do not
        raise OSError(f"{packed} does not unpack to the original file")
    # In a folder that cannot be written to, we unpack again next time.
    with contextlib.suppress(UserError), atomic_path(unpacked) as temporary_path:
        temporary_path.write_bytes(content)
    return content


def _read_verified(path: Path) -> bytes | None:
    """Return what a file (unpacked if it is a .gz) holds if it is genuine, else None.

    Size and checksum are compared because a download that broke off, or a disk error,
    would otherwise train a network on noise without a word.
    """
    size, md5 = MNIST_FILES[path.name.removesuffix(".gz")]
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error):
        return None
    genuine = len(content) == size and _md5(content) == md5
    return content if genuine else None


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _download(packed: Path) -> None:
    """Download one .gz file with torchvision, trying its mirrors in turn.

    The file is downloaded into a folder of its own and moved into place when its
    checksum is right, so that an interruption leaves nothing half-done.

    Raises:
        OSError: no mirror delivered the file, or the folder cannot be written to.
    """
    # Imported here: it takes a second, and only the very first run needs it.
    try:
        from torchvision.datasets import MNIST
        from torchvision.datasets.utils import download_url
    except (ImportError, RuntimeError) as error:
        raise OSError(f"torchvision does not fit this torch ({error})") from error

    packed.parent.mkdir(parents=True, exist_ok=True)
    print(f"Downloading {packed.name} to {packed.parent}")
    # torchvision always draws its progress bar; in a log file it would be noise.
    on_terminal = sys.stderr is not None and sys.stderr.isatty()
    bar = sys.stderr if on_terminal else io.StringIO()
    failures = []
    previous_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        with (
            contextlib.redirect_stderr(bar),
            tempfile.TemporaryDirectory(
                dir=packed.parent, prefix="download-"
            ) as folder,
        ):
            for mirror in MNIST.mirrors:
                url = mirror + packed.name
                try:
                    _wait_for_answer(url)
                    download_url(url, folder, md5=dict(MNIST.resources)[packed.name])
                except (OSError, RuntimeError, http.client.HTTPException) as error:
                    failures.append(f"{url}: {error or type(error).__name__}")
                else:
                    # On Windows this fails when another script has the file open,
                    # which means that it is there already.
                    with contextlib.suppress(PermissionError):
                        os.replace(Path(folder) / packed.name, packed)
                    return
    finally:
        socket.setdefaulttimeout(previous_timeout)
    raise OSError("; ".join(failures))


def _wait_for_answer(url: str) -> None:
    """Raise OSError unless a server begins to answer within DOWNLOAD_TIMEOUT seconds.

    A socket's own timeout leaves out the look-up of the server's name, and starts again
    for each of its addresses, which can take minutes. So the server is asked in a
    thread, which is left behind when the time is up.
    """
    outcome = queue.Queue()

    def ask():
        try:
            urllib.request.urlopen(url).close()
            outcome.put(None)
        except Exception as error:
            outcome.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        error = outcome.get(timeout=DOWNLOAD_TIMEOUT)
    except queue.Empty:
        error = TimeoutError(f"no answer within {DOWNLOAD_TIMEOUT} seconds")
    if error:
        raise error


def _load_synthetic() -> RawDigits:
    """Return the synthetic digits, drawn once and then kept in DATA_DIR."""
    cache = DATA_DIR / "synthetic_digits.npz"
    # Edited drawing code must not be answered with digits drawn by the old code.
    version = _md5(Path(synthetic_digits.__file__).read_bytes())
    try:
        with np.load(cache) as saved:  # compares the checksums inside the file, too
            fresh = str(saved["version"]) == version
            images, labels = saved["images"], saved["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        fresh = False
    if not fresh:
        images, labels = _draw_synthetic()
        try:
            with atomic_path(cache) as path, open(path, "wb") as file:
                np.savez(file, version=version, images=images, labels=labels)
        except UserError as error:
            print_wrapped(f"They will be drawn again next time: {error}.")
    images, labels = torch.from_numpy(images), torch.from_numpy(labels)
    return RawDigits(
        "synthetic", images[:60_000], labels[:60_000], images[60_000:], labels[60_000:]
    )


def _draw_synthetic() -> tuple[np.ndarray, np.ndarray]:
    count = 70_000
    print("Drawing 70,000 synthetic digits")
    # disable=None: a progress bar on a terminal, nothing in a file.
    with tqdm(total=count, unit=" digits", ascii=True, disable=None) as bar:
        images, labels = synthetic_digits.make_digits(count, 0, progress=bar.update)
    return images.numpy(), labels.numpy()


# ------------------------------------------------------------------------------
# Training
# ------------------------------------------------------------------------------


def set_seed(seed: int) -> None:
    """Start all random numbers from `seed`, so that a run can be repeated exactly.

    Same machine, same versions, same seed: the same weights bit for bit. Another
    processor, PyTorch version or number of threads rounds differently, and the results
    drift apart.

    Args:
        seed: any whole number from 0 to 2**63 - 1.
    """
    torch.manual_seed(seed)  # CPU and GPU


def count_parameters(model: nn.Module) -> int:
    """Return how many numbers the model can learn (its trainable parameters)."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def check_architectures(architectures: dict[str, Callable[[], nn.Module]]) -> None:
    """Try a training step with every network, before any time is spent on training.

    Args:
        architectures: name -> a function that builds a new network.

    Raises:
        UserError: there is none, or one cannot be built or trained, or it does not
            turn images [2, 1, 28, 28] into logits [2, 10].
    """
    if not architectures:
        raise UserError('ARCHITECTURES is empty: remove the "# " in front of a line')
    images, labels = torch.zeros(2, 1, 28, 28), torch.tensor([0, 1])
    for name, build in architectures.items():
        try:
            if isinstance(build, nn.Module):
                raise ValueError('write "lambda:" in front, for a new network per seed')
            model = build()
            optimizer = torch.optim.Adam(model.parameters())
            logits = model(images)
            if list(logits.shape) != [2, 10]:
                raise ValueError(f"it turns 2 images into {list(logits.shape)}")
            nn.functional.cross_entropy(logits, labels).backward()
            optimizer.step()
            if model is build():
                raise ValueError("it is the same each time: build it in the lambda")
        except Exception as error:  # whatever the reader's own network raises
            raise UserError(f"{name} does not work: {error}") from error


def evaluate_model(
    model: nn.Module, loader: DataLoader, device: str
) -> tuple[float, float]:
    """Measure a model on all images of a loader without changing it.

    Args:
        model: maps images [N, 1, 28, 28] to logits [N, 10]; must be on `device`.
        loader: yields batches of images and labels.
        device: "cpu" or "cuda".

    Returns:
        loss: mean cross-entropy per image, 0 or more; guessing gives ln(10) = 2.303.
        accuracy: percent of images whose largest logit is the right digit, 0 to 100.
        Sums over images, not means of batch means: the last batch may be smaller.
    """
    # Two different switches. eval() changes what some layers do (Dropout stops
    # dropping); inference_mode() saves the work of recording for gradients.
    was_training = model.training
    model.eval()
    loss_sum, correct, count = 0.0, 0, 0
    with torch.inference_mode():
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            logits = model(images)  # [N, 1, 28, 28] -> [N, 10]
            loss_sum += nn.functional.cross_entropy(
                logits, labels, reduction="sum"
            ).item()
            correct += (logits.argmax(dim=1) == labels).sum().item()
            count += len(labels)
    model.train(was_training)
    return loss_sum / count, 100 * correct / count


# ------------------------------------------------------------------------------
# Diagnosis
# ------------------------------------------------------------------------------

# A history is a dict of four lists with one number per epoch.
HISTORY_KEYS = ("train_loss", "train_acc", "val_loss", "val_acc")

# The thresholds below fit digit recognition, where a good network gets about 97 %.
# Another task needs other numbers; the questions stay the same.
GUESSING_LOSS = math.log(10)  # 2.303: the loss of giving each digit 10 % probability
DIVERGED_LOSS = 10 * GUESSING_LOSS  # a training loss that no patience will repair
ROUGH_FALL = 2.0  # points that training accuracy lies below its own best
ROUGH_RISE = 1.01  # the training loss rose: this times the epoch before, or more
ROUGH_SHARE = 0.25  # of all epochs: more rises than that are no accident
UNDERFITTING_ACCURACY = 95.0  # percent on the training set: less has not learned it
OVERFITTING_GAP = 3.0  # points between training and validation accuracy
WORSE_VALIDATION = 1.5  # the validation loss over its own best
BETTER_TRAINING = 0.5  # the training loss now over what it was at that best epoch
TREND_EPOCHS = 2  # still improving? compare with so many epochs before
IMPROVING_LOSS = 0.95  # the validation loss now over what it was then, or less
IMPROVING_POINTS = 3.0  # or points of validation accuracy gained since then
IMPROVING_GAP = 1.0  # training is less than so many points ahead (below 95%: any)


class Diagnosis(NamedTuple):
    """What diagnose_training found."""

    verdict: str
    evidence: str
    advice: str


def has_diverged(history: dict[str, list[float]]) -> bool:
    """Return whether training has blown up, so that going on is a waste of time."""
    last_losses = (history["train_loss"][-1], history["val_loss"][-1])
    return not all(math.isfinite(loss) for loss in last_losses) or (
        history["train_loss"][-1] > DIVERGED_LOSS
    )


def diagnose_training(history: dict[str, list[float]]) -> Diagnosis:
    """Name what the curves of a training run show, and say what to try next.

    The checks are made in a fixed order, and the first that applies is the verdict:
    every history gets exactly one. Training accuracy is averaged over an epoch while
    the weights move, so early in training it lies below validation.

    Args:
        history: HISTORY_KEYS, each a list with one number per epoch; accuracy in
            percent, loss as mean cross-entropy per image.

    Returns:
        verdict: "learning rate too high", "severe overfitting", "overfitting",
            "still improving", "underfitting" or "good fit".
        evidence: one sentence with the numbers that decided.
        advice: one sentence, what to change.

    Raises:
        ValueError: the four lists are empty or differ in length.
    """
    lengths = {len(history[key]) for key in HISTORY_KEYS}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError("a history needs four lists of the same length, at least 1")
    train_loss, train_acc, val_loss, val_acc = (history[key] for key in HISTORY_KEYS)

    gap = train_acc[-1] - val_acc[-1]
    accuracies = f"training {train_acc[-1]:.1f}%, validation {val_acc[-1]:.1f}%"

    if has_diverged(history) or _is_rough(train_loss, train_acc):
        return Diagnosis(
            "learning rate too high",
            f"The training loss ends at {train_loss[-1]:.3g} and does not settle down "
            f"(guessing: {GUESSING_LOSS:.3f}).",
            "Divide the learning rate by 10 and run again.",
        )

    best = val_loss.index(min(val_loss))
    validation_got_worse = (
        val_loss[-1] >= WORSE_VALIDATION * val_loss[best]
        and train_loss[-1] <= BETTER_TRAINING * train_loss[best]
    )
    if gap >= OVERFITTING_GAP and validation_got_worse:
        return Diagnosis(
            "severe overfitting",
            f"The network learns its training images by heart: {accuracies}; the "
            f"validation loss rose from {val_loss[best]:.3f} (epoch {best + 1}) "
            f"to {val_loss[-1]:.3f}.",
            f"Use more training images, or stop near epoch {best + 1}.",
        )
    # Before the first epoch the network guesses: one digit in ten, loss ln(10).
    loss_before = [GUESSING_LOSS, *val_loss][-1 - TREND_EPOCHS :][0]
    acc_before = [10.0, *val_acc][-1 - TREND_EPOCHS :][0]
    improving = (
        val_loss[-1] <= IMPROVING_LOSS * loss_before
        or val_acc[-1] >= acc_before + IMPROVING_POINTS
    )
    learned = train_acc[-1] >= UNDERFITTING_ACCURACY
    if improving and (gap < IMPROVING_GAP or not learned):
        return Diagnosis(
            "still improving",
            f"Validation was still getting better (loss {loss_before:.3f} -> "
            f"{val_loss[-1]:.3f}): {accuracies}.",
            "Train for more epochs, or raise the learning rate.",
        )
    if gap >= OVERFITTING_GAP:
        return Diagnosis(
            "overfitting",
            f"Training is {gap:.1f} points ahead of validation: {accuracies}.",
            "Use more training images, a smaller hidden layer, or Dropout.",
        )
    if validation_got_worse:
        return Diagnosis(
            "overfitting",
            f"The validation loss rose from {val_loss[best]:.3f} (epoch {best + 1}) to "
            f"{val_loss[-1]:.3f} while training improved: surer, not better.",
            f"Train for about {best + 1} epochs.",
        )

    if not learned:
        return Diagnosis(
            "underfitting",
            f"The network cannot even learn its training images: {accuracies}.",
            "Give it a larger hidden layer; if the curves are flat from the start, "
            "change the learning rate.",
        )
    return Diagnosis(
        "good fit",
        f"What was learned holds for new images: {accuracies}.",
        "Change one hyperparameter and see whether validation accuracy rises.",
    )


def _is_rough(train_loss: list[float], train_acc: list[float]) -> bool:
    """Return whether a network that has not learned its training images jumps about."""
    rises = sum(
        now >= ROUGH_RISE * before for before, now in itertools.pairwise(train_loss)
    )
    return train_acc[-1] < UNDERFITTING_ACCURACY and (
        rises > ROUGH_SHARE * len(train_loss)
        or train_acc[-1] <= max(train_acc) - ROUGH_FALL
    )


# ------------------------------------------------------------------------------
# Results: pictures, models, run records
# ------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Let the caller write a file so that `path` is never left half-written.

        with atomic_path("model.pth") as temporary_path:
            torch.save(model.state_dict(), temporary_path)

    The file is written under another name and renamed when it is complete. If
    anything goes wrong before that, an earlier file at `path` stays as it was.

    Raises:
        UserError: the file cannot be written (no permission, disk full, ...).
    """
    path = Path(path)
    temporary_path = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary_path.touch()
        yield temporary_path
        os.replace(temporary_path, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    except RuntimeError as error:  # torch.save hides the reason behind this one
        message = f"{path} cannot be written (is the disk full?): {error}"
        raise UserError(message) from error
    finally:
        with contextlib.suppress(OSError):
            temporary_path.unlink(missing_ok=True)


def check_can_write(*paths: str | os.PathLike) -> None:
    """Find out before a long training whether its results can be written.

    Raises:
        UserError: a file cannot be written.
    """
    for path in paths:
        if not path or Path(path).is_dir():
            raise UserError(f"{path!r} cannot be written: it is not the name of a file")
        if Path(path).exists() and not os.access(path, os.W_OK):
            raise UserError(f"{path} cannot be written: it is protected")
        folder = Path(path).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def explain_model_errors(path: str | os.PathLike) -> Iterator[None]:
    """Turn whatever goes wrong while loading a file of weights into one clear line.

        with explain_model_errors(path):
            model.load_state_dict(torch.load(path, weights_only=True))

    Raises:
        UserError: the file is missing, damaged, or does not hold this model's weights.
    """
    try:
        # torch.load warns of odd files before it fails on them; our line says it all.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except FileNotFoundError:
        raise UserError(f"there is no {path}: run 03_train_mnist.py first") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # torch.load raises many kinds on damaged files
        raise UserError(f"{path} {_what_is_wrong(path, str(error))}") from error


def _what_is_wrong(path: str | os.PathLike, message: str) -> str:
    """Say why PyTorch, giving this message, could not load the weights in a file."""
    content = Path(path).read_bytes()
    shapes = re.search(
        r"size mismatch for (\S+): .*?Size\((.*?)\).*?Size\((.*?)\)", message
    )
    if not content:
        return "is empty: run 03_train_mnist.py again"
    if shapes:
        name, in_file, in_model = shapes.groups()
        return (
            f"holds weights of another size ({name} is {in_file} in the file, "
            f"{in_model} in the model): use the same --hidden-size as in training"
        )
    if "state_dict" in message:
        return (
            "does not hold this model's weights, but another model's or a dict around "
            "them: it must be saved with torch.save(model.state_dict(), path)"
        )
    # torch.save writes a zip file; before version 1.6 it wrote a pickle that began so.
    is_torch_file = content.startswith((b"PK", b"\x80\x02\x8a"))
    is_pickle = content.startswith(b"\x80") and not is_torch_file
    if is_pickle or "Unsupported global" in message or "GLOBAL" in message:
        return (
            "holds more than weights, such as a whole model. Loading it could run "
            "code, so it is refused: save model.state_dict() instead"
        )
    if is_torch_file:
        return "is damaged or incomplete: run 03_train_mnist.py again"
    return "was not written by torch.save: run 03_train_mnist.py to get a model"


def save_figure(figure: plt.Figure, path: str | os.PathLike) -> None:
    """Write a figure as PNG, close it and name the file.

    Raises:
        UserError: the file cannot be written.
    """
    with atomic_path(path) as temporary_path:
        figure.savefig(temporary_path, format="png", dpi=120)
    plt.close(figure)
    print(f"Saved: {path}")


def plot_training_history(
    history: dict[str, list[float]],
    path: str | os.PathLike,
    dataset_name: str = "MNIST",
) -> None:
    """Draw accuracy and loss over the epochs, with the verdict as the title.

    Args:
        history: see diagnose_training.
        path: the PNG file to write.
        dataset_name: "MNIST" or "synthetic", named in the title.

    Raises:
        UserError: the file cannot be written.
    """
    epochs = range(1, len(history["train_loss"]) + 1)
    diagnosis = diagnose_training(history)
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    panels = (("acc", "Accuracy (%)"), ("loss", "Loss (mean cross-entropy)"))
    for axis, (quantity, label) in zip(axes, panels, strict=True):
        # Colour, marker and line style all differ: readable in grey print as well.
        styles = (
            ("train", "Training (average during the epoch)", "tab:blue", "-o"),
            ("val", "Validation (at the end of the epoch)", "tab:red", "--s"),
        )
        for part, name, color, style in styles:
            axis.plot(
                epochs,
                history[f"{part}_{quantity}"],
                style,
                color=color,
                label=name,
                markersize=5,
                markevery=max(1, len(epochs) // 10),
            )
        axis.set_xlabel("Epoch")
        axis.set_ylabel(label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(
        f"{diagnosis.verdict.capitalize()} ({dataset_name} digits): "
        f"training {history['train_acc'][-1]:.1f}%, "
        f"validation {history['val_acc'][-1]:.1f}%"
    )
    save_figure(figure, path)


def record_run(path: str | os.PathLike, record: dict[str, object]) -> None:
    """Append one run to a CSV file, and print its last five runs as a table.

    Args:
        path: the CSV file; its first line holds the names of the columns.
        record: column name -> value.

    Raises:
        UserError: the file cannot be written, or has other columns.
    """
    path = Path(path)
    columns = list(record)
    header, rows = columns, []
    if path.exists():
        # utf-8-sig: spreadsheet programs put a mark in front.
        with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
            try:
                lines = [line for line in csv.reader(file) if line]
            except csv.Error:  # no CSV file at all
                lines = [[]]
        header, rows = (lines[0], lines[1:]) if lines else (columns, [])
    if header != columns or any(len(row) != len(columns) for row in rows):
        raise UserError(
            f"{path} has other columns, so this run is not added to it: rename it or "
            "move it away"
        )
    rows.append([str(value) for value in record.values()])
    with (
        atomic_path(path) as temporary_path,
        open(temporary_path, "w", newline="", encoding="utf-8") as file,
    ):
        csv.writer(file).writerows([columns, *rows])
    print_table([dict(zip(columns, row, strict=True)) for row in rows[-5:]])
    print(f"Saved: {path}")


# ------------------------------------------------------------------------------
# Running a script: output, hyperparameters, errors
# ------------------------------------------------------------------------------

LINE_WIDTH = 88  # characters


def print_section(title: str) -> None:
    """Print a heading."""
    print(f"\n{title}\n{'-' * len(title)}")


def print_wrapped(text: str) -> None:
    """Print a text broken into lines of at most LINE_WIDTH characters."""
    print(
        textwrap.fill(text, LINE_WIDTH, break_long_words=False, break_on_hyphens=False)
    )


def print_ascii_digit(image: torch.Tensor) -> None:
    """Print an image, uint8 [28, 28], in characters that look darker for more ink."""
    shades = " .:-=+*#%@"
    for row in image.tolist():
        # Characters are about twice as high as wide, so each is printed twice.
        print("".join(2 * shades[value * len(shades) // 256] for value in row).rstrip())


def print_table(rows: list[dict[str, object]]) -> None:
    """Print rows of the same columns as an aligned table.

    Column names are broken at "_" to keep the columns narrow. Columns with letters
    begin at the left, numbers end at the right; format numbers first.
    """
    heads = {name: name.split("_") for name in rows[0]}
    height = max(len(head) for head in heads.values())
    lines = [[] for _ in range(height + len(rows))]
    for name, head in heads.items():
        values = [str(row[name]) for row in rows]
        has_letters = any(value[:1].isalpha() for value in values)
        cells = [""] * (height - len(head)) + head + values
        width = max(len(cell) for cell in cells)
        for line, cell in zip(lines, cells, strict=True):
            line.append(cell.ljust(width) if has_letters else cell.rjust(width))
    for line in lines:
        print(" ".join(line).rstrip())


def _whole_number(minimum: int, maximum: int) -> Callable[[str], int]:
    """Return a function that turns a text into a whole number within two limits."""

    def convert(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = minimum - 1
        if not minimum <= number <= maximum:
            raise argparse.ArgumentTypeError(
                f"must be a whole number from {minimum} to {maximum}, got {text!a}"
            )
        return number

    return convert


def _positive_number(text: str) -> float:
    """Turn a text into a positive finite number."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (number > 0 and math.isfinite(number)):
        raise argparse.ArgumentTypeError(
            f"must be a positive finite number, got {text!a}"
        )
    return number


def _dataset_choice(text: str) -> str:
    """Return the name of a data set if there is such a one."""
    if text not in DATASETS:
        raise argparse.ArgumentTypeError(
            f"must be one of {', '.join(DATASETS)}, got {text!a}"
        )
    return text


def _file_name(text: str) -> str:
    """Return a text if it can be a file's name."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"must be the name of a file, got {text!a}")
    return text


# Every hyperparameter that a script may have: how to read it, and what it is.
# The upper limits keep a slip of the finger from filling the memory.
HYPERPARAMETERS = {
    "epochs": (_whole_number(1, 100_000), "passes over the training data"),
    "batch_size": (_whole_number(1, TRAINING_SIZE), "images per training step"),
    "learning_rate": (_positive_number, "step size of the optimizer"),
    "seeds": (_whole_number(2, 100), "runs per architecture, each with another seed"),
    "hidden_size": (_whole_number(1, 10_000), "neurons in the hidden layer"),
    "train_samples": (
        _whole_number(1, TRAINING_SIZE),
        "training images to use; few of them show overfitting",
    ),
    "seed": (_whole_number(0, 2**63 - 1), "start of all random numbers"),
    "samples_per_digit": (_whole_number(1, 100), "images per digit in the picture"),
    "dataset": (
        _dataset_choice,
        "auto (MNIST if it can be had), mnist or synthetic",
    ),
    "model": (_file_name, "file of weights to load"),
    "image": (str, "picture of a handwritten digit to read, instead of the lesson"),
}


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help lists all flags)\n")


def parse_settings(
    description: str, argv: list[str] | None = None, **defaults: object
) -> argparse.Namespace:
    """Read a script's hyperparameters from the command line.

    The constants at the top of the script are the defaults, and are checked like the
    flags: whoever edits a constant to a bad value gets the same message.

    Args:
        description: the first lines of --help.
        argv: the words of the command line; None means the real one.
        defaults: name of a hyperparameter -> the script's constant.

    Returns:
        A namespace with one attribute per hyperparameter.

    Raises:
        SystemExit: code 2 after one line about a bad value; 0 after --help.
    """
    parser = _OneLineParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for name, default in defaults.items():
        convert, meaning = HYPERPARAMETERS[name]
        parser.add_argument(
            "--" + name.replace("_", "-"),
            type=convert,
            default=str(default),  # argparse converts, and so checks, a text
            metavar="X",
            help=f"{meaning} (default: %(default)s)",
        )
    return parser.parse_args(argv)


def run_script(main: Callable[[], None]) -> None:
    """Call main(), and end with one clear line on whatever a user can cause.

    Exit codes: 0 done, 1 an error that was explained, 2 a bad value on the command
    line, 130 stopped, as by Ctrl-C.
    """
    # A folder's name may hold letters that the console or a pipe cannot show.
    # Line by line, so that progress shows in a pipe, too. (IDLE's output is no file.)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    stops = []  # when the user, or the system, asked this script to stop

    def stop(*_):
        stops.append(time.monotonic())
        if len(stops) == 1 or stops[-1] - stops[-2] > 1:  # not again while tidying up
            raise KeyboardInterrupt

    # SIGINT is Ctrl-C. A computer that shuts down sends SIGTERM, a window that is
    # closed SIGHUP; Windows has no SIGHUP, and nohup has it ignored.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)
            # Once Python itself is ending, there is nothing left to stop.
            atexit.register(signal.signal, number, signal.SIG_IGN)
    try:
        main()
        print(end="", flush=True)
    except BaseException as error:
        # An import that is stopped half-way may turn KeyboardInterrupt into any error.
        if stops or isinstance(error, KeyboardInterrupt):
            print("\nStopped. Files saved earlier are untouched.", file=sys.stderr)
            sys.exit(130)
        _exit_if_explained(error)
        raise


def _exit_if_explained(error: BaseException) -> None:
    """End the script with one line if an error is one that a user can put right."""
    if isinstance(error, UserError):
        message = " ".join(str(error).split())
    elif isinstance(error, OSError):  # such as a full disk while printing into a file
        # What could not be printed is still waiting: let Python's last try succeed.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # its reader (head, less) saw enough
            sys.exit(1)
        message = f"{error.filename or 'output'}: {error.strerror}"
    elif isinstance(error, MemoryError) or (
        # PyTorch "can't allocate memory" or is "out of memory. Tried to allocate ...".
        isinstance(error, RuntimeError)
        and "allocate" in str(error)
        and "memory" in str(error)
    ):
        message = "not enough memory; use a smaller setting"
    else:
        return
    print(f"Error: {message}", file=sys.stderr)
    sys.exit(1)
