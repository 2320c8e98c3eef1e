"""How fast training is: python tests/benchmark_training.py

Four ways to train one epoch of the same network on the same 55,000 images, side by
side in one process and repeated in turn, because a machine's speed changes from
minute to minute:

    classic         what most tutorials do: torchvision's MNIST with ToTensor and
                    Normalize per image, plain Adam
    ours            load_mnist_data and train_epoch of 03_train_mnist.py
    ours, 2 cores   the same with two threads
    fixed batch     train_epoch on one and the same batch: no loading can beat it

Needs real MNIST, which python 03_train_mnist.py gets. Start it on a quiet machine;
to see what another program costs, beside one.
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
from backstage.terminal import print_table

REPEATS = 3
BATCH_SIZE = 64
lesson_3 = load_script("03_train_mnist")


class FixedBatches:
    """Gives the same batch again and again, as often as an epoch has batches."""

    def __init__(self, loader):
        self.batch = next(iter(loader))
        self.count = len(loader)
        self.dataset = range(self.count * len(self.batch[1]))

    def __iter__(self):
        for _ in range(self.count):
            yield self.batch


def classic_loader(folder, count):
    """Return torchvision's own loader; it wants unpacked files, here in a folder."""
    raw = Path(folder, "MNIST", "raw")
    raw.mkdir(parents=True)
    for path in real_mnist_files():
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    transform = transforms.Compose(
        [
            transforms.ToTensor(),
            transforms.Normalize((dl_utils.MNIST_MEAN,), (dl_utils.MNIST_STD,)),
        ]
    )
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
    print_table(
        [
            {
                "pipeline": f"{name:<13}",
                "median_seconds_per epoch": f"{medians[name]:.2f}",
                "fastest": f"{min(times):.2f}",
                "slowest": f"{max(times):.2f}",
            }
            for name, times in seconds.items()
        ]
    )
    ratio = medians["ours"] / medians["fixed batch"]
    print(f"Ours takes {ratio:.2f} times the fixed batch")


if __name__ == "__main__":
    if not has_real_mnist():
        sys.exit("real MNIST is not there: python 03_train_mnist.py gets it")
    main()
