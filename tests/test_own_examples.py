"""Examples of the learner's own: read from one file, taught, kept back to measure."""

import re
import wave
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from backstage.own.examples import read_own, read_own_examples
from backstage.sound import to_image
from backstage.terminal import UserError
from conftest import load_script, run_main, training_runs
from dl_utils import evaluate_model, normalize

QUICK = ("--dataset", "synthetic", "--train-samples", 300, "--epochs", 1)


def data_set(name="MNIST"):
    """Return what the reader asks of the data set that examples are to join."""
    return SimpleNamespace(name=name, title=f"{name} things", classes=list("012345"))


@pytest.fixture
def sheet(tmp_path):
    """Return a function that saves cells, {(row, digit): (ink, mark)}, as a sheet."""

    def save(cells, rows=3, mode="RGBA"):
        pixels = np.zeros((28 * rows, 280), np.uint8)
        for (row, digit), (ink, mark) in cells.items():
            left = 28 * digit + 5
            pixels[28 * row + 9 + mark, left : left + 4] = ink
        Image.fromarray(pixels).convert(mode).save(tmp_path / "my_digits.png")
        return str(tmp_path / "my_digits.png")

    return save


@pytest.fixture
def voice(tmp_path):
    """Return a function that saves seconds of sound, {second: pitch}, as a file."""

    def save(words, seconds=20, rate=8_000, channels=1, lost=0):
        samples = np.zeros(seconds * 8_000, "<i2")
        for second, pitch in words.items():
            word = 9_000 * np.sin(2 * np.pi * pitch * np.arange(4_000) / 8_000)
            samples[8_000 * second + 2_000 : 8_000 * second + 6_000] = word
        path = tmp_path / "my_voice.wav"
        with wave.open(str(path), "wb") as file:
            file.setparams((channels, 2, rate, 0, "NONE", ""))
            file.writeframes(samples.tobytes())
        path.write_bytes(path.read_bytes()[: -lost or None])
        return str(path)

    return save


@pytest.mark.parametrize("mode", ["RGBA", "L"])
def test_the_column_is_the_digit_and_faint_cells_are_empty(sheet, mode):
    cells = {(0, 7): (200, 7), (1, 1): (64, 1), (2, 0): (65, 0), (199, 3): (255, 3)}
    path = sheet(cells, rows=200, mode=mode)
    images, labels, _ = read_own_examples(path, data_set())
    expected = torch.zeros(3, 28, 28, dtype=torch.uint8)
    for i, (row, ink) in enumerate([(16, 200), (9, 65), (12, 255)]):
        expected[i, row, 5:9] = ink
    assert labels.tolist() == [7, 0, 3]
    assert images.equal(expected)


def test_the_second_is_the_digit_and_is_not_trimmed_again(voice):
    path = voice({3: 400, 14: 900, 1999: 500}, seconds=2000)
    images, labels, _ = read_own_examples(path, data_set("spoken"))
    assert labels.tolist() == [3, 4, 9]
    with wave.open(path) as file:
        samples = np.frombuffer(file.readframes(10**8), "<i2") / np.float32(2**15)
    words = torch.from_numpy(samples).split(8_000)
    assert images.equal(torch.stack([to_image(words[i]) for i in (3, 14, 1999)]))

    speakers = data_set("speakers")
    _, labels, _ = read_own_examples(path, speakers)
    assert (labels.tolist(), speakers.classes[6:]) == ([6, 6, 6], ["you"])


def test_of_each_digit_the_2nd_and_7th_are_kept_back(sheet):
    # The last ones come later, and move none of the others.
    cells = [(row, 4) for row in range(8)] + [(0, 2), (5, 2), (7, 2), (7, 9)]
    path = sheet(dict.fromkeys(cells, (255, 0)), rows=8)
    _, labels, kept = read_own_examples(path, data_set())
    assert kept[labels == 4].tolist() == [i in (1, 6) for i in range(8)]
    assert kept[labels == 2].tolist() == [False, True, False]
    assert kept[labels == 9].tolist() == [False]


def complaint(path, name="MNIST"):
    with pytest.raises(UserError) as error:
        read_own_examples(str(path), data_set(name))
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


def test_a_file_for_another_use_is_sent_there(tmp_path, sheet, voice):
    path = tmp_path / "my_digit.png"
    for size in ((280, 27), (279, 28), (280, 28 * 201)):
        Image.new("L", size, 255).save(path)
        assert f"04_load_model.py --image {path}" in complaint(path)
    kinds = ({"rate": 16_000}, {"channels": 2}, {"lost": 2})
    for options in (*({"seconds": n} for n in (0, 15, 2010)), *kinds):
        path = voice({}, **options)
        assert f"04_load_model.py --sound {path}" in complaint(path, "spoken")
    many = sheet({(row, digit): (255, 0) for row in range(3) for digit in range(10)})
    for image, sound in ((many, ""), ("", voice({3: 400, 14: 900}))):
        with pytest.raises(UserError, match=r"03_train_mnist\.py --own ") as error:
            read_own(image, sound, {"dataset": "spoken" if sound else ""})
        assert str(error.value).endswith(image + sound)


def test_a_network_of_another_kind_is_named():
    with pytest.raises(UserError, match=r"on speakers, .* images: .* auto first"):
        read_own("a.png", "", {"dataset": "speakers"})
    with pytest.raises(UserError, match=r"on MNIST, .* recordings: .* spoken first"):
        read_own("", "a.wav", {"dataset": "MNIST"})


def test_faults_of_the_contents_are_one_line(sheet, voice, tmp_path):
    assert "holds no example" in complaint(sheet({}))
    picture = complaint(sheet({(0, 0): (255, 0)}), "spoken")
    assert "holds pictures" in picture and "--dataset auto" in picture
    assert "holds no example" in complaint(voice({}), "spoken")
    sound = complaint(voice({0: 400}))
    assert "holds a voice" in sound and "--dataset spoken" in sound
    assert "there is no file" in complaint(tmp_path / "nothing.png")
    other = tmp_path / "mine.png"
    Image.new("RGB", (280, 28), "red").save(other)
    assert "has colours" in complaint(other)
    # A file is called only what it is.
    for start in (b"\0\0\0\x1cftypM4A ", b"RIFF\x1a\0\0\0WEBP", b""):
        other.write_bytes(start)
        assert "is no picture" in complaint(other)
        assert "cannot be read" in complaint(other, "speakers")
    other.write_bytes(b"\x89PNG\r\n\x1a\n" + b"half")
    assert re.search("no picture|cannot be read", complaint(other))


@pytest.fixture
def train(synthetic_dir, tmp_path):
    """Return a function that runs lesson 3; patches, if any, replace its functions."""

    def run(*flags, **patches):
        script = load_script("03_train_mnist")
        vars(script).update(patches)
        return run_main(script, *QUICK, *flags, cwd=tmp_path, data_dir=synthetic_dir)

    return run


def test_own_examples_are_taught_and_measured_apart(
    train, train_script, sheet, tmp_path
):
    # Marks that no digit has, so that only who is taught them knows them; and the 3s
    # that are kept back bear the mark of an 8.
    cells = {(row, 3): (255, 8 if row in (1, 6) else 3) for row in range(7)}
    path = sheet(cells | {(row, 8): (255, 8) for row in range(6)}, rows=7)
    images, labels, kept = read_own_examples(path, data_set())
    # It begins with a network that always says 3.
    model = train_script.SimpleNN()
    torch.nn.init.zeros_(model.fc2.weight)
    model.fc2.bias.data = torch.eye(10)[3]
    torch.save(model.state_dict(), tmp_path / "says_3.pth")
    watched = {"train": Mock(wraps=train_script.train)}
    watched["evaluate_model"] = Mock(wraps=evaluate_model)
    flags = ("--own", path, "--wrong-labels", 1, "--start-from", "says_3.pth")
    run = train(*flags, "--epochs", 12, "--learning-rate", 0.005, **watched)
    (trained,), evaluated = (
        [call.args[1].dataset.tensors for call in mock.call_args_list]
        for mock in watched.values()
    )
    assert (run.returncode, run.stderr) == (0, "")
    # All labels of the data set are spoiled and none of these, which come as often as
    # others; those that are kept back are nowhere, but for the two measurements.
    own_images, own_labels = (tensor[300:] for tensor in trained)
    assert own_images.equal(normalize(images[~kept]).repeat(30, 1, 1, 1))
    assert own_labels.equal(labels[~kept].repeat(30))
    val, own, test, own_again = (images for images, _ in evaluated)
    assert own.equal(normalize(images[kept])) and own_again.equal(own)
    assert (len(val), len(test)) == (5_000, 10_000)
    assert "13 of your own: 3 kept back, the rest join in\n10 batches" in run.stdout
    assert (
        "Own examples kept back: 2 of 3 right before, 1 of 3 after\n"
        "3 are few: one more or less is luck.\n"
    ) in run.stdout
    (row,) = training_runs(tmp_path)
    assert (row["train_samples"], row["own"]) == ("300", f"{path} (13)")

    run = train("--own", sheet({(0, 1): (255, 0)}))
    assert (run.returncode, run.stderr) == (0, "")
    assert "kept back:" not in run.stdout  # without any, nothing is measured


def test_training_goes_on_from_saved_weights(train, tmp_path):
    first = train("--epochs", 8)
    go_on = ("--start-from", "mnist_model.pth")
    second = train(*go_on, "--learning-rate", 1e-9)
    assert "It was trained with epochs 8" in " ".join(second.stdout.split())
    accuracy = re.findall(r"Val Acc: ([\d.]+)%", first.stdout + second.stdout)
    assert accuracy[-1] == accuracy[-2]  # where the first run ended
    # The verdict counts from what was right before training.
    assert "STILL IMPROVING" in first.stdout
    assert "STILL IMPROVING" not in second.stdout
    third = train(*go_on, "--wrong-labels", 1, "--epochs", 6, "--learning-rate", 0.003)
    assert "SEVERE OVERFITTING" in third.stdout
    assert f"(best: {accuracy[-1]}% before training)" in " ".join(third.stdout.split())
    rows = training_runs(tmp_path)
    ended = re.findall(r"Val Acc: ([\d.]+)%", third.stdout)[-1]  # not at its best
    assert float(rows[2]["val_acc"]) == pytest.approx(float(ended), abs=0.06)
    assert rows[1]["start_from"] == rows[0]["weights"] != rows[1]["weights"]
    wrong = train(*go_on, "--hidden-size", 64)
    assert wrong.returncode == 1
    assert "use --hidden-size 128, as in training" in wrong.stderr
