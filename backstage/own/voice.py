"""A recording of one spoken digit becomes an image like those of the data set."""

import os

import numpy as np
import torch

from backstage.files import check_can_read
from backstage.sound import SAMPLE_RATE, resample, to_image, trim_silence
from backstage.terminal import UserError

MAX_SECONDS = 5
MIN_SECONDS = 0.1  # the shortest of the data set lasts 0.14
MOST_SECONDS = 0.7  # 96 % of the recordings in the data set are shorter
HOW_TO_RECORD = "record one digit with a phone or a computer, in any format"


def read_own_sound(path: str | os.PathLike) -> torch.Tensor:
    """Return the image of a digit that you recorded, prepared like the data set.

    Prints how many of its seconds are used.

    Args:
        path: any recording that FFmpeg can read: WAV, M4A, MP3, OGG, WebM, ...

    Returns:
        uint8 [28, 28], as to_image.

    Raises:
        UserError: there is no such file, or no such sound in it.
    """
    check_can_read(path, HOW_TO_RECORD)
    samples, rate = read_recording(path)
    seconds = len(samples) / rate
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        lasts = (
            f"more than {MAX_SECONDS}" if seconds > MAX_SECONDS else f"{seconds:.2f}"
        )
        raise UserError(
            f"{path} lasts {lasts} s: record one digit, in {MIN_SECONDS} to "
            f"{MAX_SECONDS} s"
        )
    spoken = trim_silence(resample(samples, rate))
    if len(spoken) == 0:
        raise UserError(f"{path} holds nothing but silence: is the microphone on?")
    seconds = len(spoken) / SAMPLE_RATE
    if seconds < MIN_SECONDS:
        raise UserError(
            f"{path} holds only {seconds:.2f} s of sound: too short a digit"
        )
    line = f"Used: {seconds:.2f} s of {len(samples) / rate:.2f} s"
    if seconds > MOST_SECONDS:
        line += " - longer than most digits: one word, in a quiet room?"
    print(line)
    return to_image(spoken)


def read_recording(path: str | os.PathLike) -> tuple[torch.Tensor, int]:
    """Return a recording's samples, float32 [n], -1 to 1, and its sample rate in Hz.

    Several channels become one: their mean. Reading ends soon after MAX_SECONDS.

    Raises:
        UserError: FFmpeg finds no sound in the file, or the package av is missing.
    """
    # Imported here, because only own recordings need it.
    try:
        import av
    except ImportError as error:
        raise UserError(
            "to read recordings, the package av is needed: python -m pip install av "
            f"({error})"
        ) from error
    # Numbers of any kind become float32; the sample rate stays, because FFmpeg's own
    # resampling lets through some of what 8,000 samples per second cannot hold. Not
    # "fltp", one row per channel: with more than 8 of them, that crashes in to_ndarray.
    converter = av.AudioResampler(format="flt")
    parts, length, rate = [np.zeros(0, np.float32)], 0, 1
    try:
        # Without "file:", the name "12:30.m4a" would be an address.
        with av.open(f"file:{os.fspath(path)}", metadata_errors="ignore") as container:
            # Before version 18, av crashes where it knows no codec to decode with.
            sound = next(iter(container.streams.audio), None)
            if not (sound and sound.codec_context):
                raise UserError(f"{path} holds no sound to read: {HOW_TO_RECORD}")
            for frame in container.decode(sound):
                for converted in converter.resample(frame):
                    # A float file may hold anything, such as infinity.
                    samples = np.nan_to_num(converted.to_ndarray()).clip(-1, 1)
                    channels = converted.layout.nb_channels
                    parts.append(samples.reshape(-1, channels).mean(axis=1))
                    length += len(parts[-1])
                    rate = converted.sample_rate
                if length > (MAX_SECONDS + 1) * rate:
                    break
    except (av.FFmpegError, ValueError) as error:  # ValueError: the rate changes
        reason = getattr(error, "strerror", error)
        raise UserError(
            f"{path} cannot be read as a recording ({reason}): {HOW_TO_RECORD}"
        ) from error
    return torch.from_numpy(np.concatenate(parts)), rate
