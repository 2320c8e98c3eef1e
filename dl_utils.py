"""What the five scripts share, in the order in which they need it.

Read it from top to bottom beside lesson 3: where to compute, how images become
batches, how good a network is, what its curves say, how they are drawn. What only
keeps the scripts running is in the folder backstage/, and no lesson needs it. (On the
way to speech, read backstage/sound.py: how a recording becomes an image.)
"""

import itertools
import math
import os
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader

from backstage.data.batches import ImageDataset, keep_batch, replace_labels
from backstage.data.datasets import RawData, load_raw_data, load_recordings
from backstage.files import atomic_path, check_can_write
from backstage.gpu import gpu_works
from backstage.networks import describe_network, find_two_layers
from backstage.own.examples import read_own, read_own_examples, read_own_words
from backstage.page.writer import write_network_page
from backstage.pictures import (
    plot_comparison,
    plot_confusion_matrix,
    plot_neurons,
    plot_predictions,
)
from backstage.plotting import Axes, Figure, save_figure
from backstage.runs import find_run, record_run
from backstage.script import run_script
from backstage.settings import parse_settings
from backstage.sound import from_spectrogram, to_image, to_spectrogram, write_sound
from backstage.terminal import (
    BadSettingError,
    UserError,
    print_section,
    print_wrapped,
    wrap,
)
from backstage.weights import explain_weights

# ------------------------------------------------------------------------------
# Device
# ------------------------------------------------------------------------------

# Processor cores for PyTorch. Large networks gain from many; in ours, several mostly
# wait for each other (README.md has the seconds). With one, figures do not depend on
# how many there are. The environment variable OMP_NUM_THREADS, if set, wins.
NUM_THREADS = 1


def get_device() -> str:
    """Return the device to compute on: "cuda" when an NVIDIA GPU works, else "cpu".

    Apple's "mps" is not chosen: it rounds differently from the CPU, which the guide's
    figures come from, and a network as small as ours keeps no GPU busy.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(NUM_THREADS)
    # Elsewhere you will read torch.cuda.is_available(). A GPU can be available and
    # still be too old for this PyTorch, so gpu_works computes something on it.
    return "cuda" if gpu_works() else "cpu"


# ------------------------------------------------------------------------------
# Data
# ------------------------------------------------------------------------------

# Of all training pixels on the scale 0 to 1; 02_load_mnist.py computes them.
MNIST_MEAN, MNIST_STD = 0.1307, 0.3081

# Without gradients, larger batches fit into memory: faster, with the same result.
EVALUATION_BATCH_SIZE = 1000


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Turn stored pixels into what the networks are fed.

    Networks learn fastest from inputs around 0 with a spread of about 1. Training,
    validation, test and your own images must all be normalized in the same way.

    uint8 [N, 28, 28], 0 to 255, becomes float32 [N, 1, 28, 28], about -0.42 (paper) to
    2.82 (ink). The new dimension is the colour channel that image layers expect.
    """
    # [N, 28, 28] -> [N, 1, 28, 28]; the operations ending in "_" work in place.
    return images.unsqueeze(1).float().div_(255).sub_(MNIST_MEAN).div_(MNIST_STD)


def load_mnist_data(
    batch_size: int = 64,
    dataset: str = "auto",
    train_samples: int | None = None,
    seed: int = 0,
    wrong_labels: float = 0.0,
    stranger: str = "lucas",
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
        seed: decides the order of the training images, a new one in every epoch.
        wrong_labels: share of the training labels, 0 to 1, to replace by random ones,
            of which one in ten is right by luck.
        stranger: the voice that "new-voices" tests on.

    Returns:
        Three DataLoaders. A batch is images, float32 [N, 1, 28, 28], normalized, and
        labels, int64 [N]. `loader.dataset.tensors` are all images and all labels.

    Raises:
        ValueError: no such dataset or voice, or a number is out of range.
        UserError: the data cannot be had, or are fewer than train_samples.
    """
    data = load_raw_data(dataset, stranger)
    train_part, val_part = data.split(train_samples)  # at random, always the same
    images, labels = data.train_images, data.train_labels
    train_set = ImageDataset(data, normalize(images[train_part]), labels[train_part])
    replace_labels(train_set.tensors[1], wrong_labels, len(data.classes), seed)
    val_set = ImageDataset(data, normalize(images[val_part]), labels[val_part])
    test_set = ImageDataset(data, normalize(data.test_images), data.test_labels)
    test_set.recordings = data.test_recordings
    # The order has a random generator of its own: whatever else draws random numbers
    # (one more layer, Dropout), the images still come in the same order. collate_fn:
    # these data sets hand out whole batches, which need not be collected.
    generator = torch.Generator().manual_seed(seed)
    train_loader = DataLoader(
        train_set, batch_size, shuffle=True, generator=generator, collate_fn=keep_batch
    )
    val_loader = DataLoader(val_set, EVALUATION_BATCH_SIZE, collate_fn=keep_batch)
    test_loader = DataLoader(test_set, EVALUATION_BATCH_SIZE, collate_fn=keep_batch)
    return train_loader, val_loader, test_loader


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
        Means over images, not means of batch means: the last batch may be smaller.
    """
    # Two different switches. eval() changes what some layers do (Dropout stops
    # dropping); inference_mode() saves the work of recording for gradients.
    was_training = model.training
    model.eval()
    loss_sum, correct = 0.0, 0
    with torch.inference_mode():
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            logits = model(images)  # [N, 1, 28, 28] -> [N, 10]
            loss = nn.functional.cross_entropy(logits, labels)  # mean of the batch
            loss_sum += loss.item() * len(labels)
            correct += (logits.argmax(dim=1) == labels).sum().item()
    model.train(was_training)
    count = len(loader.dataset)
    return loss_sum / count, 100 * correct / count


def count_parameters(model: nn.Module) -> int:
    """Return how many numbers the model can learn (its trainable parameters)."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


# ------------------------------------------------------------------------------
# Diagnosis
# ------------------------------------------------------------------------------

HISTORY_KEYS = ("train_loss", "train_acc", "val_loss", "val_acc")  # a list for each

# The thresholds below fit digit recognition, where a good network gets about 97 %.
# Another task needs other numbers; the questions stay the same.
LEARNED_ACCURACY = 95.0  # percent of the training images: less has not learned them
WORSE_POINTS = 2.0  # points of accuracy below its own best: clearly worse
# Learning rate too high
DIVERGED_LOSS = 10 * math.log(10)  # ten times that of guessing: only huge weights do it
ROUGH_RISE = 1.01  # the training loss rose: this times the epoch before, or more
ROUGH_SHARE = 0.25  # of all epochs: more rises than that are no accident
USEFUL_ACCURACY = 90.0  # percent on validation: no learning rate is too high for this
# Still improving
TREND_EPOCHS = 2  # each of the last so many epochs beats all before them,
IMPROVING_POINTS = 0.5  # and the last one by so many points of validation accuracy,
IMPROVING_SHARE = 0.05  # which are at least this share of the mistakes
# Overfitting, and the remark "surer, not better"
OVERFITTING_GAP = 3.0  # points that training accuracy is ahead of validation
SURER_LOSS = 1.5  # the validation loss over its own best

# Verdict -> what to try next. Each advice was tried; the guide has the figures.
ADVICE = {
    "learning rate too high": "Divide the learning rate by 10 and run again. If it is "
    "no better, look for a mistake in the five steps.",
    "severe overfitting": "Stop near the epoch of the best validation accuracy, and "
    "look for wrong labels in the training data.",
    "still improving": "Train for more epochs, or raise the learning rate.",
    "overfitting": "Get more data, or alter the images you have. Dropout helps a bit.",
    "underfitting": "First test the code: --hidden-size 128 --train-samples 100 "
    "--epochs 100 must end at 100% in training. If it does not, try a larger learning "
    "rate, then look for a mistake in the five steps. If it does, use a larger hidden "
    "layer, and see that forward() has its ReLU.",
    "good fit": "Change one hyperparameter and see whether validation accuracy rises.",
}


class Diagnosis(NamedTuple):
    verdict: str
    evidence: str
    advice: str

    def __str__(self) -> str:
        return f"{self.verdict.upper()}\n{wrap(self.evidence)}\n{wrap(self.advice)}"


def diagnose_training(history: dict[str, list[float]]) -> Diagnosis:
    """Name what the curves of a training run show, and say what to try next.

    The questions are asked in a fixed order, and the first yes gives the verdict. They
    go by accuracy, because accuracy is what we want; the loss is what training can
    follow. Training accuracy is averaged over an epoch while the weights move, so early
    in training it lies below validation.

    Args:
        history: HISTORY_KEYS, each a list with one number per epoch; accuracy in
            percent, loss as mean cross-entropy per image. If training began with saved
            weights, "val_acc_before" is their validation accuracy.

    Returns:
        verdict: one of those in ADVICE; evidence: the numbers behind it; advice.

    Raises:
        ValueError: the four lists are empty or differ in length, or a loss is below 0.
    """
    train_loss, train_acc, val_loss, val_acc = (history[key] for key in HISTORY_KEYS)
    if not 0 < len(train_loss) == len(train_acc) == len(val_loss) == len(val_acc):
        raise ValueError("a history needs four lists of the same length, at least 1")
    if min(train_loss + val_loss) < 0:
        raise ValueError("a loss below 0 is no cross-entropy: look at the criterion")
    finite = math.isfinite(train_loss[-1]) and math.isfinite(val_loss[-1])
    learned = train_acc[-1] >= LEARNED_ACCURACY
    start = history.get("val_acc_before", 0.0)
    best = val_acc.index(max(val_acc))
    best_acc = max(start, val_acc[best])
    worse = val_acc[-1] <= best_acc - WORSE_POINTS

    # 1. Has it learned nothing useful, and jumps about, falls back or is hopeless?
    rises = sum(b >= ROUGH_RISE * a for a, b in itertools.pairwise(train_loss))
    rough = rises > ROUGH_SHARE * len(train_loss)
    fell_back = train_acc[-1] <= max(train_acc) - WORSE_POINTS
    hopeless = max(train_loss) > DIVERGED_LOSS
    useful = learned or (val_acc[-1] >= USEFUL_ACCURACY and not worse)
    too_high = not finite or (not useful and (rough or fell_back or hopeless))
    # 2. Did validation accuracy fall while training accuracy rose?
    severe = worse and (train_acc[-1] > train_acc[best] or best_acc == start)
    # 3. Does validation accuracy still rise? (A new network guesses: 10 % are right.)
    before = max([10.0, start, *val_acc[:-TREND_EPOCHS]])
    enough = max(IMPROVING_POINTS, IMPROVING_SHARE * (100 - before))
    improving = min(val_acc[-TREND_EPOCHS:]) > before and val_acc[-1] >= before + enough
    # 4. Does it know its training images much better than others?
    ahead = train_acc[-1] - val_acc[-1] >= OVERFITTING_GAP
    # 5. Does it not even know its training images? (Validation accuracy can be higher:
    # Dropout, altered images and wrong labels make only training harder.)
    under = max(train_acc[-1], val_acc[-1]) < LEARNED_ACCURACY

    rules = {
        "learning rate too high": too_high,
        "severe overfitting": severe,
        "still improving": improving,
        "overfitting": ahead,
        "underfitting": under,
        "good fit": True,
    }
    verdict = next(name for name, applies in rules.items() if applies)

    evidence = (
        f"Training {train_acc[-1]:.1f}% (loss {train_loss[-1]:.3g}), validation "
        f"{val_acc[-1]:.1f}% (best: {best_acc:.1f}% "
        f"{'before training' if best_acc == start else f'in epoch {best + 1}'})."
    )
    lowest = val_loss.index(min(val_loss))
    surer = finite and learned and val_loss[-1] >= SURER_LOSS * val_loss[lowest] > 0
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
    history: dict[str, list[float]], path: str, title: str = "MNIST digits"
) -> None:
    """Draw accuracy and loss over the epochs, with the verdict as the title.

    Args:
        history: see diagnose_training; path: the PNG to write; title: what was learned.
    """
    epochs = range(1, len(history["train_loss"]) + 1)
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
