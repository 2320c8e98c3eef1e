"""Recordings: found, verified and downloaded; sounds as images; your own sounds.

Most tests use small archives of tones with their own checksum; those that need the real
recordings skip where there are none. test_data_path.py tests the downloader.
"""

import contextlib
import gzip
import hashlib
import io
import os
import random
import re
import sys
import tarfile
import wave
from collections import Counter
from pathlib import Path
from unittest import mock

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import utils

import dl_utils
from backstage.data import datasets, spoken_digits
from backstage.data.datasets import load_raw_data
from backstage.data.spoken_digits import (
    ARCHIVE,
    VOICES,
    Recording,
    read_recordings,
    split_recordings,
)
from backstage.own import voice
from backstage.own.voice import read_own_sound, read_recording
from backstage.sound import _mel_bands, resample, to_image, trim_silence
from backstage.terminal import UserError
from conftest import run_main

NOBODY = "http://127.0.0.1:9/v1.0.10.tar.gz"  # discard port: nothing listens there
FOLDER = "free-spoken-digit-dataset-1.0.10/recordings"
RECORDING = f"{FOLDER}/9_theo_49.wav"
posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")


# ------------------------------------------------------------------------------
# What the tests are made of
# ------------------------------------------------------------------------------


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


# Two digits of three voices.
FILES = {
    f"{digit}_{voice}_{10 * digit}.wav": wav(tone(300 + 100 * digit, 0.2 + n / 10))
    for digit in (2, 4)
    for n, voice in enumerate(("george", "lucas", "theo"))
}
MEMBERS = [member(f"{FOLDER}/{name}", content) for name, content in FILES.items()]
GENUINE = packed(*MEMBERS)


@pytest.fixture
def path(tmp_path, monkeypatch):
    """Where the archive belongs; GENUINE counts as the original, and nobody has it."""
    checksum = hashlib.sha256(b"".join(FILES.values())).hexdigest()
    monkeypatch.setattr(spoken_digits, "SHA256", checksum)
    monkeypatch.setattr(spoken_digits, "URL", NOBODY)
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
    assert "\n" not in message
    assert message.isascii()
    for word in words:
        assert str(word) in message


# ------------------------------------------------------------------------------
# Where the recordings come from
# ------------------------------------------------------------------------------


def test_archive_at_hand_is_read_without_asking_anybody(path, capsys):
    path.write_bytes(GENUINE)
    recordings = assert_all_are_read(path)
    assert recordings[1][:3] == (2, "lucas", 20)
    torch.testing.assert_close(recordings[1].samples, tone(500, 0.3), atol=2e-4, rtol=0)
    assert capsys.readouterr().out == ""


def test_archive_packed_anew_is_as_good(path):
    files = reversed(FILES.items())
    path.write_bytes(packed(*(member(f"recordings/{n}", c) for n, c in files)))
    assert_all_are_read(path)


def test_missing_archive_is_downloaded_once(path, monkeypatch):
    requests = serve(monkeypatch, GENUINE)
    for _ in range(2):
        assert_all_are_read(path)
        assert requests == [NOBODY]
    assert path.read_bytes() == GENUINE


FAULTS = {
    "truncated": GENUINE[: len(GENUINE) // 2],
    "no gzip": b"<html>404</html>",
    "bytes changed": GENUINE[:100] + b"\0" * 9 + GENUINE[109:],
    "recording changed": packed(member(MEMBERS[0][0].name, b"RIFF"), *MEMBERS[1:]),
    "recording missing": packed(*MEMBERS[1:]),
    "recording added": packed(*MEMBERS, member(RECORDING, b"RIFF")),
}


@pytest.mark.parametrize("damaged", FAULTS.values(), ids=FAULTS)
def test_damaged_archive_is_replaced(damaged, path, monkeypatch, capsys):
    path.write_bytes(damaged)
    serve(monkeypatch, damaged)
    with pytest.raises(UserError) as error:
        read_recordings(path.parents[1])
    assert_one_line(error, path, "damaged", "cannot be downloaded", "not the original")
    assert path.read_bytes() == damaged
    capsys.readouterr()
    serve(monkeypatch, GENUINE)
    assert_all_are_read(path)
    assert "damaged or not the original" in " ".join(capsys.readouterr().out.split())
    assert path.read_bytes() == GENUINE


def test_without_network_one_line_says_what_from_where_and_whereto(path, tmp_path):
    flags = ["--dataset", "speakers"]
    run = run_main("03_train_mnist", *flags, cwd=tmp_path, data_dir=tmp_path)
    assert run.returncode == 1
    assert len(run.stderr.splitlines()) == 1
    assert "recordings of spoken digits" in run.stderr
    assert f"save {NOBODY} as {path}" in run.stderr
    assert "damaged" not in run.stderr


def test_unreadable_archive_is_not_called_damaged(path, monkeypatch):
    path.write_bytes(GENUINE)
    refuse = mock.Mock(side_effect=PermissionError(13, "Permission denied"))
    monkeypatch.setattr(spoken_digits.gzip, "open", refuse)
    with pytest.raises(UserError) as error:
        read_recordings(path.parents[1])
    assert_one_line(error, "cannot be read", "Permission denied", path)
    assert "damaged" not in str(error.value)
    assert path.read_bytes() == GENUINE


HOSTILE = {
    "climbs": member("../../x.wav"),
    "absolute": member(f"/{RECORDING}"),
    "link": member(RECORDING, type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    # A few bytes that claim to be a terabyte of zeros.
    "sparse": member(
        RECORDING, pax_headers={"GNU.sparse.size": "9" * 12, "GNU.sparse.map": "0,0"}
    ),
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_members_that_are_no_recordings_are_passed_over(hostile, path):
    path.write_bytes(packed(hostile, *MEMBERS))
    assert_all_are_read(path)


LONG_NAME = member("././@LongLink", b"a", type=tarfile.GNUTYPE_LONGNAME)[0].tobuf()
ABSURD = {
    "claims more than there is": member(RECORDING, size=2**60)[0].tobuf(),
    "size of 30 digits": member(RECORDING, pax_headers={"size": "9" * 30})[0].tobuf(
        tarfile.PAX_FORMAT
    ),
    # tarfile reads a header that belongs to the next one by calling itself.
    "headers for headers": 5_000 * (LONG_NAME + b"a".ljust(512, b"\0")),
    "bomb": gzip.decompress(packed(*MEMBERS, member("zeros", bytes(2**23)))),
}


@pytest.mark.parametrize("absurd", ABSURD.values(), ids=ABSURD)
def test_absurd_archive_counts_as_damaged(absurd, path, monkeypatch):
    monkeypatch.setattr(spoken_digits, "MAX_UNPACKED", 2**23)
    path.write_bytes(gzip.compress(absurd, compresslevel=1))
    with pytest.raises(UserError, match="damaged"):
        read_recordings(path.parents[1])


# ------------------------------------------------------------------------------
# The three data sets
# ------------------------------------------------------------------------------

ALL = [
    Recording(digit, voice, index, torch.zeros(0))
    for digit in range(10)
    for voice in VOICES
    for index in range(50)
]


def split(name, stranger="lucas"):
    """Return the three parts of all recordings."""
    return split_recordings(ALL, name, stranger)


@pytest.mark.parametrize("name", ["spoken", "speakers"])
def test_recordings_0_to_4_test_and_5_to_9_validate(name):
    parts = split(name)
    assert [len(part) for part in parts] == [2_400, 300, 300]
    indices = [{recording.index for recording in part} for part in parts]
    assert indices == [set(range(10, 50)), set(range(5, 10)), set(range(5))]


@pytest.mark.parametrize("stranger", VOICES)
def test_no_voice_of_new_voices_is_in_two_parts(stranger):
    parts = split("new-voices", stranger)
    assert [len(part) for part in parts] == [2_000, 500, 500]
    train, val, test = ({recording.voice for recording in part} for part in parts)
    assert test == {stranger}
    assert val == {"lucas" if stranger == "yweweler" else "yweweler"}
    assert train == set(VOICES) - val - test


@pytest.mark.parametrize("name", ["spoken", "new-voices"])
def test_the_first_recordings_are_a_fair_sample(name):
    """A smaller training set, which takes the first ones, has every digit and voice."""
    digits, voices, _, _ = zip(*split(name)[0][:200], strict=True)
    assert len(Counter(digits)) == 10
    assert min(Counter(digits).values()) >= 8
    assert len(Counter(voices)) == (4 if name == "new-voices" else 6)
    assert min(Counter(voices).values()) >= 20


@pytest.fixture
def few(monkeypatch):
    """Let the data sets be made of 54 recordings, whose images are all different."""
    few = [
        recording._replace(samples=tone(150 + 65 * number, 0.3))
        for number, recording in enumerate(
            r for r in ALL if r.digit in (3, 7, 9) and r.index in (0, 5, 10)
        )
    ]
    monkeypatch.setattr(datasets, "read_recordings", lambda data_dir: few)
    return few


@pytest.mark.parametrize("name", datasets.RECORDINGS)
def test_loaders_hold_what_the_recordings_are(name, few):
    loaders = dl_utils.load_mnist_data(dataset=name, stranger="theo")
    for loader, part in zip(loaders, split_recordings(few, name, "theo"), strict=True):
        images, labels = loader.dataset.tensors
        shown = torch.stack([to_image(recording.samples) for recording in part])
        assert torch.equal(images, dl_utils.normalize(shown))
        assert labels.dtype == torch.int64
        said = [loader.dataset.classes[label] for label in labels]
        speakers = name == "speakers"
        assert said == [r.voice if speakers else str(r.digit) for r in part]


@pytest.mark.parametrize("name", datasets.RECORDINGS)
def test_a_test_example_knows_its_samples(name, few):
    assert dl_utils.load_recordings() is few
    test_set = dl_utils.load_mnist_data(dataset=name)[2].dataset
    images = torch.stack([to_image(r.samples) for r in test_set.recordings])
    assert len(images.unique(dim=0)) == len(images) > 0
    assert torch.equal(test_set.tensors[0], dl_utils.normalize(images))


def test_unknown_voice_is_an_error():
    with pytest.raises(ValueError, match="nobody"):
        load_raw_data("new-voices", "nobody")


# ------------------------------------------------------------------------------
# From sound to image
# ------------------------------------------------------------------------------


def test_image_is_like_those_of_mnist():
    image = to_image(tone(440))
    assert image.dtype == torch.uint8
    assert image.shape == (28, 28)
    assert (image.min(), image.max()) == (0, 255)
    assert to_image(torch.zeros(4_000)).max() == 0  # silence is black


def band_of(hertz):
    """Return the row whose band has its peak nearest to a frequency."""
    lowest, mel, highest = (2595 * np.log10(1 + f / 700) for f in (50, hertz, 4_000))
    return 28 - round((mel - lowest) / ((highest - lowest) / 29))


@pytest.mark.parametrize("hertz", [110, 220, 440, 880, 1_760, 2_500, 3_500, 3_800])
def test_tone_lights_the_band_of_its_frequency(hertz):
    image = to_image(tone(hertz, 1)).float()
    assert image.mean(1).argmax() == band_of(hertz)


def test_no_band_falls_between_two_frequencies():
    assert (_mel_bands().max(1).values > 0.5).all()


def test_time_goes_from_left_to_right():
    image = to_image(torch.cat([tone(400, 0.5), tone(2_000, 0.5)])).float()
    assert image[band_of(400), :13].min() > 150 > image[band_of(400), 16:].max()
    assert image[band_of(2_000), 16:-1].min() > 150
    assert image[band_of(2_000), :12].max() < 150


def test_short_sound_is_in_the_middle_and_long_one_loses_its_ends():
    image = to_image(tone(500, 0.3))
    lit = torch.nonzero(image.amax(0)).flatten()
    assert 7 <= lit[0] <= 10
    assert lit[0] + lit[-1] in (26, 27, 28)
    samples = torch.cat([tone(2_000, 0.6), tone(500, 1), tone(2_000, 0.6)])
    assert torch.equal(to_image(samples), to_image(samples[4_800:-4_800]))


@pytest.mark.parametrize("factor, constant", [(0.01, 0), (1, 0.1)])
def test_loudness_and_a_constant_do_not_matter(factor, constant):
    plain, changed = (to_image(x) for x in (tone(500), factor * tone(500) + constant))
    assert (plain.int() - changed.int()).abs().max() <= 1


def test_each_decibel_counts_the_same():
    """Half-way down the range, 22.5 decibels below the loudest, is half as bright."""
    samples = torch.cat([tone(500, 0.5), 10 ** (-22.5 / 20) * tone(500, 0.5)])
    bright, half = to_image(samples)[band_of(500)].float()[[6, 21]]
    assert abs(bright - 255) <= 3
    assert abs(half - 127.5) <= 5


@pytest.mark.parametrize("rate", [4_000, 16_000, 44_100, 192_000])
def test_tone_keeps_its_frequency_and_loudness_at_every_rate(rate):
    samples = resample(tone(1_000, 1, rate), rate)
    assert len(samples) == 8_000
    assert torch.fft.rfft(samples).abs().argmax() == 1_000  # Hz: the sound lasts 1 s
    torch.testing.assert_close(samples, tone(1_000, 1), atol=0.01, rtol=0)


@pytest.mark.parametrize("hertz", [4_100, 5_000, 7_000, 8_500, 15_000])
def test_what_lies_above_4000_hz_disappears(hertz):
    """Taking every sixth sample would turn 7,000 Hz into a tone of 1,000 Hz."""
    samples = resample(tone(hertz, 1, 48_000), 48_000)
    assert samples.abs().max() < 0.005  # one hundredth of the tone


# ------------------------------------------------------------------------------
# Your own sounds
# ------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path):
    """A function that writes a file and reads it as a sound."""

    def own(content, name="my_digit.wav"):
        (tmp_path / name).write_bytes(content)
        return read_own_sound(tmp_path / name)

    return own


def write_sound(path, samples, codec, rate=48_000, channels=1):
    """Write samples, float32 [n], as the file's name and the codec say."""
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[channels]
    samples = np.tile(samples.numpy(), (channels, 1))
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
    frame.sample_rate = rate
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        if path.name.startswith("video"):
            video = container.add_stream("mpeg4", rate=10)
            video.width = video.height = 64
            video.pix_fmt = "yuv420p"
            black = av.VideoFrame(64, 64, "yuv420p")
            container.mux([*video.encode(black), *video.encode(None)])
        container.mux([*stream.encode(frame), *stream.encode(None)])


SPOKEN = to_image(trim_silence(speech_like()))


def assert_alike(first, second, correlation=0.99):
    both = torch.stack([first, second]).flatten(1).float()
    assert torch.corrcoef(both)[0, 1] > correlation


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 96_000, 192_000])
@pytest.mark.parametrize("channels", [1, 2, 6, 9, 16])
def test_rate_and_channels_make_no_difference(rate, channels, own):
    samples = speech_like(rate)[:, None].expand(-1, channels)
    assert_alike(own(wav(samples, rate)), SPOKEN)


NOISE = torch.randn(8_000, generator=torch.Generator().manual_seed(0))
DOUBT = " - longer than most digits: one word, in a quiet room?"


@pytest.mark.parametrize(
    "samples, line",
    [
        (torch.cat([torch.zeros(4_000), tone(500, 0.6)]), r"0.6\d s of 1.10 s"),
        (tone(500, 0.7), r"0.70 s of 0.70 s"),
        (tone(500, 0.72), rf"0.72 s of 0.72 s{re.escape(DOUBT)}"),
        (0.01 * NOISE, rf"0.9\d s of 1.00 s{re.escape(DOUBT)}"),
    ],
)
def test_a_line_says_how_many_seconds_are_used(samples, line, own, capfd):
    own(wav(samples))
    out, err = capfd.readouterr()
    assert re.fullmatch(f"Used: {line}\n", out)
    assert err == ""
    assert len(out) <= 88


@pytest.mark.parametrize(
    "name, codec, rate, channels, correlation",
    [
        ("8 bits.wav", "pcm_u8", 8_000, 1, 0.9),
        ("24 bits.wav", "pcm_s24le", 44_100, 2, 0.99),
        ("32 bits.wav", "pcm_s32le", 44_100, 6, 0.99),
        ("float.wav", "pcm_f32le", 44_100, 2, 0.99),
        ("double.wav", "pcm_f64le", 96_000, 6, 0.99),
        ("telephone.wav", "pcm_mulaw", 8_000, 1, 0.9),
        ("iphone.m4a", "aac", 44_100, 1, 0.9),
        ("android.3gp", "libopencore_amrnb", 8_000, 1, 0.8),
        ("android_2.3gp", "aac", 16_000, 2, 0.9),
        ("computer.mp3", "libmp3lame", 44_100, 2, 0.9),
        ("messenger.ogg", "libopus", 48_000, 1, 0.9),
        ("browser.webm", "libopus", 48_000, 2, 0.9),
        ("studio.flac", "flac", 48_000, 2, 0.99),
        ("video.mp4", "aac", 48_000, 2, 0.9),
    ],
)
def test_format_makes_no_difference(
    name, codec, rate, channels, correlation, tmp_path, capfd
):
    """What is faint is not kept in every format."""
    write_sound(tmp_path / name, speech_like(rate), codec, rate, channels)
    assert_alike(read_own_sound(tmp_path / name), SPOKEN, correlation)
    assert capfd.readouterr().err == ""


def test_channels_are_mixed(own):
    left = torch.cat([torch.zeros(4_000), tone(500, 0.4), torch.zeros(8_000)])
    right = torch.cat([torch.zeros(7_200), tone(2_000, 0.4), torch.zeros(4_800)])
    both = own(wav(torch.stack([left, right], 1)))
    assert_alike(both, own(wav((left + right) / 2)))


def test_other_chunks_and_what_follows_the_sound_are_passed_over(own):
    plain = wav(speech_like())
    odd = b"JUNK\3\0\0\0odd\0"
    content = plain[:12] + odd + plain[12:] + odd + b"and a tail that is no chunk"
    assert torch.equal(own(content), own(plain))


@posix
@pytest.mark.parametrize("name", ["12:30.wav", "http:digit.wav", "%d \N{SNOWMAN}.wav"])
def test_name_of_the_file_does_not_matter(name, own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own(wav(speech_like()), name)
    assert_alike(read_own_sound(name), SPOKEN)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 3e38])
def test_impossible_samples_do_no_harm(odd, tmp_path, capfd):
    samples = speech_like()
    samples[6_000:6_010] = odd
    write_sound(tmp_path / "odd.wav", samples, "pcm_f32le", 8_000, 2)
    assert read_recording(tmp_path / "odd.wav")[0].abs().max() <= 1
    assert read_own_sound(tmp_path / "odd.wav").max() == 255
    assert capfd.readouterr().err == ""


def test_rate_that_changes_is_one_line(tmp_path):
    for rate in (16_000, 44_100):
        write_sound(tmp_path / f"{rate}.aac", speech_like(rate), "aac", rate)
    with open(tmp_path / "16000.aac", "ab") as file:
        file.write((tmp_path / "44100.aac").read_bytes())
    with pytest.raises(UserError) as error:
        read_own_sound(tmp_path / "16000.aac")
    assert_one_line(error, "16000.aac", "cannot be read as a recording")


def test_reading_ends_soon_after_the_longest_digit(tmp_path):
    (tmp_path / "minute.wav").write_bytes(wav(torch.zeros(60 * 8_000)))
    samples, rate = read_recording(tmp_path / "minute.wav")
    assert 5 < len(samples) / rate < 8


CLICK = torch.cat([torch.zeros(999), tone(500, 0.08)])
HOW = voice.HOW_TO_RECORD
NO_SOUNDS = {
    "empty": (b"", f"cannot be read as a recording (.*): {HOW}"),
    "text": (b"seven\n" * 100, "cannot be read as a recording"),
    "head": (wav(speech_like())[:30], "cannot be read as a recording"),
    "codec": (wav(tone(500)).replace(b"\x10\0\0\0\1", b"\x10\0\0\0\xcd"), "holds no"),
    "too short": (wav(tone(500, 0.05)), r"lasts 0.05 s: record .* in 0.1 to 5 s"),
    "too long": (wav(torch.zeros(48_000)), "lasts more than 5 s"),
    "constant": (wav(torch.full((8_000,), 0.3)), "holds nothing but silence"),
    "hiss": (wav(0.0001 * torch.randn(8_000)), "holds nothing but silence"),
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
    paths = {
        tmp_path / "nothing.wav": f"there is no file .*: {HOW}",
        tmp_path / "picture.png": f"holds no sound to read: {HOW}",
        tmp_path: "it is a folder",
    }
    if os.name != "nt":  # these must not hang
        os.mkfifo(tmp_path / "pipe.wav")
        paths |= {tmp_path / "pipe.wav": "a pipe", Path("/dev/zero"): "a device"}
    for path, reason in paths.items():
        with pytest.raises(UserError, match=reason) as error:
            read_own_sound(path)
        assert_one_line(error, path)


def test_missing_package_is_one_line(own, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)  # import av fails
    with pytest.raises(UserError) as error:
        own(wav(speech_like()))
    assert_one_line(error, "python -m pip install av")


def test_mistake_in_the_code_is_not_blamed_on_the_sound(own, monkeypatch):
    monkeypatch.delattr(voice, "MAX_SECONDS")
    with pytest.raises(NameError):
        own(wav(speech_like()))


@pytest.mark.parametrize(
    "name, codec",
    [("a.wav", "pcm_s24le"), ("a.m4a", "aac"), ("a.mp3", "mp3"), ("a.webm", "libopus")],
)
def test_no_damage_to_a_sound_raises_anything_else(name, codec, own, tmp_path):
    write_sound(tmp_path / name, speech_like(48_000), codec)
    original = (tmp_path / name).read_bytes()
    rng = random.Random(0)
    for _ in range(40):
        content = bytearray(original[: rng.choice([300, 9_000, len(original)])])
        for _ in range(rng.randint(1, 9)):
            position = rng.randrange(rng.choice([100, len(content)]))
            content[position] = rng.choice([0, 1, 2, 127, 255])
        with contextlib.suppress(UserError):
            assert own(content, name).shape == (28, 28)


# ------------------------------------------------------------------------------
# The real recordings
# ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(real_fsdd_dir):
    """All real recordings; a download would be a failure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spoken_digits, "download", None)
        return read_recordings(real_fsdd_dir)


def test_real_archive_has_fifty_of_each_digit_and_voice(real):
    assert len(real) == 3_000
    counts = Counter((recording.digit, recording.voice) for recording in real)
    assert len(counts) == 60
    assert set(counts.values()) == {50}
    for recording in real:
        assert recording.samples.dtype == torch.float32
        assert 0.1 < len(recording.samples) / 8_000 < 2.4
        assert 0.01 < recording.samples.abs().max() <= 1


def test_real_recording_read_as_an_own_sound_has_the_same_image(real, own):
    """As if it had been recorded with silence around, and in stereo at 48,000 Hz."""
    errors = []
    for recording in real[::300]:
        samples = recording.samples - recording.samples.mean()
        samples = torch.cat([torch.zeros(4_000), samples, torch.zeros(6_000)])
        samples = 6 * torch.fft.irfft(torch.fft.rfft(samples), n=6 * len(samples))
        image = own(wav(samples.clamp(-1, 1)[:, None].expand(-1, 2), rate=48_000))
        difference = image.float() - to_image(recording.samples).float()
        errors.append(difference.abs().mean())
    assert torch.stack(errors).median() < 12  # of 255; trimming may shift it a little
