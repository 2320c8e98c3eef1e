"""What the five scripts share, in the order in which they need it.

Read it from top to bottom beside lesson 3: where to compute, how images become
batches, how good a network is, what its curves say, how they are drawn. What only
keeps the scripts running is in the folder backstage/, and no lesson needs it.
"""

import itertools
import math
import os
import warnings
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import nn
from torch.utils.data import DataLoader

from backstage.data.batches import ImageDataset, keep_batch, replace_labels
from backstage.data.datasets import (
    DATASETS,
    RECORDINGS,
    RawData,
    load_raw_data,
    load_recordings,
)
from backstage.data.spoken_digits import class_names
from backstage.files import (
    atomic_path,
    check_can_write,
    check_weights,
    describe_run,
    explain_file_errors,
    find_run,
    record_run,
    save_figure,
)
from backstage.own.handwriting import read_own_digit
from backstage.page.writer import write_network_page
from backstage.pictures import plot_confusion_matrix, plot_image_rows, plot_predictions
from backstage.settings import parse_settings
from backstage.own.voice import read_own_sound
from backstage.terminal import (
    BadSettingError,
    UserError,
    print_image,
    print_section,
    print_table,
    print_wrapped,
    run_script,
    wrap,
)

# Contents. To read here: the first four lines; the rest comes from backstage.
__all__ = ["NUM_THREADS", "get_device"]
__all__ += ["MNIST_MEAN", "MNIST_STD", "load_mnist_data", "keep_batch", "normalize"]
__all__ += ["count_parameters", "diagnose_training", "evaluate_model"]
__all__ += ["plot_training_history"]
__all__ += ["DATASETS", "RECORDINGS", "RawData", "class_names", "load_raw_data"]
__all__ += ["load_recordings"]
__all__ += ["read_own_digit", "read_own_sound"]
__all__ += ["BadSettingError", "UserError", "parse_settings", "run_script"]
__all__ += ["print_image", "print_section", "print_table", "print_wrapped", "wrap"]
__all__ += ["atomic_path", "check_can_write", "save_figure"]
__all__ += ["plot_confusion_matrix", "plot_image_rows", "plot_predictions"]
__all__ += ["write_network_page"]
__all__ += ["describe_run", "find_run", "record_run"]
__all__ += ["check_weights", "explain_file_errors"]

# ------------------------------------------------------------------------------
# Device
# ------------------------------------------------------------------------------

# Processor cores that PyTorch uses. Large networks gain from many. Ours is so small
# that two cores spend much of their time waiting for each other. Measured on a machine
# with two, in seconds per epoch of lesson 3: alone, 0.7 with two cores and 0.8 with
# one; beside another busy program, 3.7 and 0.8; beside a second run, 8.3 and 0.8. The
# number also changes how sums are rounded, so with one, your figures do not depend on
# how many there are. The environment variable OMP_NUM_THREADS, if set, wins.
NUM_THREADS = 1


def get_device() -> str:
    """Return the device to compute on: "cuda" when an NVIDIA GPU works, else "cpu".

    It also lets PyTorch use NUM_THREADS cores of the processor.

    A GPU can be listed and still be unusable (card too old for this PyTorch, driver
    too old), so a tiny matrix product is tried on it first.

    Apple's "mps" is not chosen: it has no float64, which train_epoch in
    03_train_mnist.py uses for exact sums, and the figures in the guide come from the
    CPU. A network as small as ours keeps no accelerator busy anyway.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(NUM_THREADS)
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

# Mean and standard deviation of all training pixels on the scale 0..1.
# 02_load_mnist.py computes them.
MNIST_MEAN = 0.1307
MNIST_STD = 0.3081

# Evaluation needs no gradients, so more images fit into memory, and fewer, larger
# batches are faster. The result does not depend on the batch size.
EVALUATION_BATCH_SIZE = 1000


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


def load_mnist_data(
    batch_size: int = 64,
    dataset: str = "auto",
    train_samples: int | None = None,
    seed: int = 0,
    wrong_labels: float = 0.0,
) -> tuple[DataLoader, DataLoader, DataLoader]:
    """Return the training, validation and test loaders.

    Three sets, three jobs: the network learns from the training images, we choose
    between networks by the validation images, and the test images judge the one that
    was chosen, once.

    Args:
        batch_size: training images per batch, at least 1.
        dataset: "auto" (MNIST if possible, else synthetic), "mnist", "synthetic", or
            recordings: "spoken", "speakers", "new-voices".
        train_samples: how many of the training images to use; None means all.
        seed: decides the order of the training images in every epoch.
        wrong_labels: share of the training labels, 0 to 1, that is replaced by random
            ones. Some of these are right by luck, with ten classes one in ten.

    Returns:
        Three DataLoaders. A batch is images, float32 [N, 1, 28, 28], normalized to
        about mean 0 and standard deviation 1, and labels, int64 [N]. Training batches
        come in a new random order in every epoch. `loader.dataset` has the name, the
        title and the classes of the data set.

    Raises:
        ValueError: no such dataset, or batch_size or wrong_labels out of range.
        UserError: the data can be neither found nor downloaded.
        BadSettingError: train_samples is less than 1 or more than there are.
    """
    if batch_size < 1 or not 0 <= wrong_labels <= 1:
        raise ValueError(f"got batch_size {batch_size}, wrong_labels {wrong_labels}")
    data = load_raw_data(dataset)
    images, labels = data.train_images, data.train_labels

    # The order is random, so that both parts are alike, and the same in every run, so
    # that results compare. (Data sets of sound have reasons for another split.)
    train_part, val_part = data.order[: -data.val_size], data.order[-data.val_size :]
    available = len(train_part)
    if train_samples is not None and not 1 <= train_samples <= available:
        raise BadSettingError(
            f"there are {available:,} training images of {data.title}, so "
            f"--train-samples cannot be {train_samples}: use fewer, or all"
        )
    train_part = train_part[:train_samples]

    train_labels = labels[train_part]
    replace_labels(train_labels, wrong_labels, len(data.classes), seed)

    train_set = ImageDataset(data, normalize(images[train_part]), train_labels)
    val_set = ImageDataset(data, normalize(images[val_part]), labels[val_part])
    test_set = ImageDataset(
        data, normalize(data.test_images), data.test_labels, data.test_recordings
    )
    # The order has a random generator of its own: whatever else draws random numbers
    # (one more layer, Dropout), the images still come in the same order.
    generator = torch.Generator().manual_seed(seed)
    return (
        DataLoader(
            train_set,
            batch_size,
            shuffle=True,
            generator=generator,
            collate_fn=keep_batch,
        ),
        DataLoader(val_set, EVALUATION_BATCH_SIZE, collate_fn=keep_batch),
        DataLoader(test_set, EVALUATION_BATCH_SIZE, collate_fn=keep_batch),
    )


# ------------------------------------------------------------------------------
# Evaluation and counting
# ------------------------------------------------------------------------------


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
        accuracy: percent of images whose largest logit is the right class, 0 to 100.
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


def count_parameters(model: nn.Module) -> int:
    """Return how many numbers the model can learn (its trainable parameters)."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


# ------------------------------------------------------------------------------
# Diagnosis
# ------------------------------------------------------------------------------

# A history is a dict of four lists with one number per epoch.
HISTORY_KEYS = ("train_loss", "train_acc", "val_loss", "val_acc")

# The thresholds below fit digit recognition, where a good network gets about 97 %.
# Another task needs other numbers; the questions stay the same.
GUESSING_LOSS = math.log(10)  # 2.303: the loss of giving each digit 10 % probability
DIVERGED_LOSS = 10 * GUESSING_LOSS  # a training loss that only huge weights can cause
LEARNED_ACCURACY = 95.0  # percent of the training images: less has not learned them
ROUGH_FALL = 2.0  # points that training accuracy lies below its own best
ROUGH_RISE = 1.01  # the training loss rose: this times the epoch before, or more
ROUGH_SHARE = 0.25  # of all epochs: more rises than that are no accident
WORSE_POINTS = 2.0  # points that validation accuracy lies below its own best
TREND_EPOCHS = 2  # still improving: each of the last so many beats all before them,
IMPROVING_POINTS = 0.5  # and the last one by so many points of validation accuracy,
IMPROVING_SHARE = 0.05  # which are at least this share of the mistakes
OVERFITTING_GAP = 3.0  # points that training accuracy is ahead of validation
SURER_LOSS = 1.5  # the validation loss over its own best

# Verdict -> what to try next. Each advice was tried; the guide has the figures.
ADVICE = {
    "learning rate too high": "Divide the learning rate by 10 and run again. If it is "
    "no better, look for a mistake in the five steps.",
    "severe overfitting": "Stop near the epoch of the best validation accuracy, and "
    "look for wrong labels in the training data.",
    "still improving": "Train for more epochs, or raise the learning rate.",
    "overfitting": "Use more, or more varied, training data. Dropout helps a little.",
    "underfitting": "First test the code: --hidden-size 128 --train-samples 100 "
    "--epochs 100 must end at 100% in training. If it does not, try a larger learning "
    "rate, then look for a mistake in the five steps. If it does, use a larger hidden "
    "layer, and see that forward() has its ReLU.",
    "good fit": "Change one hyperparameter and see whether validation accuracy rises.",
}


class Diagnosis(NamedTuple):
    """What diagnose_training found."""

    verdict: str
    evidence: str
    advice: str

    def __str__(self) -> str:
        return f"{self.verdict.upper()}\n{wrap(self.evidence)}\n{wrap(self.advice)}"


def diagnose_training(history: dict[str, list[float]]) -> Diagnosis:
    """Name what the curves of a training run show, and say what to try next.

    The questions are asked in a fixed order, and the first yes gives the verdict:
    every history gets exactly one. They go by accuracy, because accuracy is what we
    want; the loss is what training can follow. Training accuracy is averaged over an
    epoch while the weights move, so early in training it lies below validation.

    Args:
        history: HISTORY_KEYS, each a list with one number per epoch; accuracy in
            percent, loss as mean cross-entropy per image.

    Returns:
        verdict: one of those in ADVICE; evidence: the numbers behind it; advice.

    Raises:
        ValueError: the four lists are empty or differ in length.
    """
    train_loss, train_acc, val_loss, val_acc = (history[key] for key in HISTORY_KEYS)
    if not 0 < len(train_loss) == len(train_acc) == len(val_loss) == len(val_acc):
        raise ValueError("a history needs four lists of the same length, at least 1")

    finite = math.isfinite(train_loss[-1]) and math.isfinite(val_loss[-1])
    learned = train_acc[-1] >= LEARNED_ACCURACY
    rises = sum(b >= ROUGH_RISE * a for a, b in itertools.pairwise(train_loss))
    rough = rises > ROUGH_SHARE * len(train_loss)
    fell_back = train_acc[-1] <= max(train_acc) - ROUGH_FALL
    best = val_acc.index(max(val_acc))
    worse = val_acc[-1] <= val_acc[best] - WORSE_POINTS
    # Before the first epoch the network guesses: one image in ten is right.
    before = max([10.0, *val_acc[:-TREND_EPOCHS]])
    enough = max(IMPROVING_POINTS, IMPROVING_SHARE * (100 - before))
    improving = min(val_acc[-TREND_EPOCHS:]) > before and val_acc[-1] >= before + enough
    gap = train_acc[-1] - val_acc[-1]

    hopeless = max(train_loss) > DIVERGED_LOSS
    if not finite or (not learned and (rough or fell_back or hopeless)):
        verdict = "learning rate too high"
    elif worse and train_acc[-1] > train_acc[best]:
        verdict = "severe overfitting"
    elif improving:
        verdict = "still improving"
    elif gap >= OVERFITTING_GAP:
        verdict = "overfitting"
    elif not learned:
        verdict = "underfitting"
    else:
        verdict = "good fit"

    evidence = (
        f"Training {train_acc[-1]:.1f}% (loss {train_loss[-1]:.3g}), validation "
        f"{val_acc[-1]:.1f}% (best: {val_acc[best]:.1f}% in epoch {best + 1})."
    )
    lowest = val_loss.index(min(val_loss))
    surer = finite and learned and val_loss[-1] >= SURER_LOSS * val_loss[lowest]
    if surer and verdict != "severe overfitting":
        evidence += (
            f" The validation loss rose from {val_loss[lowest]:.3f} (epoch "
            f"{lowest + 1}) to {val_loss[-1]:.3f}: surer, not better. That alone is no "
            "reason to stop."
        )
    return Diagnosis(verdict, evidence, ADVICE[verdict])


# ------------------------------------------------------------------------------
# Plots
# ------------------------------------------------------------------------------


def plot_training_history(
    history: dict[str, list[float]],
    path: str | os.PathLike,
    title: str = "MNIST digits",
) -> None:
    """Draw accuracy and loss over the epochs, with the verdict as the title.

    Args:
        history: see diagnose_training.
        path: the PNG file to write.
        title: what was learned, named above the picture.

    Raises:
        UserError: the file cannot be written.
    """
    epochs = range(1, len(history["train_loss"]) + 1)
    # A Figure of its own instead of pyplot's: it needs no screen and no closing.
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    # Colour, marker and line style all differ: readable in grey print as well.
    curves = (
        ("train", "Training (average during the epoch)", "tab:blue", "-o"),
        ("val", "Validation (at the end of the epoch)", "tab:red", "--s"),
    )
    panels = {"acc": "Accuracy (%)", "loss": "Loss (mean cross-entropy)"}
    for ax, quantity in zip(figure.subplots(1, 2), panels, strict=True):
        for part, label, color, style in curves:
            values = history[f"{part}_{quantity}"]
            every = max(1, len(epochs) // 10)
            ax.plot(epochs, values, style, color=color, label=label, markevery=every)
        ax.set(xlabel="Epoch", ylabel=panels[quantity])
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.grid(alpha=0.3)
        ax.legend()
    verdict = diagnose_training(history).verdict.capitalize()
    train_acc, val_acc = history["train_acc"][-1], history["val_acc"][-1]
    figure.suptitle(
        f"{verdict} ({title}): training {train_acc:.1f}%, validation {val_acc:.1f}%"
    )
    save_figure(figure, path)
