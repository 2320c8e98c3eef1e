"""Lesson 5: compare architectures fairly.

Run it:        python 05_experiment_architectures.py
Change it:     add an architecture to the list ARCHITECTURES, or edit a constant
It writes:     architecture_comparison.png

Train a network twice with different random numbers, and accuracy differs. So one run
each tells little about which architecture is better. A fair comparison trains all of
them on the same data, for as many epochs, with the same seeds, several times - and
calls a difference that is no larger than luck what it is: a tie.
"""

import argparse
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.utils.data import DataLoader, Dataset

from dl_utils import (
    UserError,
    check_can_write,
    count_parameters,
    evaluate_model,
    get_device,
    keep_batch,
    load_mnist_data,
    parse_settings,
    print_section,
    print_table,
    print_wrapped,
    run_script,
    save_figure,
)

# ------------------------------------------------------------------------------
# Hyperparameters: the same for all architectures, so that only these differ.
# ------------------------------------------------------------------------------

# Runs per architecture, each with another seed. More runs tell finer differences from
# luck, and take longer.
SEEDS = 3

# A difference counts when it is larger than so many standard errors; see is_tie.
TIE_STANDARD_ERRORS = 3

# Fewer epochs and larger batches than in lesson 3, because there are nine runs.
EPOCHS = 4
BATCH_SIZE = 128

# As in lesson 3. The same learning rate need not be equally good for all: if you tune
# it for one architecture, tune it for every one.
LEARNING_RATE = 0.001

# Training images to use: "all" (MNIST has 55,000), or a number.
TRAIN_SAMPLES = "all"

# "auto" (MNIST if possible), "mnist", "synthetic", or the recordings "spoken",
# "speakers" and "new-voices".
DATASET = "auto"

PLOT_PATH = "architecture_comparison.png"


# nn.Sequential is an nn.Module whose forward() calls its layers one after the other.


class TwoLayerNN(nn.Sequential):
    """The network of lesson 3, to compare with: 784 -> 128 -> 10, ReLU."""

    def __init__(self) -> None:
        super().__init__(
            nn.Flatten(),  # [N, 1, 28, 28] -> [N, 784]
            nn.Linear(784, 128),  # -> [N, 128]
            nn.ReLU(),
            nn.Linear(128, 10),  # -> [N, 10]
        )


class ThreeLayerNN(nn.Sequential):
    """Wider and deeper: 784 -> 256 -> 128 -> 10, ReLU. Is more better?"""

    def __init__(self) -> None:
        super().__init__(
            nn.Flatten(),  # [N, 1, 28, 28] -> [N, 784]
            nn.Linear(784, 256),  # -> [N, 256]
            nn.ReLU(),
            nn.Linear(256, 128),  # -> [N, 128]
            nn.ReLU(),
            nn.Linear(128, 10),  # -> [N, 10]
        )


class TanhNN(nn.Sequential):
    """Like TwoLayerNN, with Tanh in place of ReLU: it squeezes numbers into -1..1."""

    def __init__(self) -> None:
        super().__init__(
            nn.Flatten(),  # [N, 1, 28, 28] -> [N, 784]
            nn.Linear(784, 128),  # -> [N, 128]
            # Far from 0, Tanh is almost flat: gradients get small and learning slow.
            # See ML_CONCEPTS_EXPLAINED.md#vanishing-gradients
            nn.Tanh(),
            nn.Linear(128, 10),  # -> [N, 10]
        )


# Name -> how to build a new network. To add your own, add one line; "lambda:" because
# every seed needs a new network. Those below are ready to try: remove the "# ".
# See ML_CONCEPTS_EXPLAINED.md#model-capacity
ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "TwoLayerNN": TwoLayerNN,
    "ThreeLayerNN": ThreeLayerNN,
    "TanhNN": TanhNN,
    # "Wide": lambda: nn.Sequential(
    #     nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 10)
    # ),
    # "Deep": lambda: nn.Sequential(
    #     nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(),
    #     nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    # ),
    # "LeakyReLU": lambda: nn.Sequential(
    #     nn.Flatten(), nn.Linear(784, 128), nn.LeakyReLU(), nn.Linear(128, 10)
    # ),
    # "GELU": lambda: nn.Sequential(
    #     nn.Flatten(), nn.Linear(784, 128), nn.GELU(), nn.Linear(128, 10)
    # ),
    # "Dropout": lambda: nn.Sequential(
    #     nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Dropout(0.2),
    #     nn.Linear(128, 10)
    # ),
    # "Convolution": lambda: nn.Sequential(
    #     nn.Conv2d(1, 8, kernel_size=3), nn.ReLU(),  # [N, 1, 28, 28] -> [N, 8, 26, 26]
    #     nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 13 * 13, 10)
    # ),
}


class Result(NamedTuple):
    """What several runs of one architecture gave."""

    name: str
    parameters: int
    val_acc: np.ndarray  # percent, [seeds, epochs]
    seconds: float  # of training, mean of the runs
    models: list[nn.Module]  # trained, one per seed

    @property
    def final(self) -> np.ndarray:
        """Validation accuracy at the end of each run, percent, [seeds]."""
        return self.val_acc[:, -1]

    @property
    def spread(self) -> float:
        """How far a run typically lies from the mean: the standard deviation."""
        return float(self.final.std(ddof=1))


def train_epoch(
    model: nn.Module,
    loader: DataLoader,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: str,
) -> None:
    """Train on every image once: the five steps of lesson 3."""
    model.train()
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()  # Step 1, zero_grad
        logits = model(images)  # Step 2, forward
        loss = criterion(logits, labels)  # Step 3, loss
        loss.backward()  # Step 4, backward
        optimizer.step()  # Step 5, step


def check_networks(train_set: Dataset, batch_size: int) -> None:
    """Try every network on two images, so that a mistake shows before the training."""
    # The first and the last class, so that an output too few is noticed.
    images, _ = train_set.__getitems__([0, 0])
    labels = torch.tensor([0, len(train_set.classes) - 1])
    for name, build in ARCHITECTURES.items():
        model = build()
        nn.functional.cross_entropy(model(images), labels).backward()
        if build() is model:
            raise UserError(
                f"{name} is the same network in every run: build a new one after "
                '"lambda:"'
            )
        # Batch normalization compares the images of a batch with each other.
        normalizes = (nn.BatchNorm1d, nn.BatchNorm2d)
        if (len(train_set) - 1) % batch_size == 0 and any(
            isinstance(layer, normalizes) for layer in model.modules()
        ):
            raise UserError(
                f"{name} normalizes batches, and the last batch of each epoch has only "
                "one image: use another --batch-size or --train-samples"
            )


def run_experiment(
    name: str,
    build: Callable[[], nn.Module],
    train_set: Dataset,
    val_loader: DataLoader,
    settings: argparse.Namespace,
    device: str,
) -> Result:
    """Train one architecture several times, each time with another seed."""
    val_acc, seconds, models = [], [], []
    for seed in range(settings.seeds):
        # The seed decides the weights to start from, and the order of the images.
        # See ML_CONCEPTS_EXPLAINED.md#randomness-and-seeds
        torch.manual_seed(seed)
        train_loader = DataLoader(
            train_set,
            settings.batch_size,
            shuffle=True,
            generator=torch.Generator().manual_seed(seed),
            collate_fn=keep_batch,
        )
        model = build().to(device)
        criterion = nn.CrossEntropyLoss()
        optimizer = torch.optim.Adam(
            model.parameters(), lr=settings.learning_rate, fused=True
        )
        curve = []
        start = time.perf_counter()
        for _ in range(settings.epochs):
            train_epoch(model, train_loader, criterion, optimizer, device)
            val_loss, epoch_acc = evaluate_model(model, val_loader, device)
            if not math.isfinite(val_loss):
                raise UserError(
                    f"{name} diverged: its loss is not a number any more. Divide the "
                    "learning rate by 10 and run again"
                )
            curve.append(epoch_acc)
        seconds.append(time.perf_counter() - start)
        val_acc.append(curve)
        models.append(model)
        print(f"{name:<14} seed {seed}: Val Acc: {curve[-1]:.2f}%, {seconds[-1]:.1f} s")
    return Result(
        name,
        count_parameters(model),
        np.array(val_acc),
        float(np.mean(seconds)),
        models,
    )


def is_tie(first: Result, second: Result) -> bool:
    """Return whether luck can explain the difference between two architectures.

    The mean of n runs is itself a matter of luck: its standard error is the standard
    deviation of the runs divided by the root of n. With 3 runs each, the means of two
    equal architectures differ by more than 3 standard errors in 4 of 100 comparisons;
    the best of three equal ones beats another one in 9 of 100.
    """
    difference = first.final.mean() - second.final.mean()
    standard_error = np.sqrt(
        first.spread**2 / len(first.final) + second.spread**2 / len(second.final)
    )
    return bool(abs(difference) <= TIE_STANDARD_ERRORS * standard_error)


def best_and_tied(results: list[Result]) -> tuple[Result, list[Result]]:
    """Return the best architecture on validation, and all that tie with it."""
    best = max(results, key=lambda result: result.final.mean())
    return best, [result for result in results if is_tie(result, best)]


def choose(results: list[Result]) -> Result:
    """Return the best architecture on validation; of those that tie, the smallest."""
    _, tied = best_and_tied(results)
    return min(tied, key=lambda result: (result.parameters, -result.final.mean()))


def conclude(results: list[Result]) -> str:
    """Return in one sentence what the numbers show, to print and as title."""
    best, tied = best_and_tied(results)
    tied_names = [result.name for result in tied]
    beaten = [result.name for result in results if result.name not in tied_names]
    parts = []
    if beaten:
        parts.append(f"{best.name} beats {', '.join(beaten)}")
    if len(tied) > 1:
        parts.append(f"{', '.join(tied_names)} tie")
    return "; ".join(parts) or f"{best.name} alone, so there is nothing to compare"


def explain_choice(chosen: Result, results: list[Result]) -> str:
    """Return in one sentence why an architecture was chosen."""
    best, tied = best_and_tied(results)
    if len(tied) == 1:
        return f"{chosen.name}: the best on validation."
    if chosen is best:
        return f"{chosen.name}: the best on validation, and none that ties is smaller."
    return f"{chosen.name}: it ties with {best.name}, the best, and is the smallest."


def plot_comparison(results: list[Result], title: str) -> None:
    """Draw curves with bands, final accuracy with its range, and the cost."""
    width = max(11.5, 2 * len(results))  # inches
    figure = Figure(figsize=(width, 4.4), layout="constrained")
    curves, finals, costs = figure.subplots(1, 3, width_ratios=(1.4, 1, 1))
    # Colours that colour-blind readers can tell apart (Okabe and Ito), and markers.
    colors = ["#0072B2", "#D55E00", "#009E73", "#CC79A7"]
    colors += ["#E69F00", "#56B4E9", "#000000", "#F0E442"]
    names = [result.name for result in results]
    for index, result in enumerate(results):
        color = colors[index % len(colors)]
        marker = "osD^vPX*"[index % 8]
        epochs = np.arange(1, result.val_acc.shape[1] + 1)
        low, high = result.val_acc.min(axis=0), result.val_acc.max(axis=0)
        mean = result.val_acc.mean(axis=0)
        curves.plot(epochs, mean, color=color, marker=marker, label=result.name)
        curves.fill_between(epochs, low, high, color=color, alpha=0.15)
        finals.errorbar(
            index,
            mean[-1],
            yerr=[[mean[-1] - low[-1]], [high[-1] - mean[-1]]],
            color=color,
            marker=marker,
            markersize=9,
            capsize=6,
        )
        bar = costs.bar(index, result.seconds, color=color)
        costs.bar_label(bar, [f"{result.parameters:,}"], fontsize=9)
    curves.set(xlabel="Epoch", ylabel="Validation accuracy (%)")
    curves.set_title("Learning curves (mean, and range of the seeds)", fontsize=11)
    curves.xaxis.get_major_locator().set_params(integer=True)
    curves.legend()
    finals.set(ylabel="Validation accuracy (%)", xlim=(-0.5, len(results) - 0.5))
    finals.set_title("At the end: mean and range", fontsize=11)
    costs.set(ylabel="Training time (s)")
    costs.set_title("Cost: time and parameters", fontsize=11)
    costs.margins(y=0.1)  # room for the numbers above the bars
    for ax in (finals, costs):
        ax.set_xticks(range(len(names)), names, rotation=30, ha="right")
    for ax in (curves, finals):
        ax.grid(alpha=0.3)
    seeds = len(results[0].models)
    figure.suptitle(f"{conclude(results)} ({title}, {seeds} seeds each)")
    save_figure(figure, PLOT_PATH)


def main() -> None:
    settings = parse_settings(
        __doc__,
        seeds=SEEDS,
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        train_samples=TRAIN_SAMPLES,
        dataset=DATASET,
    )
    if not ARCHITECTURES:
        raise UserError('ARCHITECTURES is empty: remove the "# " in front of a line')
    check_can_write(PLOT_PATH)
    device = get_device()

    print_section("Data")
    train_loader, val_loader, test_loader = load_mnist_data(
        settings.batch_size, settings.dataset, settings.train_samples
    )
    train_set = train_loader.dataset
    print(f"{train_set.title}: {len(train_set):,} to train on")
    check_networks(train_set, settings.batch_size)

    print_section(f"Training: {settings.seeds} runs of {settings.epochs} epochs each")
    results = [
        run_experiment(name, build, train_set, val_loader, settings, device)
        for name, build in ARCHITECTURES.items()
    ]

    print_section("Result")
    print_table(
        [
            {
                "architecture": result.name,
                "parameters": f"{result.parameters:,}",
                "val_acc_mean": f"{result.final.mean():.2f}",
                "val_acc_spread": f"{result.spread:.2f}",
                "training_seconds": f"{result.seconds:.1f}",
            }
            for result in results
        ]
    )
    print_wrapped(f"{conclude(results)}.")
    print_wrapped(
        "Spread: the standard deviation over the seeds. Tie: luck can explain the "
        "difference."
    )

    # The test set judges the architecture that validation has chosen, and no other:
    # to choose by test accuracy would make it too good to be true.
    chosen = choose(results)
    test_accs = [
        evaluate_model(model, test_loader, device)[1] for model in chosen.models
    ]
    print_section("Choice")
    print_wrapped(explain_choice(chosen, results))
    print(f"Test Accuracy: {np.mean(test_accs):.2f}% (mean of {settings.seeds} runs)")
    plot_comparison(results, train_set.title)


if __name__ == "__main__":
    run_script(main)
