"""The embedded digits: drawn well enough to stand in for MNIST."""

import pytest
import torch
from torch import nn

import backstage.data.datasets
import dl_utils
from backstage.data.synthetic_digits import make_digits


def test_digits_come_in_the_documented_form():
    images, labels = make_digits(300, seed=0)
    assert (images.shape, images.dtype) == ((300, 28, 28), torch.uint8)
    assert (labels.shape, labels.dtype) == ((300,), torch.int64)
    assert labels.unique().tolist() == list(range(10))


def test_a_seed_gives_the_same_digits_and_leaves_other_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    images, labels = make_digits(50, seed=1)
    assert torch.equal(torch.rand(1), expected)
    again, same_labels = make_digits(50, seed=1)
    assert torch.equal(again, images) and torch.equal(same_labels, labels)
    other, _ = make_digits(50, seed=2)
    assert not torch.equal(other, images)


def test_a_digit_does_not_depend_on_how_many_follow():
    assert torch.equal(make_digits(2100, seed=0)[0][:30], make_digits(30, seed=0)[0])


def test_no_digits_and_fewer_than_none():
    images, labels = make_digits(0, seed=0)
    assert images.shape == (0, 28, 28) and labels.shape == (0,)
    with pytest.raises(ValueError):
        make_digits(-1, seed=0)


def test_progress_adds_up():
    steps = []
    make_digits(4100, seed=0, progress=steps.append)
    assert sum(steps) == 4100 and len(steps) > 1


def test_ink_is_scaled_and_centred_as_in_mnist():
    images, _ = make_digits(1000, seed=0)
    ink = images > 64
    for sides in (ink.any(dim=1), ink.any(dim=2)):
        extent = sides.sum(dim=1)
        assert extent.max() <= 22  # pixels
    longest = torch.maximum(ink.any(dim=1).sum(1), ink.any(dim=2).sum(1))
    assert 18 <= longest.float().mean() <= 21
    pixels = images.float()
    positions = torch.arange(28) + 0.5
    for axis in (1, 2):
        centre = (pixels.sum(dim=axis) @ positions) / pixels.sum(dim=(1, 2))
        assert 13.5 <= centre.mean() <= 15  # pixels; MNIST: 14.5
        assert (centre - centre.mean()).abs().max() < 1.5


@pytest.fixture(scope="module")
def digits(synthetic_dir):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backstage.data.datasets, "DATA_DIR", synthetic_dir)
        return dl_utils.load_raw_data("synthetic")


def test_ink_covers_as_much_as_in_mnist(digits):
    assert 0.10 <= digits.train_images.float().mean() / 255 <= 0.16


def test_the_nearest_average_digit_is_neither_useless_nor_enough(digits):
    images = digits.train_images.flatten(1).float()
    means = torch.stack([images[digits.train_labels == d].mean(0) for d in range(10)])
    nearest = torch.cdist(digits.test_images.flatten(1).float(), means).argmin(dim=1)
    accuracy = 100 * (nearest == digits.test_labels).float().mean()
    assert 70 <= accuracy <= 88


@pytest.fixture(scope="module")
def trained(synthetic_dir, train_script):
    """A network trained on synthetic digits as 03 does it, and the test loader."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backstage.data.datasets, "DATA_DIR", synthetic_dir)
        train_loader, _, test_loader = dl_utils.load_mnist_data(dataset="synthetic")
    torch.manual_seed(0)
    model = train_script.SimpleNN()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001, fused=True)
    for _ in range(10):
        train_script.train_epoch(
            model, train_loader, nn.CrossEntropyLoss(), optimizer, "cpu"
        )
    return model, test_loader


def test_a_network_reads_96_to_98_5_percent(trained):
    model, test_loader = trained
    _, accuracy = dl_utils.evaluate_model(model, test_loader, "cpu")
    assert 96 <= accuracy <= 98.5


@pytest.mark.real_mnist
def test_what_was_learned_from_them_reads_real_digits(trained, real_mnist):
    model, _ = trained
    _, _, test_loader = dl_utils.load_mnist_data(dataset="mnist")
    _, accuracy = dl_utils.evaluate_model(model, test_loader, "cpu")
    assert accuracy >= 92
