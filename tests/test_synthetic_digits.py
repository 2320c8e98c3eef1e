"""The embedded digits: drawn well enough to stand in for MNIST."""

import pytest
import torch

import dl_utils
from backstage.data.synthetic_digits import make_digits


def test_a_seed_gives_the_same_digits_everywhere():
    state = torch.get_rng_state()
    images, labels = make_digits(12, seed=1)
    assert torch.equal(torch.get_rng_state(), state)  # of other random numbers
    assert (images.shape, images.dtype) == ((12, 28, 28), torch.uint8)
    assert labels.tolist() == [0, 2, 2, 1, 5, 1, 4, 7, 5, 4, 5, 3]
    ink = images.sum(dim=(1, 2)) / 255
    known = [128, 151, 97, 58, 102, 53, 85, 118, 119, 64, 164, 119]
    assert ink.tolist() == pytest.approx(known, abs=1)
    # However many follow, and not with another seed.
    steps = []
    more = make_digits(2100, seed=1, progress=steps.append)
    assert more[0][:12].equal(images) and more[1][:12].equal(labels)
    assert steps == [2000, 100]
    assert not make_digits(12, seed=2)[0].equal(images)
    # None at all, and fewer.
    images, labels = make_digits(0, seed=1)
    assert images.shape == (0, 28, 28) and labels.shape == (0,)
    with pytest.raises(ValueError, match="0 or more, not -1"):
        make_digits(-1, seed=0)


def test_the_parts_are_disjoint_and_as_inked_and_centred_as_mnist(synthetic):
    digits = dl_utils.load_raw_data("synthetic")
    expected = make_digits(2000, seed=0)
    assert digits.train_images[:2000].equal(expected[0])
    assert digits.train_labels[:2000].equal(expected[1])
    parts = [
        {image.tobytes() for image in images.numpy()}
        for images in (digits.train_images, digits.test_images)
    ]
    assert list(map(len, parts)) == [60_000, 10_000] and not parts[0] & parts[1]

    pixels = expected[0].float()
    assert 0.10 <= pixels.mean() / 255 <= 0.16
    for axis in (1, 2):
        assert (pixels > 64).any(dim=axis).sum(dim=1).max() <= 22  # pixels
        mass = pixels.sum(dim=axis)
        centre = mass @ (torch.arange(28) + 0.5) / mass.sum(dim=1)
        assert 13.5 <= centre.mean() <= 15  # MNIST: 14.5
        assert (centre - centre.mean()).abs().max() < 1.5


def test_the_nearest_average_digit_is_neither_useless_nor_enough(synthetic):
    digits = dl_utils.load_raw_data("synthetic")
    images = digits.train_images.flatten(1).float()
    means = torch.stack([images[digits.train_labels == d].mean(0) for d in range(10)])
    nearest = torch.cdist(digits.test_images.flatten(1).float(), means).argmin(dim=1)
    assert 0.70 <= (nearest == digits.test_labels).float().mean() <= 0.88


def test_a_network_reads_96_to_98_5_percent(synthetic_network, synthetic):
    *_, test_loader = dl_utils.load_mnist_data(dataset="synthetic")
    _, accuracy = dl_utils.evaluate_model(synthetic_network, test_loader, "cpu")
    assert 96 <= accuracy <= 98.5


@pytest.mark.real_mnist
def test_what_was_learned_from_them_reads_real_digits(synthetic_network, real_mnist):
    *_, test_loader = dl_utils.load_mnist_data(dataset="mnist")
    _, accuracy = dl_utils.evaluate_model(synthetic_network, test_loader, "cpu")
    assert accuracy >= 92
