"""Where the digits come from: files at hand, a download, or the synthetic digits.

Most tests use files that are built like MNIST's but hold only a few random digits, with
their own checksums, and a real HTTP server on 127.0.0.1.
"""

import contextlib
import gzip
import hashlib
import http.server
import os
import runpy
import socket
import ssl
import sys
import threading
from pathlib import Path
from types import ModuleType
from unittest.mock import ANY, Mock

import numpy as np
import pytest
import torch
from torchvision.datasets import MNIST, utils

import backstage.files
from backstage.data import datasets, downloads, mnist, synthetic_digits
from backstage.terminal import UserError
from conftest import ROOT

NOBODY = "http://127.0.0.1:9/"  # the discard port: nothing listens there


@pytest.fixture
def contents(monkeypatch):
    """Four small files in place of MNIST's: name -> packed content, and no mirror."""
    rng = np.random.default_rng(0)
    contents = {}
    for table in ("TRAIN_IMAGES", "TRAIN_LABELS", "TEST_IMAGES", "TEST_LABELS"):
        name, _ = getattr(mnist, table)
        count = 30 if "train" in name else 20
        size = 16 + count * 28 * 28 if "images" in name else 8 + count
        contents[name] = gzip.compress(rng.bytes(size))  # a header, and the digits
        checksum = hashlib.md5(contents[name]).hexdigest()
        monkeypatch.setattr(mnist, table, (name, checksum))
    monkeypatch.setattr(mnist, "MIRRORS", [NOBODY])
    return contents


@pytest.fixture
def raw_dir(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "DATA_DIR", tmp_path / "data")
    folder = tmp_path / "data" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    return folder


def numbered(index):
    """Return digits whose pixels count thousands, and labels that count ones."""
    return (index // 1000).byte()[:, None, None].expand(-1, 28, 28), index % 10


@pytest.fixture
def quick_drawing(monkeypatch):
    """Synthetic digits that are numbered; notes what is asked for."""

    def make_digits(count, seed, progress):
        return numbered(torch.arange(count))

    drawing = Mock(side_effect=make_digits)
    monkeypatch.setattr(synthetic_digits, "make_digits", drawing)
    return drawing


@pytest.fixture
def server(contents, monkeypatch):
    """The only mirror; it answers with a status, and with parts of a file."""
    server = Mock(requests=[], answer=lambda path: (200, contents[path]))

    class Handler(http.server.BaseHTTPRequestHandler):
        log_message = Mock()

        def do_GET(self):
            server.requests.append(self.path.strip("/"))
            answer = iter(server.answer(server.requests[-1]))
            with contextlib.suppress(ConnectionError):  # the client need not read
                self.send_response(next(answer))
                self.end_headers()
                self.wfile.writelines(answer)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.01,)).start()
        server.address = f"http://127.0.0.1:{httpd.server_port}/"
        monkeypatch.setattr(mnist, "MIRRORS", [server.address])
        yield server
        httpd.shutdown()


def check_digits(contents):
    """The digits loaded must be those in the four files."""
    data = datasets.load_raw_data("mnist")
    words = ("MNIST", "MNIST digits", "image", "0 paper, 255 ink", "")
    assert data[:6] == (*words, list("0123456789"))
    tensors = data.train_images, data.train_labels, data.test_images, data.test_labels
    for tensor, content in zip(tensors, contents.values(), strict=True):
        header = 16 if tensor.ndim == 3 else 8
        assert tensor.shape[1:] == (28, 28)[: tensor.ndim - 1]
        assert bytes(tensor.flatten().tolist()) == gzip.decompress(content)[header:]
    assert data.train_labels.dtype == torch.int64


def error_of_loading():
    with pytest.raises(UserError) as error:
        datasets.load_raw_data("mnist")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_mirrors_names_and_checksums_are_those_of_torchvision():
    assert mnist.MIRRORS[0] == "https://ossci-datasets.s3.amazonaws.com/mnist/"
    # torchvision 0.21 has them in another order.
    assert sorted(mnist.MIRRORS) == sorted(MNIST.mirrors)
    assert dict(MNIST.resources) == mnist.FILES


def test_the_data_folder(tmp_path, monkeypatch):
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    for value, folder in (("", ROOT / "data"), ("~/my data", tmp_path / "my data")):
        monkeypatch.setenv("MNIST_DATA_DIR", value)
        assert runpy.run_path(datasets.__file__)["DATA_DIR"] == folder


def test_damaged_files_are_replaced_and_others_kept(
    contents, raw_dir, server, monkeypatch, capsys
):
    short, _, changed, whole = map(bytearray, contents.values())
    short.pop()
    changed[-1] ^= 1
    for name, content in zip(contents, (short, b"", changed, whole), strict=True):
        (raw_dir / name).write_bytes(content)
    # Other programs unpack them; that is neither used nor touched.
    (raw_dir / "train-images-idx3-ubyte").write_bytes(b"damaged")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    check_digits(contents)
    damaged = list(contents)[:3]
    assert set(server.requests) == set(damaged)
    kept = {path.name: path.read_bytes() for path in raw_dir.iterdir()}
    assert kept == contents | {"train-images-idx3-ubyte": b"damaged"}
    output, errors = capsys.readouterr()
    assert output == "".join(
        f"{raw_dir / name} is damaged: getting it again.\n"
        f"Downloading {name} to {raw_dir}\n"
        for name in damaged
    )
    assert errors.count("B/s]") >= 3  # progress bars, on a terminal


def test_what_stands_in_the_way_is_named_and_left_alone(contents, raw_dir, server):
    check_digits(contents)
    foreign = gzip.compress(b"clothes")  # FashionMNIST has files of the same names
    (raw_dir / "t10k-labels-idx1-ubyte.gz").write_bytes(foreign)
    with pytest.raises(UserError, match=r"is not the MNIST file.* move it away"):
        datasets.load_raw_data("auto")
    assert (raw_dir / "t10k-labels-idx1-ubyte.gz").read_bytes() == foreign
    images = raw_dir / "train-images-idx3-ubyte.gz"
    images.unlink()
    images.mkdir()
    error = error_of_loading()
    assert images.name in error and "copy the four MNIST .gz files" in error
    assert set(os.listdir(raw_dir)) == set(contents)


def test_mirrors_are_tried_in_order(contents, raw_dir, server, monkeypatch, capsys):
    def answer(path):
        number, name = path.split("/")
        page, file = b"<html>Please log in to the hotel's network", contents[name]
        parts = {"0": b"", "1": page, "2": file[:-20] + bytes(20), "3": file}[number]
        return 404 if number == "0" else 200, parts

    server.answer = answer
    mirrors = [f"{server.address}{number}/" for number in range(5)]
    monkeypatch.setattr(mnist, "MIRRORS", [NOBODY, *mirrors])
    check_digits(contents)
    check_digits(contents)
    # torchvision asks twice: where the file is (it follows redirections), and for it.
    asked = [f"{n}/{name}" for name in contents for n in [0, 1, 1, 2, 2, 3, 3]]
    assert server.requests == asked
    assert capsys.readouterr().err == ""  # no progress bar where there is no terminal

    first = next(iter(contents))
    (raw_dir / first).unlink()
    monkeypatch.setattr(mnist, "MIRRORS", [NOBODY, *mirrors[:3]])
    start, *reasons = error_of_loading().split(". To get")[0].split("; ")
    assert set(os.listdir(raw_dir)) == set(contents) - {first}
    folder = f"MNIST is not complete in {raw_dir} and cannot be downloaded: "
    assert start.startswith(f"{folder}{NOBODY}{first}: ") and "refused" in start
    assert reasons == [
        f"{mirrors[0]}{first}: HTTP Error 404: Not Found",
        f"{mirrors[1]}{first}: the file is not the original one",
        f"{mirrors[2]}{first}: the file is not the original one",
    ]


def test_a_silent_server_is_given_up(contents, raw_dir, server, monkeypatch):
    before = socket.getdefaulttimeout()
    over = threading.Event()

    def silent(path):
        if path.startswith("first"):
            over.wait(60)
        yield 200
        yield b"the first bytes"
        over.wait(60)

    server.answer = silent
    monkeypatch.setattr(downloads, "TIMEOUT", 0.2)
    mirrors = [f"{server.address}first/", f"{server.address}half-way/"]
    monkeypatch.setattr(mnist, "MIRRORS", mirrors)
    assert error_of_loading().count("timed out") == 2
    over.set()
    assert socket.getdefaulttimeout() == before


def test_what_fails_before_is_explained(contents, raw_dir, monkeypatch):
    for error, advice in (
        (socket.gaierror(-2, "Name not known"), "connect to the internet"),
        (ssl.SSLError(1, "CERTIFICATE_VERIFY_FAILED"), "run 'Install Certificates"),
        (ssl.SSLError(1, "CERTIFICATE_VERIFY_FAILED"), "variable SSL_CERT_FILE"),
    ):
        monkeypatch.setattr(socket, "create_connection", Mock(side_effect=error))
        message = error_of_loading()
        assert error.strerror in message and advice in message

    class Misfit(ModuleType):
        def __getattr__(self, name):
            raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setitem(sys.modules, "torchvision.datasets.utils", Misfit("utils"))
    assert "torchvision does not fit this torch (" in error_of_loading()


def fetch(path):
    downloads.download(["http://here/"], path, lambda p: p.read_bytes() == b"whole")


@pytest.fixture
def meanwhile(monkeypatch):
    """A download: half of the file, what a test does meanwhile, and all of it."""
    meanwhile = Mock()

    def download_url(url, root, filename):
        Path(root).mkdir()
        Path(root, filename).write_bytes(b"half")
        meanwhile(url, Path(root))
        Path(root, filename).write_bytes(b"whole")

    monkeypatch.setattr(utils, "download_url", download_url)
    return meanwhile


def test_a_file_appears_when_it_is_whole(tmp_path, meanwhile):
    path = tmp_path / "new" / "folder" / "sounds.tar.gz"
    seen = []
    meanwhile.side_effect = lambda url, folder: seen.append(
        (url, folder.parent, path.exists(), socket.getdefaulttimeout())
    )
    fetch(path)
    assert seen == [("http://here/", path.parent, False, 10)]
    assert path.read_bytes() == b"whole"


def test_what_a_killed_download_leaves_is_cleared_after_a_day(tmp_path, meanwhile):
    fetch(tmp_path / "sounds")
    leftover = meanwhile.call_args.args[1]
    leftover.mkdir()
    (leftover / "sounds").write_bytes(b"half")
    os.utime(leftover, (0, 0))
    fetch(tmp_path / "sounds")
    assert set(os.listdir(tmp_path)) == {"sounds"}


def test_two_scripts_may_download_at_once(tmp_path, meanwhile, monkeypatch):
    path = tmp_path / "sounds"

    def other(url, folder):
        meanwhile.side_effect = None
        fetch(path)  # is ready first
        assert set(os.listdir(tmp_path)) == {path.name, folder.name}

    meanwhile.side_effect = other
    fetch(path)
    # Windows: the other has the file open.
    monkeypatch.setattr(os, "replace", Mock(side_effect=PermissionError))
    fetch(path)
    os.replace.assert_called_once()  # nothing else would put it in place at once
    assert path.read_bytes() == b"whole"
    assert set(os.listdir(tmp_path)) == {path.name}


def test_auto_goes_on_without_network(contents, raw_dir, capsys, quick_drawing):
    data = datasets.load_raw_data("auto")
    assert (data.name, data.title) == ("synthetic", "synthetic digits")
    output = " ".join(capsys.readouterr().out.split())
    notice, rest = output.split(" Going on ")
    reason = f" NOTICE: MNIST is not complete in {raw_dir} and cannot be downloaded: "
    assert f"{raw_dir}{reason}{NOBODY}" in notice and "refused" in notice
    assert rest == (
        "with synthetic digits, drawn by this project: everything works, but figures "
        "differ from those in the guide. To get the real digits, connect to the "
        f"internet and run again, or copy the four MNIST .gz files into {raw_dir}. "
        "Drawing 70,000 synthetic digits"
    )


def test_an_unknown_voice_is_refused():
    with pytest.raises(ValueError, match=r"one of george, jackson.*'nobody'"):
        datasets.load_raw_data("new-voices", "nobody")


def load_synthetic(name="synthetic"):
    """Load them; the first 60,000 must be for training, the others for the test."""
    data = datasets.load_raw_data(name)
    parts = torch.arange(70_000).split([60_000, 10_000])
    expected = *numbered(parts[0]), *numbered(parts[1])
    assert all(map(torch.equal, data[6:10], expected))


def test_digits_are_drawn_once(raw_dir, quick_drawing, monkeypatch, tmp_path):
    load_synthetic()
    load_synthetic()
    quick_drawing.assert_called_once_with(70_000, seed=0, progress=ANY)
    edited = tmp_path / "edited.py"
    edited.write_text("# another hand\n")
    monkeypatch.setattr(synthetic_digits, "__file__", str(edited))
    load_synthetic()
    assert quick_drawing.call_count == 2


def test_damaged_kept_digits_are_drawn_again(raw_dir, quick_drawing):
    load_synthetic()
    cache = datasets.DATA_DIR / "synthetic_digits.npz"
    good = cache.read_bytes()
    wrong_byte = good[:1_000_000] + b"?" + good[1_000_001:]
    damaged = [b"", b"garbage", good[: len(good) // 2], wrong_byte]
    for times, content in enumerate(damaged, start=2):
        cache.write_bytes(content)
        load_synthetic()
        assert quick_drawing.call_count == times
    assert cache.read_bytes() == good


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full to write to")
def test_digits_need_no_disk(raw_dir, contents, monkeypatch, quick_drawing, capsys):
    (datasets.DATA_DIR / "full").symlink_to("/dev/full")
    with monkeypatch.context() as patch:
        patch.setattr(backstage.files, "temporary_name", lambda p: p.with_name("full"))
        load_synthetic()
    output = " ".join(capsys.readouterr().out.split())
    assert output.endswith("cannot be written: No space left on device.")
    assert set(os.listdir(datasets.DATA_DIR)) == {"MNIST"}
    raw_dir.rmdir()
    raw_dir.write_text("a file, not a folder")
    monkeypatch.setattr(datasets, "DATA_DIR", raw_dir)
    load_synthetic("auto")
    assert "They will be drawn again next time" in capsys.readouterr().out
