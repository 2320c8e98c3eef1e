"""Examples of the learner's own: read from one file, taught, kept back to measure."""

import re
import wave

import numpy as np
import pytest
import torch
from PIL import Image

from backstage.own.examples import read_own, read_own_examples
from backstage.sound import to_image
from backstage.terminal import UserError
from conftest import run_main, training_runs

QUICK = ("--dataset", "synthetic", "--train-samples", 300, "--epochs", 1)


class DataSet:
    """What the reader asks of the data set that examples are to join."""

    def __init__(self, name="MNIST"):
        self.name, self.title, self.classes = name, f"{name} things", list("012345")


@pytest.fixture
def sheet(tmp_path):
    """Return a function that saves cells, {(row, digit): ink}, as my_digits.png."""

    def save(cells, rows=3, mode="RGBA"):
        pixels = np.zeros((28 * rows, 280), np.uint8)
        for (row, digit), ink in cells.items():
            pixels[28 * row + 9 + digit, 28 * digit + 5 : 28 * digit + 9] = ink
        path = tmp_path / "my_digits.png"
        Image.fromarray(pixels).convert(mode).save(path)
        return str(path)

    return save


@pytest.fixture
def voice(tmp_path):
    """Return a function that saves seconds of sound as my_voice.wav."""

    def save(words, seconds=20, rate=8_000, channels=1):
        samples = np.zeros(seconds * 8_000, "<i2")
        for second, pitch in words.items():
            time = np.arange(4_000) / 8_000
            word = 9_000 * np.sin(2 * np.pi * pitch * time)
            samples[8_000 * second + 2_000 : 8_000 * second + 6_000] = word
        path = tmp_path / "my_voice.wav"
        with wave.open(str(path), "wb") as file:
            file.setparams((channels, 2, rate, 0, "NONE", ""))
            file.writeframes(samples.tobytes())
        return str(path)

    return save


# ------------------------------------------------------------------------------
# The files
# ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGBA", "RGB", "L"])
def test_the_column_is_the_digit(sheet, mode):
    path = sheet({(0, 7): 200, (2, 3): 255}, mode=mode)
    images, labels, _ = read_own_examples(path, DataSet())
    assert labels.tolist() == [7, 3]
    assert (images.dtype, images.shape) == (torch.uint8, (2, 28, 28))
    assert images[0, 16].tolist() == [*5 * [0], *4 * [200], *19 * [0]]
    assert images[1].sum() == 4 * 255


@pytest.mark.parametrize(("ink", "found"), [(65, 1), (64, 0)])
def test_a_cell_without_ink_is_empty(sheet, ink, found):
    path = sheet({(0, 0): 255, (1, 1): ink})
    _, labels, _ = read_own_examples(path, DataSet())
    assert len(labels) == 1 + found


def test_the_second_is_the_digit_and_is_not_trimmed_again(voice):
    path = voice({3: 400, 14: 900})
    images, labels, _ = read_own_examples(path, DataSet("spoken"))
    assert labels.tolist() == [3, 4]
    with wave.open(path) as file:
        samples = np.frombuffer(file.readframes(10**6), "<i2") / np.float32(2**15)
    for image, second in zip(images, (3, 14), strict=True):
        word = torch.from_numpy(samples[8_000 * second : 8_000 * (second + 1)])
        assert torch.equal(image, to_image(word))


def test_of_each_digit_the_2nd_and_7th_are_kept_back(sheet):
    cells = {(row, 4): 255 for row in range(8)} | {(0, 2): 255, (5, 2): 255}
    _, labels, kept = read_own_examples(sheet(cells, rows=8), DataSet())
    assert kept[labels == 4].tolist() == [i in (1, 6) for i in range(8)]
    assert kept[labels == 2].tolist() == [False, True]
    # One more moves none of the others.
    more = cells | {(7, 2): 255, (7, 9): 255}
    _, labels, kept = read_own_examples(sheet(more, rows=8), DataSet())
    assert kept[labels == 4].tolist() == [i in (1, 6) for i in range(8)]
    assert kept[labels == 2].tolist() == [False, True, False]


def test_with_speakers_a_voice_is_the_seventh_class(voice):
    data = DataSet("speakers")
    _, labels, _ = read_own_examples(voice({3: 400, 14: 900}), data)
    assert labels.tolist() == [6, 6]
    assert data.classes[6] == "you"


@pytest.mark.parametrize("size", [(280, 27), (279, 28), (280, 28 * 201), (28, 28)])
def test_a_picture_of_another_size_is_sent_to_lesson_4(tmp_path, size):
    path = str(tmp_path / "my_digit.png")
    Image.new("L", size, 255).save(path)
    with pytest.raises(UserError, match=rf"04_load_model.py --image {re.escape(path)}"):
        read_own_examples(path, DataSet())


@pytest.mark.parametrize(
    "options", [{"seconds": 15}, {"seconds": 0}, {"rate": 16_000}, {"channels": 2}]
)
def test_a_recording_of_another_kind_is_sent_to_lesson_4(voice, options):
    path = voice({}, **options)
    with pytest.raises(UserError, match=rf"04_load_model.py --sound {re.escape(path)}"):
        read_own_examples(path, DataSet("spoken"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no picture"),
        (b"Dear diary", "is no picture"),
        (b"\x89PNG\r\n\x1a\n" + b"half", "no picture|cannot be read"),
    ],
)
def test_what_is_no_sheet_is_one_line(tmp_path, content, words):
    path = tmp_path / "my_digits.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_own_examples(str(path), DataSet())


def test_a_file_of_many_is_sent_to_lesson_3(sheet, voice):
    many = sheet({(row, digit): 255 for row in range(3) for digit in range(10)})
    with pytest.raises(UserError, match=rf"03_train_mnist.py --own {re.escape(many)}"):
        read_own(many, "", {})
    many = voice({3: 400, 14: 900})
    with pytest.raises(UserError, match=rf"03_train_mnist.py --own {re.escape(many)}"):
        read_own("", many, {"dataset": "spoken"})


@pytest.mark.parametrize(
    "start", [b"\0\0\0\x1cftypM4A ", b"RIFF\x1a\0\0\0WEBP", b"half"]
)
@pytest.mark.parametrize("name", ["MNIST", "spoken"])
def test_a_file_of_another_kind_is_not_taken_for_what_it_is_not(tmp_path, start, name):
    (tmp_path / "mine").write_bytes(start + b"and so on")
    with pytest.raises(UserError, match=r"is no picture|cannot be read") as error:
        read_own_examples(str(tmp_path / "mine"), DataSet(name))
    assert "holds" not in str(error.value)


def test_faults_of_the_contents_are_one_line(sheet, voice, tmp_path):
    with pytest.raises(UserError, match="holds no example"):
        read_own_examples(sheet({}), DataSet())
    with pytest.raises(UserError, match="holds no example"):
        read_own_examples(voice({}), DataSet("spoken"))
    with pytest.raises(UserError, match=r"holds pictures.*--dataset auto"):
        read_own_examples(sheet({(0, 0): 255}), DataSet("spoken"))
    with pytest.raises(UserError, match=r"holds a voice.*--dataset spoken"):
        read_own_examples(voice({0: 400}), DataSet())
    with pytest.raises(UserError, match="there is no file"):
        read_own_examples(str(tmp_path / "nothing.png"), DataSet())
    Image.new("RGB", (280, 28), "red").save(tmp_path / "red.png")
    with pytest.raises(UserError, match="has colours"):
        read_own_examples(str(tmp_path / "red.png"), DataSet())


# ------------------------------------------------------------------------------
# In training
# ------------------------------------------------------------------------------


@pytest.fixture
def train(train_script, synthetic_dir, tmp_path):
    def run(*flags):
        return run_main(
            train_script, *QUICK, *flags, cwd=tmp_path, data_dir=synthetic_dir
        )

    return run


def test_own_examples_are_taught_and_measured_apart(train, sheet, tmp_path):
    # Marks that no digit has, so that only who is taught them knows them.
    cells = {(row, digit): 255 for row in range(6) for digit in (3, 8)}
    flags = ("--own", sheet(cells, rows=6), "--wrong-labels", 1, "--epochs", 30)
    run = train(*flags)
    assert (run.returncode, run.stderr) == (0, "")
    assert "12 of your own: 2 kept back, the rest join in\n" in run.stdout
    found = re.search(
        r"^Own examples kept back: \d of 2 right before, (\d) of 2 after$",
        run.stdout,
        re.M,
    )
    # All labels of the data set were spoiled, and none of these.
    assert found[1] == "2"
    assert "2 are few" in run.stdout
    (row,) = training_runs(tmp_path)
    assert row["train_samples"] == "300"
    assert row["own"].endswith("my_digits.png (12)")
    # 300, and ten repeated 30 times.
    assert "10 batches of 64 per epoch" in run.stdout


def test_without_any_kept_back_nothing_is_measured(train, sheet):
    run = train("--own", sheet({(0, 1): 255}))
    assert (run.returncode, run.stderr) == (0, "")
    assert "Own examples kept back" not in run.stdout


def test_training_goes_on_from_saved_weights(train, tmp_path):
    first = train("--epochs", 8)
    second = train("--start-from", "mnist_model.pth", "--learning-rate", 1e-9)
    assert "It was trained with epochs 8" in " ".join(second.stdout.split())
    accuracy = re.findall(r"Val Acc: ([\d.]+)%", first.stdout + second.stdout)
    assert accuracy[-1] == accuracy[-2]  # where the first run ended
    assert "STILL IMPROVING" in first.stdout
    assert "STILL IMPROVING" not in second.stdout  # than before
    rows = training_runs(tmp_path)
    assert rows[1]["start_from"] == rows[0]["weights"] != rows[1]["weights"]


def test_what_was_better_before_training_counts(train):
    train("--epochs", 30)
    run = train("--start-from", "mnist_model.pth", "--wrong-labels", 1, "--epochs", 9)
    assert "SEVERE OVERFITTING" in run.stdout
    assert "before training)" in run.stdout


def test_weights_that_do_not_fit_are_named_as_in_lesson_4(train):
    train("--hidden-size", 64)
    run = train("--start-from", "mnist_model.pth")
    assert run.returncode == 1
    assert "use --hidden-size 64, as in training" in run.stderr
