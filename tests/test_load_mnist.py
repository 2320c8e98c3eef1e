"""02_load_mnist.py: every finding about the data, and what a learner sees."""

import re

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

import dl_utils
from conftest import assert_fits_the_console, load_script, run_main
from documents import GUIDE

PICTURES = ["mnist_overview.png", "mnist_samples.png"]


@pytest.fixture(scope="module")
def script():
    return load_script("02_load_mnist")


def one_pixel_images(*pixels):
    """Return images that are blank but for pixel number p of grey value v."""
    images = torch.zeros(len(pixels), 784, dtype=torch.uint8)
    for image, (position, value) in zip(images, pixels, strict=True):
        image[position] = value
    return images.reshape(-1, 28, 28)


# One image per digit, each with a pixel of its own: these are also the averages.
DIGITS = one_pixel_images(*((position, 255) for position in range(10)))


# ------------------------------------------------------------------------------
# Images, classes, pixels
# ------------------------------------------------------------------------------


def test_an_image_is_printed_without_its_margin(script, capsys):
    image = torch.zeros(28, 28, dtype=torch.uint8)
    image[5, 7], image[6, 9] = 255, 8
    script.print_image_values(image)
    assert capsys.readouterr().out == " 255   .   .\n   .   .   8\n"


def test_the_widest_image_fits_on_the_screen(script, capsys):
    script.print_image_values(torch.full((20, 20), 255, dtype=torch.uint8))
    assert_fits_the_console(capsys.readouterr().out)


def test_imbalance_is_the_largest_class_over_the_smallest(script):
    assert script.imbalance_ratio(torch.tensor([20, 50, 30])) == 2.5


def test_the_histogram_counts_every_grey_value(script):
    histogram = script.pixel_histogram(one_pixel_images((0, 255), (3, 7)))
    assert histogram.shape == (256,)
    assert histogram[[0, 7, 255]].tolist() == [2 * 784 - 2, 1, 1]


def test_mean_and_std_are_those_of_the_pixels(script):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (9, 28, 28), generator=generator).to(torch.uint8)
    pixels = images.double() / 255
    assert script.mean_and_std(script.pixel_histogram(images)) == pytest.approx(
        (pixels.mean().item(), pixels.std(correction=0).item()), rel=1e-12
    )


# ------------------------------------------------------------------------------
# Is the data clean?
# ------------------------------------------------------------------------------


def test_mean_pixels_tell_blank_faintest_and_boldest(script):
    images = torch.stack([torch.full((28, 28), v) for v in (9, 0, 255)])
    ink = script.mean_pixels(images.to(torch.uint8))
    assert ink.tolist() == [9, 0, 255]


def test_every_copy_of_an_earlier_image_is_found(script):
    a, b, c = (0, 1), (0, 2), (1, 1)
    assert script.find_duplicates(one_pixel_images(a, b, a, c, b, a)) == [
        (0, 2),
        (1, 4),
        (0, 5),
    ]
    assert script.find_duplicates(one_pixel_images(a, b, c)) == []


def test_test_images_seen_in_training_are_found(script):
    train = one_pixel_images((0, 1), (0, 2), (1, 1))
    test = one_pixel_images((9, 9), (1, 1), (0, 3), (0, 1))
    assert script.find_overlap(train, test) == [1, 3]


# ------------------------------------------------------------------------------
# Average images
# ------------------------------------------------------------------------------


def test_average_images_are_averages_of_their_class(script):
    images = torch.cat([DIGITS, one_pixel_images((400, 100))])
    labels = torch.tensor([*range(10), 3])
    averages = script.average_images(images, labels)
    assert averages.shape == (10, 28, 28)
    assert averages[3].flatten()[[3, 400]].tolist() == [127.5, 50]
    assert torch.equal(averages[4], DIGITS[4].float())


def test_distance_is_the_root_of_the_squared_differences(script):
    images = torch.zeros(2, 28, 28, dtype=torch.uint8)
    images[1, :2, :2] = 255  # four pixels differ by 1: root of 4
    measured = script.distances(images, images[:1].float())
    torch.testing.assert_close(measured, torch.tensor([[0.0], [2.0]]))


def test_the_most_ambiguous_image_looks_most_like_another_class(script):
    # Three images called 3: a clear one, one a little like 5, one exactly like 8.
    a_little_like_5 = DIGITS[5] // 2 + DIGITS[3] // 3
    images = torch.cat([DIGITS, a_little_like_5.unsqueeze(0), DIGITS[8:9]])
    labels = torch.tensor([*range(10), 3, 3])
    found = script.most_ambiguous(images, labels, DIGITS.float())
    assert len(found) == 10
    position, other, amount = found[3]
    assert (position, other) == (11, 8)
    assert amount == pytest.approx(2**0.5, abs=1e-4)  # from 3 to 8, two pixels change
    # A class with one clear image: it is nearer to its own average.
    assert found[4][0] == 4
    assert found[4][2] < 0


def test_the_baseline_names_the_nearest_average(script):
    images = torch.cat([DIGITS, DIGITS[:2]])
    labels = torch.tensor([*range(10), 0, 0])  # the last image is a 1, called 0
    accuracy, per_class = script.measure_baseline(images, labels, DIGITS.float())
    assert accuracy == pytest.approx(100 * 11 / 12)
    assert per_class == pytest.approx([100 * 2 / 3, *[100] * 9])


# ------------------------------------------------------------------------------
# Pictures
# ------------------------------------------------------------------------------


def test_samples_are_different_images_of_each_class(script):
    labels = torch.arange(100) % 10
    torch.manual_seed(0)
    picked = script.pick_samples(labels, 5)
    assert torch.equal(labels[picked], torch.arange(10).unsqueeze(1).expand(10, 5))
    assert len(picked.unique()) == 50
    torch.manual_seed(1)
    assert not torch.equal(script.pick_samples(labels, 5), picked)


def test_a_grid_shows_each_image_in_its_place(script):
    ax = Figure().subplots()
    images = torch.zeros(2, 3, 28, 28, dtype=torch.uint8)
    images[1, 2] = 255  # second row, third column
    script.show_grid(ax, images, below="abc", beside="de")
    picture = ax.images[0].get_array()
    assert picture.shape == (64, 96)
    assert (picture[34:62, 66:94] == 255).all()
    assert picture.sum() == 255 * 784
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["a", "b", "c"]


# ------------------------------------------------------------------------------
# What a learner sees
# ------------------------------------------------------------------------------


def explore(script, folder, data_dir, *flags):
    """Run the lesson; return its output and the texts in each of its pictures."""
    pictures = []

    def save_figure(figure, path):
        dl_utils.save_figure(figure, path)
        pictures.append(" ".join(text.get_text() for text in figure.findobj(Text)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "save_figure", save_figure)
        code, output, errors = run_main(script, *flags, cwd=folder, data_dir=data_dir)
    assert (code, errors) == (0, "")
    return output, pictures


def test_a_run_prints_plain_text_and_writes_two_pictures(
    script, synthetic_dir, tmp_path
):
    output, pictures = explore(
        script, tmp_path, synthetic_dir, "--dataset", "synthetic"
    )
    assert_fits_the_console(output)
    assert "These are synthetic digits, so the numbers differ." in output
    assert sorted(path.name for path in tmp_path.iterdir()) == PICTURES
    for name in PICTURES:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        assert f"Saved: {name}\n" in output
    assert len(pictures) == 2
    assert all("synthetic digits" in texts for texts in pictures)


def six_speakers():
    """A small data set of another kind: recordings whose classes have names."""
    names = ["george", "jackson", "lucas", "nicolas", "theo", "yweweler"]
    labels = torch.arange(120) % 6
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 99, (120, 28, 28), generator=generator).to(torch.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 4 * label] = 255  # each class has a bright column of its own
    images[0, :, 20:] = 0  # the first is printed, and must not be too wide
    # _replace, because a data set may come to have more parts.
    return dl_utils.load_raw_data("synthetic")._replace(
        name="speakers",
        title="voices",
        unit="recording",
        scale="0 silence, 255 loud",
        classes=names,
        train_images=images[:90],
        train_labels=labels[:90],
        test_images=images[90:],
        test_labels=labels[90:],
        order=torch.randperm(90, generator=generator),
        val_size=12,
    )


def test_classes_with_names_are_called_by_them(
    script, synthetic, monkeypatch, tmp_path
):
    data = six_speakers()
    monkeypatch.setattr(script, "load_raw_data", lambda *_: data)
    output, pictures = explore(script, tmp_path, tmp_path)
    assert_fits_the_console(output)
    assert "The first training image, george" in output
    for name in ("george", "yweweler"):
        assert re.search(rf"^{name} +15  #+$", output, re.M)
    assert "90 recordings, to learn from" in output
    assert "These are voices, so the numbers differ." in output
    for texts in pictures:
        assert all(name in texts for name in ["voices", *data.classes])


def test_a_bad_value_gets_one_line(script, tmp_path):
    code, _, errors = run_main(script, "--seed", -1, cwd=tmp_path, data_dir=tmp_path)
    assert code == 2
    assert errors.count("\n") == 1


@pytest.mark.real_mnist
def test_the_figures_of_real_mnist(lessons_on_mnist):
    output = lessons_on_mnist.outputs["02_load_mnist.py"]
    counts = re.findall(r"^\d +(\S+)  #+$", output, re.MULTILINE)
    assert " ".join(counts) == (
        "5,923 6,742 5,958 6,131 5,842 5,421 5,918 6,265 5,851 5,949"
    )
    for line in (
        "Largest / smallest class: 1.24 (balanced: 1.00)",
        "Computed here    mean 0.1307, standard deviation 0.3081",
        "[64, 1, 28, 28], torch.float32, -0.42 to 2.82",
        "Training images that are blank  0",
        "Copies of training images       0",
        "Test images also in training    0",
        "Faintest image 21618: 1, mean pixel 6 of 255",
        "Boldest  image 41358: 0, mean pixel 101 of 255",
        "11.35%  by always saying 1, the largest class",
        "82.03%  by naming the class of the nearest average",
    ):
        assert f"\n{line}\n" in output
    assert "synthetic" not in output


@pytest.mark.real_mnist
def test_the_figures_that_only_the_pictures_show(script, real_mnist):
    data = dl_utils.load_raw_data("mnist")
    histogram = script.pixel_histogram(data.train_images)
    averages = script.average_images(data.train_images, data.train_labels)
    _, per_class = script.measure_baseline(data.test_images, data.test_labels, averages)
    white = 100 * histogram[0].item() / histogram.sum().item()
    assert f"*Pixels.* {white:.0f}% are exactly 0" in GUIDE
    words = f"right for {per_class[1]:.0f}% of the 1s, and for only {per_class[5]:.0f}%"
    assert words in " ".join(GUIDE.split())
