"""Where speech begins and ends in a recording."""

import pytest
import torch

from backstage.sound import trim_silence


def used(*parts):
    """Return how many seconds are left of sines: (decibels, seconds), or with hertz."""
    sound = []
    for decibels, seconds, *hertz in parts:
        time = torch.arange(round(seconds * 8_000)) / 8_000
        sine = torch.sin(2 * torch.pi * (hertz or [1_000])[0] * time)
        sound.append(10 ** (decibels / 20) * sine)
    return len(trim_silence(torch.cat(sound))) / 8_000


WORD, GAP = (0, 0.3), (-99, 0.1)

# What follows a word belongs to it for 0.04 s. Where two lines differ a little, a
# threshold lies between them: each notices when a constant of sound.py changes.
TRIMMED = {
    "no silence": ([WORD], 0.3),
    "silence at both ends": ([(-99, 2), WORD, (-99, 1)], 0.34),
    "silence alone": ([(-64, 0.5)], 0),
    "a whisper": ([(-63, 0.5)], 0.5),
    "faint end": ([GAP, WORD, (-29.5, 0.1), GAP], 0.4),
    "too faint an end": ([GAP, WORD, (-30.5, 0.1), GAP], 0.34),
    "loud hum": ([WORD, (-16, 0.3, 50), GAP], 0.6),
    "hum": ([WORD, (-18, 0.3, 50), GAP], 0.34),
    "0.8 s, however noisy": ([WORD, (-20, 0.5)], 0.8),
    "a frame more, and noise": ([WORD, (-20, 0.52)], 0.34),
    "the quietest do not count": ([WORD, (-14, 0.5), (-20, 0.12), (-40, 0.08)], 0.34),
    "the loudest do not": ([WORD, (-12, 0.5), (-24, 0.1), (-30, 0.1)], 0.82),
    "above a third of the way": ([WORD, (-12.5, 0.2), (-21, 0.5)], 0.52),
    "below a third of the way": ([WORD, (-14.5, 0.2), (-21, 0.5)], 0.34),
    "room of more than half the power": ([WORD, (-2.8, 0.7)], 0.98),
    "room of less": ([WORD, (-3.2, 0.7)], 0.32),
    "a gap": ([GAP, (0, 0.2), (-99, 0.22), (-9, 0.1), GAP], 0.56),
    "two words": ([GAP, (0, 0.2), (-99, 0.24), WORD, (-99, 0.4)], 0.34),
    "three words": ([GAP, (0, 0.2)] * 3 + [GAP], 0.84),
    "the louder one": ([GAP, (-20, 0.3), (-99, 0.24), (0, 0.06), GAP], 0.1),
    "click of the mouse, and word": ([(0, 0.02), (-99, 0.3), WORD, GAP], 0.34),
    "faint click, close by": ([(-26, 0.02), GAP, WORD, GAP], 0.34),
}


@pytest.mark.parametrize("parts, seconds", TRIMMED.values(), ids=TRIMMED)
def test_what_is_trimmed(parts, seconds):
    assert used(*parts) == pytest.approx(seconds, abs=0.001)


def test_noise_is_trimmed_and_noise_alone_stays():
    noise = torch.randn(24_000, generator=torch.Generator().manual_seed(0))
    assert len(trim_silence(0.01 * noise[:8_000])) / 8_000 > 0.9
    for decibels in (15, 45):
        samples = noise * 10 ** (-decibels / 20) / 2**0.5
        samples[2_400:5_600] += torch.sin(torch.arange(3_200) * torch.pi / 4)
        assert 0.4 <= len(trim_silence(samples)) / 8_000 <= 0.44
