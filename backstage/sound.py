"""A recording becomes an image: on the way to speech, the part of backstage to read.

Sound is a list of numbers, samples: how far the air pushes, 8,000 times per second. An
image of it is a spectrogram, which shows when (left to right) which frequencies (bottom
to top) are how loud (0 to 255).
"""

import functools

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
