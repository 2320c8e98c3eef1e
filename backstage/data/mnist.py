"""MNIST: its four files, found, verified and downloaded."""

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np
import torch

from backstage.data.downloads import download
from backstage.terminal import UserError

# Mirrors, file names and MD5 checksums are those of torchvision.datasets.MNIST, copied
# because importing torchvision takes a second that only a download needs.
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "http://yann.lecun.com/exdb/mnist/",
)
TRAIN_IMAGES = ("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873")
TRAIN_LABELS = ("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432")
TEST_IMAGES = ("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3")
TEST_LABELS = ("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c")
FILES = dict([TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS])


def load_mnist(
    data_dir: Path,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return MNIST as stored, from data_dir/MNIST/raw, or downloaded to it once.

    Returns:
        Training images, uint8 [60000, 28, 28], and labels, int64 [60000]; test images,
        uint8 [10000, 28, 28], and labels, int64 [10000].

    Raises:
        OSError: a file can be neither found nor downloaded.
        UserError: another data set's file has its name, such as FashionMNIST's.
    """
    # Source of the format: http://yann.lecun.com/exdb/mnist
    return (
        _read(data_dir, TRAIN_IMAGES, header_size=16).reshape(-1, 28, 28),
        _read(data_dir, TRAIN_LABELS, header_size=8).long(),
        _read(data_dir, TEST_IMAGES, header_size=16).reshape(-1, 28, 28),
        _read(data_dir, TEST_LABELS, header_size=8).long(),
    )


def _read(data_dir: Path, file: tuple[str, str], header_size: int) -> torch.Tensor:
    """Return the bytes of one file, without its header, as uint8."""
    name, md5 = file
    path = data_dir / "MNIST" / "raw" / name

    def is_genuine(path: Path) -> bool:
        # A download that broke off, or a disk error, would otherwise train a network
        # on noise without a word.
        content = path.read_bytes() if path.is_file() else b""
        return hashlib.md5(content, usedforsecurity=False).hexdigest() == md5

    if not is_genuine(path):
        if _is_whole(path):
            raise UserError(
                f"{path} is not the MNIST file, but another one of that name: move it "
                "away, or let MNIST_DATA_DIR name another folder"
            )
        if path.exists():
            print(f"{path} is damaged: getting it again.")
        download([mirror + name for mirror in MIRRORS], path, is_genuine)
    content = gzip.decompress(path.read_bytes())
    return torch.from_numpy(np.frombuffer(content, np.uint8)[header_size:].copy())


def _is_whole(path: Path) -> bool:
    """Tell whether gzip's own checksum finds a file to be as it was made."""
    try:
        with gzip.open(path) as file:
            whole = bool(file.read(1))  # an empty file has no checksum
            while file.read(2**20):
                pass
    except (OSError, EOFError, zlib.error):
        return False
    return whole
