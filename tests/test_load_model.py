"""04_load_model.py: loading, mismatches, and looking inside a network."""

import ast
import csv
import io
import os
import pickle
import random
import re
import shutil
import sys
import warnings
import zipfile

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import backstage.data.datasets
import backstage.pictures
from conftest import (
    ROOT,
    assert_fits_the_console,
    load_script,
    run_main,
    training_runs,
)
from dl_utils import UserError

SCRIPT = ROOT / "04_load_model.py"
QUICK = ("--dataset", "synthetic", "--train-samples", 640, "--epochs", 2)
PICTURES = {"predictions.png", "confusion_matrix.png", "what_it_learned.png"}


@pytest.fixture(scope="module")
def script():
    return load_script("04_load_model")


def saved(content, **options):
    """Return what torch.save writes, as bytes."""
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def edited(folder, old, new):
    """Return a copy of the script in which something was changed, as a module."""
    code = SCRIPT.read_text(encoding="utf-8")
    assert code.count(old) == 1
    copy = folder / "edited.py"
    copy.write_text(code.replace(old, new), encoding="utf-8")
    return load_script(copy)


def test_the_network_is_that_of_lesson_3():
    def definition(name):
        tree = ast.parse((ROOT / f"{name}.py").read_text(encoding="utf-8"))
        (node,) = (n for n in tree.body if getattr(n, "name", "") == "SimpleNN")
        del node.body[0]  # the docstring
        return ast.unparse(node)

    assert definition("04_load_model") == definition("03_train_mnist")


# ------------------------------------------------------------------------------
# Lessons 3 and 4, one after the other
# ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lessons(script, train_script, tmp_path_factory, synthetic_dir):
    """Lesson 3 (short) and lesson 4: the folder and both outputs."""
    folder = tmp_path_factory.mktemp("lessons")
    training = run_main(train_script, *QUICK, cwd=folder, data_dir=synthetic_dir)
    # Without flags: it is the record that tells which data to test on.
    loading = run_main(script, cwd=folder, data_dir=synthetic_dir)
    for run in (training, loading):
        assert (run.returncode, run.stderr) == (0, "")
    return folder, training.stdout, loading.stdout


def test_accuracy_is_that_of_lesson_3_to_the_digit(lessons):
    _, training, loading = lessons
    pattern = r"^Test Accuracy: (\d+\.\d\d)%"
    (trained,) = re.findall(pattern, training, re.M)
    (loaded,) = re.findall(pattern, loading, re.M)
    assert loaded == trained
    assert "\nLoaded model from mnist_model.pth\n" in loading


def test_it_writes_its_pictures_and_names_them(lessons):
    folder, _, loading = lessons
    for name in PICTURES:
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
        assert f"\nSaved: {name}\n" in loading


def test_the_output_is_ascii_and_fits_the_screen(lessons):
    assert_fits_the_console(lessons[2])


def test_the_size_mismatch_is_pytorchs_own_message(lessons, script):
    with pytest.raises(RuntimeError) as error:
        script.SimpleNN(256).load_state_dict(script.SimpleNN(128).state_dict())
    printed = " ".join(lessons[2].split())
    assert " ".join(str(error.value).split()) in printed


def test_dropout_and_gradients_are_two_things(script, capsys):
    torch.manual_seed(0)
    script.compare_modes()
    pattern = r"  (\w+)\(\)  \[([\d, ]+)\]  gradients (recorded|not recorded)"
    rows = re.findall(pattern, capsys.readouterr().out)
    assert [mode for mode, _, _ in rows] == ["train", "train", "eval", "eval"]
    drops = [set(values.split(", ")) == {"0", "2"} for _, values, _ in rows]
    assert drops == [True, True, False, False]
    recorded = [recording == "recorded" for _, _, recording in rows]
    assert recorded == [True, False, True, False]


def test_the_example_pickle_runs_code_and_the_safe_way_refuses_it(script, capsys):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, script.__name__, script)
        pickle.loads(pickle.dumps(script.Surprise()))
        content = saved(script.Surprise())
    assert "printed by the file itself" in capsys.readouterr().out
    with pytest.raises(pickle.UnpicklingError):
        torch.load(io.BytesIO(content), weights_only=True)
    assert capsys.readouterr().out == ""


def test_a_network_of_two_neurons_goes_through_the_lesson(
    script, synthetic_dir, tmp_path
):
    (tmp_path / "mnist_model.pth").write_bytes(saved(script.SimpleNN(2).state_dict()))
    flags = ("--hidden-size", 2, "--dataset", "synthetic")
    run = run_main(script, *flags, cwd=tmp_path, data_dir=synthetic_dir)
    assert (run.returncode, run.stderr) == (0, "")
    assert_fits_the_console(run.stdout)


# ------------------------------------------------------------------------------
# Networks of the learner's own
# ------------------------------------------------------------------------------

# What learners make of SimpleNN: (old, new) in both lessons.
RELU = ("self.relu = nn.ReLU()", "x = self.relu(x)")
EDITS = {
    "renamed": [("fc1", "layer1")],
    "one more layer": [
        (RELU[0], f"{RELU[0]}\n        self.fc3 = nn.Linear(hidden_size, hidden_size)"),
        (RELU[1], f"{RELU[1]}\n        x = self.fc3(x)"),
    ],
    "normalized": [
        (RELU[0], f"{RELU[0]}\n        self.norm = nn.BatchNorm1d(hidden_size)"),
        (RELU[1], f"x = self.norm(x)\n        {RELU[1]}"),
    ],
    "Tanh": [(RELU[1], "x = torch.tanh(x)")],
    "convolution": [
        ("self.flatten = nn.Flatten()", "self.conv = nn.Conv2d(1, 4, 28)"),
        ("x = self.flatten(images)", "x = self.conv(images).flatten(1)"),
        ("nn.Linear(784, hidden_size)", "nn.Linear(4, hidden_size)"),
    ],
    "Dropout": [
        (RELU[0], f"{RELU[0]}\n        self.dropout = nn.Dropout(0.5)"),
        (RELU[1], f"{RELU[1]}\n        x = self.dropout(x)"),
    ],
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
    assert "Test Accuracy: " in run.stdout
    assert PICTURES - {"what_it_learned.png"} <= set(os.listdir(tmp_path))
    page = (tmp_path / "my_network.html").read_text()
    if name in ("renamed", "Dropout"):  # it computes what SimpleNN computes
        said = dict(
            re.findall(r"^ *(sum|The network itself says) +(\S+)$", run.stdout, re.M)
        )
        assert said["sum"] == said["The network itself says"]
        assert len(page) > 100_000
    else:
        assert "computes something else" in run.stdout
        assert (
            "The my_network.html that is here shows an earlier network." in run.stdout
        )
        assert page == "an earlier network"


# ------------------------------------------------------------------------------
# Which run the weights come from
# ------------------------------------------------------------------------------


@pytest.fixture
def load_section(script, lessons, synthetic_dir, tmp_path, monkeypatch):
    """Return a function that runs the first section in a copy of the folder.

    Its argument changes the recorded runs, a list of dicts; None removes the file.
    """

    def stop(*_):
        raise SystemExit

    def offline(*_):
        raise OSError("there is no network in this test")

    def run(change, *flags):
        runs = training_runs(lessons[0])
        shutil.copy(lessons[0] / "mnist_model.pth", tmp_path)
        if change:
            change(runs)
            with open(tmp_path / "training_runs.csv", "w", newline="") as file:
                writer = csv.DictWriter(file, runs[0])
                writer.writeheader()
                writer.writerows(runs)
        monkeypatch.setattr(script, "compare_ways_of_saving", stop)
        monkeypatch.setattr(backstage.data.datasets, "load_mnist", offline)
        run = run_main(script, *flags, cwd=tmp_path, data_dir=synthetic_dir)
        assert (run.returncode, run.stderr) == (0, "")
        assert "Test Accuracy: " in run.stdout
        return " ".join(run.stdout.split())

    return run


def test_it_says_which_run_it_loaded(load_section):
    output = load_section(lambda runs: None)
    assert "It was trained with epochs 2, batch size 64, learning rate 0.001" in output
    assert "verdict still improving" in output


def test_it_finds_the_run_among_later_ones(load_section):
    output = load_section(
        lambda runs: runs.append(runs[0] | {"epochs": "7", "weights": "0123456789ab"})
    )
    assert "It was trained with epochs 2," in output


@pytest.mark.parametrize(
    "change",
    [None, lambda runs: runs[0].update(weights="0123456789ab")],
    ids=["no record", "only another model's"],
)
def test_weights_without_a_record_are_named_before_the_test(load_section, change):
    output = load_section(change, "--dataset", "synthetic")
    assert "It was trained with" not in output
    said, tested = output.index("is not known"), output.index("Test Accuracy")
    assert said < tested


@pytest.mark.parametrize("dataset", ["", "my digits"])
def test_a_data_set_that_a_spreadsheet_has_changed(
    script, lessons, synthetic_dir, tmp_path, dataset
):
    for name in ("mnist_model.pth", "training_runs.csv"):
        shutil.copy(lessons[0] / name, tmp_path)
    table = tmp_path / "training_runs.csv"
    table.write_text(table.read_text().replace("synthetic", dataset))
    run = run_main(script, cwd=tmp_path, data_dir=synthetic_dir)
    assert run.returncode == 2
    assert run.stderr == (
        "Error: the data set must be one of auto, mnist, synthetic, spoken, speakers, "
        f"new-voices, got {dataset!a}\n"
    )


# ------------------------------------------------------------------------------
# What the network says
# ------------------------------------------------------------------------------


class Digits(TensorDataset):
    """Random images with labels, and the names that the lesson needs."""

    title, axes, name = "random digits", "", "random"
    classes = [str(digit) for digit in range(10)]  # noqa: RUF012

    def __init__(self, labels):
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(len(labels), 1, 28, 28, generator=generator)
        super().__init__(images, torch.tensor(labels))


def certain(predictions, confidence=0.9):
    """Return probabilities [N, 10] that favour these classes."""
    probabilities = torch.full((len(predictions), 10), (1 - confidence) / 9)
    probabilities[torch.arange(len(predictions)), predictions] = confidence
    return probabilities


def test_predictions_are_probabilities(script):
    model = script.SimpleNN().eval()
    images = torch.randn(5, 1, 28, 28)
    probabilities = script.predict(model, images, "cpu")
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(5))
    assert torch.equal(probabilities.argmax(dim=1), model(images).argmax(dim=1))


def test_the_top_three_are_named_in_order(script):
    probabilities = torch.tensor([0.0, 0.011, 0.0, 0.982, 0.007])
    names = ["anna", "ben", "cleo", "dan", "eva"]
    top3 = script.format_top3(probabilities, names)
    assert top3 == "dan (98.2%), ben (1.1%), eva (0.7%)"


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (1.0, "over 99.9%"),
        (0.9996, "over 99.9%"),
        (0.9994, "99.9%"),
        (0.982, "98.2%"),
        (0.0006, "0.1%"),
        (0.0004, "under 0.1%"),
        (0.0, "under 0.1%"),
    ],
)
def test_no_share_is_all_or_nothing(script, share, text):
    assert script.percent(share) == text


def test_the_most_confident_mistakes_come_first(script, capsys):
    labels = list(range(10))
    predictions = [0, 1, 2, 3, 4, 5, 6, 9, 9, 0]  # the last three are wrong
    probabilities = certain(predictions)
    probabilities[8] = certain([9], confidence=0.99)
    worst = script.show_predictions(
        probabilities, torch.tensor(labels), Digits.classes
    ).tolist()
    assert worst[0] == 8
    assert sorted(worst) == [7, 8, 9]
    output = capsys.readouterr().out
    assert "3 of 10 are wrong" in output
    assert "  really 8: 9 (99.0%)" in output
    assert re.search(r"^  3 +100.0%  #+$", output, re.M)
    assert re.search(r"^  8 +0.0%", output, re.M)


def test_the_confusion_matrix_counts_labels_by_row(script, monkeypatch):
    figures = []
    monkeypatch.setattr(
        backstage.pictures, "save_figure", lambda figure, path: figures.append(figure)
    )
    labels = [3, 3, 3, *range(10)]
    predictions = torch.tensor([5, 5, 3, *range(10)])
    script.plot_confusion_matrix(Digits(labels), predictions, "confusion_matrix.png")
    (ax,) = figures[0].axes
    counts = {text.get_position(): int(text.get_text() or 0) for text in ax.texts}
    assert [counts[column, 3] for column in range(10)] == [0, 0, 0, 2, 0, 2, 0, 0, 0, 0]
    assert sum(counts.values()) == 13
    assert "84.62% right" in ax.get_title()
    assert "3 taken for 5, 2 times" in ax.get_title()


def test_a_network_without_mistakes_can_be_shown(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    digits = Digits(list(range(10)))
    probabilities = certain(list(range(10)))
    worst = script.show_predictions(probabilities, digits.tensors[1], digits.classes)
    assert worst.tolist() == []
    script.plot_predictions(digits, probabilities, worst, "predictions.png")
    predictions = probabilities.argmax(dim=1)
    script.plot_confusion_matrix(digits, predictions, "confusion_matrix.png")
    assert "0 of 10 are wrong" in capsys.readouterr().out


def test_a_logit_is_its_bias_and_the_terms_of_the_neurons(script, capsys):
    torch.manual_seed(0)
    model = script.SimpleNN().eval()
    image = torch.randn(1, 1, 28, 28)
    logits = model(image)[0]
    script.take_apart(model, model.fc1, model.fc2, image, Digits.classes)
    output = capsys.readouterr().out
    assert f"Why does the first test image get {logits.argmax()}?" in output

    def number(label):
        (text,) = re.findall(rf"^ *{label} +(-?[\d.]+)$", output, re.M)
        return float(text)

    rows = re.findall(r"neuron (\d+) +(\S+) x +(\S+) = +(\S+)", output)
    terms = [float(term) for *_, term in rows]
    for neuron, value, weight, term in rows:
        assert float(value) * float(weight) == pytest.approx(float(term), abs=2e-3)
        true = model.fc2.weight[logits.argmax(), int(neuron)].item()
        assert float(weight) == pytest.approx(true, abs=1e-3)
    assert terms == sorted(terms, key=abs, reverse=True)
    total = number("bias") + sum(terms) + number("the other neurons together")
    assert total == pytest.approx(number("sum"), abs=0.005)
    assert number("sum") == number("The network itself says")
    assert number("sum") == pytest.approx(logits.max().item(), abs=1e-3)


def final_figure(output, label):
    """Return the percentage at the end of the line that begins with a label."""
    (line,) = (x for x in output.splitlines() if x.strip().startswith(label))
    return float(line.split()[-1].removesuffix("%"))


@pytest.mark.real_mnist
def test_figures_on_real_digits(lessons_on_mnist):
    output = lessons_on_mnist.outputs[SCRIPT.name]
    right = final_figure(output, "as tested above")
    assert right >= 97.0
    assert 60 <= final_figure(output, "Tanh instead of ReLU") <= 85
    assert 1 <= right - final_figure(output, "images not normalized") <= 6
    assert lessons_on_mnist.files[SCRIPT.name] >= PICTURES
    assert "verdict good fit" in " ".join(output.split())


# ------------------------------------------------------------------------------
# Model files that are something else
# ------------------------------------------------------------------------------


class Attack:
    """Its pickle creates a file when it is loaded in an unsafe way."""

    path = None

    def __reduce__(self):
        return open, (str(self.path), "w")


def refusal(script, path, hidden_size=128):
    """Try to load a file, and return the line that says why it cannot be."""
    with pytest.raises(UserError) as error:
        script.load_model(path, hidden_size, "cpu")
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.fixture
def bad_model(script, tmp_path):
    """Return a function that tries to load some content; it must say why it cannot."""
    path = tmp_path / "model.pth"

    def load(content):
        path.write_bytes(content)
        return refusal(script, path)

    return load


def test_an_empty_file(bad_model):
    assert "is empty" in bad_model(b"")


def test_a_text_file(bad_model):
    assert "was not written by torch.save" in bad_model(b"Dear diary,\n")


@pytest.mark.parametrize("name", ["letter.txt", "folder/letter.txt"])
def test_an_archive_of_something_else(bad_model, name):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, "Dear diary,")
    assert "was not written by torch.save" in bad_model(file.getvalue())


@pytest.mark.filterwarnings("ignore:'torch.load' received")
def test_a_program_for_torchscript(bad_model, script):
    file = io.BytesIO(saved(script.SimpleNN().state_dict()))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("archive/constants.pkl", "")  # PyTorch tells it by this
    assert "was not written by torch.save" in bad_model(file.getvalue())


def test_a_truncated_file(bad_model, script):
    content = saved(script.SimpleNN().state_dict())
    for size in (10, 1000, len(content) // 2, len(content) - 1):
        assert "is damaged or incomplete" in bad_model(content[:size])


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_model(bad_model, zipped):
    model = nn.Sequential(nn.Linear(784, 10))
    content = saved(model, _use_new_zipfile_serialization=zipped)
    assert "holds more than weights" in bad_model(content)


@pytest.mark.parametrize("pack", [saved, pickle.dumps], ids=["torch.save", "pickle"])
def test_a_malicious_file_is_refused_and_not_run(bad_model, tmp_path, pack):
    Attack.path = tmp_path / "attacked"
    content = pack(Attack())
    assert "holds more than weights" in bad_model(content)
    assert not Attack.path.exists()
    # The attack is real: loaded in the unsafe way, it runs.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if pack is saved:
            torch.load(io.BytesIO(content), weights_only=False).close()
        else:
            pickle.loads(content).close()
    assert Attack.path.exists()


WEIGHTS = nn.ModuleDict({"fc1": nn.Linear(784, 128), "fc2": nn.Linear(128, 10)})


@pytest.mark.parametrize(
    "content",
    [{"model": dict(WEIGHTS.state_dict()), "epoch": 3}, torch.ones(3), 5, [1], "text"],
    ids=["a dict around the weights", "a tensor", "a number", "a list", "a text"],
)
def test_something_that_is_no_weights_by_name(bad_model, content):
    message = bad_model(saved(content))
    assert "does not hold weights by name" in message
    assert "torch.save(model.state_dict(), path)" in message


def test_weights_that_are_no_numbers(bad_model, script):
    weights = script.SimpleNN().state_dict()
    weights["fc2.bias"][3] = torch.nan
    assert "holds weights like nan or inf" in bad_model(saved(weights))


@pytest.mark.parametrize(
    ("layers", "difference"),
    [
        (
            {"layer1": nn.Linear(784, 128), "layer2": nn.Linear(128, 10)},
            "has no fc1.weight, which the model needs",
        ),
        (
            {**WEIGHTS, "fc3": nn.Linear(10, 10)},
            "holds fc3.weight, which the model lacks",
        ),
        ({"fc1": WEIGHTS["fc1"]}, "has no fc2.weight, which the model needs"),
        ({}, "has no fc1.weight, which the model needs"),
        (
            {"conv": nn.Conv2d(1, 8, 3), "fc2": nn.Linear(1352, 10)},
            "has no fc1.weight, which the model needs",
        ),
        (
            {"fc1": nn.Conv2d(1, 128, 28), "fc2": WEIGHTS["fc2"]},
            "fc1.weight is [128, 1, 28, 28] in the file, [128, 784] in the model",
        ),
        (
            {"fc1": nn.Linear(400, 128), "fc2": WEIGHTS["fc2"]},
            "fc1.weight is [128, 400] in the file, [128, 784] in the model",
        ),
    ],
    ids=["renamed", "added", "removed", "none", "convolution", "convolved", "inputs"],
)
def test_other_layers_are_named_and_sent_to_lesson_3(bad_model, layers, difference):
    message = bad_model(saved(nn.ModuleDict(layers).state_dict()))
    assert difference in message
    assert "make the class SimpleNN here equal to that of lesson 3" in message
    assert "--hidden-size" not in message


@pytest.mark.parametrize("prefix", ["_orig_mod", "module"])
def test_weights_of_a_wrapped_model(bad_model, script, prefix):
    weights = script.SimpleNN().state_dict()
    wrapped = {f"{prefix}.{name}": tensor for name, tensor in weights.items()}
    message = bad_model(saved(wrapped))
    assert f"save model.{prefix}.state_dict() instead" in message
    assert "equal to that of lesson 3" not in message


def test_another_hidden_size_is_named(bad_model, script):
    message = bad_model(saved(script.SimpleNN(64).state_dict()))
    assert "fc1.weight is [64, 784] in the file, [128, 784] in the model" in message
    assert "use --hidden-size 64" in message


def test_a_missing_file(script, tmp_path):
    assert "run 03_train_mnist.py first" in refusal(script, tmp_path / "model.pth")


def test_what_is_no_file_is_refused_without_waiting_for_it(script, tmp_path):
    places = [tmp_path]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        places += [tmp_path / "pipe", "/dev/zero", "/dev/null"]
    for place in places:
        assert "cannot be read" in refusal(script, place)


def test_random_damage_is_explained_or_harmless(script, tmp_path):
    rng = random.Random(0)
    path = tmp_path / "model.pth"
    good = saved(script.SimpleNN(32).state_dict())
    explained = 0
    for _ in range(200):
        content = bytearray(good)
        # Most of the file is numbers; the ends hold its structure.
        position = rng.choice([rng.randrange(len(good)), rng.randrange(2000)])
        if rng.random() < 0.5:
            position = len(good) - 1 - position
        damage = rng.choice(["truncated", "bit flipped", "bit flipped", "garbage"])
        if damage == "truncated":
            del content[position:]
        elif damage == "bit flipped":
            content[position] ^= 1 << rng.randrange(8)
        else:  # with or without a beginning that looks right
            content = content[: rng.choice([0, 4, 100])] + rng.randbytes(1000)
        path.write_bytes(content)
        try:
            script.load_model(path, 32, "cpu")
        except UserError:
            explained += 1
    assert explained > 100


def test_the_script_ends_with_one_line_and_code_1(script, tmp_path):
    (tmp_path / "mnist_model.pth").write_bytes(b"not a model")
    run = run_main(script, cwd=tmp_path, data_dir=tmp_path)
    assert run.returncode == 1
    assert run.stderr.startswith("Error: mnist_model.pth was not written by")
    assert run.stderr.count("\n") == 1


# ------------------------------------------------------------------------------
# Mistakes in edited code
# ------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:pickle_load_args")
@pytest.mark.parametrize(
    ("old", "new", "error", "words"),
    [
        ("torch.load(path", "torch.lod(path", AttributeError, "lod"),
        ("map_location=", "maplocation=", TypeError, "maplocation"),
        ("torch.load(path,", "torch.load(pth,", NameError, "pth"),
        (
            "        model.load_state_dict(torch",
            "        SimpleNN(64).load_state_dict(model.state_dict())\n"
            "        model.load_state_dict(torch",
            RuntimeError,
            "size mismatch for fc1.weight",
        ),
        (
            "torch.load(path, map_location=device, weights_only=True)",
            "path",
            TypeError,
            "state_dict",
        ),
    ],
    ids=["misspelt function", "misspelt argument", "name", "layers", "path for dict"],
)
def test_a_mistake_in_the_code_is_not_blamed_on_the_file(
    old, new, error, words, lessons, tmp_path
):
    shutil.copy(lessons[0] / "mnist_model.pth", tmp_path)
    with pytest.raises(error, match=words):
        run_main(edited(tmp_path, old, new), cwd=tmp_path, data_dir=tmp_path)
