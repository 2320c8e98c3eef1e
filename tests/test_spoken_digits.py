"""Recordings: found, verified and downloaded; sounds as images; your own sounds.

Most tests use small archives of noise with their own checksum; those that need the real
recordings skip where there are none. test_data_path.py tests the downloader.
"""

import contextlib
import gzip
import hashlib
import io
import os
import random
import sys
import tarfile
import wave
from collections import Counter
from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import utils

import dl_utils
from backstage.data import datasets, spoken_digits
from backstage.data.spoken_digits import ARCHIVE, read_recordings
from backstage.own import voice
from backstage.own.voice import read_own_sound, read_recording
from backstage.sound import resample, to_image, to_spectrogram, trim_silence
from backstage.terminal import UserError

NOBODY = "http://127.0.0.1:9/v1.0.10.tar.gz"  # discard port: nothing listens there
FOLDER = "free-spoken-digit-dataset-1.0.10/recordings"
RECORDING = f"{FOLDER}/9_theo_48.wav"
# A few bytes that claim to be many zeros.
TERABYTE = {"GNU.sparse.size": "9" * 12, "GNU.sparse.map": "0,0"}
VOICES = ["george", "jackson", "lucas", "nicolas", "theo", "yweweler"]


def tone(hertz, seconds=0.5, rate=8_000):
    """Return a sine, float32 [n]; softened at both ends, so that nothing clicks."""
    time = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    fade = (torch.minimum(time, seconds - time) / 0.05).clamp(max=1)
    return (0.5 * fade * torch.sin(2 * torch.pi * hertz * time)).float()


def speech_like(rate=8_000):
    """Return four tones in a row between silences: no two images of them are alike."""
    silence = torch.zeros(rate // 2)
    tones = [tone(hertz, 0.15, rate) for hertz in (300, 1500, 800, 400)]
    return torch.cat([silence, *tones, silence])


def wav(samples, rate=8_000):
    """Return samples, float [n] or [n, channels], as a 16-bit WAV file's content."""
    whole = np.round(np.asarray(samples) * 32_767).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((whole[0].size, 2, rate, 0, "NONE", ""))
        file.writeframes(whole.tobytes())
    return buffer.getvalue()


def member(name, content=b"", **header):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in header.items():
        setattr(info, key, value)
    return info, content


def packed(*members):
    """Return a .tar.gz of members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), compresslevel=1, mtime=0)


# A few hundred samples of noise for each recording. Their names are in order.
NOISE = 0.1 * torch.randn(8_000, generator=torch.Generator().manual_seed(0))
NAMES = [*product(range(10), VOICES, [0, 10, 4, 49, 5, 9])]
SOUNDS = {name: NOISE[20 * i : 20 * i + 300] for i, name in enumerate(NAMES)}
FILES = {"{}_{}_{}.wav".format(*name): wav(SOUNDS[name]) for name in NAMES}
MEMBERS = [member(f"{FOLDER}/{name}", content) for name, content in FILES.items()]
GENUINE = packed(*MEMBERS)


@pytest.fixture
def path(tmp_path, monkeypatch):
    """Where the archive belongs; GENUINE counts as the original, and nobody has it."""
    checksum = hashlib.sha256(b"".join(FILES.values())).hexdigest()
    monkeypatch.setattr(spoken_digits, "SHA256", checksum)
    monkeypatch.setattr(spoken_digits, "URL", NOBODY)
    monkeypatch.setattr(datasets, "DATA_DIR", tmp_path)
    path = tmp_path / ARCHIVE
    path.parent.mkdir()
    return path


def serve(monkeypatch, content):
    """Let the internet have this content; return the list of requests."""
    requests = []

    def download_url(url, root, filename):
        requests.append(url)
        Path(root).mkdir()
        Path(root, filename).write_bytes(content)

    monkeypatch.setattr(utils, "download_url", download_url)
    return requests


def assert_all_are_read(path):
    recordings = read_recordings(path.parents[1])
    assert [f"{r.digit}_{r.voice}_{r.index}.wav" for r in recordings] == list(FILES)
    assert list(path.parents[1].rglob("*")) == [path.parent, path]  # nothing unpacked
    return recordings


def assert_one_line(error, *words):
    message = str(error.value)
    assert "\n" not in message and message.isascii()
    assert [word for word in words if str(word) not in message] == []


def test_archive_is_read_and_what_is_no_recording_passed_over(path, capsys):
    hostile = [
        member("../../x.wav"),
        member(f"/{RECORDING}"),
        member(RECORDING, type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member(RECORDING, pax_headers=TERABYTE),
    ]
    # Packed anew, in another order, it is as good.
    files = [member(f"recordings/{n}", c) for n, c in reversed(FILES.items())]
    path.write_bytes(packed(*files, *hostile))
    for recording in assert_all_are_read(path):
        expected = SOUNDS[recording[:3]]
        torch.testing.assert_close(recording.samples, expected, atol=5e-5, rtol=0)
    assert capsys.readouterr().out == ""


CHANGED = member(MEMBERS[0][0].name, MEMBERS[0][1][:-2] + b"\1\1")
LONG_NAME = member("././@LongLink", b"a", type=tarfile.GNUTYPE_LONGNAME)[0].tobuf()
MANY_DIGITS = member(RECORDING, pax_headers={"size": "9" * 30})[0]
FAULTS = {
    "truncated": GENUINE[: len(GENUINE) // 2],
    "no gzip": b"<html>404</html>",
    "one sample changed": packed(CHANGED, *MEMBERS[1:]),
    "recording missing": packed(*MEMBERS[1:]),
    "recording added": packed(*MEMBERS, member(RECORDING, b"RIFF")),
    "claims more than there is": gzip.compress(member("x", size=2**60)[0].tobuf()),
    "size of 30 digits": gzip.compress(MANY_DIGITS.tobuf(tarfile.PAX_FORMAT)),
    # tarfile reads a header that belongs to the next one by calling itself.
    "headers": gzip.compress(5_000 * (LONG_NAME + b"a".ljust(512, b"\0"))),
}


@pytest.mark.parametrize("damaged", FAULTS.values(), ids=FAULTS)
def test_damaged_archive_is_replaced_once(damaged, path, monkeypatch, capsys):
    path.write_bytes(damaged)
    serve(monkeypatch, damaged)
    with pytest.raises(UserError) as error:
        read_recordings(path.parents[1])
    whereto = f"save {NOBODY} as {path}"
    assert_one_line(error, "damaged", "downloaded", "not the original", whereto)
    assert path.read_bytes() == damaged
    capsys.readouterr()
    requests = serve(monkeypatch, GENUINE)
    for _ in range(2):
        assert_all_are_read(path)
    assert requests == [NOBODY]
    assert "damaged or not the original" in " ".join(capsys.readouterr().out.split())


def test_memory_has_a_limit(path):
    content = gzip.decompress(GENUINE).ljust(2**26, b"\0")
    path.write_bytes(gzip.compress(content, compresslevel=1))
    assert_all_are_read(path)
    path.write_bytes(gzip.compress(content + b"\0", compresslevel=1))
    with pytest.raises(UserError, match="damaged"):
        read_recordings(path.parents[1])


@pytest.mark.parametrize(
    ("name", "stranger", "validating"),
    [
        ("spoken", "theo", None),
        ("speakers", "theo", None),
        ("new-voices", "yweweler", "lucas"),
        ("new-voices", "george", "yweweler"),
    ],
)
def test_each_part_and_label(name, stranger, validating, path):
    path.write_bytes(GENUINE)
    parts = [{10, 49}, {5, 9}, {0, 4}]
    if validating:
        parts = [{*VOICES} - {stranger, validating}, {validating}, {stranger}]
    data = dl_utils.load_raw_data(name, stranger)
    assert data[:5] == (
        name,
        f"recordings of {name.replace('spoken', 'digits').replace('-', ' ')}",
        "recording",
        "0 silence, 255 loudest",
        "Each image: time to the right (1 s), frequency upwards (50 to 4,000 Hz)",
    )
    everything = dl_utils.load_recordings()
    # At random, so that the first n are a fair sample, and always the same.
    order = torch.randperm(360, generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = [everything[position] for position in order]
    voices = name == "speakers"
    loaders = dl_utils.load_mnist_data(dataset=name, stranger=stranger)
    for loader, part in zip(loaders, parts, strict=True):
        expected = [r for r in shuffled if r.voice in part or r.index in part]
        images = torch.stack([to_image(r.samples) for r in expected])
        labels = [VOICES.index(r.voice) if voices else r.digit for r in expected]
        dataset = loader.dataset
        assert torch.equal(dataset.tensors[0], dl_utils.normalize(images))
        assert dataset.tensors[1].tolist() == labels
        assert dataset.classes == (VOICES if voices else list("0123456789"))
    # A test example knows its samples.
    assert [r[:3] for r in dataset.recordings] == [r[:3] for r in expected]
    if voices:
        loader, _, _ = dl_utils.load_mnist_data(dataset=name, wrong_labels=1)
        assert loader.dataset.tensors[1].unique().tolist() == list(range(6))


FADING = NOISE * torch.logspace(0, -2, 8_000)


def spectrum(samples, window, hop):
    """Return the power of each moment and frequency, float64 [moments, frequencies]."""
    moments = range(0, len(samples) - window + 1, hop)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    frames = [samples[start : start + window] * hann for start in moments]
    return np.abs(np.fft.rfft(frames)) ** 2


def image_of(samples):
    """Return what to_image shall return: the same, written in another way."""
    samples = np.pad(samples - samples.mean(), (8_000 - len(samples)) // 2)
    power = spectrum(samples, window=512, hop=277)
    hertz = np.arange(257) * 8_000 / 512
    corners = 700 * (10 ** (np.linspace(77.75, 2146.1, 30) / 2595) - 1)
    bands = [
        power @ np.interp(hertz, corners[i : i + 3], [0, 1, 0])  # a triangle
        for i in range(28)
    ]
    decibels = 10 * np.log10(np.array(bands) / np.max(bands) + 1e-20)
    return (255 * (1 + decibels / 45)).clip(0)[::-1]  # low frequencies below


def test_image_is_as_documented():
    for factor, constant, tolerance in ((1, 0, 1), (0.001, 0.1, 2)):
        image = to_image(factor * FADING[:6_000] + constant)
        assert (image.shape, image.dtype, image.max()) == ((28, 28), torch.uint8, 255)
        expected = image_of(FADING[:6_000].double().numpy())
        assert np.abs(image.numpy() - expected).max() < tolerance
    assert to_image(torch.zeros(4_000)).max() == 0  # silence is black
    # A long sound loses its ends.
    samples = torch.cat([tone(2_000, 0.6), tone(500, 1), tone(2_000, 0.6)])
    assert torch.equal(to_image(samples), to_image(samples[4_800:-4_800]))


def test_fine_spectrogram_is_as_documented():
    samples = FADING[:3_840]
    padded = np.pad((samples - samples.mean()).double().numpy(), 128, "reflect")
    power = spectrum(padded, window=256, hop=64)
    decibels = 10 * np.log10(power / power.max() + 1e-8)  # -80 at least
    columns = np.linspace(0, 60, 48)
    rows = [np.interp(columns, range(61), row) / 40 + 1 for row in decibels.T]
    spectrogram, seconds = to_spectrogram(torch.cat([torch.zeros(800), samples]))
    assert seconds == 0.48
    assert np.abs(spectrogram.numpy() - np.array(rows)).max() < 0.001


def test_tone_keeps_its_frequency_and_loudness_at_every_rate():
    for rate in (4_000, 44_100):
        samples = resample(tone(1_000, 1, rate), rate)
        torch.testing.assert_close(samples, tone(1_000, 1), atol=0.01, rtol=0)
    too_high = resample(tone(4_100, 1, rate), rate)  # 8,000 samples cannot hold it
    assert too_high.abs().max() < 0.005


@pytest.fixture
def own(tmp_path):
    """A function that writes a file and reads it as a sound."""
    path = tmp_path / "my_digit.wav"
    return lambda content: (path.write_bytes(content), read_own_sound(path))[1]


def write_sound(path, samples, codec, rate=48_000, channels=1):
    """Write samples, float32 [n], as the file's name and the codec say."""
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[channels]
    samples = np.tile(samples.numpy(), (channels, 1))
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
    frame.sample_rate = rate
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        if path.suffix == ".mp4":
            video = container.add_stream("mpeg4", rate=10, width=64, height=64)
            video.pix_fmt = "yuv420p"
            black = av.VideoFrame(64, 64, "yuv420p")
            container.mux([*video.encode(black), *video.encode(None)])
        container.mux([*stream.encode(frame), *stream.encode(None)])


# Faint sounds are not kept in every format: so much is alike.
FORMATS = [
    ("iphone.m4a", "aac", 44_100, 1, 0.9),
    ("android.3gp", "libopencore_amrnb", 8_000, 1, 0.8),
    ("computer.mp3", "libmp3lame", 44_100, 2, 0.9),
    ("%d \N{SNOWMAN}.webm", "libopus", 48_000, 2, 0.9),
    ("surround.flac", "flac", 192_000, 6, 0.99),
    ("video.mp4", "aac", 48_000, 2, 0.9),
]


@pytest.mark.parametrize("name, codec, rate, channels, correlation", FORMATS)
def test_any_format_will_do(name, codec, rate, channels, correlation, tmp_path, capfd):
    write_sound(tmp_path / name, speech_like(rate), codec, rate, channels)
    expected = to_image(trim_silence(speech_like()))
    both = torch.stack([read_own_sound(tmp_path / name), expected]).flatten(1)
    assert torch.corrcoef(both.float())[0, 1] > correlation
    assert capfd.readouterr().err == ""


def test_channels_are_mixed(own):
    left, right = torch.zeros(2, 16_000)
    left[4_000:7_200], right[7_200:10_400] = tone(500, 0.4), tone(2_000, 0.4)
    mixed = wav((left + right) / 2)
    # FFmpeg's own way crashes with more than 8 channels.
    channels = torch.stack([left, right, *torch.zeros(7, 16_000)], 1)
    for both in (wav(channels[:, :2]), wav(channels)):
        assert (own(both).int() - own(mixed).int()).abs().max() <= 3


def test_impossible_samples_do_no_harm(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "12 30.wav" if os.name == "nt" else "12:30.wav"  # no address
    samples = speech_like()
    samples[6_000:6_004] = torch.tensor([np.nan, np.inf, -np.inf, 3e38])
    write_sound(tmp_path / name, samples, "pcm_f32le", 8_000, 2)
    read, rate = read_recording(name)
    assert read[6_000:6_004].tolist() == [0, 1, -1, 1] and rate == 8_000
    assert read_own_sound(name).max() == 255


DOUBT = " - longer than most digits: one word, in a quiet room?"


@pytest.mark.parametrize(
    "silence, seconds, line",
    [
        (4.9, 0.1, "0.10 s of 5.00 s"),
        (0, 0.7, "0.70 s of 0.70 s"),
        (0, 0.72, f"0.72 s of 0.72 s{DOUBT}"),
    ],
)
def test_a_line_says_how_many_seconds_are_used(silence, seconds, line, own, capfd):
    own(wav(torch.cat([torch.zeros(round(8_000 * silence)), tone(500, seconds)])))
    assert capfd.readouterr() == (f"Used: {line}\n", "")


CLICK = torch.cat([torch.zeros(999), tone(500, 0.08)])
HOW = "record one digit with a phone or a computer, in any format"
NO_SOUNDS = {
    "empty": (b"", f"cannot be read as a recording (.*): {HOW}"),
    "head": (wav(speech_like())[:30], "cannot be read as a recording"),
    "codec": (wav(tone(500)).replace(b"\x10\0\0\0\1", b"\x10\0\0\0\xcd"), "holds no"),
    "too short": (wav(tone(500, 0.09)), r"lasts 0.09 s: record .* in 0.1 to 5 s"),
    "too long": (wav(torch.zeros(40_001)), "lasts more than 5 s"),
    "constant": (wav(torch.full((8_000,), 0.3)), "holds nothing but silence"),
    "short": (wav(CLICK), r"holds only 0.0\d s of sound: too short"),
}


@pytest.mark.parametrize("content, reason", NO_SOUNDS.values(), ids=NO_SOUNDS)
def test_each_fault_of_a_sound_is_one_line(content, reason, own, capfd):
    with pytest.raises(UserError, match=f"my_digit.wav {reason}") as error:
        own(content)
    assert_one_line(error)
    assert capfd.readouterr() == ("", "")


def test_what_is_no_recording_is_one_line(tmp_path):
    Image.new("L", (28, 28)).save(tmp_path / "picture.png")
    for rate in (16_000, 44_100):
        write_sound(tmp_path / f"{rate}.aac", speech_like(rate), "aac", rate)
    with open(tmp_path / "16000.aac", "ab") as file:  # its rate changes
        file.write((tmp_path / "44100.aac").read_bytes())
    paths = {
        tmp_path / "nothing.wav": f"there is no file .*: {HOW}",
        tmp_path / "picture.png": f"holds no sound to read: {HOW}",
        tmp_path / "16000.aac": "cannot be read as a recording",
    }
    for path, reason in paths.items():
        with pytest.raises(UserError, match=reason) as error:
            read_own_sound(path)
        assert_one_line(error, path)


def test_a_missing_package_is_one_line_a_mistake_in_the_code_is_not(own, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(UserError) as error:
        patch.setitem(sys.modules, "av", None)  # import av fails
        own(wav(speech_like()))
    assert_one_line(error, "python -m pip install av")
    monkeypatch.delattr(voice, "MAX_SECONDS")
    with pytest.raises(NameError):
        own(wav(speech_like()))


def test_no_damage_to_a_sound_raises_anything_else(own, tmp_path):
    write_sound(tmp_path / "a.m4a", speech_like(48_000), "aac")
    original = (tmp_path / "a.m4a").read_bytes()
    rng = random.Random(0)
    for _ in range(40):
        content = bytearray(original[: rng.choice([300, 9_000, len(original)])])
        for position in rng.choices(range(rng.choice([100, len(content)])), k=5):
            content[position] = rng.choice([0, 1, 2, 127, 255])
        with contextlib.suppress(UserError):
            assert own(content).shape == (28, 28)


def test_the_address_is_that_of_the_data_set():
    site = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/"
    assert f"{site}v1.0.10.tar.gz" == spoken_digits.URL


def test_real_recordings(real_fsdd_dir, own, monkeypatch):
    monkeypatch.setattr(spoken_digits, "download", None)
    real = read_recordings(real_fsdd_dir)
    counts = Counter(recording[:2] for recording in real)
    assert len(counts) == 60 and set(counts.values()) == {50}
    errors = []
    for recording in real[::300]:
        # As an own sound: with silence around, and in stereo at 48,000 Hz.
        samples = recording.samples - recording.samples.mean()
        samples = torch.cat([torch.zeros(4_000), samples, torch.zeros(6_000)])
        samples = resample(samples, 8_000 / 6)
        image = own(wav(samples.clamp(-1, 1)[:, None].expand(-1, 2), rate=48_000))
        difference = image.float() - to_image(recording.samples).float()
        errors.append(difference.abs().mean())
    assert torch.stack(errors).median() < 12  # of 255; trimming may shift it a little
