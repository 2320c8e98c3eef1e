"""Batches of images that are in memory already."""

import math
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Sampler, TensorDataset

from backstage.datasets import RawData


class ImageDataset(TensorDataset):
    """Images and labels held in memory as two tensors, with the data set's names."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, data: RawData):
        super().__init__(images, labels)
        self.name, self.title, self.axes = data.name, data.title, data.axes
        self.classes = data.classes  # label 3 means classes[3]

    def __getitem__(self, index) -> tuple[torch.Tensor, ...]:
        if isinstance(index, torch.Tensor):  # a batch: twice as fast as tensor[index]
            return tuple(tensor.index_select(0, index) for tensor in self.tensors)
        return super().__getitem__(index)


class BatchSampler(Sampler):
    """Yields the positions of each batch as a tensor, int64 [batch_size].

    By default a DataLoader fetches images one by one and stacks them. Ours are in one
    tensor already, so images[positions] fetches a whole batch in one operation.
    """

    def __init__(self, size: int, batch_size: int, shuffle_seed: int | None) -> None:
        self.size, self.batch_size = size, batch_size
        # The order has a random generator of its own: whatever else draws random
        # numbers (one more layer, Dropout), the images still come in the same order.
        self.generator = None
        if shuffle_seed is not None:
            self.generator = torch.Generator().manual_seed(shuffle_seed)

    def __iter__(self) -> Iterator[torch.Tensor]:
        if self.generator is None:
            positions = torch.arange(self.size)
        else:
            positions = torch.randperm(self.size, generator=self.generator)
        return iter(positions.split(self.batch_size))

    def __len__(self) -> int:
        return math.ceil(self.size / self.batch_size)


def make_loader(
    dataset: ImageDataset, batch_size: int, shuffle_seed: int | None = None
) -> DataLoader:
    """Return a loader of batches; the last one may be smaller.

    shuffle_seed decides the random order, a new one in every epoch; None keeps the
    order of the data set.
    """
    sampler = BatchSampler(len(dataset), batch_size, shuffle_seed)
    # batch_size=None: the sampler forms the batches, not the loader.
    return DataLoader(dataset, sampler=sampler, batch_size=None)


def replace_labels(
    labels: torch.Tensor, share: float, number_of_classes: int, seed: int
) -> None:
    """Replace a share, 0 to 1, of the labels, int64 [N], by random ones, in place."""
    generator = torch.Generator().manual_seed(seed ^ 1)  # not that of the shuffling
    count = round(share * len(labels))
    chosen = torch.randperm(len(labels), generator=generator)[:count]
    labels[chosen] = torch.randint(number_of_classes, (count,), generator=generator)
