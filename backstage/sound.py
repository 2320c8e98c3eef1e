"""A recording becomes an image: on the way to speech, the part of backstage to read.

Sound is a list of numbers, samples: how far the air pushes, 8,000 times per second. An
image of it is a spectrogram, which shows when (left to right) which frequencies (bottom
to top) are how loud (0 to 255). A finer one can be turned back into sound.
"""

import functools
import math
import os
import wave
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

SAMPLE_RATE = 8_000  # samples per second, as recorded: holds frequencies up to 4,000 Hz
LENGTH = 8_000  # samples in an image: one second, longer than almost every recording
IMAGE_SIZE = 28  # rows (frequencies) and columns (moments), as in MNIST
# Samples in one column: 64 ms, in which a voice hardly changes. A shorter window blurs
# frequencies, a longer one blurs moments. Columns overlap by nearly half.
WINDOW = 512
HOP = (LENGTH - WINDOW) // (IMAGE_SIZE - 1)  # samples from column to column
LOWEST = 50  # Hz; below is hum rather than voice
HIGHEST = SAMPLE_RATE // 2  # Hz
RANGE = 45  # decibels from black to the loudest moment; what is fainter is mostly noise

# A spectrogram that can be turned back: no bands and no fixed second, and columns of
# 32 ms that overlap by three quarters, so that neighbours agree on what is between.
FINE_WINDOW, FINE_HOP = 256, 64  # samples
FINE_ROWS, FINE_COLUMNS = FINE_WINDOW // 2 + 1, 48
FINE_RANGE = 80  # decibels from -1 to 1
ROUNDS = 32  # of Griffin-Lim; with 100 the words are understood no better
PEAK = 0.9  # of full scale: the loudest sample of what is made
SHORTEST = 0.1  # seconds

# Where speech begins and ends.
PIECE = 20  # samples, 2.5 ms: too short for hum and rumble to change much in it
FRAME = 160  # samples, 20 ms: the step in which silence is looked for
TAIL = 3  # frames: how loud one is counts those before it, too, as words fade slowly
SILENCE = 0.0005  # of full scale: a sixth of the faintest recording in the data set
LONGEST = 40  # frames, 0.8 s: 98 % of the recordings in the data set are shorter
# Speech is what is more than a third of the way from the room to the loudest moment, in
# decibels. It is never what is SPEECH below that moment (the "t" of "eight" is nearly
# that faint), and always what is within LOUD of it, half its power: a room in which
# nobody speaks stays whole, and so cannot look like a word.
SPEECH, LOUD = 30, 3
PAUSE = 10  # frames, 0.2 s; a gap within a digit ("si-x", "eigh-t") is shorter


def resample(samples: torch.Tensor, rate: int) -> torch.Tensor:
    """Return the same sound with SAMPLE_RATE samples per second, float32 [m].

    The sound is taken apart into its frequencies and put together again. Those above
    4,000 Hz are left out: 8,000 samples cannot hold them, and without this they would
    appear as tones that nobody made (aliasing).
    """
    length = round(len(samples) * SAMPLE_RATE / rate)
    spectrum = torch.fft.rfft(samples)
    # irfft itself leaves out the frequencies that so many samples cannot hold.
    return torch.fft.irfft(spectrum, n=length) * (length / len(samples))


def trim_silence(samples: torch.Tensor) -> torch.Tensor:
    """Return the part of a recording in which somebody speaks, float32 [m].

    Recordings of the data set have no silence at their ends, either. If there are
    several such parts, as when a click of the mouse ends a recording, the one with the
    most energy is taken. In silence there is none, and m is 0.
    """
    # Variance: the power of a sound, whatever constant the sound card adds.
    pieces = samples.unfold(0, PIECE, PIECE).var(1)  # [n] -> [n // PIECE]
    # The mean of each frame and those before it. A click is short, so it is faint here.
    step = FRAME // PIECE
    padded = functional.pad(pieces, ((TAIL - 1) * step, 0))
    power = padded.unfold(0, TAIL * step, step).mean(1)  # [n // FRAME]
    if power.max() < SILENCE**2:
        return samples[:0]
    decibels = 10 * torch.log10(power / power.max() + 1e-12)  # 0 is the loudest moment
    threshold = -SPEECH
    # A digit takes no longer than LONGEST. So as many frames as there are beyond it
    # hold nothing but the room: the quietest ones, and the middle one of them counts.
    others = len(power) - LONGEST
    if others > 0:
        room = decibels.sort().values[others // 2].item()
        threshold = min(max(room * 2 / 3, -SPEECH), -LOUD)
    (frames,) = torch.nonzero(decibels >= threshold, as_tuple=True)
    gaps = torch.nonzero(frames.diff() > PAUSE).flatten() + 1
    parts = torch.tensor_split(frames, gaps)
    spoken = max(parts, key=lambda part: power[part].sum())
    return samples[spoken[0] * FRAME : (spoken[-1] + 1) * FRAME]


def to_image(samples: torch.Tensor) -> torch.Tensor:
    """Return the spectrogram of a sound, or of its middle second.

    Args:
        samples: float32 [n], SAMPLE_RATE per second.

    Returns:
        uint8 [28, 28]: low frequencies in the last row, time from left to right;
        0 silence, 255 the loudest moment.
    """
    samples = samples - samples.mean()  # some sound cards add a constant: no sound
    # Padding that is negative cuts.
    missing = LENGTH - len(samples)
    samples = functional.pad(samples, (missing // 2, missing - missing // 2))
    # A window that fades in and out: hard edges would sound like clicks.
    spectrum = torch.stft(  # [8000] -> [257, 28]: frequencies, moments
        samples,
        WINDOW,
        HOP,
        window=torch.hann_window(WINDOW),
        center=False,
        return_complex=True,
    )
    power = _mel_bands() @ spectrum.abs().square()  # [257, 28] -> [28, 28]
    # As we hear it: twice the power is a step of about 3 decibels, however loud it is.
    decibels = 10 * torch.log10(power / power.max().clamp(min=1e-20))  # 0 and below
    image = (decibels / RANGE + 1).clamp(min=0) * 255
    return image.round().to(torch.uint8).flip(0)


@functools.cache
def _mel_bands() -> torch.Tensor:
    """Return how much each frequency counts in each of 28 bands, float32 [28, 257].

    Bands are equally wide in mel, a scale on which equal steps sound equally far apart:
    narrow for low frequencies, wide for high ones. Each is a triangle that ends where
    its neighbours are highest. Formula: O'Shaughnessy, Speech Communication, 1987.
    """
    lowest, highest = (2595 * np.log10(1 + hertz / 700) for hertz in (LOWEST, HIGHEST))
    mels = torch.linspace(lowest, highest, IMAGE_SIZE + 2)
    corners = 700 * (10 ** (mels / 2595) - 1)  # Hz
    start, peak, end = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    frequencies = torch.linspace(0, SAMPLE_RATE / 2, WINDOW // 2 + 1)  # Hz
    rising = (frequencies - start) / (peak - start)
    falling = (end - frequencies) / (end - peak)
    return torch.minimum(rising, falling).clamp(min=0)


# ------------------------------------------------------------------------------
# There and back
# ------------------------------------------------------------------------------


def to_spectrogram(samples: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return a word as a fine spectrogram, and how long the word lasts.

    Silence at both ends is cut off. Whatever its length, the word is stretched to 48
    columns, so that words can be compared number by number.

    Args:
        samples: float32 [n], SAMPLE_RATE per second.

    Returns:
        spectrogram: float32 [129, 48]; the row is the frequency, from 0 to 4,000 Hz,
            the column the moment. 1 is the loudest, 0 is 40 decibels below that, and
            -1 is silence, 80 decibels below.
        seconds: the length of the word without the silence.

    Raises:
        ValueError: there is nothing but silence.
    """
    samples = trim_silence(samples)
    if len(samples) == 0:
        raise ValueError("nothing but silence: no word to make a spectrogram of")
    seconds = len(samples) / SAMPLE_RATE
    power = _transform(samples - samples.mean()).abs().square()
    lowest = 10 ** (-FINE_RANGE / 10)  # the logarithm of 0 would be minus infinity
    decibels = 10 * torch.log10(power / power.max() + lowest)
    return _stretch(decibels / (FINE_RANGE / 2) + 1, FINE_COLUMNS), seconds


def from_spectrogram(spectrogram: torch.Tensor, seconds: float) -> torch.Tensor:
    """Return a sound with this spectrogram: the way back, by Griffin and Lim.

    A spectrogram says how loud each frequency is at each moment, but not where in its
    swing each wave is (its phase). So begin with any phases, make a sound, and look at
    its own spectrum: where columns overlap they now have to agree, so its phases are
    better. Keep them, put the wanted loudness back, and repeat.

    Args:
        spectrogram: float32 [129, 48], as from to_spectrogram; larger or smaller
            numbers will do as well.
        seconds: how long the word shall last; at least 0.1 are made of it.

    Returns:
        float32 [n], SAMPLE_RATE per second; the loudest sample is 0.9 or -0.9.

    Source: Griffin and Lim, IEEE Transactions on Acoustics, Speech, and Signal
    Processing 32, 1984.
    """
    columns = 1 + round(max(seconds, SHORTEST) * SAMPLE_RATE / FINE_HOP)
    decibels = (_stretch(spectrogram, columns) - 1) * (FINE_RANGE / 2)
    loudness = 10 ** (decibels / 20)  # of the waves, not of their power
    # A generator of its own: the same spectrogram always gives the same sound.
    generator = torch.Generator().manual_seed(0)
    phases = 2 * math.pi * torch.rand(loudness.shape, generator=generator)
    for _ in range(ROUNDS):
        samples = _transform_back(torch.polar(loudness, phases))
        phases = _transform(samples).angle()
    samples = _transform_back(torch.polar(loudness, phases))
    return samples * (PEAK / samples.abs().max())


def write_sound(path: str | os.PathLike, samples: torch.Tensor) -> None:
    """Write a WAV file that anything can play: 16 bits, one channel.

    Args:
        path: the file; its folder is made if there is none.
        samples: float32 [n], -1 to 1 (what is beyond is cut), SAMPLE_RATE per second.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    whole = (samples.clamp(-1, 1) * 32_767).round().numpy().astype("<i2")
    with wave.open(os.fspath(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes(whole.tobytes())


def _transform(samples: torch.Tensor) -> torch.Tensor:
    """Return the spectrum of each moment, complex64 [129, n // 64 + 1]."""
    window = torch.hann_window(FINE_WINDOW)
    return torch.stft(
        samples, FINE_WINDOW, FINE_HOP, window=window, return_complex=True
    )


def _transform_back(spectrum: torch.Tensor) -> torch.Tensor:
    """Return the sound of a spectrum; columns that disagree are averaged."""
    window = torch.hann_window(FINE_WINDOW)
    return torch.istft(spectrum, FINE_WINDOW, FINE_HOP, window=window)


def _stretch(spectrogram: torch.Tensor, columns: int) -> torch.Tensor:
    """Return it with so many columns: values in between are interpolated."""
    return functional.interpolate(
        spectrogram[None], columns, mode="linear", align_corners=True
    )[0]
