"""02_load_mnist.py: what its pictures show, and what it finds in data with faults."""

import itertools
import re

import pytest
import torch
from matplotlib.text import Text

import dl_utils
from conftest import assert_fits_the_console, load_script, run_main
from documents import GUIDE

SCRIPT = "02_load_mnist.py"


@pytest.fixture(scope="module")
def script():
    return load_script(SCRIPT)


def texts_in(figure):
    texts = [text.get_text() for text in figure.findobj(Text)]
    return [text for text, _ in itertools.groupby(filter(None, texts))]


def test_samples_are_random_images_of_each_class(quick_lessons, script, synthetic):
    data = dl_utils.load_raw_data("synthetic")
    torch.manual_seed(42)
    picked = script.pick_samples(data.train_labels, 14)
    assert (data.train_labels[picked] == torch.arange(10).unsqueeze(1)).all()
    assert len(picked.unique()) == 140
    assert picked.float().mean() == pytest.approx(30_000, rel=0.2)  # not the first
    (picture,) = quick_lessons.figures[SCRIPT][0].axes[0].images
    assert (picture.get_cmap().name, picture.get_clim()) == ("gray_r", (0, 255))
    shown = torch.as_tensor(picture.get_array()).reshape(10, 32, 14, 32).transpose(1, 2)
    assert torch.equal(shown[..., 2:30, 2:30], data.train_images[picked])


def test_faults_in_data_of_another_kind_are_found(
    script, synthetic, synthetic_dir, monkeypatch
):
    voices = ["george", "jackson", "lucas", "nicolas", "theo", "yweweler"]
    labels = torch.arange(120) % 6
    images = torch.zeros(120, 28, 28, dtype=torch.uint8)
    for i, label in enumerate(labels):
        images[i, :, 4 * label] = 255  # each class has a bright column of its own,
        images[i, i % 28, (1, 2, 3, 5, 6)[i // 28]] = 90  # and each image a dot
    images[12] = 0  # blank
    images[33], images[45] = images[27], images[27]
    images[64] = 250
    images[80, :, 8], images[80, :, 16] = 0, 255  # labelled lucas, but looks like theo
    images[91], images[97], images[118] = images[7], images[7], images[40]
    labels[100] = 3  # in truth 4, so the baseline is right for 29 of 30
    data = dl_utils.load_raw_data("synthetic")._replace(
        name="speakers",
        title="voices",
        unit="recording",
        scale="0 silence, 255 loud",
        axes="time to the right",
        classes=voices,
        train_images=images[:90],
        train_labels=labels[:90],
        test_images=images[90:],
        test_labels=labels[90:],
    )
    figures = []
    monkeypatch.setattr(script, "load_raw_data", lambda _, voice: {"theo": data}[voice])
    monkeypatch.setattr(script, "save_figure", lambda figure, _: figures.append(figure))
    flags = ("--stranger", "theo")
    run = run_main(script, *flags, cwd=synthetic_dir, data_dir=synthetic_dir)
    assert (run.returncode, run.stderr) == (0, "")
    assert_fits_the_console(run.stdout)
    # By hand: lucas is nearer to theo by sqrt(28) * (sqrt(2) * 14 / 15 - sqrt(27) *
    # 0.065) = 5.19, but for the dots.
    for lines in (
        "Training set     90 recordings, to learn from",
        "The first training image, george (a dot is a 0, margin left out):\n 255  90",
        f"yweweler     15  {50 * '#'}",
        "Training images that are blank  1\n"
        "Copies of training images       2\n"
        "Test images also in training    3\n"
        "Faintest image    12: george, mean pixel 0 of 255\n"
        "Boldest  image    64: theo, mean pixel 250 of 255",
        "lucas     theo             5.16            80\n"
        "nicolas   george          -6.90             3\n"
        "theo      lucas           -1.73            64",
        "16.67%  by always saying george, the largest class\n"
        "96.67%  by naming the class of the nearest average",
    ):
        assert f"\n{lines}\n" in run.stdout
    samples, overview = map(texts_in, figures)
    title = "No two alike: random voices to train on"
    assert samples == [data.axes, "Label", *voices, title]
    titles = {"Training recordings", "Pixel value (0 silence, 255 loud)", data.axes}
    assert {*titles, "george: 100%", "nicolas: 83%", "lucas, or theo?"} < {*overview}


@pytest.mark.real_mnist
def test_the_figures_of_real_mnist(lessons_on_mnist, script, real_mnist):
    output = lessons_on_mnist.outputs[SCRIPT]
    counts = re.findall(r"^\d +(\S+)  #+$", output, re.MULTILINE)
    expected = "5,923 6,742 5,958 6,131 5,842 5,421 5,918 6,265 5,851 5,949"
    assert " ".join(counts) == expected
    for line in (
        "Computed here    mean 0.1307, standard deviation 0.3081",
        "Training images that are blank  0",
        "Copies of training images       0",
        "Test images also in training    0",
        "11.35%  by always saying 1, the largest class",
        "82.03%  by naming the class of the nearest average",
    ):
        assert f"\n{line}\n" in output
    data = dl_utils.load_raw_data("mnist")
    averages = script.average_images(data.train_images, data.train_labels)
    _, per_class = script.measure_baseline(data.test_images, data.test_labels, averages)
    white = 100 * (data.train_images == 0).double().mean()
    assert f"*Pixels.* {white:.0f}% are exactly 0" in GUIDE
    words = f"right for {per_class[1]:.0f}% of the 1s, and for only {per_class[5]:.0f}%"
    assert words in " ".join(GUIDE.split())
