"""04_load_model.py: loading, mismatches, and looking inside a network.

test_transcripts.py compares what it prints of the synthetic digits and of a picture.
"""

import contextlib
import io
import pickle
import random
import re
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn.functional import linear
from torch.utils.data import DataLoader, TensorDataset

from backstage import pictures, runs
from backstage.own.voice import read_own_sound
from backstage.sound import write_sound
from backstage.weights import explain_weights
from conftest import ROOT, assert_fits_the_console, load_script, run_main
from dl_utils import MNIST_MEAN, MNIST_STD, UserError, load_mnist_data, normalize

QUICK = ("--dataset", "synthetic", "--train-samples", 640, "--epochs", 2)


@pytest.fixture(scope="module")
def script():
    script = load_script("04_load_model")
    script.get_device = lambda: "cpu"  # to compare figures to the last digit
    return script


def saved(content, **options):
    """Return what torch.save writes, as bytes."""
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def hidden_and_logits(weights, images, activation=torch.relu):
    fc1, bias1, fc2, bias2 = weights.values()
    hidden = activation(linear(images.flatten(1), fc1, bias1))
    return hidden, linear(hidden, fc2, bias2)


@pytest.fixture(scope="module")
def lessons(script, train_script, tmp_path_factory, synthetic_dir):
    """Lesson 3 (short) and lesson 4, which learns from the record what to test on."""
    folder, printed, figures = tmp_path_factory.mktemp("lessons"), [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda self, *_, **__: figures.append(self))
        patch.setattr("backstage.data.datasets.DATA_DIR", synthetic_dir)
        patch.setattr(train_script, "get_device", script.get_device)
        for lesson, flags in ((train_script, QUICK), (script, ())):
            run = run_main(lesson, *flags, cwd=folder, data_dir=synthetic_dir)
            assert (run.returncode, run.stderr) == (0, "")
            printed.append(run.stdout)
        images, labels = load_mnist_data(dataset="synthetic")[2].dataset.tensors
    weights = torch.load(folder / "mnist_model.pth", weights_only=True)
    hidden, logits = hidden_and_logits(weights, images)
    return SimpleNamespace(
        folder=folder,
        printed=printed,
        figures=figures[1:],  # of lesson 4
        weights=weights,
        images=images,
        labels=labels,
        hidden=hidden,
        logits=logits,
    )


def test_its_figures_are_those_of_the_network_on_the_test_images(lessons):
    weights, images = lessons.weights, lessons.images
    training, output = lessons.printed

    def accuracy(images, activation=torch.relu):
        predictions = hidden_and_logits(weights, images, activation)[1].argmax(dim=1)
        return f"{100 * (predictions == lessons.labels).float().mean().item():5.2f}%"

    pixels = images * MNIST_STD + MNIST_MEAN
    expected = [
        f"Test Accuracy: {accuracy(images)}  (synthetic digits)",
        f"torch.save(model.state_dict(), ...)  {len(saved(weights)):>7,}  the class",
        f"  Tanh instead of ReLU, same weights  {accuracy(images, torch.tanh)}",
        f"  images not normalized               {accuracy(pixels)}",
    ]
    assert [line for line in expected if f"\n{line}" not in output] == []
    assert f"Test Accuracy: {accuracy(images)}\n" in training


def test_a_term_against_the_answer_may_be_the_largest(script, capsys):
    model = script.SimpleNN(7)
    nn.init.ones_(model.fc1.bias)  # what the neurons give for an empty image
    model.fc2.weight.data[3] = torch.tensor([10.0, 10, 10, 10, 10, 10, -30])
    image = torch.zeros(1, 1, 28, 28)
    script.take_apart(model, model.fc1, model.fc2, image, list("0123456789"))
    assert re.findall(r"neuron (\d)", capsys.readouterr().out)[0] == "6"


def test_predictions_png_shows_the_first_ten_and_the_worst_ten(lessons, script):
    figure, labels = lessons.figures[0], lessons.labels
    confidences, predictions = lessons.logits.softmax(dim=1).max(dim=1)
    wrong = [i for i in range(10_000) if predictions[i] != labels[i]]
    worst = sorted(wrong, key=lambda i: -confidences[i])[:10]
    assert figure.get_suptitle() == (
        "What the network reads (synthetic digits).\nTop: the first ten test images. "
        "Bottom: its most confident mistakes"
    )
    for ax, i in zip(figure.axes, [*range(10), *worst], strict=True):
        text = f"{predictions[i]}\n{script.percent(confidences[i].item())}"
        caption = (text, "tab:blue")
        if i in wrong:
            caption = (f"{text}\nis {labels[i]}", "tab:red")
        assert (ax.get_title(), ax.title.get_color()) == caption
        (image,) = ax.images
        assert np.array_equal(image.get_array(), lessons.images[i, 0])
        assert image.get_cmap().name == "gray_r"  # ink is dark


def test_confusion_matrix_png_has_the_truth_in_its_rows(lessons):
    (ax,) = lessons.figures[1].axes
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (lessons.labels.numpy(), lessons.logits.argmax(1).numpy()), 1)
    shown = {text.get_position()[::-1]: text.get_text() for text in ax.texts}
    assert shown == {place: str(counts[place] or "") for place in np.ndindex(10, 10)}
    mistakes = counts - np.diag(np.diag(counts))
    assert (ax.images[0].get_array() == mistakes).all()
    row, column = np.unravel_index(mistakes.argmax(), (10, 10))
    assert ax.get_title() == (
        f"{np.trace(counts) / 100:.2f}% right (synthetic digits, 10,000 test images).\n"
        f"Most frequent mistake: {row} taken for {column}, {mistakes.max()} times"
    )
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Taken for", "Really is")
    names = [label.get_text() for label in ax.get_xticklabels() + ax.get_yticklabels()]
    assert names == 2 * list("0123456789")


def test_what_it_learned_png_shows_the_strongest_neurons(lessons):
    figure, weights = lessons.figures[2], lessons.weights
    lengths = weights["fc2.weight"].square().sum(dim=0).sqrt()
    strength = lessons.hidden.mean(dim=0) * lengths
    strongest = strength.topk(10).indices.tolist()
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == [f"neuron {i}" for i in strongest] + 10 * ["untrained"]
    for place, ax in enumerate(figure.axes):
        (image,) = ax.images
        shown = image.get_array().ravel()
        assert image.get_cmap().name == "RdBu_r"  # blue below 0, red above
        limit = abs(shown).max()
        assert image.get_clim() == pytest.approx((-limit, limit))
        if place < 10:
            assert np.array_equal(shown, weights["fc1.weight"][strongest[place]])
        else:
            assert 0.03 < limit <= 1 / 28  # as PyTorch begins
    assert figure.get_suptitle() == (
        "What the strongest neurons look for: red for, blue against.\nTraining turned "
        "noise (bottom) into strokes and blobs (top);\nfew of them are a shape that we "
        "would name"
    )


def save_as_trained(weights, folder, dataset):
    """Save weights, and a record that they were trained on a data set and a voice."""
    torch.save(weights, folder / "mnist_model.pth")
    record = {"dataset": dataset, "stranger": "theo", "own": "my_voice.wav (10)"}
    runs.record_run(folder / "training_runs.csv", record, folder / "mnist_model.pth")


def test_the_answer_to_a_recording_is_one_of_the_voices(lessons, script, tmp_path):
    # The outputs 7 to 9 stand for nobody; here they would win.
    weights = lessons.weights | {"fc2.bias": lessons.weights["fc2.bias"].clone()}
    weights["fc2.bias"][7:] += 20
    save_as_trained(weights, tmp_path, "speakers")
    samples, path = torch.zeros(8_000), tmp_path / "my_voice.wav"
    fading = torch.linspace(0.3, 0.06, 4_000)
    samples[2_000:6_000] = fading * torch.linspace(0, 1_500, 4_000).sin()
    write_sound(path, samples)
    run = run_main(script, "--sound", path, cwd=tmp_path, data_dir=tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    image = normalize(read_own_sound(path)[None])
    (logits,) = hidden_and_logits(weights, image)[1]
    shares = logits.softmax(dim=0)[:7].tolist()
    voices = ["george", "jackson", "lucas", "nicolas", "theo", "yweweler", "you"]
    best = sorted(zip(shares, voices, strict=True), reverse=True)[:3]
    top3 = [f"{voice} ({script.percent(share)})" for share, voice in best]
    answer = f"Prediction: {top3[0]}\nTop 3: {', '.join(top3)}\n"
    assert run.stdout.endswith(answer)
    assert re.search(r"\nUsed: 0\.5\d s of 1\.00 s\n", run.stdout)


def random_images(labels, **names):
    """Return a data set with the names that the lesson needs."""
    images = TensorDataset(torch.randn(len(labels), 1, 28, 28), torch.tensor(labels))
    vars(images).update(title="random images", axes="", **names)
    return images


def test_with_recordings_it_follows_the_record(script, tmp_path, monkeypatch):
    save_as_trained(script.SimpleNN(2).state_dict(), tmp_path, "speakers")
    names = {"name": "speakers", "classes": list("abcdef"), "recordings": None}
    sets = [random_images([0, 1, 2, 3, 4, 5] * n, **names) for n in (4, 3, 2)]
    sets[2].recordings = ["a recording"]
    load = Mock(return_value=[DataLoader(part, 1000) for part in sets])
    drawn, pages = [], Mock()
    monkeypatch.setattr(script, "load_mnist_data", load)
    monkeypatch.setattr(script, "write_network_page", pages)
    monkeypatch.setattr(pictures, "save_figure", lambda *args: drawn.append(args[0]))
    run = run_main(script, "--hidden-size", 2, cwd=tmp_path, data_dir=tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    load.assert_called_once_with(dataset="speakers", stranger="theo")
    names = [label.get_text() for label in drawn[1].axes[0].get_xticklabels()]
    assert names == [*"abcdef", "you"]
    model = pages.call_args.args[1]
    layers = model.fc1, model.fc2
    pages.assert_called_once_with("my_network.html", model, layers, sets[0], sets[2])
    assert {*re.findall("  really (.+):", run.stdout)} <= {*"abcdef"}
    assert run.stdout.endswith("(open it in a browser, and talk to it)\n")
    assert_fits_the_console(run.stdout)  # with two neurons, too


def test_a_network_without_mistakes_can_be_shown(script, monkeypatch, capsys):
    names, figures = ["anna", "ben", "cleo"], []
    images = random_images([0, 1], classes=names)
    monkeypatch.setattr(pictures, "save_figure", lambda *args: figures.append(args[0]))
    probabilities = torch.tensor([[0.9994, 0.0006, 0.0], [0.0004, 0.9996, 0.0]])
    worst = script.show_predictions(probabilities, images.tensors[1], names)
    expected = f"""\
The five test images that the network is least sure of:
  really anna: anna (99.9%), ben (0.1%), cleo (under 0.1%)
  really ben: ben (over 99.9%), anna (under 0.1%), cleo (under 0.1%)

How many of each class are right:
  anna      100.0%  {50 * "#"}
  ben       100.0%  {50 * "#"}

0 of 2 are wrong. Most confident mistakes:
Confidence is no guarantee: look at them in the lower half of the picture.
"""
    assert capsys.readouterr().out == expected
    pictures.plot_predictions(images, probabilities, worst, "predictions.png")
    pictures.plot_confusion_matrix(images, images.tensors[1], "confusion_matrix.png")
    titles = [ax.get_title() for ax in figures[0].axes if ax.images]
    assert titles == ["anna\n99.9%", "ben\nover 99.9%"]


# What learners make of SimpleNN: (old, new) in both lessons.
DROPOUT = ("= nn.ReLU()", "= nn.Sequential(nn.ReLU(), nn.Dropout(0.5))")
EDITS = {
    "the same": [("fc1", "layer1"), DROPOUT],
    "another": [("x = self.relu(x)", "x = torch.tanh(x)")],
}


@pytest.mark.parametrize("name", EDITS)
def test_what_holds_for_any_network_comes_for_any(name, synthetic_dir, tmp_path):
    (tmp_path / "my_network.html").write_text("an earlier network")
    for lesson, flags in (("03_train_mnist", QUICK), ("04_load_model", ())):
        code = (ROOT / f"{lesson}.py").read_text(encoding="utf-8")
        head, class_, rest = code.partition("class SimpleNN")
        body, function, rest = rest.partition("\n\n\ndef ")
        for old, new in EDITS[name]:
            assert old in body
            body = body.replace(old, new)
        copy = tmp_path / f"{lesson}.py"
        copy.write_text(head + class_ + body + function + rest, encoding="utf-8")
        run = run_main(load_script(copy), *flags, cwd=tmp_path, data_dir=synthetic_dir)
        assert (run.returncode, run.stderr) == (0, "")
    said = re.findall(r"^ *(?:sum|The network itself says) +(\S+)$", run.stdout, re.M)
    page = (tmp_path / "my_network.html").read_text()
    drawn = {path.stem for path in tmp_path.glob("*.png")} - {"training_history"}
    if name == "the same":
        assert said[0] == said[1] and len(page) > 100_000
        assert drawn == {"predictions", "confusion_matrix", "what_it_learned"}
    else:
        assert said == [] and "computes something else" in run.stdout
        earlier = "The my_network.html that is here shows an earlier network.\n"
        assert run.stdout.endswith(earlier)
        assert page == "an earlier network"
        assert drawn == {"predictions", "confusion_matrix"}


@pytest.mark.parametrize("dataset", ["", "my digits"])
def test_a_data_set_that_a_spreadsheet_has_changed(script, lessons, tmp_path, dataset):
    save_as_trained(lessons.weights, tmp_path, dataset)
    run = run_main(script, cwd=tmp_path, data_dir=tmp_path)
    assert run.returncode == 2
    assert run.stderr == (
        "Error: the data set must be one of auto, mnist, synthetic, spoken, speakers, "
        f"new-voices, got {dataset!a}\n"
    )


class Attack:
    """Its pickle ends the program when it is loaded in an unsafe way."""

    def __reduce__(self):
        return sys.exit, ("attacked",)


def archive(name, content=b""):
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(name, "Dear diary,")
    return file.getvalue()


def layers(**layers):
    return saved(nn.ModuleDict(layers).state_dict())


FC1, FC2, NAN = nn.Linear(784, 128), nn.Linear(128, 10), nn.Linear(128, 10)
nn.init.constant_(NAN.bias[3:4], torch.nan)
WEIGHTS = nn.ModuleDict({"fc1": FC1, "fc2": FC2})
GOOD = saved(WEIGHTS.state_dict())
SAME = "make the class SimpleNN here equal to that of lesson 3"
SIZE = "my.pth holds weights of another size (fc1.weight is {} in the file, [128, 784] "
SIZE += "in the model): {}"
INSIDE = "my.pth holds the weights of a model inside {0}, whose names begin with {1}: "
INSIDE += "save model.{1}.state_dict() instead"
BAD_FILES = {
    "there is no file my.pth: run 03_train_mnist.py first": [None],
    "my.pth is empty: run 03_train_mnist.py again": [b""],
    "my.pth was not written by torch.save: run 03_train_mnist.py again": [
        b"Dear diary,\n",
        archive("folder/letter.txt"),
        archive("archive/constants.pkl", GOOD),  # as TorchScript's
    ],
    "my.pth is damaged or incomplete: run 03_train_mnist.py again": [
        GOOD[:n] for n in (10, 1000, 200_000, len(GOOD) - 1)
    ],
    "my.pth holds more than weights, such as a whole model. Loading it could run code, "
    "so it is refused: save model.state_dict() instead": [
        saved(WEIGHTS),
        saved(WEIGHTS, _use_new_zipfile_serialization=False),
        saved(Attack()),
        pickle.dumps(Attack()),
    ],
    "my.pth does not hold weights by name: it must be saved with "
    "torch.save(model.state_dict(), path)": [
        saved({"model": dict(WEIGHTS.state_dict())}),
        saved(torch.ones(3)),
    ],
    "my.pth holds weights like nan or inf: train again": [layers(fc1=FC1, fc2=NAN)],
    f"my.pth has no fc1.weight, which the model needs: {SAME}": [
        layers(layer1=FC1, layer2=FC2)
    ],
    f"my.pth has no fc2.weight, which the model needs: {SAME}": [layers(fc1=FC1)],
    f"my.pth holds fc3.weight, which the model lacks: {SAME}": [
        layers(**WEIGHTS, fc3=FC2)
    ],
    SIZE.format([128, 1, 28, 28], SAME): [layers(fc1=nn.Conv2d(1, 128, 28), fc2=FC2)],
    SIZE.format([64, 784], "use --hidden-size 64, as in training"): [
        layers(fc1=nn.Linear(784, 64), fc2=nn.Linear(64, 10))
    ],
    INSIDE.format("torch.compile", "_orig_mod"): [layers(_orig_mod=WEIGHTS)],
    INSIDE.format("DataParallel", "module"): [layers(module=WEIGHTS)],
}


@pytest.mark.filterwarnings("ignore:'torch.load' received")
@pytest.mark.parametrize("message", BAD_FILES)
def test_what_is_wrong_with_a_file_is_said_in_one_line(
    message, script, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for content in BAD_FILES[message]:
        if content is not None:
            Path("my.pth").write_bytes(content)
        with pytest.raises(UserError) as error:
            script.load_model("my.pth", 128, "cpu")
        assert str(error.value) == message


def test_random_damage_is_explained_or_harmless(script, tmp_path):
    rng, path, harmless = random.Random(0), tmp_path / "model.pth", 0
    for _ in range(150):
        content = bytearray(GOOD)
        # Most of the file is numbers; the ends hold its structure.
        start = rng.choice([rng.randrange(len(GOOD)), rng.randrange(-2000, 2000)])
        end = rng.choice([start + 1, None])
        content[start:end] = rng.randbytes(rng.randrange(3))
        path.write_bytes(content)
        with contextlib.suppress(UserError):
            script.load_model(path, 128, "cpu")
            harmless += 1
    assert harmless < 50


def test_a_mistake_in_the_code_is_not_blamed_on_the_file(tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(GOOD)
    with pytest.raises(AttributeError), explain_weights(path, WEIGHTS):
        torch.lod(path)
    with pytest.raises(TypeError), explain_weights(path, WEIGHTS):
        WEIGHTS.load_state_dict(path)
    with pytest.raises(RuntimeError), explain_weights(path, WEIGHTS):
        FC1.load_state_dict(torch.load(path))
