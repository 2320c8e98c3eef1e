"""Lesson 6, which the learner writes from the guide: it is run as it stands there."""

import contextlib
import functools
import io
import math
import re
import shutil
import wave
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import drawings
from backstage.data.spoken_digits import VOICES, read_recordings
from backstage.own.examples import read_own_words
from backstage.sound import (
    FINE_COLUMNS,
    FINE_ROWS,
    SAMPLE_RATE,
    from_spectrogram,
    to_spectrogram,
    write_sound,
)
from backstage.terminal import UserError
from conftest import ROOT, assert_fits_the_console, run_python
from documents import GUIDE, LESSON_6, section, speaking_blocks, stated

PARTS, WHOLE = speaking_blocks()
FIRST = 7  # blocks, before the three steps further
CHAPTER = section(GUIDE, LESSON_6)


def lines(sources):
    return [line for line in "\n".join(sources).splitlines() if line]


def read_wav(path):
    """Return a file's samples, -1 to 1; it must be of the kind that is promised."""
    with wave.open(str(path)) as file:
        assert file.getparams()[:3] == (1, 2, SAMPLE_RATE), path
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return torch.from_numpy(samples.astype(np.float32)) / 32_767


def tone(hertz, seconds):
    return torch.sin(2 * math.pi * hertz * torch.arange(seconds * SAMPLE_RATE) / 8_000)


def test_the_blocks_are_the_whole_script():
    assert lines(PARTS) == lines([WHOLE])  # but for empty ones
    assert_fits_the_console(WHOLE)
    assert len(lines(PARTS[:FIRST])) <= 70
    assert len(lines(PARTS[FIRST:])) <= 35


def test_a_sound_becomes_a_spectrogram_and_comes_back():
    word = torch.cat([tone(500, 0.3), tone(2_000, 0.3)])
    silence = torch.zeros(800)
    spectrogram, seconds = to_spectrogram(torch.cat([silence, 0.1 * word, silence]))
    assert spectrogram.shape == (FINE_ROWS, FINE_COLUMNS)
    assert seconds == pytest.approx(0.62, abs=0.03)  # trimming leaves a little behind
    assert spectrogram.max() == pytest.approx(1, abs=0.01)
    assert spectrogram.min() >= -1
    sound = from_spectrogram(spectrogram, seconds)
    assert len(sound) == pytest.approx(seconds * SAMPLE_RATE, abs=64)
    assert sound.abs().max() == pytest.approx(0.9)
    again, _ = to_spectrogram(sound)
    for column in (12, 36):
        off = again[:, column].argmax() - spectrogram[:, column].argmax()
        assert abs(off) <= 1
    # With half of the rounds, it would be more than that.
    assert (again - spectrogram)[spectrogram > 0.5].abs().mean() < 0.058
    # The same spectrogram, the same sound, whatever else draws random numbers.
    assert torch.equal(from_spectrogram(spectrogram, seconds), sound)


def test_the_edges_of_the_tools(tmp_path):
    # A network that knows nothing yet makes some sound.
    sound = from_spectrogram(torch.randn(FINE_ROWS, FINE_COLUMNS), -3.0)
    assert len(sound) / SAMPLE_RATE == pytest.approx(0.1, abs=0.005)
    with pytest.raises(ValueError, match="silence"):
        to_spectrogram(torch.zeros(8_000))
    path = tmp_path / "new" / "b.wav"
    write_sound(path, torch.tensor([0.0, 0.5, -2.0, 2.0]))
    assert read_wav(path).tolist() == pytest.approx([0, 0.5, -1, 1], abs=1e-4)


def write_my_voice(path, words):
    """Write words, (digit, samples), as the page of lesson 4 does: 20 seconds."""
    seconds = torch.zeros(20, SAMPLE_RATE)
    for digit, samples in words:
        row = seconds[digit if not seconds[digit].any() else digit + 10]
        start = (SAMPLE_RATE - len(samples)) // 2
        row[start : start + len(samples)] = samples
    write_sound(path, seconds.flatten())


def test_own_words_are_read_as_recordings(tmp_path):
    path = str(tmp_path / "my_voice.wav")
    write_my_voice(path, [(4, tone(300, 0.5) + 0.01), (4, tone(600, 0.25) + 0.01)])
    words = read_own_words(path)
    assert [word[:3] for word in words] == [(4, "you", 0), (4, "you", 1)]
    assert [len(word.samples) for word in words] == [4_000, 2_000]
    write_my_voice(path, [])
    with pytest.raises(UserError, match="no example"):
        read_own_words(path)


@pytest.fixture(scope="session")
def words(real_fsdd_dir):
    """(digit, voice) -> the labels that the script makes of its recordings."""
    labels = {}
    for recording in read_recordings(real_fsdd_dir):
        if recording.index >= 10:
            spectrogram, seconds = to_spectrogram(recording.samples)
            label = torch.cat([spectrogram.flatten(), torch.tensor([seconds])])
            labels.setdefault(recording[:2], []).append(label)
    return {word: torch.stack(rows) for word, rows in labels.items()}


def test_no_network_can_do_better_than_the_means(words):
    # Forty recordings of each pair: the mean of the pairs is the mean of all.
    losses = [labels.var(dim=0, correction=0).mean() for labels in words.values()]
    ((loss,),) = stated(CHAPTER, "exact means of all sixty would leave a loss of {}.")
    assert torch.stack(losses).mean() == pytest.approx(loss, abs=0.0005)
    seconds = torch.cat(list(words.values()))[:, -1]
    (range_,) = stated(CHAPTER, "Words last {} to {} seconds")
    assert [seconds.min(), seconds.max()] == pytest.approx(range_, abs=0.005)


class Script(NamedTuple):
    folder: Path
    names: dict  # what is defined at its end
    first: nn.Module  # its first network, which has learned all sixty words
    output: str


def run_blocks(folder, names, *sources):
    """Run blocks or lines, as one script that has got so far; return the output."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        drawings.run_lesson_6(folder, names, sources)
    return printed.getvalue()


def heard(output):
    found = re.findall(r"^(.*): digit heard in (\d+)%, voice in (\d+)%$", output, re.M)
    return {title: [int(digit), int(voice)] for title, digit, voice in found}


@pytest.fixture(scope="session")
def spoken(real_fsdd_dir, tmp_path_factory):
    """Return a function: run 06_speak.py with some seed, and judges with the same."""

    @functools.cache
    def get(seed):
        folder = tmp_path_factory.mktemp("speak")
        drawings.train_judges(folder, seed)
        old, new = "manual_seed(42)", f"manual_seed({seed})"
        parts = [part.replace(old, new) for part in PARTS]
        output = run_blocks(folder, names := {}, *parts[:FIRST])
        first = names["model"]
        output += run_blocks(folder, names, *parts[FIRST:])
        return Script(folder, names, first, output)

    return get


def test_the_loss_falls_as_the_guide_says(spoken):
    losses = [float(loss) for loss in re.findall(r"Loss: ([\d.]+)", spoken(42).output)]
    ((first, last),) = stated(CHAPTER, "the loss falls from {} to {}, and")
    assert losses[0] == pytest.approx(first, abs=0.003)
    assert losses[29] == pytest.approx(last, abs=0.001)


def assert_heard(figures, template, words):
    """The mean of [digit, voice] must lie in the ranges stated, or one word beside."""
    low, high, *voice = stated(CHAPTER, template)[0]
    beside = 100 / words / len(figures) + 0.5  # and what rounding takes
    ranges = ((low, high), (voice[0], voice[-1]))
    for measured, (least, most) in zip(np.mean(figures, axis=0), ranges, strict=True):
        assert least - beside <= measured <= most + beside


BEFORE = "the digit is heard in {} to {}%, the voice in {} to {}%"
TEN = "| ten, one per digit, repeated | ten digits | {} to {}% | {} to {}% |"
OTHERS = "The others lose nothing: digits {} to {}%, voices {}%, before"


# title -> what the chapter says, and how many words are asked
HEARD = {
    "The sixty words": ("The digit is heard in {} to {}%, the voice in {}% (", 60),
    "Never heard": ("Digit heard in {} to {}%, voice in {}%; of ten", 10),
    "The others, before": (OTHERS, 50),
    "theo, before": (BEFORE, 10),
    "theo, cloned": (TEN, 10),
    "The others, after cloning": (OTHERS, 50),
    "theo, learned alone": ("as well (digit {} to {}%, voice {} to {}%), but", 10),
    # Two or three of the fifty are luck, as if there were twenty.
    "The others, after that": ("{} to {}% are still understood, and {} to {}%", 20),
}


@pytest.mark.parametrize("title", HEARD)
def test_the_words_are_heard(title, spoken, seeds):
    figures = [heard(spoken(seed).output) for seed in seeds]
    assert figures[0].keys() == HEARD.keys()
    assert_heard([each[title] for each in figures], *HEARD[title])


def test_the_files_are_sounds_of_the_right_length(spoken, words):
    folder = spoken(42).folder / "spoken_words"
    names = {f"{digit}_{voice}" for digit, voice in words}
    names |= {f"unheard_{digit}_{VOICES[digit % 6]}" for digit in range(10)}
    names |= {f"clone_{digit}_theo" for digit in range(10)}
    names |= {"phone_number", "7_between"}
    assert {path.stem for path in folder.iterdir()} == names
    sounds = {path.stem: read_wav(path) for path in folder.iterdir()}
    for name, samples in sounds.items():
        assert samples.abs().max() == pytest.approx(0.9, abs=0.001), name
        if name != "phone_number":
            assert 0.1 <= len(samples) / SAMPLE_RATE <= 0.8, name
    for (digit, voice), labels in words.items():
        length = len(sounds[f"{digit}_{voice}"]) / SAMPLE_RATE
        assert length == pytest.approx(labels[:, -1].mean().item(), abs=0.08)
    number = [torch.cat([sounds[f"{d}_theo"], torch.zeros(1600)]) for d in "5550199"]
    assert torch.equal(sounds["phone_number"], torch.cat(number))


def test_your_own_voice_is_cloned(spoken, real_fsdd_dir, tmp_path):
    recordings = [r for r in read_recordings(real_fsdd_dir) if r[1:3] == ("theo", 0)]
    words = [(r.digit, r.samples) for r in recordings]
    write_my_voice(tmp_path / "my_voice.wav", words)
    for name in ("spoken.pth", "speakers.pth"):
        shutil.copy(spoken(42).folder / name, tmp_path)
    quick = re.sub(r"epochs=\d+\)", "epochs=1)", WHOLE).replace(">= 10", ">= 48")
    (tmp_path / "06_speak.py").write_text(quick)
    process = run_python(
        "06_speak.py", cwd=tmp_path, data_dir=real_fsdd_dir, PYTHONPATH=str(ROOT)
    )
    assert process.returncode == 0, process.stderr
    assert_fits_the_console(process.stdout)
    titles = set(heard(process.stdout))
    assert {"you, before", "you, cloned", "you, learned alone"} <= titles
    assert (tmp_path / "spoken_words" / "clone_9_you.wav").is_file()


# What the chapter says of other runs: with "pytest --figures".


@pytest.fixture
def further(request, spoken, tmp_path):
    """Return a function: run blocks and lines behind a seed's first network.

    It returns the percentages that they print, and leaves no names behind.
    """
    if not request.config.getoption("figures"):
        pytest.skip("takes minutes: pytest --figures")

    def run(seed, *sources):
        script = spoken(seed)
        kept = dict(script.names)
        script.names.update(model=script.first, voices=list(VOICES))
        seeded = f"torch.manual_seed({seed})"
        output = run_blocks(tmp_path, script.names, seeded, *sources)
        script.names.clear()
        script.names.update(kept)
        return list(heard(output).values())

    return run


def test_the_median_is_sharper_than_the_mean_and_contrast_helps(further, seeds):
    dull = "plain, speak = speak, lambda question: plain(question, contrast=1)"
    with_l1 = PARTS[3].replace("MSELoss", "L1Loss")
    mse = [further(s, dull, "listen('MSE', words)")[0][0] for s in seeds]
    l1 = [further(s, with_l1, dull, "listen('L1', words)")[0][0] for s in seeds]
    (means,) = stated(CHAPTER, "{}% of the digits are heard, with MSE {}%")
    ((low, high),) = stated(CHAPTER, "`contrast=1`, the digit is heard in {} to {}%")
    tolerance = 5 / len(seeds)  # three of sixty words, or one of them on the mean
    assert [np.mean(l1), np.mean(mse)] == pytest.approx(means, abs=tolerance)
    assert low - tolerance <= min(mse) and max(mse) <= high + tolerance


def test_ten_other_pairs_that_were_never_heard(further, seeds):
    step = PARTS[FIRST].replace("digit % 6", "(digit + 3) % 6")
    figures = [further(s, step)[0] for s in seeds]
    assert_heard(figures, "(`(digit + 3) % 6`), in {} to {}% and {} to {}%", 10)


ONCE = """
model = train(deepcopy(before), make_loader(others + newcomer), epochs=8)
listen("once", clone)
"""
FIFTEEN = """
newcomer = [r for r in recordings if r.voice == name and r.index < 15]
newcomer = [r for r in newcomer if r.digit in (1, 4, 8)]
often = len(others) // 5 // len(newcomer)
model = train(before, make_loader(others + often * newcomer), epochs=8)
listen("fifteen", [w for w in clone if w[0] not in (1, 4, 8)])
"""


@pytest.mark.parametrize("voice", VOICES)
def test_a_clone_is_heard_as_the_table_says(voice, further, seeds):
    if len(seeds) == 1 and voice != "george":
        pytest.skip("takes minutes: pytest --figures=all")
    cloning = PARTS[FIRST + 1].replace('"theo"', f'"{voice}"')
    rows = zip(*[further(s, cloning, ONCE, FIFTEEN) for s in seeds], strict=True)
    _, before, ten, others, once, fifteen = rows
    for figures, template, words in (
        (before, BEFORE, 10),
        (ten, TEN, 10),
        (others, OTHERS, 50),
        (once, "same ten, not repeated | ten digits | {} to {}% | {} to {}% |", 10),
        (fifteen, "the seven it never said | {} to {}% | {} to {}% |", 7),
    ):
        assert_heard(figures, template, words)
