"""Where the digits come from: files at hand, a download, or the synthetic digits.

Most tests use files that are built like MNIST's but hold only a few digits, with their
own checksums, and a real HTTP server on 127.0.0.1.
"""

import contextlib
import gzip
import hashlib
import http.server
import json
import os
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torchvision.datasets import MNIST, utils

from backstage.data import datasets, downloads, mnist, synthetic_digits
from backstage.terminal import UserError
from conftest import (
    ROOT,
    on_small_disk,
    prepared,
    read_only,
    run_main,
    run_python,
    script_environment,
)

NOBODY = "http://127.0.0.1:9/"  # the discard port: nothing listens there
TABLES = ("TRAIN_IMAGES", "TRAIN_LABELS", "TEST_IMAGES", "TEST_LABELS")
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")


def packed(content):
    return gzip.compress(content, mtime=0)


def md5(content):
    return hashlib.md5(content).hexdigest()


def digit_file(array):
    """Return an array in MNIST's IDX format."""
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + (
        array.tobytes()
    )


@pytest.fixture
def contents(monkeypatch):
    """Four small files in place of MNIST's: name -> packed content, and no mirror."""
    rng = np.random.default_rng(0)
    contents = {}
    for table in TABLES:
        name, _ = getattr(mnist, table)
        shape = (30,) if "train" in name else (20,)
        shape += (28, 28) if "images" in name else ()
        array = rng.integers(0, 256 if "images" in name else 10, shape, dtype=np.uint8)
        contents[name] = packed(digit_file(array))
        monkeypatch.setattr(mnist, table, (name, md5(contents[name])))
    monkeypatch.setattr(mnist, "MIRRORS", [NOBODY])
    return contents


@pytest.fixture
def raw_dir(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "DATA_DIR", tmp_path / "data")
    folder = tmp_path / "data" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def complete_dir(raw_dir, contents):
    """A folder with all four files."""
    for name, content in contents.items():
        (raw_dir / name).write_bytes(content)
    return raw_dir


@pytest.fixture
def quick_drawing(monkeypatch):
    """Blank synthetic digits; counts how often they were drawn."""
    calls = []

    def make_digits(count, seed, progress=None):
        calls.append(count)
        return torch.zeros(count, 28, 28, dtype=torch.uint8), torch.arange(count) % 10

    monkeypatch.setattr(synthetic_digits, "make_digits", make_digits)
    return calls


@contextlib.contextmanager
def server(answer, certificate=None):
    """Serve `answer(name) -> (status, content)`; yield the address and the requests.

    A third value is the length that is announced: when less is sent, the connection
    was cut. The content may be a generator of parts, which takes its time.
    A file with key and certificate makes it an HTTPS server.
    """
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path.strip("/"))
            status, content, *length = answer(requests[-1])
            with contextlib.suppress(ConnectionError):  # the client need not read
                self.send_response(status)
                length = length[0] if length else len(content)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                for part in [content] if isinstance(content, bytes) else content:
                    self.wfile.write(part)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
        httpd.handle_error = lambda *arguments: None  # clients may break off
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        try:
            protocol = "https" if certificate else "http"
            yield f"{protocol}://127.0.0.1:{httpd.server_port}/", requests
        finally:
            httpd.shutdown()
            thread.join()


def good_answers(contents):
    return lambda name: (200, contents[name])


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def check_digits(contents):
    """The digits loaded must be those in the four files."""
    data = datasets.load_raw_data("mnist")
    assert data.name == "MNIST"
    train_images, train_labels, test_images, test_labels = map(
        gzip.decompress, contents.values()
    )
    assert data.train_images.shape == (30, 28, 28)
    assert data.train_images.numpy().tobytes() == train_images[16:]
    assert data.train_labels.tolist() == list(train_labels[8:])
    assert data.test_images.numpy().tobytes() == test_images[16:]
    assert data.test_labels.tolist() == list(test_labels[8:])
    assert data.train_labels.dtype == torch.int64


def error_of_loading():
    with pytest.raises(UserError) as error:
        datasets.load_raw_data("mnist")
    assert "\n" not in str(error.value)
    return str(error.value)


# ------------------------------------------------------------------------------
# Files at hand
# ------------------------------------------------------------------------------


def test_mirrors_names_and_checksums_are_those_of_torchvision():
    # torchvision 0.21 has them in another order.
    assert sorted(mnist.MIRRORS) == sorted(MNIST.mirrors)
    assert dict(MNIST.resources) == mnist.FILES


def test_good_files_are_used_without_network_and_unpacked_nowhere(
    contents, complete_dir, capsys
):
    check_digits(contents)
    assert capsys.readouterr().out == ""
    assert names_in(complete_dir) == set(contents)


def test_unpacked_files_of_other_programs_are_neither_used_nor_touched(
    contents, complete_dir
):
    other = complete_dir / "train-images-idx3-ubyte"
    other.write_bytes(b"damaged")
    check_digits(contents)
    assert other.read_bytes() == b"damaged"


DAMAGES = {
    "truncated": lambda content: content[:-10],
    "empty": lambda content: b"",
    "wrong byte": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("number", range(4))
def test_a_damaged_file_and_no_other_is_downloaded_again(
    contents, complete_dir, monkeypatch, capsys, damage, number
):
    name, good = list(contents.items())[number]
    (complete_dir / name).write_bytes(damage(good))
    with server(good_answers(contents)) as (address, requests):
        monkeypatch.setattr(mnist, "MIRRORS", [address])
        check_digits(contents)
    assert set(requests) == {name}
    assert (complete_dir / name).read_bytes() == good
    assert f"{name} is damaged: getting it again.\n" in capsys.readouterr().out


def test_a_folder_in_place_of_a_file_is_named(contents, complete_dir, monkeypatch):
    name = "train-images-idx3-ubyte.gz"
    (complete_dir / name).unlink()
    (complete_dir / name).mkdir()
    with server(good_answers(contents)) as (address, _):
        monkeypatch.setattr(mnist, "MIRRORS", [address])
        error = error_of_loading()
    assert name in error and "copy the four MNIST .gz files" in error
    assert names_in(complete_dir) == set(contents)


# ------------------------------------------------------------------------------
# Download
# ------------------------------------------------------------------------------


def test_missing_files_are_downloaded_once(contents, raw_dir, monkeypatch, capsys):
    with server(good_answers(contents)) as (address, requests):
        monkeypatch.setattr(mnist, "MIRRORS", [address])
        check_digits(contents)
        # torchvision asks twice: where the file is (it follows redirections), and for
        # the file.
        assert sorted(requests) == sorted(2 * list(contents))
        check_digits(contents)
        assert len(requests) == 2 * len(contents)
    assert names_in(raw_dir) == set(contents)
    assert capsys.readouterr().err == ""  # no progress bar where there is no terminal


@pytest.mark.parametrize(
    "answer",
    [
        lambda name: (403, b"Forbidden"),
        lambda name: (404, b"Not Found"),
        lambda name: (503, b"Busy"),
        lambda name: (200, b""),
        lambda name: (200, b"<html>Please log in to the hotel's network</html>"),
        lambda name: (200, packed(b"other")),
        lambda name: (200, b"half of the file", 32),
    ],
    ids=["403", "404", "503", "empty", "a web page", "another file", "cut"],
)
def test_the_second_mirror_is_tried(contents, raw_dir, monkeypatch, answer):
    with server(answer) as (bad, _), server(good_answers(contents)) as (good, _):
        monkeypatch.setattr(mnist, "MIRRORS", [bad, good])
        check_digits(contents)
    assert names_in(raw_dir) == set(contents)


def test_wrong_bytes_of_the_right_length_are_refused(contents, raw_dir, monkeypatch):
    with server(lambda name: (200, contents[name][:-20] + bytes(20))) as (address, _):
        monkeypatch.setattr(mnist, "MIRRORS", [address])
        assert f"{address}train-images-idx3-ubyte.gz: the file is not the original" in (
            error_of_loading()
        )
    assert names_in(raw_dir) == set()


def test_every_mirror_that_failed_is_named_with_its_reason(
    contents, raw_dir, monkeypatch
):
    with server(lambda name: (404, b"")) as (address, _):
        monkeypatch.setattr(mnist, "MIRRORS", [address, NOBODY])
        error = error_of_loading()
    assert f"{address}train-images-idx3-ubyte.gz: HTTP Error 404" in error
    assert f"; {NOBODY}train-images-idx3-ubyte.gz: " in error and "refused" in error


def test_a_server_whose_name_is_unknown(contents, raw_dir, monkeypatch):
    def unknown(*arguments, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(mnist, "MIRRORS", ["http://mnist.invalid/"])
    error = error_of_loading()
    assert "mnist.invalid" in error and "Name or service not known" in error
    assert "connect to the internet" in error


def test_a_certificate_that_is_not_trusted(contents, raw_dir, monkeypatch, tmp_path):
    certificate = tmp_path / "certificate.pem"
    try:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
             "-subj", "/CN=127.0.0.1", "-keyout", certificate, "-out", certificate],
            check=True, capture_output=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"openssl cannot make a certificate here ({error})")
    with server(good_answers(contents), certificate) as (address, requests):
        monkeypatch.setattr(mnist, "MIRRORS", [address])
        error = error_of_loading()
    assert "CERTIFICATE_VERIFY_FAILED" in error
    assert "Install Certificates.command" in error and "SSL_CERT_FILE" in error
    assert requests == []


@pytest.mark.parametrize("first", [b"", b"the first bytes"], ids=["first", "half-way"])
def test_a_server_that_is_or_falls_silent_is_given_up(
    contents, raw_dir, monkeypatch, first
):
    monkeypatch.setattr(downloads, "TIMEOUT", 0.2)
    before = socket.getdefaulttimeout()
    over = threading.Event()

    def silent(name):
        def parts():
            yield first
            over.wait(60)

        if not first:
            over.wait(60)
        return 200, parts(), 100

    with server(silent) as (address, _):
        monkeypatch.setattr(mnist, "MIRRORS", [address, address])
        assert error_of_loading().count("timed out") == 2
        over.set()
    assert names_in(raw_dir) == set()
    assert socket.getdefaulttimeout() == before


@pytest.mark.parametrize("error", [RuntimeError, AttributeError, OSError])
def test_a_torchvision_that_does_not_fit_counts_as_no_download(
    contents, raw_dir, monkeypatch, error
):
    class Misfit(ModuleType):
        def __getattr__(self, name):
            raise error("operator torchvision::nms does not exist")

    misfit = Misfit("utils")
    monkeypatch.setitem(sys.modules, "torchvision.datasets.utils", misfit)
    assert "torchvision does not fit this torch (" in error_of_loading()


def test_the_downloader_serves_any_data_set(tmp_path):
    path = tmp_path / "new" / "folder" / "sounds.tar.gz"
    with server(lambda name: (200, b"hello")) as (address, requests):
        downloads.download(
            [NOBODY + "sounds", address + "v1.tar.gz"],
            path,
            lambda path: path.read_bytes() == b"hello",
        )
    assert path.read_bytes() == b"hello"
    assert names_in(path.parent) == {path.name}
    assert set(requests) == {"v1.tar.gz"}


# ------------------------------------------------------------------------------
# Stopped, killed, twice at once
# ------------------------------------------------------------------------------

# Fetches the small files: python -c FETCH TABLES-MIRRORS, as JSON.
FETCH = """
import json, os, sys
sys.path.insert(0, os.environ["PROJECT"])
from backstage.data import datasets, mnist
tables, mnist.MIRRORS = json.loads(sys.argv[1])
vars(mnist).update(tables)
print(datasets.load_raw_data("mnist").name)
"""


def start_fetching(address):
    """Start a process that gets the small files into datasets.DATA_DIR."""
    tables = {table: getattr(mnist, table) for table in TABLES}
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, json.dumps([tables, [address]])],
        env=script_environment(datasets.DATA_DIR, PROJECT=str(ROOT)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_stop_leaves_nothing_behind(contents, raw_dir, monkeypatch):
    def stopped(url, root, filename):
        Path(root).mkdir()
        Path(root, filename).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(utils, "download_url", stopped)
    with pytest.raises(KeyboardInterrupt):
        datasets.load_raw_data("mnist")
    assert names_in(raw_dir) == set()


@posix
def test_what_sigkill_leaves_is_cleared_after_a_day(contents, raw_dir, monkeypatch):
    half_sent, over = threading.Event(), threading.Event()

    def half(name):
        def parts():
            yield contents[name][:1000]
            half_sent.set()
            over.wait(60)

        # The first request only asks where the file is.
        return (200, parts() if len(requests) == 2 else b"", len(contents[name]))

    with server(half) as (address, requests):
        process = start_fetching(address)
        assert half_sent.wait(60)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        over.set()
    (leftover,) = raw_dir.iterdir()
    assert leftover.is_dir()

    with server(good_answers(contents)) as (address, _):
        monkeypatch.setattr(mnist, "MIRRORS", [address])
        check_digits(contents)
    # It might be a living run's, on this computer or another that shares the folder.
    assert names_in(raw_dir) == {*contents, leftover.name}
    os.utime(leftover, (time.time() - 90_000,) * 2)
    (raw_dir / "train-images-idx3-ubyte.gz").unlink()
    with server(good_answers(contents)) as (address, _):
        monkeypatch.setattr(mnist, "MIRRORS", [address])
        check_digits(contents)
    assert names_in(raw_dir) == set(contents)


def test_another_data_sets_file_stays(contents, raw_dir, tmp_path):
    for name, content in contents.items():
        (raw_dir / name).write_bytes(content)
    foreign = gzip.compress(b"clothes")  # as FashionMNIST has files of the same names
    (raw_dir / "t10k-labels-idx1-ubyte.gz").write_bytes(foreign)
    with pytest.raises(UserError, match="is not the MNIST file"):
        datasets.load_raw_data("auto")
    assert (raw_dir / "t10k-labels-idx1-ubyte.gz").read_bytes() == foreign


def test_two_scripts_may_start_at_once(contents, raw_dir):
    both = threading.Barrier(2, timeout=60)

    def answer(name):
        if name.startswith("train-images"):
            both.wait()  # neither gets it before the other asks for it
        return 200, contents[name]

    with server(answer) as (address, _):
        for process in [start_fetching(address), start_fetching(address)]:
            output, errors = process.communicate(timeout=120)
            assert output.splitlines()[-1:] == ["MNIST"], errors
    assert names_in(raw_dir) == set(contents)
    check_digits(contents)


# ------------------------------------------------------------------------------
# No files, no network
# ------------------------------------------------------------------------------


def test_without_network_auto_explains_and_goes_on(
    contents, raw_dir, capsys, quick_drawing
):
    data = datasets.load_raw_data("auto")
    assert data.name == "synthetic"
    assert len(data.train_images) == 60_000 and len(data.test_images) == 10_000
    output = " ".join(capsys.readouterr().out.split())
    assert f"NOTICE: MNIST is not complete in {raw_dir}" in output
    assert "refused" in output  # the reason
    assert "synthetic digits" in output and "differ from those in the guide" in output
    assert f"copy the four MNIST .gz files into {raw_dir}" in output
    assert names_in(raw_dir) == set()


def test_without_network_mnist_is_an_error(contents, raw_dir):
    error = error_of_loading()
    assert error.startswith("MNIST is not complete in")
    assert "connect to the internet" in error


def test_an_unknown_data_set_is_refused():
    with pytest.raises(ValueError, match="fashion"):
        datasets.load_raw_data("fashion")


def test_synthetic_digits_are_kept(raw_dir, quick_drawing):
    first = datasets.load_raw_data("synthetic")
    again = datasets.load_raw_data("synthetic")
    assert quick_drawing == [70_000]
    assert torch.equal(first.train_images, again.train_images)
    assert torch.equal(first.test_labels, again.test_labels)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"garbage",
        lambda content: content[: len(content) // 2],
        lambda content: content[:1_000_000] + b"?" + content[1_000_001:],
    ],
    ids=["empty", "garbage", "truncated", "wrong byte"],
)
def test_damaged_kept_digits_are_drawn_again(raw_dir, quick_drawing, damage):
    datasets.load_raw_data("synthetic")
    cache = datasets.DATA_DIR / "synthetic_digits.npz"
    cache.write_bytes(damage(cache.read_bytes()))
    assert datasets.load_raw_data("synthetic").test_labels.tolist()[:3] == [0, 1, 2]
    assert len(quick_drawing) == 2


def test_digits_are_drawn_again_when_the_drawing_code_changed(
    raw_dir, quick_drawing, monkeypatch, tmp_path
):
    datasets.load_raw_data("synthetic")
    edited = tmp_path / "edited.py"
    edited.write_text("# another hand\n")
    monkeypatch.setattr(synthetic_digits, "__file__", str(edited))
    datasets.load_raw_data("synthetic")
    assert len(quick_drawing) == 2


def test_without_a_place_to_keep_them_digits_are_drawn_in_memory(
    tmp_path, monkeypatch, quick_drawing, contents, capsys
):
    (tmp_path / "data").write_text("a file, not a folder")
    monkeypatch.setattr(datasets, "DATA_DIR", tmp_path / "data")
    assert datasets.load_raw_data("auto").name == "synthetic"
    assert "They will be drawn again next time" in capsys.readouterr().out


# ------------------------------------------------------------------------------
# The whole script
# ------------------------------------------------------------------------------

QUICK = ("--train-samples", 100, "--epochs", 1)
TRAIN = ROOT / "03_train_mnist.py"
# For a script in a process of its own: no mirror, and blank synthetic digits.
OFFLINE = f"""
from backstage.data import mnist
mnist.MIRRORS = [{NOBODY!r}]
"""
BLANK = """
import torch
from backstage.data import synthetic_digits
synthetic_digits.make_digits = lambda count, seed, progress: (
    torch.zeros(count, 28, 28, dtype=torch.uint8), torch.arange(count) % 10
)
"""


def test_the_script_runs_without_files_and_network(
    tmp_path, synthetic_dir, monkeypatch
):
    monkeypatch.setattr(mnist, "MIRRORS", [NOBODY])
    run = run_main(TRAIN.name, *QUICK, cwd=tmp_path, data_dir=synthetic_dir)
    assert run.returncode == 0, run.stderr
    assert "NOTICE: MNIST is not complete in" in run.stdout
    assert "synthetic digits: 100 to train on" in run.stdout


def test_the_script_refuses_to_replace_mnist_silently(
    tmp_path, synthetic_dir, monkeypatch
):
    monkeypatch.setattr(mnist, "MIRRORS", [NOBODY])
    run = run_main(
        TRAIN.name, "--dataset", "mnist", cwd=tmp_path, data_dir=synthetic_dir
    )
    assert run.returncode == 1
    assert run.stderr.startswith("Error: MNIST is not complete in")
    assert run.stderr.count("\n") == 1
    assert names_in(tmp_path) == set()


def test_a_folder_that_cannot_be_written_to(tmp_path):
    # Digits are drawn in memory, and nothing can be kept.
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    with read_only(data_dir) as prefix:
        process = run_python(
            *prepared(OFFLINE + BLANK, TRAIN, *QUICK),
            cwd=tmp_path, data_dir=data_dir, prefix=prefix,
        )  # fmt: skip
    assert process.returncode == 0, process.stderr
    output = " ".join(process.stdout.split())
    assert "NOTICE: MNIST is not complete in" in output
    assert "Permission denied" in output
    assert "They will be drawn again next time" in output
    assert "synthetic digits: 100 to train on" in output
    assert names_in(data_dir) == set()


def test_a_full_disk_for_the_data(tmp_path):
    # One MiB has no room for digits, be they downloaded or drawn.
    process = on_small_disk(
        tmp_path, "1m", *prepared(OFFLINE + BLANK, TRAIN, *QUICK)
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    output = " ".join(process.stdout.split())
    assert "synthetic_digits.npz cannot be written: No space left on device" in output
    assert "synthetic digits: 100 to train on" in output
    results = "mnist_model.pth training_history.png training_runs.csv"
    assert output.endswith(f"Left: MNIST {results}")


def test_a_folder_with_an_unusual_name(tmp_path, synthetic_dir):
    folder = tmp_path / "with spaces, t\u00e4st and \u6570\u5b57"
    folder.mkdir()
    for path in ROOT.glob("*.py"):
        shutil.copy(path, folder)
    shutil.copytree(ROOT / "backstage", folder / "backstage")
    data_dir = folder / "data"
    data_dir.mkdir()
    shutil.copy(synthetic_dir / "synthetic_digits.npz", data_dir)
    process = run_python(
        *prepared(OFFLINE, folder / TRAIN.name, *QUICK),
        cwd=folder, data_dir="", PYTHONIOENCODING="ascii",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "Drawing" not in process.stdout  # found in data/ beside the script
    assert (folder / "mnist_model.pth").exists()


@pytest.mark.real_mnist
def test_good_files_in_a_folder_that_cannot_be_written_to(tmp_path, real_mnist_dir):
    with read_only(real_mnist_dir / "MNIST" / "raw") as prefix:
        process = run_python(
            TRAIN, *QUICK, "--dataset", "mnist",
            cwd=tmp_path, data_dir=real_mnist_dir, prefix=prefix,
        )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "MNIST digits: 100 to train on" in process.stdout


@pytest.mark.real_mnist
def test_the_original_files_are_downloaded_and_used(
    tmp_path, real_mnist_dir, monkeypatch
):
    source = real_mnist_dir / "MNIST" / "raw"
    with server(lambda name: (200, (source / name).read_bytes())) as (address, _):
        monkeypatch.setattr(mnist, "MIRRORS", [address])
        run = run_main(
            TRAIN.name, *QUICK, "--dataset", "mnist",
            cwd=tmp_path, data_dir=tmp_path / "data",
        )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "Downloading train-images-idx3-ubyte.gz" in run.stdout
    assert "MNIST digits: 100 to train on" in run.stdout
