"""Spoken digits: recordings found, verified and downloaded, and split into parts.

The recordings are the Free Spoken Digit Dataset 1.0.10 by Zohar Jackson and the six
speakers, licence CC BY-SA 4.0, DOI 10.5281/zenodo.1342401: each of the ten digits, 50
times by each voice, 8,000 samples per second.
"""

import gzip
import hashlib
import io
import re
import tarfile
import wave
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from backstage.data.downloads import download
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

# Who validates "new-voices"; if that is the stranger to test on, then the other. Two
# strangers who differ, though both have a German accent: a SimpleNN trained on the four
# other voices understands one 88 % of the time and the other 61 % (means of six seeds).
# So one stranger does not speak for another.
VALIDATION_VOICES = ("yweweler", "lucas")


class Recording(NamedTuple):
    """One spoken digit."""

    digit: int  # 0 to 9
    voice: str  # one of VOICES
    index: int  # 0 to 49
    samples: torch.Tensor  # float32 [n], -1 to 1, SAMPLE_RATE per second


def class_names(dataset: str, own: bool = False) -> list[str]:
    """Return the name of each class: label 3 means class_names(dataset)[3].

    With own examples, the speakers are seven: the last one is "you".
    """
    if dataset == "speakers":
        return [*VOICES, "you"] if own else list(VOICES)
    return list("0123456789")


def split_recordings(
    recordings: list[Recording], dataset: str, stranger: str
) -> tuple[list[Recording], list[Recording], list[Recording]]:
    """Return the recordings to train on, to validate and to test.

    Each part is in a random order that is always the same, so that the first n
    recordings are a fair sample.

    Args:
        recordings: all of them, sorted by name.
        dataset: "spoken" or "speakers" (every voice is in all parts: 2,400 to train,
            300 to validate, 300 to test), or "new-voices" (four voices train, a fifth
            validates, a sixth tests: 2,000, 500 and 500).
        stranger: the voice, one of VOICES, that "new-voices" tests on.
    """
    validation_voice = next(voice for voice in VALIDATION_VOICES if voice != stranger)
    generator = torch.Generator().manual_seed(ORDER_SEED)
    train, val, test = [], [], []
    for position in torch.randperm(len(recordings), generator=generator).tolist():
        recording = recordings[position]
        if dataset == "new-voices":
            in_val = recording.voice == validation_voice
            in_test = recording.voice == stranger
        else:
            in_val = recording.index in VALIDATION_INDICES
            in_test = recording.index in TEST_INDICES
        (test if in_test else val if in_val else train).append(recording)
    return train, val, test


def read_recordings(data_dir: Path) -> list[Recording]:
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
        with wave.open(io.BytesIO(content)) as file:  # 16 bits, one channel
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        samples = torch.from_numpy(samples.astype(np.float32) / 2**15)
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
