"""How fast training is: python tests/benchmark_training.py

Three ways to train one epoch of the same network on the same 55,000 images, side by
side in one process and repeated in turn, because a machine's speed changes from
minute to minute:

    classic      what most tutorials do: torchvision's MNIST with ToTensor and
                 Normalize per image, plain Adam, .item() after every batch
    ours         load_mnist_data and train_epoch of 03_train_mnist.py
    fixed batch  train_epoch on one and the same batch: no data loading can beat it

Needs real MNIST, which python 03_train_mnist.py gets, because torchvision reads it.
"""

import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import MNIST

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import dl_utils  # noqa: E402

REPEATS = 5
BATCH_SIZE = 64

spec = importlib.util.spec_from_file_location("lesson_3", ROOT / "03_train_mnist.py")
lesson_3 = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lesson_3)


class FixedBatches:
    """Gives the same batch again and again, as often as an epoch has batches."""

    def __init__(self, loader):
        self.batch = next(iter(loader))
        self.count = len(loader)
        self.dataset = range(self.count * len(self.batch[1]))

    def __iter__(self):
        for _ in range(self.count):
            yield self.batch


def classic_loader():
    transform = transforms.Compose(
        [
            transforms.ToTensor(),
            transforms.Normalize((dl_utils.MNIST_MEAN,), (dl_utils.MNIST_STD,)),
        ]
    )
    dataset = MNIST(dl_utils.DATA_DIR, train=True, transform=transform)
    dataset = torch.utils.data.Subset(dataset, range(dl_utils.TRAINING_SIZE))
    return DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True)


def classic_epoch(model, loader, criterion, optimizer, device):
    model.train()
    loss_sum = correct = 0
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        logits = model(images)
        loss = criterion(logits, labels)
        loss.backward()
        optimizer.step()
        loss_sum += loss.item() * len(labels)
        correct += (logits.argmax(dim=1) == labels).sum().item()
    return loss_sum / len(loader.dataset), 100 * correct / len(loader.dataset)


def seconds_per_epoch(train_epoch, loader, fused, device):
    torch.manual_seed(0)
    model = lesson_3.SimpleNN().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001, fused=fused)
    start = time.perf_counter()
    train_epoch(model, loader, nn.CrossEntropyLoss(), optimizer, device)
    return time.perf_counter() - start


def run_seconds_and_memory(*arguments):
    """Run a Python process; return its seconds and its peak memory in MB."""
    # Measured in the process itself: a parent sees only the largest of its children.
    report = (
        "import atexit, resource, sys; atexit.register(lambda: print("
        "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr))\n"
        if sys.platform != "win32"
        else ""
    )
    run = (
        "import runpy, sys; sys.argv = sys.argv[1:]; sys.path.insert(0, sys.argv.pop())"
        "\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    )
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.run(
            [sys.executable, "-c", report + run, *arguments, str(ROOT)],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=True,
        )
    seconds = time.perf_counter() - start
    if not report:
        return seconds, None
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return seconds, int(process.stderr.split()[-1]) / unit


def main():
    device = dl_utils.get_device()
    train_loader, _, _ = dl_utils.load_mnist_data(BATCH_SIZE, dataset="mnist")
    pipelines = {
        "classic": (classic_epoch, classic_loader(), False),
        "ours": (lesson_3.train_epoch, train_loader, True),
        "fixed batch": (lesson_3.train_epoch, FixedBatches(train_loader), True),
    }
    seconds = {name: [] for name in pipelines}
    for repeat in range(REPEATS + 1):
        for name, pipeline in pipelines.items():
            elapsed = seconds_per_epoch(*pipeline, device)
            if repeat > 0:  # the first round warms up
                seconds[name].append(elapsed)

    print(
        f"PyTorch {torch.__version__}, {device}, {torch.get_num_threads()} threads, "
        f"{REPEATS} epochs each, in turn"
    )
    dl_utils.print_table(
        [
            {
                "pipeline": f"{name:<11}",
                "median_seconds_per epoch": f"{statistics.median(times):.2f}",
                "fastest": f"{min(times):.2f}",
                "slowest": f"{max(times):.2f}",
                "of_ours": f"{statistics.median(times) / ours:.2f}",
            }
            for ours in [statistics.median(seconds["ours"])]
            for name, times in seconds.items()
        ]
    )

    start_up, _ = run_seconds_and_memory(str(ROOT / "dl_utils.py"))
    whole, memory = run_seconds_and_memory(
        str(ROOT / "03_train_mnist.py"), "--dataset", "mnist"
    )
    print(f"Start-up (importing dl_utils and with it PyTorch): {start_up:.1f} s")
    peak = "not measured on Windows" if memory is None else f"{memory:.0f} MB"
    print(f"03_train_mnist.py, start to finish: {whole:.1f} s, peak memory {peak}")


if __name__ == "__main__":
    dl_utils.run_script(main)
