"""Spoken digits: recordings found, verified and downloaded, and turned into images.

The recordings are the Free Spoken Digit Dataset 1.0.10 by Zohar Jackson and the six
speakers, licence CC BY-SA 4.0, DOI 10.5281/zenodo.1342401: each of the ten digits, 50
times by each voice, 8,000 samples per second. An image is a spectrogram, which shows
when (left to right) which frequencies (bottom to top) are how loud (0 to 255).
"""

import functools
import gzip
import hashlib
import io
import os
import re
import struct
import tarfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from backstage.downloads import download
from backstage.files import check_can_read
from backstage.terminal import UserError, print_wrapped

URL = (
    "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/"
    "v1.0.10.tar.gz"
)
ARCHIVE = Path("FSDD", "free-spoken-digit-dataset-1.0.10.tar.gz")  # in the data folder
# Of the recordings, sorted by name and joined. GitHub may compress the archive anew
# some day, so the checksum of the archive itself would not last.
SHA256 = "ddb17656a0bca4c5ddace082be188ca630516dc2ef1110afe3c4e9cc71173de4"
MAX_UNPACKED = 2**26  # bytes, almost three times the original: the memory to risk
VOICES = ["george", "jackson", "lucas", "nicolas", "theo", "yweweler"]
RECORDING_PATH = re.compile(
    rf"(?:[^/]+/)?recordings/([0-9]_(?:{'|'.join(VOICES)})_[1-4]?[0-9]\.wav)"
)

# Recordings 0 to 4 of each digit and voice are for testing: the data set's own custom.
TEST_INDICES = range(5)
VALIDATION_INDICES = range(5, 10)
ORDER_SEED = 0  # the same order in every script and every run

# Two strangers who differ, though both have a German accent: a SimpleNN trained on the
# four other voices understands one 88 % of the time and the other 62 % (means of six
# seeds). So one stranger does not speak for another.
NEW_VOICE_VALIDATION = "yweweler"
NEW_VOICE_TEST = "lucas"

# From sound to image.
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

# Own recordings.
MAX_FILE_SIZE = 2**25  # bytes: 5 s even in studio quality; more is not read
MAX_SECONDS = 5
MIN_SECONDS = 0.1  # the shortest of the data set lasts 0.14
WAV_RATES = range(4_000, 192_001)  # samples per second: from old telephones to studios
FRAME = 160  # samples, 20 ms: the step in which silence is looked for
SILENCE = 0.0005  # of full scale: an eighth of the faintest recording in the data set
# Speech is what is louder than the quietest moments by MARGIN decibels, but never what
# is SPEECH decibels below the loudest moment, and always what is within LOUD of it.
MARGIN, SPEECH, LOUD = 6, 30, 18
PAUSE = 0.25  # seconds; a gap within a digit ("si-x", "eigh-t") is shorter
HOW_TO_RECORD = (
    "record with any program that saves WAV files (16-bit PCM), such as Audacity, or "
    "convert: ffmpeg -i recording.m4a my_digit.wav"
)


class Recording(NamedTuple):
    """One spoken digit."""

    digit: int  # 0 to 9
    voice: str  # one of VOICES
    index: int  # 0 to 49
    samples: torch.Tensor  # float32 [n], -1 to 1, SAMPLE_RATE per second


class SoundData(NamedTuple):
    """A data set in three parts; images are uint8 [N, 28, 28], labels int64 [N]."""

    classes: list[str]  # the name of each class: label 3 means classes[3]
    train_images: torch.Tensor
    train_labels: torch.Tensor
    val_images: torch.Tensor
    val_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor


def load_spoken(
    name: str,
    data_dir: Path,
    validation_voice: str = NEW_VOICE_VALIDATION,
    test_voice: str = NEW_VOICE_TEST,
) -> SoundData:
    """Return the recordings as images, labelled and split in one of three ways.

    Each part is in a random order that is always the same, so that the first n images
    are a fair sample.

    Args:
        name: "spoken" (which digit is it? every voice is in all parts: 2,400 images to
            train, 300 to validate, 300 to test), "speakers" (the same images; who is
            speaking?), or "new-voices" (which digit, said by a stranger? four voices
            train, a fifth validates, a sixth tests: 2,000, 500 and 500 images).
        data_dir: the folder that holds, or will hold, ARCHIVE.
        validation_voice, test_voice: the two voices that "new-voices" keeps back.

    Raises:
        ValueError: no such data set, or not two different voices.
        UserError: the recordings can be neither found nor downloaded.
    """
    if name not in ("spoken", "speakers", "new-voices"):
        raise ValueError(f"no such data set: {name!r}")
    if validation_voice == test_voice or {validation_voice, test_voice} - {*VOICES}:
        raise ValueError(
            f"not two of {VOICES}: {validation_voice!r} and {test_voice!r}"
        )
    recordings = load_recordings(data_dir)
    generator = torch.Generator().manual_seed(ORDER_SEED)
    order = torch.randperm(len(recordings), generator=generator).tolist()
    parts = {"train": [], "val": [], "test": []}
    for recording in (recordings[position] for position in order):
        if name == "new-voices":
            in_val = recording.voice == validation_voice
            in_test = recording.voice == test_voice
        else:
            in_val = recording.index in VALIDATION_INDICES
            in_test = recording.index in TEST_INDICES
        parts["test" if in_test else "val" if in_val else "train"].append(recording)

    by_voice = name == "speakers"
    tensors = {}
    for part, chosen in parts.items():
        labels = [VOICES.index(r.voice) if by_voice else r.digit for r in chosen]
        tensors[f"{part}_images"] = torch.stack([to_image(r.samples) for r in chosen])
        tensors[f"{part}_labels"] = torch.tensor(labels)
    return SoundData(class_names(name), **tensors)


def class_names(dataset: str) -> list[str]:
    """Return the name of each class: label 3 means class_names(dataset)[3]."""
    return list(VOICES) if dataset == "speakers" else list("0123456789")


def load_recordings(data_dir: Path) -> list[Recording]:
    """Return all 3,000 recordings, sorted by name, from data_dir/ARCHIVE.

    The archive is downloaded once, and read without unpacking it to the disk.

    Raises:
        UserError: it can be neither found nor downloaded.
    """
    path = data_dir / ARCHIVE
    problem = f"the recordings of spoken digits cannot be read from {path}"
    files = None

    def is_genuine(path: Path) -> bool:
        nonlocal files
        files = _read_archive(path)
        return files is not None

    try:
        if not is_genuine(path):
            if path.exists():
                problem = f"{path} is damaged or not the original archive"
                print_wrapped(f"{problem}: getting it again.")
            download([URL], path, is_genuine)
    except OSError as error:
        raise UserError(
            f"{problem}, and cannot be downloaded: {error}. Nothing can stand in for "
            f"a voice: connect to the internet and run again, or save {URL} as {path}"
        ) from error
    recordings = []
    for name, content in files.items():
        digit, voice, index = name.removesuffix(".wav").split("_")
        samples, _ = _read_wav(content, name)
        recordings.append(Recording(int(digit), voice, int(index), samples))
    return recordings


def _read_archive(path: Path) -> dict[str, bytes] | None:
    """Return the recordings by name, sorted; None if it is not the original archive.

    An archive from the internet may hold anything. So nothing is unpacked to the disk,
    names are only compared, and memory has a limit.
    """
    if not path.is_file():
        return None
    files = {}
    try:
        with gzip.open(path) as file:
            unpacked = file.read(MAX_UNPACKED + 1)
        if len(unpacked) > MAX_UNPACKED:
            return None
        with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as archive:
            for member in archive:
                match = RECORDING_PATH.fullmatch(member.name)
                # Not links; nor sparse files, which may claim any size to be read.
                if match and member.isreg() and not member.issparse():
                    files[match[1]] = archive.extractfile(member).read()
    except (gzip.BadGzipFile, zlib.error, EOFError):
        return None
    # Absurd numbers in a header, or headers for headers for headers.
    except (tarfile.TarError, ValueError, OverflowError, RecursionError):
        return None
    files = dict(sorted(files.items()))
    checksum = hashlib.sha256(b"".join(files.values())).hexdigest()
    return files if checksum == SHA256 else None


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


def read_own_sound(path: str | os.PathLike) -> torch.Tensor:
    """Return the image of a digit that you recorded, prepared like the data set.

    Args:
        path: a WAV file, PCM of 8, 16, 24 or 32 bits, with any number of channels.

    Returns:
        uint8 [28, 28], as to_image.

    Raises:
        UserError: there is no such file, or no such sound in it.
    """
    check_can_read(path, HOW_TO_RECORD)
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_FILE_SIZE + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > MAX_FILE_SIZE:
        raise UserError(f"{path} is larger than 32 MiB: record a single digit")
    spoken = trim_silence(resample(*_read_wav(content, path)))
    if len(spoken) == 0:
        raise UserError(f"{path} holds nothing but silence: is the microphone on?")
    seconds = len(spoken) / SAMPLE_RATE
    if seconds < MIN_SECONDS:
        raise UserError(
            f"{path} holds only {seconds:.2f} s of sound: too short a digit"
        )
    return to_image(spoken)


def _read_wav(content: bytes, path: str | os.PathLike) -> tuple[torch.Tensor, int]:
    """Return a WAV file's samples, float32 [n], -1 to 1, and its sample rate in Hz.

    Several channels become one: their mean. Python's own module wave would not do:
    before 3.12 it refuses what many programs write for 24 bits (the format
    "extensible"), and from 3.15 it takes floating-point numbers, too.

    Raises:
        UserError: the content is not a complete WAV file, or not PCM. The path is for
            this message only.
    """
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise UserError(f"{path} is not a WAV file: {HOW_TO_RECORD}")
    # Behind these 12 bytes: chunks, each with a name, a size, and so many bytes (and
    # one more where the size is odd). http://soundfile.sapp.org/doc/WaveFormat
    chunks, position, size = {}, 12, 0
    while b"data" not in chunks and position + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, position)
        chunks[name] = content[position + 8 : position + 8 + size]
        position += 8 + size + size % 2
    header, data = chunks.get(b"fmt ", b""), chunks.get(b"data", b"")
    # A program that writes into a pipe cannot know the size, and claims the largest.
    if len(header) < 16 or len(data) < size < 0xFFFFFFFF:
        raise UserError(
            f"{path} is incomplete, its end is missing: copy it or record it again"
        )
    encoding, channels, rate, _, frame_size, _ = struct.unpack_from("<HHIIHH", header)
    if encoding == 0xFFFE:  # extensible: what it really is comes later
        encoding = int.from_bytes(header[24:26], "little")
    if encoding != 1:  # 1 is PCM: numbers as they were measured
        raise UserError(
            f"{path} is compressed or not in whole numbers: {HOW_TO_RECORD}"
        )
    width = frame_size / channels if channels else 0  # bytes per sample
    if width not in (1, 2, 3, 4) or rate not in WAV_RATES:
        raise UserError(
            f"{path} has {channels} channels of {8 * width:g} bits, {rate} times per "
            f"second, which cannot be used: {HOW_TO_RECORD}"
        )
    seconds = len(data) / frame_size / rate
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        raise UserError(
            f"{path} lasts {seconds:.2f} s: record one digit, in {MIN_SECONDS} to "
            f"{MAX_SECONDS} s"
        )
    width = int(width)
    frames = np.frombuffer(data, np.uint8)[: len(data) // frame_size * frame_size]
    if width == 1:
        frames = frames ^ 0x80  # 8-bit samples have their silence at 128, others at 0
    # Whatever the width, fill the upper bytes of 32 bits.
    words = np.zeros((len(frames) // width, 4), np.uint8)
    words[:, 4 - width :] = frames.reshape(-1, width)
    samples = torch.from_numpy(words.view("<i4").astype(np.float32)) / 2**31
    return samples.reshape(-1, channels).mean(1), rate


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
    power = samples.unfold(0, FRAME, FRAME).var(1)  # [n] -> [n // FRAME]
    if power.max() < SILENCE**2:
        return samples[:0]
    decibels = 10 * torch.log10(power / power.max() + 1e-12)  # 0 is the loudest moment
    # The quietest moments tell how loud the room is. In a recording without any
    # silence they are speech, so the threshold cannot rise far.
    noise = decibels.quantile(0.05).item()
    threshold = min(max(noise + MARGIN, -SPEECH), -LOUD)
    (frames,) = torch.nonzero(decibels >= threshold, as_tuple=True)
    gaps = torch.nonzero(frames.diff() > PAUSE * SAMPLE_RATE / FRAME).flatten() + 1
    parts = torch.tensor_split(frames, gaps)
    spoken = max(parts, key=lambda part: power[part].sum())
    return samples[spoken[0] * FRAME : (spoken[-1] + 1) * FRAME]
