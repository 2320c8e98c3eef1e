"""Lesson 5: compare architectures fairly.

Run it:        python 05_experiment_architectures.py
Change it:     add --compare "TwoLayerNN, Wide", or a line to ARCHITECTURES
It writes:     architecture_comparison.png

Train a network twice with different random numbers, and accuracy differs. So one run
each tells little about which architecture is better. A fair comparison trains all of
them on the same data, for as many epochs, with the same seeds, several times - and
calls a difference that is no larger than luck what it is: a tie.
"""

import argparse
import itertools
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from dl_utils import (
    BadSettingError,
    check_can_write,
    count_parameters,
    evaluate_model,
    get_device,
    keep_batch,
    load_mnist_data,
    parse_settings,
    plot_comparison,
    print_section,
    print_wrapped,
    run_script,
)

# ------------------------------------------------------------------------------
# Hyperparameters: the same for all architectures, so that only these differ.
# ------------------------------------------------------------------------------

# Names of the architectures to compare: all that are ready stand in ARCHITECTURES.
COMPARE = "TwoLayerNN, ThreeLayerNN, TanhNN"

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

# Training images ("all", or a number), data set and voice to test on, as in lesson 3.
TRAIN_SAMPLES = "all"
DATASET = "auto"
STRANGER = "lucas"

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


class ConvolutionNN(nn.Sequential):
    """Eight small windows slide over the image, and look for a pattern everywhere."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 8, kernel_size=3),  # [N, 1, 28, 28] -> [N, 8, 26, 26]
            nn.ReLU(),
            nn.MaxPool2d(2),  # -> [N, 8, 13, 13]: the largest of each 2 x 2
            nn.Flatten(),  # -> [N, 1352]
            nn.Linear(8 * 13 * 13, 10),  # -> [N, 10]
        )


def mlp(
    *sizes: int, activation: type[nn.Module] = nn.ReLU, dropout: float = 0.0
) -> nn.Sequential:
    """Build a multilayer perceptron: mlp(784, 128, 10) has the layers of TwoLayerNN."""
    layers = [nn.Flatten()]
    for inputs, outputs in itertools.pairwise(sizes[:-1]):
        layers += [nn.Linear(inputs, outputs), activation()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


# Name -> how to build a new network; "lambda:" because every seed needs a new one. To
# add your own, add a line here and its name to COMPARE.
# See ML_CONCEPTS_EXPLAINED.md#model-capacity
ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "TwoLayerNN": TwoLayerNN,
    "ThreeLayerNN": ThreeLayerNN,
    "TanhNN": TanhNN,
    "Wide": lambda: mlp(784, 512, 10),
    "Deep": lambda: mlp(784, 64, 64, 64, 10),
    "LeakyReLU": lambda: mlp(784, 128, 10, activation=nn.LeakyReLU),
    "GELU": lambda: mlp(784, 128, 10, activation=nn.GELU),
    "Dropout": lambda: mlp(784, 128, 10, dropout=0.2),
    "Convolution": ConvolutionNN,
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


def choose_architectures(names: str) -> dict[str, Callable[[], nn.Module]]:
    """Return the entries of ARCHITECTURES that are named in a text like COMPARE."""
    chosen = [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in ARCHITECTURES:
            raise BadSettingError(
                f"--compare: there is no {name!a}, only {', '.join(ARCHITECTURES)}"
            )
    return {name: ARCHITECTURES[name] for name in chosen}


def check_network(build: Callable[[], nn.Module], train_set: Dataset) -> None:
    """Try a network on two images, so that a mistake shows before the training."""
    images = train_set.tensors[0][[0, 0]]
    # The first and the last class, so that an output too few is noticed.
    labels = torch.tensor([0, len(train_set.classes) - 1])
    nn.functional.cross_entropy(build()(images), labels).backward()


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
            batch_size=settings.batch_size,
            shuffle=True,
            generator=torch.Generator().manual_seed(seed),
            collate_fn=keep_batch,
        )
        model = build().to(device)
        criterion = nn.CrossEntropyLoss()
        learning_rate = settings.learning_rate
        optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
        curve = []
        start = time.perf_counter()
        for _ in range(settings.epochs):
            train_epoch(model, train_loader, criterion, optimizer, device)
            _, epoch_acc = evaluate_model(model, val_loader, device)
            curve.append(epoch_acc)
        seconds.append(time.perf_counter() - start)
        val_acc.append(curve)
        models.append(model)
        print(f"{name:<14} seed {seed}: Val Acc: {curve[-1]:.2f}%, {seconds[-1]:.1f} s")
    parameters = count_parameters(model)
    return Result(name, parameters, np.array(val_acc), np.mean(seconds), models)


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


def conclude(results: list[Result]) -> str:
    """Return in one sentence what the numbers show, to print and as title."""
    best, tied = best_and_tied(results)
    names = [result.name for result in tied]
    beaten = [result.name for result in results if result.name not in names]
    parts = [f"{best.name} beats {', '.join(beaten)}"] if beaten else []
    if len(names) > 1:
        parts.append(f"{', '.join(names)} tie")
    return "; ".join(parts) or f"{best.name} alone, so there is nothing to compare"


def main() -> None:
    settings = parse_settings(
        __doc__,
        compare=COMPARE,
        seeds=SEEDS,
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        train_samples=TRAIN_SAMPLES,
        dataset=DATASET,
        stranger=STRANGER,
    )
    architectures = choose_architectures(settings.compare)
    check_can_write(PLOT_PATH)
    device = get_device()

    print_section("Data")
    train_loader, val_loader, test_loader = load_mnist_data(
        settings.batch_size,
        settings.dataset,
        settings.train_samples,
        stranger=settings.stranger,
    )
    train_set = train_loader.dataset
    print(f"{train_set.title}: {len(train_set):,} to train on")
    for build in architectures.values():
        check_network(build, train_set)

    print_section(f"Training: {settings.seeds} runs of {settings.epochs} epochs each")
    results = [
        run_experiment(name, build, train_set, val_loader, settings, device)
        for name, build in architectures.items()
    ]

    print_section("Result")
    print("architecture    parameters  val acc: mean  spread  seconds")
    for result in results:
        mean, spread = result.final.mean(), result.spread
        print(
            f"{result.name:<14}{result.parameters:>12,}{mean:>15.2f}{spread:>8.2f}"
            f"{result.seconds:>9.1f}"
        )
    conclusion = conclude(results)
    print_wrapped(f"{conclusion}.")
    print("Spread: standard deviation over the seeds. Tie: luck can explain it.")

    # The test set judges the architecture that validation has chosen, and no other:
    # to choose by test accuracy would make it too good to be true. Of those that tie,
    # the smallest is taken: as good as the others, and the cheapest.
    _, tied = best_and_tied(results)
    chosen = min(tied, key=lambda result: (result.parameters, -result.final.mean()))
    test_accs = [
        evaluate_model(model, test_loader, device)[1] for model in chosen.models
    ]
    print_section("Choice")
    reason = "the smallest of those that tie" if len(tied) > 1 else "the best"
    print(f"{chosen.name}: {reason} on validation.")
    print(f"Test Accuracy: {np.mean(test_accs):.2f}% (mean of {settings.seeds} runs)")
    title = f"{conclusion} ({train_set.title}, {settings.seeds} seeds each)"
    plot_comparison(results, title, PLOT_PATH)


if __name__ == "__main__":
    run_script(main)
