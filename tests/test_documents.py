"""The documents: every link, example and command in them works.

The figures in them are measured in test_concepts.py and test_figures.py.
"""

import functools
import math
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import dl_utils
from backstage.data.datasets import RECORDINGS
from backstage.data.spoken_digits import read_recordings
from backstage.sound import SAMPLE_RATE, write_sound
from conftest import FSDD_ARCHIVE, REAL_DATA_DIR, SCRIPTS, run_main, training_runs
from documents import (
    CONCEPTS,
    DOCUMENTS,
    GUIDE,
    LINK,
    ROOT,
    TEXTS,
    anchors,
    blocks,
    commands,
    section,
    speaking_blocks,
    stated,
    with_right_line_links,
    without_code,
)

# Concepts that other documents and pages may link to.
CONCEPT_ANCHORS = """
tensors model-capacity activation-functions hyperparameters learning-rate
epochs-batches--iterations optimizers forward--backward-pass loss-functions
backpropagation gradients overfitting--underfitting regularization convergence
normalization generalization
"""
CODE = [ROOT / name for name in (*SCRIPTS, "dl_utils.py")]
CODE += ROOT.rglob("backstage/**/*.py")
CONCEPT_NAMES = re.findall(r"^## (.+)$", without_code(CONCEPTS), re.MULTILINE)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    wrong = [char for char in "\ufffd\u00c3\u00e2\u00f0" if char in TEXTS[name]]  # torn
    for image, label, target in LINK.findall(without_code(TEXTS[name])):
        path, _, anchor = target.partition("#")
        if path.startswith("https://"):
            continue
        file = ROOT / (path or name)
        if not file.is_file():
            wrong.append(f"{target}: no such file")
        elif image and len(label.split()) < 3:
            wrong.append(f"{target}: no description for those who cannot see it")
        elif file.suffix == ".md" and anchor not in ("", *anchors(TEXTS[file.name])):
            wrong.append(f"{target}: no such heading")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_to_code_lead_to_its_lines(name):
    text, missing = with_right_line_links(TEXTS[name])
    assert not missing
    up_to_date = text == TEXTS[name]
    assert up_to_date, "run: python tests/update_links.py"


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.name)
def test_code_points_to_headings(path):
    source = path.read_text(encoding="utf-8")
    pointers = re.findall(r"(\w+\.md)#([\w-]+)", source)
    for name, anchor in pointers:
        assert anchor in anchors(TEXTS[name]), f"{name} has no heading for #{anchor}"
    if path.name in SCRIPTS:
        assert len(pointers) >= 2
    assert source.count("ML_CONCEPTS_EXPLAINED") == len(pointers)


def test_the_two_forward_passes_are_those_of_the_page_and_of_lesson_4():
    text = section(GUIDE, "Lesson 4: Load a model")
    page = (ROOT / "backstage" / "page" / "network.js").read_text(encoding="utf-8")
    lesson = (ROOT / "04_load_model.py").read_text(encoding="utf-8")
    (javascript,) = blocks(text, "js")
    python = blocks(text, "python")[-1]
    for block, source in ((javascript, page), (python, lesson)):
        lines = [line.strip() for line in source.splitlines()]
        assert all(line.strip() in lines for line in block.splitlines())


STEPS = re.findall(
    r"# Step (\d), (\w+): [^\0]*?\n +([^#\s].*?)(?:  #.*)?\n",
    (ROOT / "03_train_mnist.py").read_text(encoding="utf-8"),
)
LOOPS = {
    "lesson 3": "".join(blocks(section(GUIDE, "Lesson 3: Train MNIST"), "python")),
    "lesson 5": (ROOT / "05_experiment_architectures.py").read_text(encoding="utf-8"),
    "lesson 6": speaking_blocks()[1],
    "concepts": CONCEPTS,
}


@pytest.mark.parametrize("loop", LOOPS)
def test_the_five_steps_are_word_for_word_those_of_lesson_3(loop):
    text = LOOPS[loop].replace("questions", "images").replace("answers", "logits")
    found = re.findall(r"^ *(\S.*?)  # [Ss]tep (\d)(?:, (\w+))?", text, re.MULTILINE)
    expected = STEPS * (2 if loop == "concepts" else 1)
    for (code, number, name), step in zip(found, expected, strict=True):
        if loop not in ("lesson 5", "lesson 6"):
            name = name or step[1]  # only scripts name all of them
        assert (number, name, code) == step
    assert len(STEPS) == 5


def test_pictures_are_shown_and_files_are_pictures():
    links = LINK.findall(without_code("".join(TEXTS.values())))
    shown = {target for image, _, target in links if image}
    assert shown == {f"images/{path.name}" for path in (ROOT / "images").iterdir()}


@pytest.mark.parametrize("name", CONCEPT_NAMES)
def test_a_concept_is_explained_in_all_ways(name):
    assert set(CONCEPT_ANCHORS.split()) <= set(anchors(CONCEPTS))
    text = section(CONCEPTS, name)
    opening = text.split("\n\n")[1]
    if name == "Glossary":
        assert opening.startswith("- ")
        return
    assert opening.startswith("**"), "one sentence says what it is"
    expected = ["In the scripts", "Common mistake"]
    if name != "Error messages":  # a table of examples
        expected += ["Think of", "Example"]
    for part in expected:
        assert f"\n\n**{part}" in text, part
    if "```math" in text:
        assert re.search(r"\bIn\s+words:", text), "the formula in words"
    assert f"(#{anchors(text)[0]})" in CONCEPTS.split("\n## ")[0], "not in the contents"


def assert_it_prints_what_it_says(source, names, capsys):
    """What a block prints stands in it behind "# -> "."""
    exec(source, names)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert re.findall(r"# -> ?(.*)", source) == lines


@pytest.mark.parametrize("name", CONCEPT_NAMES)
def test_examples_print_what_they_say(name, monkeypatch, tmp_path, capsys):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    names = {"__name__": "__main__"}
    (imports,) = blocks(CONCEPTS.split("\n## ")[0], "python")
    for source in [imports, *blocks(section(CONCEPTS, name), "python")]:
        assert_it_prints_what_it_says(source, names, capsys)
    assert list(folder.iterdir()) == []


QUICK = {"--train-samples": "100", "--epochs": "1"}
HAS_RECORDINGS = (REAL_DATA_DIR / "FSDD" / FSDD_ARCHIVE).is_file()
# What commands are shown for: a flag, and what is printed then.
SHOWN_FOR = {
    "--learning-rate 1.1": r"^Diverged",
    "--own": r"^\d+ of your own: \d+ kept back",
    "--start-from": r"^Loaded model from mnist_model\.pth$",
    "--hidden-size 2": r"^fc1 +\[64, 2\] ",
    "--dataset speakers": r"^recordings of speakers|yweweler",
    "--image": r"^Prediction: \d \([\d.]+%\)$",
    "--sound": r"^Used: 0\.\d\d s of 0\.\d\d s",
    "--compare TwoLayerNN, Convolution": r"^Convolution +13,610 ",
}


def make_own_files(folder):
    """Files of the learner's own with the names that the documents give them."""
    image = np.full((280, 280), 255, dtype=np.uint8)
    image[40:240, 120:160] = 0
    Image.fromarray(image).save(folder / "my_digit.png")
    Image.fromarray(255 - image[40:68]).save(folder / "my_digits.png")
    if HAS_RECORDINGS:
        samples = read_recordings(REAL_DATA_DIR)[0].samples
        write_sound(folder / "my_digit.m4a", samples)
        rest = torch.zeros(10 * SAMPLE_RATE - len(samples))
        write_sound(folder / "my_voice.wav", torch.cat([samples, rest]))


def test_the_commands_outside_the_lab_do_what_they_are_shown_for(
    tmp_path, synthetic_dir, monkeypatch
):
    make_own_files(tmp_path)
    read_once = functools.cache(dl_utils.load_raw_data)
    monkeypatch.setattr(dl_utils, "load_raw_data", read_once)
    texts = [TEXTS["README.md"], GUIDE.replace(section(GUIDE, "Lab"), ""), CONCEPTS]
    unique = {tuple(words) for text in texts for words in commands(text)}
    # Without a flag, test_transcripts.py runs them, and test_speak.py the sixth.
    assert {script for script, *_ in unique} == {*SCRIPTS, "06_speak.py"}

    def run(script, flags, dataset):
        folder = REAL_DATA_DIR if dataset in RECORDINGS else synthetic_dir
        words = [word for pair in flags.items() for word in pair]
        return run_main(script, *words, cwd=tmp_path, data_dir=folder)

    networks = {}  # what a first command leaves for a second one
    for script, *words in sorted(unique):
        flags = dict(zip(words[::2], words[1::2], strict=True))
        dataset = "spoken" if "--sound" in flags else flags.get("--dataset")
        if not flags or (dataset in RECORDINGS and not HAS_RECORDINGS):
            continue
        settings = dict(flags)
        if dataset not in RECORDINGS:
            dataset = "synthetic"
        if script != "01_hello_pytorch.py":
            settings["--dataset"] = dataset
        if script in ("03_train_mnist.py", "05_experiment_architectures.py"):
            settings |= QUICK
        if script == "04_load_model.py" or "--start-from" in flags:
            if dataset not in networks:
                run("03_train_mnist.py", {**QUICK, "--dataset": dataset}, dataset)
                networks[dataset] = (tmp_path / "mnist_model.pth").read_bytes()
            (tmp_path / "mnist_model.pth").write_bytes(networks[dataset])
        process = run(script, settings, dataset)
        # Some settings are there to be seen to fail.
        failed_as_told = "was not written" in process.stderr
        assert process.returncode == 0 or failed_as_told, process.stderr
        for flag, printed in SHOWN_FOR.items():
            if flag in " ".join(words):
                assert re.search(printed, process.stdout, re.MULTILINE), words
        if script == "03_train_mnist.py":
            row = training_runs(tmp_path)[-1]
            row["start_from"] = row["start_from"] and "mnist_model.pth"  # a fingerprint
            for flag, value in settings.items():
                recorded = row[flag[2:].replace("-", "_")].split(" (")[0]
                same_word = recorded.lower() == value.lower()
                assert same_word or float(recorded) == float(value), flag


# ------------------------------------------------------------------------------
# Outputs shown, on real MNIST
# ------------------------------------------------------------------------------

FIGURE = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?%?")
# Where luck has a part: words of the line, and by how much its figures may differ.
LUCK = {
    "Tanh instead": 3,  # what a mismatch costs differs from network to network,
    "not normalized": 1,
    "neuron": math.inf,  # and so does which neurons say most, and how much
    " sum": 3,
    "itself says": 3,
}


def allowed(line, figure):
    """Return by how much a figure may differ; other machines round differently.

    The same seed then gives other last digits: in ten epochs some tenths of a percent.
    Whole numbers are settings and counts, and have to be the same.
    """
    for words, most in LUCK.items():
        if words in line:
            return most
    if "." not in figure:
        return 5 if "in epoch" in line else 0  # which one is best by a hair is luck
    return 0.5 if figure.endswith("%") else 0.02


def value_of(figure):
    return float(figure.strip("%").replace(",", ""))


def agree(shown, printed):
    """Return whether a line is shown as it is printed; seconds do not count."""
    shown, printed = (re.sub(r"\d+\.\d s\b", "", line) for line in (shown, printed))
    if FIGURE.sub("0", shown).split() != FIGURE.sub("0", printed).split():
        return False
    pairs = zip(FIGURE.findall(shown), FIGURE.findall(printed), strict=True)
    return all(
        abs(value_of(a) - value_of(b)) <= allowed(shown, a) + 1e-9 for a, b in pairs
    )


@pytest.mark.real_mnist
@pytest.mark.parametrize("number", range(5))
def test_the_outputs_shown_are_what_the_lessons_print(number, lessons_on_mnist):
    script = SCRIPTS[number]
    headings = re.findall(rf"^## (Lesson {number + 1}: .+)$", GUIDE, re.MULTILINE)
    shown = blocks(section(GUIDE, headings[0]), "text")
    if script == "03_train_mnist.py":
        shown += blocks(TEXTS["README.md"], "text")
    assert shown
    for block in shown:
        printed = iter(lessons_on_mnist.outputs[script].splitlines())
        for line in block.splitlines():
            if line.strip(" ."):  # the next one of these that is printed
                assert any(agree(line, other) for other in printed), line


def test_the_decision_taken_apart_adds_up():
    products = stated(GUIDE, " neuron {} {} x {} = {}")
    assert len(products) == 2
    for _, hidden, weight, product in products:
        assert hidden * weight == pytest.approx(product, abs=0.01)


@pytest.mark.real_mnist
def test_the_usual_loader_brings_the_same(
    real_mnist, real_mnist_dir, tmp_path, monkeypatch, capsys
):
    shutil.copytree(real_mnist_dir / "MNIST", tmp_path / "data" / "MNIST")
    text = section(CONCEPTS, "Dataset and DataLoader")
    (source,) = blocks(text, "python real MNIST")
    monkeypatch.chdir(tmp_path)
    names = {"torch": torch, "DataLoader": torch.utils.data.DataLoader}
    assert_it_prints_what_it_says(source, names, capsys)
