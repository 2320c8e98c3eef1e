"""All that the lessons print and draw, compared with the transcripts that are stored.

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
from matplotlib.colors import to_hex
from matplotlib.ticker import FixedLocator

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
    r"(?<=train\(\)  \[)[02](, [02]){7}": "0 or 2 by chance",  # a version's own, too
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


def numbers(values):
    return " ".join(f"{value:.2f}" for value in np.ravel(values))


def texts_of(ax):
    yield from (ax.get_title(), ax.get_xlabel(), ax.get_ylabel())
    for axis in (ax.xaxis, ax.yaxis):  # other ticks are where Matplotlib puts them
        if isinstance(axis.get_major_locator(), FixedLocator):
            yield from (label.get_text() for label in axis.get_ticklabels())
    legend = ax.get_legend()
    for text in [*ax.texts, *(legend.get_texts() if legend else [])]:
        yield text.get_text()


def described(figure):
    """Tell in lines what a picture shows: texts, curves, bars, images."""
    images, texts = [], [figure.get_suptitle(), figure.get_supxlabel()]
    for ax in figure.axes:
        texts += texts_of(ax)
    yield " | ".join(filter(None, texts))
    for ax in figure.axes:
        for x in (line for line in ax.lines if line.get_linestyle() != "None"):
            name = f"{x.get_label()} {to_hex(x.get_color())} {x.get_linestyle()}"
            yield f"  line {name} {x.get_marker()} {numbers(x.get_ydata())}"
        for band in ax.collections:
            yield f"  range {numbers(band.get_paths()[0].get_extents().intervaly)}"
        if ax.patches and ax.get_ylabel() != "Training time (s)":
            bars = [(bar.get_center()[0], bar.get_height()) for bar in ax.patches]
            yield f"  bars {ax.get_yscale()} {numbers(bars)}"
        for image in ax.images:
            # The mean tells whether it is the same, and with weights, whether it is
            # turned or its parts have changed places.
            pixels = np.asarray(image.get_array(), dtype=float)
            weights = np.linspace(0, 1, pixels.size).reshape(pixels.shape)
            images += [pixels.mean(), (weights * pixels).mean()]
    if images:
        yield f"  images {numbers(images)}"


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_lesson_prints_its_transcript(script, quick_lessons):
    output = quick_lessons.outputs[script]
    assert_fits_the_console(output)
    saved = re.findall(r"^Saved: (\S+)", output, re.MULTILINE)
    assert sorted(quick_lessons.files[script]) == sorted(saved)
    path = (TRANSCRIPTS / script).with_suffix(".txt")
    lines = masked(output).splitlines()
    if script != "04_load_model.py":  # its pictures have tests of their own
        for figure in quick_lessons.figures[script]:
            lines += described(figure)
    if os.environ.get("REWRITE_TRANSCRIPTS"):
        path.write_text("\n".join(lines) + "\n")
    stored = path.read_text().splitlines()
    padded = stored + [""] * (len(lines) - len(stored))
    lines = [same_or_new(*pair) for pair in zip(lines, padded, strict=False)]
    difference = difflib.unified_diff(stored, lines, path.name, "now", lineterm="")
    assert lines == stored, "\n" + "\n".join(difference)
