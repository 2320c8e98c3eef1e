"""Everything that the lessons print, compared with the transcripts that are stored.

After an intended change of what they print, write the transcripts anew, and read the
difference: REWRITE_TRANSCRIPTS=1 pytest tests/test_transcripts.py
"""

import difflib
import os
import platform
import re

import numpy as np
import pytest
import torch
import torchvision

from conftest import ROOT, SCRIPTS, assert_fits_the_console

TRANSCRIPTS = ROOT / "tests" / "transcripts"

VERSIONS = {
    "Python": platform.python_version(),
    "torch": torch.__version__,
    "numpy": np.__version__,
    "torchvision": torchvision.__version__,
}
# What is never twice the same, and the word that is stored in its place.
MASKS = {
    r"\d+\.\d(?= s$)": "TIME",
    r"(?<=\d\.\d\d) {4,}\d+\.\d$": "TIME",  # the table of lesson 5
    r" +\d+\.\d{3}(?= ms)": "TIME",
    r" +[1-9][\d,]*(?= times as fast$)": "RATIO",
    r" +\d{3},\d{3}(?=  the (class|same), )": "BYTES",  # a version's own format
}
# Figures that another processor or version of PyTorch may round differently. Settings,
# counts, and numbers with fewer decimals must be the same.
ROUNDED = re.compile(
    r"(?<!rate )(?<!\) = )"
    r"(-?\d+\.\d\d+|\d+\.\d(?=%)|\d+(?= of 10,000 are wrong))"
)
TOLERANCE = 3  # units of the last digit


def masked(text):
    for name, version in VERSIONS.items():
        text = text.replace(f"\n{name:<13}{version}\n", f"\n{name:<13}VERSION\n")
    for pattern, word in MASKS.items():

        def hide(found, word=word):
            return word.rjust(len(found[0]))  # so that columns stay in line

        text = re.sub(pattern, hide, text, flags=re.MULTILINE)
    return text


def is_close(figure, stored):
    unit = 10 ** -len(stored.partition(".")[2])
    return abs(float(figure) - float(stored)) <= (TOLERANCE + 0.01) * unit


def same_or_new(line, stored):
    """Return the stored line where the line differs from it by rounding only."""
    if ROUNDED.sub("", line) != ROUNDED.sub("", stored):
        return line
    pairs = zip(ROUNDED.findall(line), ROUNDED.findall(stored), strict=True)
    return stored if all(is_close(*pair) for pair in pairs) else line


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_lesson_prints_its_transcript(script, quick_lessons):
    assert_fits_the_console(quick_lessons.outputs[script])
    path = (TRANSCRIPTS / script).with_suffix(".txt")
    lines = masked(quick_lessons.outputs[script]).splitlines()
    if os.environ.get("REWRITE_TRANSCRIPTS"):
        path.write_text("\n".join(lines) + "\n")
    stored = path.read_text().splitlines()
    padded = stored + [""] * (len(lines) - len(stored))
    lines = [same_or_new(*pair) for pair in zip(lines, padded, strict=False)]
    difference = difflib.unified_diff(stored, lines, path.name, "now", lineterm="")
    assert lines == stored, "\n" + "\n".join(difference)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_lesson_writes_the_files_that_its_docstring_names(script, quick_lessons):
    source = (ROOT / script).read_text(encoding="utf-8")
    listed = re.search(r"^It writes:(.*?)\n\n", source, re.M | re.S)[1]
    names = set(re.findall(r"^ *(\w+\.\w+)", listed, re.MULTILINE))
    assert quick_lessons.files[script] == names
    saved = re.findall(r"^Saved: (\S+)", quick_lessons.outputs[script], re.MULTILINE)
    assert sorted(saved) == sorted(names)
