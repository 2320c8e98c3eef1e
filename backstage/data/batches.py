"""Batches of images that are in memory already."""

import torch
from torch.utils.data import TensorDataset

from backstage.data.datasets import RawData


class ImageDataset(TensorDataset):
    """Images and labels held in memory as two tensors, with the data set's names.

    By default a DataLoader fetches images one by one and stacks them. Ours are in one
    tensor already, so that a whole batch is one indexing operation.
    """

    def __init__(
        self, data: RawData, images: torch.Tensor, labels: torch.Tensor
    ) -> None:
        super().__init__(images, labels)
        self.name, self.title, self.axes = data.name, data.title, data.axes
        self.classes = data.classes  # label 3 means classes[3]
        self.recordings = None  # what test images were made of, if it was sound

    def add(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Add images, float32 [N, 1, 28, 28], normalized, and labels, int64 [N]."""
        pairs = zip(self.tensors, (images, labels), strict=True)
        self.tensors = tuple(torch.cat(pair) for pair in pairs)

    def __getitems__(self, positions: list[int]) -> tuple[torch.Tensor, ...]:
        """Return a batch: PyTorch's own hook for data sets that can do it at once."""
        index = torch.tensor(positions)
        # Twice as fast as tensor[index].
        return tuple(tensor.index_select(0, index) for tensor in self.tensors)


def keep_batch(batch: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Return what ImageDataset made as it is: a DataLoader's collate_fn.

    A function with a name, because a lambda cannot be sent to a loader's workers on
    Windows and macOS.
    """
    return batch


def replace_labels(
    labels: torch.Tensor, share: float, number_of_classes: int, seed: int
) -> None:
    """Replace a share, 0 to 1, of the labels, int64 [N], by random ones, in place.

    Raises:
        ValueError: the share is not from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share of wrong labels must be 0 to 1, got {share}")
    generator = torch.Generator().manual_seed(seed ^ 1)  # not that of the shuffling
    count = round(share * len(labels))
    chosen = torch.randperm(len(labels), generator=generator)[:count]
    labels[chosen] = torch.randint(number_of_classes, (count,), generator=generator)
