"""The documents: every link, example and command in them works.

Their figures are measured in test_figures.py.
"""

import dl_utils

import doctest
import re
import sys

import numpy as np
import pytest
from conftest import ROOT, SCRIPTS, load_script
from documents import (
    CONCEPTS,
    DOCUMENTS,
    GUIDE,
    TEXTS,
    blocks,
    commands,
    section,
    without_code,
)
from PIL import Image

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


def anchors(text):
    """Return the anchors that GitHub makes of the headings."""
    found = []
    for heading in re.findall(r"^#+ (.+)$", without_code(text), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        number = sum(re.sub(r"-\d+$", "", earlier) == slug for earlier in found)
        found.append(f"{slug}-{number}" if number else slug)
    return found


# ------------------------------------------------------------------------------
# Text and links
# ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DOCUMENTS)
def test_characters_are_whole(name):
    # What UTF-8 looks like when it was read as something else.
    broken = ["\ufffd", "\u00c3", "\u00e2\u20ac", "\u00f0\u0178"]
    assert not any(mark in TEXTS[name] for mark in broken)


def links(text):
    return re.findall(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)", text)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    wrong = []
    for image, label, target in links(without_code(TEXTS[name])):
        path, _, anchor = target.partition("#")
        if path.startswith("https://"):
            continue
        file = ROOT / (path or name)
        if not file.is_file():
            wrong.append(f"{target}: no such file")
        elif image and len(label.split()) < 3:
            wrong.append(f"{target}: no description for those who cannot see it")
        elif file.suffix == ".py" and anchor:
            lines = file.read_text().splitlines()
            code = label.strip("`")
            # A name links to the line that defines it, if there is one.
            definition = re.compile(rf"(def |class )?{re.escape(code)}(\(| = )")
            defined = [row for row in lines if definition.match(row)]
            line = lines[int(anchor.removeprefix("L")) - 1]
            if code not in line or (defined and line not in defined):
                wrong.append(f"{target}: {code} is not in that line")
        elif anchor and anchor not in anchors(file.read_text(encoding="utf-8")):
            wrong.append(f"{target}: no such heading")
    assert not wrong, "\n".join(wrong)


def test_the_concepts_have_their_anchors():
    assert set(CONCEPT_ANCHORS) <= set(anchors(CONCEPTS))


def test_pictures_are_shown_and_files_are_pictures():
    shown = {
        target for text in TEXTS.values() for image, _, target in links(text) if image
    }
    existing = {f"images/{path.name}" for path in (ROOT / "images").iterdir()}
    assert shown == existing


# ------------------------------------------------------------------------------
# Examples and commands
# ------------------------------------------------------------------------------

CONCEPT_NAMES = re.findall(r"^## (.+)$", without_code(CONCEPTS), re.MULTILINE)


@pytest.mark.parametrize("name", CONCEPT_NAMES)
def test_examples_print_what_they_say(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    source = "\n".join(blocks(section(CONCEPTS, name), "pycon"))
    example = doctest.DocTestParser().get_doctest(source, {}, name, None, 0)
    output = []
    runner = doctest.DocTestRunner(
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    runner.run(example, out=output.append)
    assert not runner.failures, "".join(output)
    assert example.examples or name == "Glossary"
    assert list(tmp_path.iterdir()) == []


def test_the_commands_outside_the_lab_run(tmp_path, synthetic, monkeypatch):
    lab = section(GUIDE, "Lab")
    unique = {
        tuple(words)
        for text in (TEXTS["README.md"], GUIDE.replace(lab, ""), CONCEPTS)
        for words in commands(text)
    }
    assert {script for script, *_ in unique} == set(SCRIPTS)
    small = {
        "03_train_mnist.py": ["--epochs", "1", "--train-samples", "100"],
        "05_experiment_architectures.py": ["--epochs", "1", "--train-samples", "100"],
    }
    monkeypatch.chdir(tmp_path)
    picture = np.full((280, 280), 255, dtype=np.uint8)
    picture[40:240, 120:160] = 0
    Image.fromarray(picture).save("my_digit.png")
    for name, *flags in sorted(unique):
        if name != "01_hello_pytorch.py":
            flags += ["--dataset", "synthetic"]
        monkeypatch.setattr(sys, "argv", [name, *flags, *small.get(name, [])])
        script = load_script(name)
        monkeypatch.setitem(sys.modules, script.__name__, script)  # for pickle
        try:
            script.main()
        except dl_utils.UserError as error:
            # Some settings are there to be seen to fail.
            assert str(error).startswith("training failed")


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
