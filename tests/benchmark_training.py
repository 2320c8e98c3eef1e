"""How fast training is: python tests/benchmark_training.py

Four ways to train an epoch of the same network on the same 55,000 images, in turn:

    classic         what most tutorials do: torchvision's MNIST with ToTensor and
                    Normalize per image, plain Adam
    ours            load_mnist_data and train_epoch of 03_train_mnist.py
    ours, 2 cores   the same with two threads
    fixed batch     train_epoch on one and the same batch: no loading can beat it

Start it on a quiet machine; to see what another program costs, beside one.
"""

import gzip
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import MNIST

from conftest import ROOT, has_real_mnist, load_script, real_mnist_files

sys.path.insert(0, str(ROOT))  # started from tests/, Python would not look there

import dl_utils

REPEATS = 3
BATCH_SIZE = 64
lesson_3 = load_script("03_train_mnist")


class FixedBatches(list):
    """The same batch again and again, as often as an epoch has batches."""

    def __init__(self, loader):
        super().__init__([next(iter(loader))] * len(loader))
        self.dataset = range(len(loader) * BATCH_SIZE)


def classic_loader(folder, count):
    """Return torchvision's own loader; it wants unpacked files, here in a folder."""
    raw = Path(folder, "MNIST", "raw")
    raw.mkdir(parents=True)
    for path in real_mnist_files():
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    normalize = transforms.Normalize((dl_utils.MNIST_MEAN,), (dl_utils.MNIST_STD,))
    transform = transforms.Compose([transforms.ToTensor(), normalize])
    dataset = Subset(MNIST(folder, train=True, transform=transform), range(count))
    return DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True)


def seconds_per_epoch(train_epoch, loader, fused, threads):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = lesson_3.SimpleNN()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001, fused=fused)
    start = time.perf_counter()
    train_epoch(model, loader, nn.CrossEntropyLoss(), optimizer, "cpu")
    return time.perf_counter() - start


def main():
    train_loader, _, _ = dl_utils.load_mnist_data(BATCH_SIZE, dataset="mnist")
    with tempfile.TemporaryDirectory() as folder:
        classic = classic_loader(folder, len(train_loader.dataset))
    ours = lesson_3.train_epoch
    pipelines = {  # the function, the loader, whether Adam is fused, threads
        "classic": (ours, classic, False, 1),
        "ours": (ours, train_loader, True, 1),
        "ours, 2 cores": (ours, train_loader, True, 2),
        "fixed batch": (ours, FixedBatches(train_loader), True, 1),
    }
    seconds = {name: [] for name in pipelines}
    for repeat in range(REPEATS + 1):
        for name, pipeline in pipelines.items():
            elapsed = seconds_per_epoch(*pipeline)
            if repeat > 0:  # the first round warms up
                seconds[name].append(elapsed)

    print(f"PyTorch {torch.__version__} on the CPU, {REPEATS} epochs each, in turn")
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, times in seconds.items():
        print(
            f"{name:<13}  {medians[name]:.2f} s per epoch "
            f"({min(times):.2f} to {max(times):.2f})"
        )
    ratio = medians["ours"] / medians["fixed batch"]
    print(f"Ours takes {ratio:.2f} times the fixed batch")


if __name__ == "__main__":
    if not has_real_mnist():
        sys.exit("real MNIST is not there: python 03_train_mnist.py gets it")
    main()
