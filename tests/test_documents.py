"""The documents: every link, example and command in them works.

The figures in them are measured in test_concepts.py and test_figures.py.
"""

import contextlib
import functools
import io
import re
import shutil
import wave

import numpy as np
import pytest
import torch
from PIL import Image

import dl_utils
from backstage.data.datasets import RECORDINGS
from backstage.data.spoken_digits import read_recordings
from backstage.sound import SAMPLE_RATE
from conftest import FSDD_ARCHIVE, REAL_DATA_DIR, SCRIPTS, run_main
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
    lines_meant,
    section,
    with_right_line_links,
    without_code,
)

# Concepts that other documents and pages may link to.
CONCEPT_ANCHORS = [
    "tensors",
    "model-capacity",
    "activation-functions",
    "hyperparameters",
    "learning-rate",
    "epochs-batches--iterations",
    "optimizers",
    "forward--backward-pass",
    "loss-functions",
    "backpropagation",
    "gradients",
    "overfitting--underfitting",
    "regularization",
    "convergence",
    "normalization",
    "generalization",
]
CODE = [ROOT / name for name in (*SCRIPTS, "dl_utils.py")]
CODE += ROOT.rglob("backstage/**/*.py")
CONCEPT_NAMES = re.findall(r"^## (.+)$", without_code(CONCEPTS), re.MULTILINE)

# ------------------------------------------------------------------------------
# Text and links
# ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DOCUMENTS)
def test_characters_are_whole(name):
    # What UTF-8 looks like when it was read as something else.
    broken = ["\ufffd", "\u00c3", "\u00e2\u20ac", "\u00f0\u0178"]
    assert not any(mark in TEXTS[name] for mark in broken)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    wrong = []
    for image, label, target in LINK.findall(without_code(TEXTS[name])):
        path, _, anchor = target.partition("#")
        if path.startswith("https://"):
            continue
        file = ROOT / (path or name)
        if not file.is_file():
            wrong.append(f"{target}: no such file")
        elif image and len(label.split()) < 3:
            wrong.append(f"{target}: no description for those who cannot see it")
        elif (
            anchor
            and file.suffix == ".md"
            and anchor not in anchors(TEXTS[path or name])
        ):
            wrong.append(f"{target}: no such heading")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_to_code_lead_to_its_lines(name):
    text, missing = with_right_line_links(TEXTS[name])
    assert not missing, "\n".join(missing)
    up_to_date = text == TEXTS[name]
    assert up_to_date, "run: python tests/update_links.py"


def test_a_label_says_which_line_is_meant():
    source = "x = train()\ndef train():\n    loss.backward()\n# loss.backward() adds\n"
    assert lines_meant("`train`", source) == [2]
    assert lines_meant("`loss.backward()`", source) == [3]
    assert lines_meant("`adds`", source) == [4]
    assert lines_meant("`step`", source) == []


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


def test_pictures_are_shown_and_files_are_pictures():
    shown = {
        target
        for text in TEXTS.values()
        for image, _, target in LINK.findall(without_code(text))
        if image
    }
    existing = {f"images/{path.name}" for path in (ROOT / "images").iterdir()}
    assert shown == existing


# ------------------------------------------------------------------------------
# The concept page
# ------------------------------------------------------------------------------


def test_the_concepts_have_their_anchors():
    assert set(CONCEPT_ANCHORS) <= set(anchors(CONCEPTS))


@pytest.mark.parametrize("name", CONCEPT_NAMES)
def test_a_concept_is_explained_in_all_ways(name):
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


@pytest.mark.parametrize("name", CONCEPT_NAMES)
def test_examples_print_what_they_say(name, monkeypatch, tmp_path):
    """What a block prints stands in it behind "# -> "."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    names = {"__name__": "__main__"}
    (imports,) = blocks(CONCEPTS.split("\n## ")[0], "python")
    for source in [imports, *blocks(section(CONCEPTS, name), "python")]:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(source, name, "exec"), names)
        lines = [line.rstrip() for line in printed.getvalue().splitlines()]
        assert re.findall(r"# -> ?(.*)", source) == lines
    assert list(folder.iterdir()) == []


# ------------------------------------------------------------------------------
# Commands
# ------------------------------------------------------------------------------


QUICK = {"train_samples": "100", "epochs": "1"}
HAS_RECORDINGS = (REAL_DATA_DIR / "FSDD" / FSDD_ARCHIVE).is_file()


def value_of(flag, words, default=""):
    return words[words.index(flag) + 1] if flag in words else default


def with_flags(words, **flags):
    """Return a command with other values for some of its flags."""
    for name, value in flags.items():
        words = [*words, f"--{name.replace('_', '-')}", value]
    return words


def test_the_commands_outside_the_lab_run(tmp_path, synthetic_dir, monkeypatch):
    # Every data set is read only once.
    monkeypatch.setattr(
        dl_utils, "load_raw_data", functools.cache(dl_utils.load_raw_data)
    )
    lab = section(GUIDE, "Lab")
    unique = {
        tuple(words)
        for text in (TEXTS["README.md"], GUIDE.replace(lab, ""), CONCEPTS)
        for words in commands(text)
        if words[0] != "06_speak.py"  # test_speak.py runs it
    }
    assert {script for script, *_ in unique} == set(SCRIPTS)

    picture = np.full((280, 280), 255, dtype=np.uint8)
    picture[40:240, 120:160] = 0
    Image.fromarray(picture).save(tmp_path / "my_digit.png")
    sheet = np.zeros((28, 280), dtype=np.uint8)
    sheet[4:24, 12:16] = 255
    Image.fromarray(sheet).save(tmp_path / "my_digits.png")
    if HAS_RECORDINGS:
        samples = (read_recordings(REAL_DATA_DIR)[0].samples * 32767).short()
        ten_seconds = torch.zeros(10 * SAMPLE_RATE, dtype=torch.int16)
        ten_seconds[: len(samples)] = samples
        for name, sound in (("my_digit.m4a", samples), ("my_voice.wav", ten_seconds)):
            with wave.open(str(tmp_path / name), "wb") as file:
                file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
                file.writeframes(sound.numpy().astype("<i2").tobytes())

    def run(script, *words, dataset):
        folder = REAL_DATA_DIR if dataset in RECORDINGS else synthetic_dir
        process = run_main(script, *words, cwd=tmp_path, data_dir=folder)
        # Some settings are there to be seen to fail.
        failed_as_told = "was not written" in process.stderr
        assert process.returncode == 0 or failed_as_told, process.stderr

    for script, *words in sorted(unique):
        dataset = value_of("--dataset", words)
        if "--sound" in words:
            dataset = "spoken"
        if dataset not in RECORDINGS:
            dataset = "synthetic"
        elif not HAS_RECORDINGS:
            continue
        if script == "04_load_model.py" or "--start-from" in words:
            # It needs a network of this kind.
            size = value_of("--hidden-size", words, default="128")
            training = with_flags([], hidden_size=size, dataset=dataset, **QUICK)
            run("03_train_mnist.py", *training, dataset=dataset)
        if script != "01_hello_pytorch.py":
            words = with_flags(words, dataset=dataset)
        if script in ("03_train_mnist.py", "05_experiment_architectures.py"):
            words = with_flags(words, **QUICK)
        run(script, *words, dataset=dataset)


# ------------------------------------------------------------------------------
# Outputs shown, on real MNIST
# ------------------------------------------------------------------------------


def skeleton(line):
    """Return a line without its numbers, and the numbers; seconds do not count."""
    line = re.sub(r"\d+\.\d s\b", "", line)
    numbers = re.findall(r"\d[\d,]*\.?\d*", line)
    words = re.sub(r"\d[\d,]*\.?\d*", "0", line)
    # Bars and columns grow with the numbers.
    return re.sub(r"[#\s]+", " ", words), [
        float(number.replace(",", "").rstrip(".")) for number in numbers
    ]


def similar(stated, measured):
    """Return whether two figures agree: within 1.5 points or 40 %."""
    return all(
        abs(a - b) <= max(1.5, 0.4 * max(abs(a), abs(b)))
        for a, b in zip(stated, measured, strict=True)
    )


@pytest.mark.real_mnist
@pytest.mark.parametrize("number", range(5))
def test_the_outputs_shown_are_what_the_lessons_print(number, lessons_on_mnist):
    script = SCRIPTS[number]
    headings = re.findall(rf"^## (Lesson {number + 1}: .+)$", GUIDE, re.MULTILINE)
    shown = blocks(section(GUIDE, headings[0]), "text")
    if script == "03_train_mnist.py":
        shown += blocks(TEXTS["README.md"], "text")
    printed = {}
    for line in lessons_on_mnist.outputs[script].splitlines():
        words, numbers = skeleton(line)
        printed.setdefault(words, []).append(numbers)
    lines = [line for block in shown for line in block.splitlines() if line.strip(" .")]
    assert lines
    for line in lines:
        words, numbers = skeleton(line)
        assert words in printed, f"not printed: {line}"
        assert any(similar(numbers, other) for other in printed[words]), line


@pytest.mark.real_mnist
def test_the_usual_loader_brings_the_same(
    real_mnist, real_mnist_dir, tmp_path, monkeypatch
):
    """The block of the concept page that needs real MNIST."""
    shutil.copytree(real_mnist_dir / "MNIST", tmp_path / "data" / "MNIST")
    text = section(CONCEPTS, "Dataset and DataLoader")
    (source,) = blocks(text, "python real MNIST")
    printed = io.StringIO()
    monkeypatch.chdir(tmp_path)
    with contextlib.redirect_stdout(printed):
        exec("import torch\nfrom torch.utils.data import DataLoader\n" + source, {})
    assert printed.getvalue().splitlines() == re.findall(r"# -> (.*)", source)
