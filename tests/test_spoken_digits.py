"""Recordings: found, verified and downloaded; sounds as images; your own sounds.

Most tests use small archives of tones with their own checksum, and an HTTP server on
127.0.0.1; those that need the real recordings skip where there are none.
"""

import contextlib
import gzip
import hashlib
import http.server
import io
import os
import random
import struct
import tarfile
import threading
from collections import Counter

import numpy as np
import pytest
import torch

from backstage.data import spoken_digits
from backstage.data.spoken_digits import (
    ARCHIVE,
    VOICES,
    load_recordings,
    load_spoken,
    read_own_sound,
    resample,
    to_image,
    trim_silence,
)
from backstage.terminal import UserError
from conftest import run_main

NOBODY = "http://127.0.0.1:9/v1.0.10.tar.gz"  # discard port: nothing listens there
FOLDER = "free-spoken-digit-dataset-1.0.10/recordings"
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


def wav(samples, rate=8_000, bits=16, channels=1, encoding=1, before=b"", after=b""):
    """Return samples, float [n], as a WAV file's content, equal in all channels."""
    scaled = np.round(np.asarray(samples, np.float64) * (2 ** (bits - 1) - 1))
    whole = scaled.astype("<i4").repeat(channels)
    if bits == 8:
        data = (whole + 128).astype(np.uint8).tobytes()
    else:
        data = whole.view(np.uint8).reshape(-1, 4)[:, : bits // 8].tobytes()
    frame = channels * bits // 8
    tag = encoding if encoding in (0, 1, 3) else 0xFFFE
    header = struct.pack("<HHIIHH", tag, channels, rate, rate * frame, frame, bits)
    if tag == 0xFFFE:  # the real encoding follows, as Windows and ffmpeg write it
        guid = bytes.fromhex("000000001000800000aa00389b71")
        real = encoding - 0xFFFE
        header += struct.pack("<HHI", 22, bits, 0) + struct.pack("<H", real) + guid
    chunks = before + chunk(b"fmt ", header) + chunk(b"data", data) + after
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def chunk(name, content):
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


EXTENSIBLE_PCM, EXTENSIBLE_FLOAT = 0xFFFE + 1, 0xFFFE + 3


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


def recording_files():
    """Return two digits of three voices: name -> content, sorted."""
    return {
        f"{digit}_{voice}_{10 * digit}.wav": wav(tone(300 + 100 * digit, 0.2 + n / 10))
        for digit in (2, 4)
        for n, voice in enumerate(("george", "lucas", "theo"))
    }


def genuine_members():
    files = recording_files().items()
    return [member(f"{FOLDER}/{name}", content) for name, content in files]


@pytest.fixture
def genuine(monkeypatch):
    """A small archive that counts as the original, with nothing to download from."""
    checksum = hashlib.sha256(b"".join(recording_files().values())).hexdigest()
    monkeypatch.setattr(spoken_digits, "SHA256", checksum)
    monkeypatch.setattr(spoken_digits, "URL", NOBODY)
    return packed(*genuine_members())


@pytest.fixture
def path(tmp_path):
    """Where the archive belongs, in the data folder tmp_path."""
    path = tmp_path / ARCHIVE
    path.parent.mkdir()
    return path


@contextlib.contextmanager
def server(monkeypatch, content, announced=None):
    """Let the recordings come from a server; yield the list of its requests."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(announced or len(content)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # the client need not read
                self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        address = f"http://127.0.0.1:{httpd.server_address[1]}/v1.0.10.tar.gz"
        monkeypatch.setattr(spoken_digits, "URL", address)
        try:
            yield requests
        finally:
            httpd.shutdown()
            thread.join()


def assert_all_read(recordings):
    names = [f"{r.digit}_{r.voice}_{r.index}.wav" for r in recordings]
    assert names == list(recording_files())


def assert_one_line(error, *words):
    message = str(error.value)
    assert "\n" not in message
    assert message.isascii()
    for word in words:
        assert str(word) in message


# ------------------------------------------------------------------------------
# Where the recordings come from
# ------------------------------------------------------------------------------


def test_archive_at_hand_is_read_without_asking_anybody(genuine, path, capsys):
    path.write_bytes(genuine)
    recordings = load_recordings(path.parents[1])
    assert_all_read(recordings)
    assert (recordings[1].digit, recordings[1].voice, recordings[1].index) == (
        2,
        "lucas",
        20,
    )
    torch.testing.assert_close(recordings[1].samples, tone(500, 0.3), atol=2e-4, rtol=0)
    assert capsys.readouterr().out == ""


def test_nothing_is_unpacked_to_the_disk(genuine, path):
    path.write_bytes(genuine)
    load_recordings(path.parents[1])
    assert list(path.parents[1].rglob("*")) == [path.parent, path]


def test_missing_archive_is_downloaded_once(genuine, tmp_path, monkeypatch):
    with server(monkeypatch, genuine) as requests:
        assert_all_read(load_recordings(tmp_path))
        assert requests
        requests.clear()
        assert_all_read(load_recordings(tmp_path))
    assert not requests
    assert (tmp_path / ARCHIVE).read_bytes() == genuine
    assert len(list((tmp_path / ARCHIVE).parent.iterdir())) == 1  # nothing left over


def test_archive_compressed_anew_is_as_good(genuine, path):
    path.write_bytes(gzip.compress(gzip.decompress(genuine), compresslevel=9))
    assert_all_read(load_recordings(path.parents[1]))


def test_order_and_folder_of_the_members_do_not_matter(genuine, path):
    members = [
        member(f"recordings/{name}", content)
        for name, content in recording_files().items()
    ]
    path.write_bytes(packed(*reversed(members)))
    assert_all_read(load_recordings(path.parents[1]))


def changed_recording():
    (info, content), *others = genuine_members()
    return packed((info, content[:-1] + b"\1"), *others)


FAULTS = {
    "truncated": lambda genuine: genuine[: len(genuine) // 2],
    "empty": lambda genuine: b"",
    "no gzip": lambda genuine: b"<html>404</html>",
    "gzip of something else": lambda genuine: gzip.compress(b"hello" * 1000),
    "bytes changed": lambda genuine: genuine[:100] + b"\0" * 9 + genuine[109:],
    "other files": lambda genuine: packed(member(f"{FOLDER}/readme.txt", b"hello")),
    "recording changed": lambda genuine: changed_recording(),
    "recording missing": lambda genuine: packed(*genuine_members()[1:]),
    "recording added": lambda genuine: packed(
        *genuine_members(), member(f"{FOLDER}/9_theo_49.wav", wav(tone(500)))
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_archive_is_replaced(fault, genuine, path, monkeypatch, capsys):
    path.write_bytes(FAULTS[fault](genuine))
    with server(monkeypatch, genuine):
        assert_all_read(load_recordings(path.parents[1]))
    assert "is damaged or not the original archive" in " ".join(
        capsys.readouterr().out.split()
    )
    assert path.read_bytes() == genuine


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_archive_that_cannot_be_replaced_says_so(fault, genuine, path):
    damaged = FAULTS[fault](genuine)
    path.write_bytes(damaged)
    with pytest.raises(UserError) as error:
        load_recordings(path.parents[1])
    assert_one_line(error, path, "damaged", "cannot be downloaded", NOBODY)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_download_is_refused(fault, genuine, tmp_path, monkeypatch):
    with (
        server(monkeypatch, FAULTS[fault](genuine)),
        pytest.raises(UserError) as error,
    ):
        load_recordings(tmp_path)
    assert_one_line(error, "not the original")
    assert not (tmp_path / ARCHIVE).exists()


def test_broken_connection_leaves_nothing_behind(genuine, tmp_path, monkeypatch):
    with (
        server(monkeypatch, genuine[:-100], announced=len(genuine)),
        pytest.raises(UserError),
    ):
        load_recordings(tmp_path)
    assert list((tmp_path / ARCHIVE).parent.iterdir()) == []


def test_without_network_one_line_says_what_from_where_and_whereto(genuine, tmp_path):
    with pytest.raises(UserError) as error:
        load_recordings(tmp_path)
    assert_one_line(
        error,
        "recordings of spoken digits",
        f"save {NOBODY} as {tmp_path / ARCHIVE}",
        "Nothing can stand in for a voice",
    )
    assert "damaged" not in str(error.value)


@pytest.mark.parametrize("name", ["spoken", "speakers", "new-voices"])
def test_without_network_a_lesson_ends_with_one_line(name, tmp_path, monkeypatch):
    monkeypatch.setattr(spoken_digits, "URL", NOBODY)
    flags = ["--dataset", name]
    run = run_main("03_train_mnist", *flags, cwd=tmp_path, data_dir=tmp_path)
    assert run.returncode == 1
    assert len(run.stderr.splitlines()) == 1
    assert "cannot be read from" in run.stderr


def test_folder_that_cannot_be_made_is_one_line(genuine, tmp_path):
    (tmp_path / "FSDD").write_text("a file where the folder should be")
    with pytest.raises(UserError) as error:
        load_recordings(tmp_path)
    assert_one_line(error, tmp_path / ARCHIVE)


def test_unreadable_archive_is_not_called_damaged(genuine, path, monkeypatch):
    path.write_bytes(genuine)

    def refuse(name):
        raise PermissionError(13, "Permission denied", str(name))

    monkeypatch.setattr(spoken_digits.gzip, "open", refuse)
    with pytest.raises(UserError) as error:
        load_recordings(path.parents[1])
    assert_one_line(error, "cannot be read", "Permission denied", path)
    assert "damaged" not in str(error.value)
    assert path.read_bytes() == genuine


@posix
def test_pipe_in_place_of_the_archive_does_not_hang(genuine, path):
    os.mkfifo(path)
    with pytest.raises(UserError):
        load_recordings(path.parents[1])


def test_mistake_in_the_code_is_not_blamed_on_the_file(genuine, path, monkeypatch):
    path.write_bytes(genuine)
    monkeypatch.delattr(spoken_digits, "SHA256")
    with pytest.raises(NameError):
        load_recordings(path.parents[1])


# ------------------------------------------------------------------------------
# Hostile archives
# ------------------------------------------------------------------------------

SOUND = wav(tone(500))
NAME = f"{FOLDER}/9_theo_49.wav"


@pytest.mark.parametrize(
    "hostile",
    [
        member("../../x.wav", SOUND),
        member("/etc/9_theo_49.wav", SOUND),
        member(f"../{NAME}", SOUND),
        member(f"/{NAME}", SOUND),
        member(f"{NAME}/../../x.wav", SOUND),
        member(f"{NAME}\n", SOUND),
        member(f"{FOLDER}/9_theo_50.wav", SOUND),
        member(f"{FOLDER}/9_theo_049.wav", SOUND),
        member(f"{FOLDER}/10_theo_1.wav", SOUND),
        member(f"{FOLDER}/9_nobody_1.wav", SOUND),
        member(f"{FOLDER}/9_theo_\N{SUPERSCRIPT TWO}.wav", SOUND),
        member(NAME, type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member(NAME, type=tarfile.LNKTYPE, linkname=f"{FOLDER}/2_george_20.wav"),
        member(NAME, type=tarfile.FIFOTYPE),
        member(NAME, type=tarfile.CHRTYPE),
        member(NAME, type=tarfile.DIRTYPE),
    ],
    ids=lambda hostile: f"{hostile[0].name!r} {hostile[0].type}",
)
def test_members_that_are_no_recordings_are_passed_over(hostile, genuine, path):
    path.write_bytes(packed(hostile, *genuine_members()))
    assert_all_read(load_recordings(path.parents[1]))
    assert list(path.parents[1].rglob("*")) == [path.parent, path]


def test_sparse_member_of_huge_size_is_not_read(genuine, path):
    """A few bytes that claim to be a terabyte of zeros must not fill the memory."""
    headers = {"GNU.sparse.size": str(2**40), "GNU.sparse.map": "0,0"}
    sparse = member(NAME, pax_headers=headers)
    path.write_bytes(packed(sparse, *genuine_members()))
    assert_all_read(load_recordings(path.parents[1]))


@pytest.mark.parametrize("claimed", [2**33 - 1, 2**60])
def test_member_that_claims_more_than_there_is(claimed, genuine, path):
    header = member(NAME, size=claimed)[0].tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(gzip.compress(header + SOUND))
    with pytest.raises(UserError, match="damaged"):
        load_recordings(path.parents[1])


@pytest.mark.parametrize(
    "headers",
    [
        {"size": "9" * 30},
        {"size": "-1"},
        {"GNU.sparse.size": "1", "GNU.sparse.map": "one,two"},
        {"GNU.sparse.name": NAME, "GNU.sparse.realsize": "9" * 20},
    ],
    ids=str,
)
def test_absurd_numbers_in_a_header(headers, genuine, path):
    absurd = packed(member(NAME, SOUND, pax_headers=headers))
    path.write_bytes(absurd)
    with pytest.raises(UserError, match="damaged"):
        load_recordings(path.parents[1])


def test_thousands_of_headers_for_one_member(genuine, path):
    """tarfile reads a header that belongs to the next one by calling itself."""
    header = member("././@LongLink", b"a", type=tarfile.GNUTYPE_LONGNAME)[0]
    block = header.tobuf(tarfile.GNU_FORMAT) + b"a".ljust(512, b"\0")
    path.write_bytes(gzip.compress(5_000 * block))
    with pytest.raises(UserError, match="damaged"):
        load_recordings(path.parents[1])


def test_bomb_is_not_unpacked_beyond_the_limit(genuine, path, monkeypatch):
    """Even the right recordings are refused when they come with too much else."""
    monkeypatch.setattr(spoken_digits, "MAX_UNPACKED", 200_000)
    path.write_bytes(packed(*genuine_members(), member("zeros", b"\0" * 300_000)))
    read = []

    class Watched(gzip.GzipFile):
        def read(self, size=-1):
            read.append(size)
            return super().read(size)

    monkeypatch.setattr(spoken_digits.gzip, "open", Watched)
    with pytest.raises(UserError, match="damaged"):
        load_recordings(path.parents[1])
    assert read == [200_001]


def test_no_damage_to_an_archive_raises_anything_else(genuine, path):
    """Bytes changed at random inside the archive, where gzip notices nothing."""
    rng = random.Random(0)
    original = gzip.decompress(genuine)
    headers = [
        n for n in range(0, len(original), 512) if b"ustar" in original[n:][:512]
    ]
    for _ in range(150):
        content = bytearray(original)
        for _ in range(rng.randint(1, 4)):
            start = rng.choice(headers)
            content[start + rng.randrange(512)] = rng.randrange(256)
            total = sum(content[start : start + 512])  # a checksum that fits again
            total += 8 * 32 - sum(content[start + 148 : start + 156])
            content[start + 148 : start + 156] = b"%06o\0 " % total
        path.write_bytes(gzip.compress(content, compresslevel=1))
        files = spoken_digits._read_archive(path)
        assert files is None or list(files) == list(recording_files())


# ------------------------------------------------------------------------------
# The three data sets
# ------------------------------------------------------------------------------


@pytest.fixture
def numbered(monkeypatch):
    """All 3,000 recordings; instead of a sound, an image shows the recording's number.

    Returns a function that gives the recordings which a part's images come from.
    """
    recordings = [
        spoken_digits.Recording(digit, voice, index, torch.tensor([number]))
        for number, (digit, voice, index) in enumerate(
            (digit, voice, index)
            for digit in range(10)
            for voice in VOICES
            for index in range(50)
        )
    ]
    monkeypatch.setattr(spoken_digits, "load_recordings", lambda data_dir: recordings)
    monkeypatch.setattr(spoken_digits, "to_image", lambda number: number)
    return lambda images: [recordings[number] for number in images.flatten()]


def parts(data):
    return [data.train_images, data.val_images, data.test_images]


@pytest.mark.parametrize("name", ["spoken", "speakers", "new-voices"])
def test_every_recording_is_in_exactly_one_part(name, numbered):
    numbers = torch.cat(parts(load_spoken(name, "unused"))).flatten().tolist()
    assert sorted(numbers) == list(range(3_000))


@pytest.mark.parametrize("name", ["spoken", "speakers"])
def test_recordings_0_to_4_test_and_5_to_9_validate(name, numbered):
    indices = [
        {recording.index for recording in numbered(images)}
        for images in parts(load_spoken(name, "unused"))
    ]
    assert indices == [set(range(10, 50)), set(range(5, 10)), set(range(5))]


def test_no_voice_of_new_voices_is_in_two_parts(numbered):
    data = load_spoken("new-voices", "unused")
    train, val, test = (
        {recording.voice for recording in numbered(images)} for images in parts(data)
    )
    assert (len(train), len(val), len(test)) == (4, 1, 1)
    assert train | val | test == set(VOICES)
    assert [len(part) for part in parts(data)] == [2_000, 500, 500]


def test_any_two_voices_can_be_kept_back(numbered):
    data = load_spoken("new-voices", "unused", "george", "theo")
    assert {recording.voice for recording in numbered(data.val_images)} == {"george"}
    assert {recording.voice for recording in numbered(data.test_images)} == {"theo"}
    for pair in (("theo", "theo"), ("theo", "nobody")):
        with pytest.raises(ValueError, match="not two of"):
            load_spoken("new-voices", "unused", *pair)


def test_unknown_data_set_is_an_error():
    with pytest.raises(ValueError, match="whispered"):
        load_spoken("whispered", "unused")


@pytest.mark.parametrize("name", ["spoken", "speakers", "new-voices"])
def test_labels_say_what_the_recordings_are(name, numbered):
    data = load_spoken(name, "unused")
    for images, labels in zip(
        parts(data), [data.train_labels, data.val_labels, data.test_labels], strict=True
    ):
        assert labels.dtype == torch.int64
        said = [data.classes[label] for label in labels]
        if name == "speakers":
            assert said == [recording.voice for recording in numbered(images)]
        else:
            assert said == [str(recording.digit) for recording in numbered(images)]


def test_spoken_and_speakers_differ_only_in_their_labels(numbered):
    spoken, speakers = (load_spoken(name, "unused") for name in ("spoken", "speakers"))
    assert all(map(torch.equal, parts(spoken), parts(speakers)))
    assert spoken.classes == list("0123456789")
    assert speakers.classes == sorted(VOICES)


@pytest.mark.parametrize("name", ["spoken", "new-voices"])
def test_the_first_recordings_are_a_fair_sample(name, numbered):
    """A smaller training set, which takes the first ones, has every digit and voice."""
    torch.manual_seed(1)
    first = load_spoken(name, "unused")
    torch.manual_seed(2)  # the caller's seed changes nothing
    assert torch.equal(first.train_images, load_spoken(name, "unused").train_images)
    chosen = numbered(first.train_images[:200])
    digits = Counter(recording.digit for recording in chosen)
    voices = Counter(recording.voice for recording in chosen)
    assert len(digits) == 10
    assert min(digits.values()) >= 8
    assert len(voices) == (4 if name == "new-voices" else 6)
    assert min(voices.values()) >= 20


# ------------------------------------------------------------------------------
# From sound to image
# ------------------------------------------------------------------------------


def test_image_is_like_those_of_mnist():
    image = to_image(tone(440))
    assert image.dtype == torch.uint8
    assert image.shape == (28, 28)
    assert image.max() == 255
    assert image.min() == 0


def band_of(hertz):
    """Return the row whose band has its peak nearest to a frequency."""

    def mel(hertz):
        return 2595 * np.log10(1 + hertz / 700)

    step = (mel(4_000) - mel(50)) / 29
    return 28 - round((mel(hertz) - mel(50)) / step)


@pytest.mark.parametrize("hertz", [110, 220, 440, 880, 1_760, 2_500, 3_500, 3_800])
def test_tone_lights_the_band_of_its_frequency(hertz):
    image = to_image(tone(hertz, 1)).float()
    assert image.mean(1).argmax() == band_of(hertz)


def test_low_frequencies_are_at_the_bottom():
    rows = [int(to_image(tone(hertz)).sum(1).argmax()) for hertz in (60, 500, 3_950)]
    assert rows[0] == 27
    assert 0 < rows[1] < 27
    assert rows[2] == 0


def test_every_frequency_from_50_to_4000_hz_shows():
    for hertz in range(75, 3_950, 75):
        assert to_image(tone(hertz, 1)).max() == 255
    bands = spoken_digits._mel_bands()
    assert bands.shape == (28, 257)
    assert (bands.max(1).values > 0.5).all()  # no band falls between two frequencies


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
    sound = torch.cat([tone(2_000, 0.6), tone(500, 1), tone(2_000, 0.6)])
    assert torch.equal(to_image(sound), to_image(sound[4_800:-4_800]))


def test_loudness_does_not_matter():
    quiet, loud = (to_image(factor * speech_like()) for factor in (0.01, 1))
    assert (quiet.int() - loud.int()).abs().max() <= 1


def test_constant_in_a_recording_is_no_sound():
    plain, shifted = (to_image(tone(500) + constant) for constant in (0, 0.1))
    assert (plain.int() - shifted.int()).abs().max() <= 1


def test_each_decibel_counts_the_same():
    """Half-way down the range, 22.5 decibels below the loudest, is half as bright."""
    sound = torch.cat([tone(500, 0.5), 10 ** (-22.5 / 20) * tone(500, 0.5)])
    bright, half = to_image(sound)[band_of(500)].float()[[6, 21]]
    assert abs(bright - 255) <= 3
    assert abs(half - 127.5) <= 5


def test_silence_is_black():
    assert to_image(torch.zeros(4_000)).max() == 0


# ------------------------------------------------------------------------------
# Your own sounds
# ------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path):
    """A function that writes a file and reads it as a sound."""

    def own(content):
        path = tmp_path / "my_digit.wav"
        path.write_bytes(content)
        return read_own_sound(path)

    return own


def assert_alike(first, second):
    assert (first.float() - second.float()).abs().mean() < 3  # of 255
    assert torch.corrcoef(torch.stack([first, second]).flatten(1).float())[0, 1] > 0.99


@pytest.mark.parametrize(
    "rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000]
)
@pytest.mark.parametrize("channels", [1, 2])
def test_rate_and_channels_make_no_difference(rate, channels, own):
    image = own(wav(speech_like(rate), rate=rate, channels=channels))
    assert_alike(image, to_image(speech_like()[4_000:-4_000]))


@pytest.mark.parametrize("encoding", [1, EXTENSIBLE_PCM])
@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("bits", [16, 24, 32])
def test_width_makes_no_difference(bits, channels, encoding, own):
    sound = speech_like()
    image = own(wav(sound, bits=bits, channels=channels, encoding=encoding))
    assert_alike(image, own(wav(sound)))


def test_8_bits_show_the_same_in_what_is_loud(own):
    """256 steps of loudness add noise 40 decibels below: faint pixels change."""
    rough, fine = (own(wav(speech_like(), bits=bits)).float() for bits in (8, 16))
    assert (rough - fine)[fine > 100].abs().mean() < 3


def test_channels_are_mixed(own):
    left = torch.cat([torch.zeros(4_000), tone(500, 0.4), torch.zeros(8_000)])
    right = torch.cat([torch.zeros(7_200), tone(2_000, 0.4), torch.zeros(4_800)])
    both = torch.stack([left, right], 1).flatten()
    stereo = bytearray(wav(both, channels=1))
    struct.pack_into("<H", stereo, 22, 2)  # channels
    struct.pack_into("<H", stereo, 32, 4)  # bytes per frame
    assert_alike(own(bytes(stereo)), own(wav((left + right) / 2)))


def test_other_chunks_and_what_follows_the_sound_are_passed_over(own):
    before = chunk(b"JUNK", b"odd") + chunk(b"LIST", b"INFOISFT")
    after = chunk(b"LIST", b"bytes") + b"and a tail that is no chunk"
    content = wav(speech_like(), before=before, after=after)
    assert torch.equal(own(content), own(wav(speech_like())))


@pytest.mark.parametrize("rate", [4_000, 16_000, 44_100, 192_000])
def test_tone_keeps_its_frequency_and_loudness_at_every_rate(rate):
    sound = resample(tone(1_000, 1, rate), rate)
    assert len(sound) == 8_000
    assert torch.fft.rfft(sound).abs().argmax() == 1_000  # Hz: the sound lasts 1 s
    torch.testing.assert_close(sound, tone(1_000, 1), atol=0.01, rtol=0)


@pytest.mark.parametrize("hertz", [4_100, 5_000, 7_000, 8_500, 15_000])
def test_what_lies_above_4000_hz_disappears(hertz):
    """Taking every sixth sample would turn 7,000 Hz into a tone of 1,000 Hz."""
    sound = resample(tone(hertz, 1, 48_000), 48_000)
    assert sound.abs().max() < 0.005  # one hundredth of the tone


def test_silence_at_both_ends_is_trimmed():
    spoken = speech_like()[4_000:-4_000]
    for silences in ((4_000, 4_000), (800, 16_000), (0, 0)):
        before, after = map(torch.zeros, silences)
        trimmed = trim_silence(torch.cat([before, spoken, after]))
        assert abs(len(trimmed) - len(spoken)) <= 640  # samples: faded ends


@pytest.mark.parametrize("decibels", [25, 35, 45])
def test_background_noise_is_trimmed(decibels):
    noise = torch.randn(24_000, generator=torch.Generator().manual_seed(0))
    sound = noise * 0.35 * 10 ** (-decibels / 20)
    sound[14_000:18_800] += speech_like()[4_000:-4_000]
    assert 4_000 <= len(trim_silence(sound)) <= 5_120


def test_gap_within_a_digit_stays():
    sound = torch.cat([tone(500, 0.3), torch.zeros(1_440), tone(2_000, 0.1)])
    assert len(trim_silence(sound)) >= len(sound) - 800


def test_click_of_the_mouse_is_not_the_digit():
    sound = torch.zeros(16_000)
    sound[800:840] = 0.9
    sound[8_000:12_800] = speech_like()[4_000:-4_000]
    assert 4_000 <= len(trim_silence(sound)) <= 4_960


HOW_TO = "ffmpeg -i recording.m4a my_digit.wav"


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", ["not a WAV file", HOW_TO]),
        (b"\0\0\0\x1cftypM4A ", ["not a WAV file", HOW_TO]),
        (b"RIFF\4\0\0\0AVI ", ["not a WAV file", HOW_TO]),
        (b"RIFF\4\0\0\0WAVE", ["incomplete"]),
        (wav(speech_like())[:1_000], ["incomplete"]),
        (wav(speech_like())[:-1], ["incomplete"]),
        (wav(speech_like())[:30], ["incomplete"]),
        (wav(speech_like(), encoding=3, bits=32), ["whole numbers", HOW_TO]),
        (wav(speech_like(), encoding=EXTENSIBLE_FLOAT), ["whole numbers", HOW_TO]),
        (wav(speech_like(), encoding=0), ["compressed", HOW_TO]),
        (wav(speech_like(), channels=0), ["0 channels"]),
        (wav(speech_like(), rate=0), ["0 times per second"]),
        (wav(speech_like(), rate=2_000), ["2000 times per second"]),
        (wav(tone(500, 0.05)), ["lasts 0.05 s"]),
        (wav(torch.zeros(0)), ["lasts 0.00 s"]),
        (wav(torch.zeros(48_000)), ["lasts 6.00 s", "5 s"]),
        (wav(torch.zeros(8_000)), ["silence"]),
        (wav(torch.full((8_000,), 0.3)), ["silence"]),
        (wav(0.0001 * torch.randn(8_000)), ["silence"]),
        (
            wav(torch.cat([torch.zeros(4_000), tone(500, 0.08), torch.zeros(4_000)])),
            ["only 0.0", "too short"],
        ),
    ],
)
def test_each_fault_of_a_sound_is_one_line(content, words, own):
    with pytest.raises(UserError) as error:
        own(content)
    assert_one_line(error, "my_digit.wav", *words)


def test_file_that_is_too_large_is_not_read(own, monkeypatch):
    monkeypatch.setattr(spoken_digits, "MAX_FILE_SIZE", 1_000)
    with pytest.raises(UserError) as error:
        own(wav(speech_like()))
    assert_one_line(error, "larger than 32 MiB")


def test_limit_lets_five_seconds_of_studio_quality_pass():
    studio = 5 * 192_000 * 4 * 8  # seconds, rate, bytes, channels
    assert studio < spoken_digits.MAX_FILE_SIZE == 32 * 2**20


def test_missing_file_and_folder_are_one_line(tmp_path):
    with pytest.raises(UserError) as error:
        read_own_sound(tmp_path / "nothing.wav")
    assert_one_line(error, "there is no file", "nothing.wav", HOW_TO)
    with pytest.raises(UserError) as error:
        read_own_sound(tmp_path)
    assert_one_line(error, tmp_path)


@posix
def test_pipe_and_device_do_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    for path in (tmp_path / "pipe.wav", "/dev/zero"):
        with pytest.raises(UserError) as error:
            read_own_sound(path)
        assert_one_line(error, path)


def test_faulty_disk_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "my_digit.wav"
    path.write_bytes(wav(speech_like()))

    class Faulty(io.BytesIO):
        def read(self, size):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(
        spoken_digits, "open", lambda *arguments: Faulty(), raising=False
    )
    with pytest.raises(UserError) as error:
        read_own_sound(path)
    assert_one_line(error, path, "Input/output error")


def test_mistake_in_the_code_is_not_blamed_on_the_sound(own, monkeypatch):
    monkeypatch.delattr(spoken_digits, "WINDOW")
    with pytest.raises(NameError):
        own(wav(speech_like()))


def test_no_damage_to_a_sound_raises_anything_else(own):
    rng = random.Random(0)
    original = wav(speech_like(), encoding=EXTENSIBLE_PCM, bits=24)
    for _ in range(300):
        content = bytearray(original[: rng.choice([70, 9_000, len(original)])])
        for _ in range(rng.randint(1, 3)):
            content[rng.randrange(70)] = rng.choice([0, 1, 2, 127, 255])
        with contextlib.suppress(UserError):
            assert own(bytes(content)).shape == (28, 28)


# ------------------------------------------------------------------------------
# The real recordings
# ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(real_fsdd_dir):
    """All real recordings; a download would be a failure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spoken_digits, "download", None)
        return load_recordings(real_fsdd_dir)


def test_real_archive_has_fifty_of_each_digit_and_voice(real):
    assert len(real) == 3_000
    counts = Counter((recording.digit, recording.voice) for recording in real)
    assert len(counts) == 60
    assert set(counts.values()) == {50}
    for recording in real:
        assert recording.samples.dtype == torch.float32
        assert 0.1 < len(recording.samples) / 8_000 < 2.4
        assert 0.01 < recording.samples.abs().max() <= 1


def test_real_images_are_all_different_and_always_the_same(real, real_fsdd_dir):
    images = torch.cat(parts(load_spoken("spoken", real_fsdd_dir)))
    assert images.shape == (3_000, 28, 28)
    assert images.dtype == torch.uint8
    shown = {image.numpy().tobytes() for image in images}
    assert len(shown) == 3_000
    assert shown == {to_image(r.samples).numpy().tobytes() for r in real}


def test_real_recording_read_as_an_own_sound_has_the_same_image(real, own):
    """As if it had been recorded with silence around, and in stereo at 48,000 Hz."""
    errors = []
    for recording in real[::300]:
        sound = recording.samples - recording.samples.mean()
        sound = torch.cat([torch.zeros(4_000), sound, torch.zeros(6_000)])
        spectrum = torch.fft.rfft(sound)
        sound = 6 * torch.fft.irfft(spectrum, n=6 * len(sound))
        image = own(wav(sound.clamp(-1, 1), rate=48_000, channels=2))
        errors.append(
            (image.float() - to_image(recording.samples).float()).abs().mean()
        )
    assert torch.stack(errors).median() < 12  # of 255; trimming may shift it a little
