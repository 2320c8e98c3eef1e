"""02_load_mnist.py: what its pictures show, and what it finds in data with faults."""

import re

import numpy as np
import pytest
import torch

import dl_utils
from conftest import assert_fits_the_console, load_script, run_main
from documents import GUIDE

SCRIPT = "02_load_mnist.py"


@pytest.fixture(scope="module")
def script():
    return load_script(SCRIPT)


def texts_of(ax):
    """Return title, names of the axes, and labels of the ticks on both of them."""
    x, y = ax.get_xticklabels(), ax.get_yticklabels()
    ticks = [[tick.get_text() for tick in labels] for labels in (x, y)]
    return ax.get_title(), ax.get_xlabel(), ax.get_ylabel(), *ticks


def images_in(ax):
    """Take a grid of images apart again: [rows, columns, 28, 28]."""
    (grid,) = ax.images
    # 0 is white and 255 black, in every picture.
    assert (grid.get_cmap().name, grid.get_clim()) == ("gray_r", (0, 255))
    picture = torch.as_tensor(np.asarray(grid.get_array()))
    rows, columns = (size // 32 for size in picture.shape)
    return picture.reshape(rows, 32, columns, 32).transpose(1, 2)[..., 2:30, 2:30]


# ------------------------------------------------------------------------------
# The pictures of the synthetic digits
# ------------------------------------------------------------------------------


def test_samples_are_random_images_of_each_class(quick_lessons, script, synthetic):
    data = dl_utils.load_raw_data("synthetic")
    figure = quick_lessons.figures[SCRIPT][0]
    assert figure.get_suptitle() == "No two alike: random synthetic digits to train on"
    (ax,) = figure.axes
    assert texts_of(ax) == ("", data.axes, "Label", [], list("0123456789"))
    torch.manual_seed(42)
    picked = script.pick_samples(data.train_labels, 14)
    assert torch.equal(images_in(ax), data.train_images[picked])
    assert (data.train_labels[picked] == torch.arange(10).unsqueeze(1)).all()
    assert len(picked.unique()) == 140
    assert picked.float().mean() == pytest.approx(30_000, rel=0.2)  # not the first
    assert not torch.equal(script.pick_samples(data.train_labels, 14), picked)


def test_the_overview_shows_what_the_data_are(quick_lessons, synthetic):
    data = dl_utils.load_raw_data("synthetic")
    images, labels = data.train_images.numpy(), data.train_labels.numpy()
    output = quick_lessons.outputs[SCRIPT]
    figure = quick_lessons.figures[SCRIPT][1]
    title = "60,000 synthetic digits: what to know before training"
    assert (figure.get_suptitle(), figure.get_supxlabel()) == (title, data.axes)
    classes, pixels, averages, ambiguous = figure.axes

    counts = np.bincount(labels)
    title = "Largest class: 1.07 times the smallest"
    assert texts_of(classes)[:4] == (
        *(title, "Class", "Training images"),
        list("0123456789"),
    )
    assert [bar.get_height() for bar in classes.patches] == counts.tolist()
    assert [text.get_text() for text in classes.texts] == [f"{n:,}" for n in counts]

    share, _ = np.histogram(images, bins=16, range=(0, 256))
    bars = [(bar.get_center()[0], bar.get_height()) for bar in pixels.patches]
    centers, heights = zip(*bars, strict=True)
    assert centers == tuple(range(8, 256, 16))
    assert heights == pytest.approx(share / images.size * 100)
    white = round((images == 0).mean() * 100)
    title, x, y, _, ticks = texts_of(pixels)
    assert title == f"{white}% of all pixels are 0"
    assert (x, y) == ("Pixel value (0 paper, 255 ink)", "Pixels (%), logarithmic")
    assert (pixels.get_yscale(), ticks) == ("log", ["0.1", "1", "10", "100"])
    assert pixels.get_yticks().tolist() == [0.1, 1, 10, 100]

    # The same averages and distances, computed in another way.
    points = images.reshape(-1, 784) / np.float32(255)
    means = np.stack([points[labels == label].mean(axis=0) for label in range(10)])
    shown = images_in(averages)[0].flatten(1)
    assert shown.numpy() == pytest.approx(255 * means, abs=0.01)
    test = data.test_images.numpy().reshape(-1, 784) / np.float32(255)
    nearest = ((means**2).sum(axis=1) - 2 * test @ means.T).argmin(axis=1)
    right = nearest == data.test_labels.numpy()
    accuracy = re.search(r"(\S+)%  by naming the class of the nearest", output)[1]
    assert 100 * right.mean() == pytest.approx(float(accuracy), abs=0.02)
    title = f"Average images: the nearest one is right for {accuracy}% of the test set"
    assert averages.get_title() == title
    for label, tick in enumerate(averages.get_xticklabels()):
        percent = 100 * right[data.test_labels.numpy() == label].mean()
        assert tick.get_text() == f"{label}: {percent:.0f}%"

    table = re.findall(r"^(\d) +(\d) +\d\.\d\d +(\d+)$", output, re.MULTILINE)
    names = [f"{name}, or {other}?" for name, other, _ in table]
    title = "Hard to read: nearer to the average of another class"
    assert texts_of(ambiguous) == (title, "", "", names, [])
    positions = [int(position) for _, _, position in table]
    assert torch.equal(images_in(ambiguous)[0], data.train_images[positions])


# ------------------------------------------------------------------------------
# Data of another kind, with faults
# ------------------------------------------------------------------------------

VOICES = ["george", "jackson", "lucas", "nicolas", "theo", "yweweler"]


def faulty_recordings():
    """90 + 30 recordings of six voices, and what a learner should notice in them."""
    labels = torch.arange(120) % 6
    images = torch.zeros(120, 28, 28, dtype=torch.uint8)
    for i, label in enumerate(labels):
        images[i, :, 4 * label] = 255  # each class has a bright column of its own,
        images[i, i % 28, (1, 2, 3, 5, 6)[i // 28]] = 90  # and each image a dot
    images[12] = 0  # blank
    images[33], images[45] = images[27], images[27]
    images[64] = 250
    images[80, :, 8], images[80, :, 16] = 0, 255  # labelled lucas, but looks like theo
    images[91], images[118] = images[7], images[40]
    labels[100] = 3  # in truth 4, so the baseline is right for 29 of 30
    # _replace, because a data set may come to have more parts.
    return dl_utils.load_raw_data("synthetic")._replace(
        name="speakers",
        title="voices",
        unit="recording",
        scale="0 silence, 255 loud",
        axes="time to the right",
        classes=VOICES,
        train_images=images[:90],
        train_labels=labels[:90],
        test_images=images[90:],
        test_labels=labels[90:],
    )


def test_faults_are_found_and_classes_called_by_their_names(
    script, synthetic, synthetic_dir, monkeypatch, tmp_path
):
    data, figures = faulty_recordings(), []
    monkeypatch.setattr(script, "load_raw_data", lambda *_: data)
    monkeypatch.setattr(script, "save_figure", lambda figure, _: figures.append(figure))
    run = run_main(script, cwd=tmp_path, data_dir=synthetic_dir)
    assert (run.returncode, run.stderr) == (0, "")
    assert_fits_the_console(run.stdout)
    for line in (
        "Data set         voices",
        "Training set     90 recordings, to learn from",
        "One pixel        torch.uint8, 0 silence, 255 loud",
        "One label        torch.int64, 0 to 5",
        f"Classes          {', '.join(VOICES)}",
        "The first training image, george (a dot is a 0, margin left out):\n 255  90",
        "Classes: training recordings per class",
        f"yweweler     15  {50 * '#'}",
    ):
        assert f"\n{line}\n" in run.stdout
    # Hand-made images come out as computed by hand: lucas to theo, for example, is
    # sqrt(28) * (sqrt(2) * 14 / 15 - sqrt(27) * 0.065) = 5.19, but for the dots.
    assert (
        run.stdout.partition("Each of these should be 0:\n")[2]
        == """\
Training images that are blank  1
Copies of training images       2
Test images also in training    2
Faintest image    12: george, mean pixel 0 of 255
Boldest  image    64: theo, mean pixel 250 of 255

The most ambiguous image of each class
--------------------------------------
It is nearer to the average image of another class than to that of its own.
class     looks like  nearer by  image number
george    lucas           -0.01            12
jackson   george          -6.91             1
lucas     theo             5.16            80
nicolas   george          -6.90             3
theo      lucas           -1.73            64
yweweler  george          -6.91             5

A baseline without any network
------------------------------
Test recordings that are named correctly
16.67%  by always saying george, the largest class
96.67%  by naming the class of the nearest average
The last one is the number every network here must beat.

Pictures
--------
"""
    )
    samples, overview = figures
    assert samples.get_suptitle() == "No two alike: random voices to train on"
    assert texts_of(samples.axes[0]) == ("", data.axes, "Label", [], VOICES)
    assert overview.get_suptitle() == "90 voices: what to know before training"
    classes, pixels, averages, ambiguous = map(texts_of, overview.axes)
    assert classes[1:4] == ("Class", "Training recordings", VOICES)
    assert pixels[1] == "Pixel value (0 silence, 255 loud)"
    right = [100, 100, 100, 83, 100, 100]
    assert averages[3] == [f"{v}: {n}%" for v, n in zip(VOICES, right, strict=True)]
    assert ambiguous[3][2:4] == ["lucas, or theo?", "nicolas, or george?"]


# ------------------------------------------------------------------------------
# Real MNIST
# ------------------------------------------------------------------------------


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
