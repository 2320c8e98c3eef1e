"""Where the digits come from: files at hand, a download, or the synthetic digits.

Most tests use files that are built like MNIST's but hold only a few digits, with their
own checksums, and a real HTTP server on 127.0.0.1.
"""

import dl_utils
import synthetic_digits

import contextlib
import gzip
import hashlib
import http.server
import json
import shutil
import signal
import ssl
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import (
    ROOT,
    on_small_disk,
    prepared,
    read_only,
    run_python,
    script_environment,
)
from torchvision.datasets import MNIST, utils

NOBODY = "http://127.0.0.1:9/"  # the discard port: nothing listens there


def mirrored(address, script, *flags):
    """Return what to give Python to run a script with another mirror of MNIST."""
    preparation = f"""
from torchvision.datasets import MNIST
MNIST.mirrors = [{address!r}]
"""
    return prepared(preparation, script, *flags)


def digit_file(array):
    """Return an array in MNIST's IDX format."""
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + (
        array.tobytes()
    )


# Fetches the small files: python -c FETCH FILES-RESOURCES-MIRRORS, as JSON. It never
# gets beyond a file of the name STOP_AT, as if it were killed there.
FETCH = """
import json, os, sys, time
sys.path.insert(0, os.environ["PROJECT"])
import dl_utils
from torchvision.datasets import MNIST
dl_utils.MNIST_FILES, MNIST.resources, MNIST.mirrors = json.loads(sys.argv[1])
real_replace = os.replace

def replace(source, target):
    if os.path.basename(target) == os.environ["STOP_AT"]:
        print("stopped", flush=True)
        time.sleep(600)
    real_replace(source, target)

os.replace = replace
dl_utils.run_script(lambda: print(dl_utils.load_raw_digits("mnist").name))
"""


@pytest.fixture
def contents(monkeypatch):
    """Four small files, known to dl_utils and torchvision by size and checksum."""
    rng = np.random.default_rng(0)
    contents = {}
    for part, count in (("train", 30), ("t10k", 20)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, count, dtype=np.uint8)
        contents[f"{part}-images-idx3-ubyte"] = digit_file(images)
        contents[f"{part}-labels-idx1-ubyte"] = digit_file(labels)

    def md5(content):
        return hashlib.md5(content).hexdigest()

    files = {name: (len(content), md5(content)) for name, content in contents.items()}
    resources = [(f"{n}.gz", md5(packed(c))) for n, c in contents.items()]
    monkeypatch.setattr(dl_utils, "MNIST_FILES", files)
    monkeypatch.setattr(MNIST, "resources", resources)
    monkeypatch.setattr(MNIST, "mirrors", [NOBODY])
    return contents


def start_fetching(address, stop_at=""):
    """Start a process that gets the small files into dl_utils.DATA_DIR."""
    settings = [dl_utils.MNIST_FILES, MNIST.resources, [address]]
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, json.dumps(settings)],
        env=script_environment(dl_utils.DATA_DIR, PROJECT=str(ROOT), STOP_AT=stop_at),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def packed(content):
    return gzip.compress(content, mtime=0)


@pytest.fixture
def raw_dir(tmp_path, monkeypatch):
    monkeypatch.setattr(dl_utils, "DATA_DIR", tmp_path / "data")
    folder = tmp_path / "data" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    return folder


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
            self.send_response(status)
            length = length[0] if length else len(content)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # the client need not read
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
    return lambda name: (200, packed(contents[name.removesuffix(".gz")]))


def put(raw_dir, contents, pack):
    for name, content in contents.items():
        if pack:
            (raw_dir / f"{name}.gz").write_bytes(packed(content))
        else:
            (raw_dir / name).write_bytes(content)


def assert_no_leftovers(raw_dir, contents):
    """The folder must hold the four files, packed and unpacked, and nothing else."""
    expected = {*contents, *(f"{name}.gz" for name in contents)}
    assert {path.name for path in raw_dir.iterdir()} == expected


def check_digits(contents):
    digits = dl_utils.load_raw_digits("mnist")
    assert digits.name == "MNIST"
    names = sorted(contents)  # t10k images, t10k labels, train images, train labels
    assert digits.test_images.numpy().tobytes() == contents[names[0]][16:]
    assert digits.test_labels.tolist() == list(contents[names[1]][8:])
    assert digits.train_images.numpy().tobytes() == contents[names[2]][16:]
    assert digits.train_labels.tolist() == list(contents[names[3]][8:])
    assert digits.train_images.shape == (30, 28, 28)
    assert digits.train_labels.dtype == torch.int64


# ------------------------------------------------------------------------------
# Files at hand
# ------------------------------------------------------------------------------


def test_unpacked_files_are_used_without_network(contents, raw_dir, capsys):
    put(raw_dir, contents, pack=False)
    check_digits(contents)
    assert capsys.readouterr().out == ""


def test_packed_files_are_unpacked_without_network(contents, raw_dir, capsys):
    put(raw_dir, contents, pack=True)
    check_digits(contents)
    assert capsys.readouterr().out == ""
    for name, content in contents.items():
        assert (raw_dir / name).read_bytes() == content


DAMAGES = {
    "truncated": lambda content: content[:-10],
    "empty": lambda content: b"",
    "wrong bytes": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("number", range(4))
def test_a_damaged_file_is_made_again_from_the_packed_one(
    contents, raw_dir, capsys, damage, number
):
    name = list(contents)[number]
    put(raw_dir, contents, pack=True)
    put(raw_dir, contents, pack=False)
    (raw_dir / name).write_bytes(damage(contents[name]))
    check_digits(contents)
    assert (raw_dir / name).read_bytes() == contents[name]
    assert f"{name} is damaged: making it again.\n" in capsys.readouterr().out


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_without_a_packed_one_is_downloaded(
    contents, raw_dir, monkeypatch, damage
):
    name = "train-images-idx3-ubyte"
    put(raw_dir, contents, pack=False)
    (raw_dir / name).write_bytes(damage(contents[name]))
    with server(good_answers(contents)) as (address, requests):
        monkeypatch.setattr(MNIST, "mirrors", [address])
        check_digits(contents)
    assert set(requests) == {f"{name}.gz"}  # the other three are good


def test_a_damaged_packed_file_is_downloaded_again(contents, raw_dir, monkeypatch):
    put(raw_dir, contents, pack=True)
    name = "t10k-labels-idx1-ubyte.gz"
    good = (raw_dir / name).read_bytes()
    (raw_dir / name).write_bytes(good[:-5])
    with server(good_answers(contents)) as (address, _):
        monkeypatch.setattr(MNIST, "mirrors", [address])
        check_digits(contents)
    assert (raw_dir / name).read_bytes() == good


def test_a_folder_in_place_of_a_file_does_no_harm(contents, raw_dir):
    put(raw_dir, contents, pack=True)
    (raw_dir / "train-images-idx3-ubyte").mkdir()
    check_digits(contents)


def test_a_folder_in_place_of_a_packed_file(contents, raw_dir, monkeypatch):
    put(raw_dir, contents, pack=False)
    (raw_dir / "train-images-idx3-ubyte").unlink()
    (raw_dir / "train-images-idx3-ubyte.gz").mkdir()
    with server(good_answers(contents)) as (address, _):
        monkeypatch.setattr(MNIST, "mirrors", [address])
        with pytest.raises(dl_utils.UserError, match=r"directory.*copy the four"):
            dl_utils.load_raw_digits("mnist")


# ------------------------------------------------------------------------------
# Download
# ------------------------------------------------------------------------------


def test_missing_files_are_downloaded_once(contents, raw_dir, monkeypatch, capsys):
    with server(good_answers(contents)) as (address, requests):
        monkeypatch.setattr(MNIST, "mirrors", [address])
        check_digits(contents)
        downloaded = len(requests)
        check_digits(contents)
        assert len(requests) == downloaded
    assert_no_leftovers(raw_dir, contents)
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
        monkeypatch.setattr(MNIST, "mirrors", [bad, good])
        check_digits(contents)
    assert_no_leftovers(raw_dir, contents)


def test_wrong_bytes_of_the_right_length_are_refused(contents, raw_dir, monkeypatch):
    def wrong(name):
        right = packed(contents[name.removesuffix(".gz")])
        return 200, right[:-20] + bytes(20)

    with server(wrong) as (address, _):
        monkeypatch.setattr(MNIST, "mirrors", [address])
        with pytest.raises(dl_utils.UserError, match="cannot be downloaded"):
            dl_utils.load_raw_digits("mnist")
    assert list(raw_dir.iterdir()) == []


def test_a_server_whose_name_is_unknown(contents, raw_dir, monkeypatch):
    monkeypatch.setattr(MNIST, "mirrors", ["http://mnist.invalid/"])
    with pytest.raises(dl_utils.UserError, match=r"mnist\.invalid.*connect to the"):
        dl_utils.load_raw_digits("mnist")


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
    answers = good_answers(contents)
    with server(answers, certificate) as (address, requests):
        monkeypatch.setattr(MNIST, "mirrors", [address])
        with pytest.raises(dl_utils.UserError) as error:
            dl_utils.load_raw_digits("mnist")
    assert "CERTIFICATE_VERIFY_FAILED" in str(error.value)
    assert "Install Certificates.command" in str(error.value)
    assert "SSL_CERT_FILE" in str(error.value)
    assert requests == []


def test_a_silent_server_is_given_up(contents, raw_dir, monkeypatch):
    over = threading.Event()

    def never(name):
        over.wait(60)
        return 200, b""

    start = time.monotonic()
    with server(never) as (address, requests):
        monkeypatch.setattr(MNIST, "mirrors", [address, address])
        with pytest.raises(dl_utils.UserError, match="no answer within 10 seconds"):
            dl_utils.load_raw_digits("mnist")
        over.set()
    assert len(requests) == 2
    assert time.monotonic() - start < 30


def test_a_server_that_falls_silent_is_given_up(contents, raw_dir, monkeypatch):
    monkeypatch.setattr(dl_utils, "DOWNLOAD_TIMEOUT", 0.5)
    over = threading.Event()

    def parts():
        yield b"the first bytes"
        over.wait(60)

    with server(lambda name: (200, parts(), 100)) as (address, _):
        monkeypatch.setattr(MNIST, "mirrors", [address])
        with pytest.raises(dl_utils.UserError, match="timed out"):
            dl_utils.load_raw_digits("mnist")
        over.set()
    assert list(raw_dir.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("stop_at", ["download", "unpacking"])
def test_after_sigkill_the_next_run_works(contents, raw_dir, stop_at):
    name = "train-images-idx3-ubyte"
    half_sent, over = threading.Event(), threading.Event()
    good = good_answers(contents)

    def answer(requested):
        status, content = good(requested)
        # The first request of all only looks whether there is an answer.
        if stop_at == "unpacking" or len(requests) < 3 or half_sent.is_set():
            return status, content

        def parts():
            yield content[:1000]
            half_sent.set()
            over.wait(60)

        return status, parts(), len(content)

    with server(answer) as (address, requests):
        process = start_fetching(address, name if stop_at == "unpacking" else "")
        if stop_at == "download":
            assert half_sent.wait(60)
        else:
            assert "stopped\n" in iter(process.stdout.readline, "")
        process.send_signal(signal.SIGKILL)
        process.communicate()
        over.set()
        assert not (raw_dir / name).exists()

        again = start_fetching(address)
        output, errors = again.communicate(timeout=60)
    assert output.splitlines()[-1] == "MNIST", errors
    check_digits(contents)


def test_two_scripts_may_start_at_once(contents, raw_dir):
    good = good_answers(contents)

    def slow(name):
        time.sleep(0.1)
        return good(name)

    with server(slow) as (address, _):
        processes = [start_fetching(address) for _ in range(2)]
        for process in processes:
            output, errors = process.communicate(timeout=120)
            assert output.splitlines()[-1] == "MNIST", errors
    assert_no_leftovers(raw_dir, contents)
    check_digits(contents)


def test_an_interrupted_download_leaves_nothing_behind(contents, raw_dir, monkeypatch):
    def interrupted(url, root, md5):
        Path(root, "train-images-idx3-ubyte.gz").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(utils, "download_url", interrupted)
    with server(good_answers(contents)) as (address, _):
        monkeypatch.setattr(MNIST, "mirrors", [address])
        with pytest.raises(KeyboardInterrupt):
            dl_utils.load_raw_digits("mnist")
    assert list(raw_dir.iterdir()) == []


# ------------------------------------------------------------------------------
# No files, no network
# ------------------------------------------------------------------------------


def test_without_network_auto_explains_and_goes_on(
    contents, raw_dir, capsys, quick_drawing
):
    digits = dl_utils.load_raw_digits("auto")
    assert digits.name == "synthetic"
    assert len(digits.train_images) == 60_000 and len(digits.test_images) == 10_000
    output = " ".join(capsys.readouterr().out.split())
    assert "NOTICE: MNIST is not in" in output
    assert "refused" in output  # the reason
    assert "synthetic digits" in output and "differ from those in the guide" in output
    assert f"copy the four MNIST .gz files into {raw_dir}" in output
    assert list(raw_dir.iterdir()) == []


def test_without_network_mnist_is_an_error(contents, raw_dir):
    with pytest.raises(dl_utils.UserError, match="connect to the internet") as error:
        dl_utils.load_raw_digits("mnist")
    assert "\n" not in str(error.value)


def test_synthetic_digits_are_kept(raw_dir, capsys, quick_drawing):
    first = dl_utils.load_raw_digits("synthetic")
    again = dl_utils.load_raw_digits("synthetic")
    assert quick_drawing == [70_000]
    assert all(torch.equal(a, b) for a, b in zip(first[1:], again[1:], strict=True))


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
    dl_utils.load_raw_digits("synthetic")
    cache = dl_utils.DATA_DIR / "synthetic_digits.npz"
    cache.write_bytes(damage(cache.read_bytes()))
    assert dl_utils.load_raw_digits("synthetic").test_labels.tolist()[:3] == [0, 1, 2]
    assert len(quick_drawing) == 2


def test_digits_are_drawn_again_when_the_drawing_code_changed(
    raw_dir, quick_drawing, monkeypatch, tmp_path
):
    dl_utils.load_raw_digits("synthetic")
    edited = tmp_path / "edited.py"
    edited.write_text("# another hand\n")
    monkeypatch.setattr(synthetic_digits, "__file__", str(edited))
    dl_utils.load_raw_digits("synthetic")
    assert len(quick_drawing) == 2


def test_without_a_place_to_keep_them_digits_are_drawn_in_memory(
    tmp_path, monkeypatch, quick_drawing, contents
):
    (tmp_path / "data").write_text("a file, not a folder")
    monkeypatch.setattr(dl_utils, "DATA_DIR", tmp_path / "data")
    assert dl_utils.load_raw_digits("auto").name == "synthetic"


# ------------------------------------------------------------------------------
# The whole script
# ------------------------------------------------------------------------------

QUICK = ("--train-samples", 100, "--epochs", 1)


def test_the_script_runs_without_files_and_network(tmp_path, synthetic_dir):
    process = run_python(
        *mirrored(NOBODY, ROOT / "03_train_mnist.py", *QUICK),
        cwd=tmp_path, data_dir=synthetic_dir,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "NOTICE: MNIST is not in" in process.stdout
    assert "synthetic digits: 100 training" in process.stdout


def test_the_script_refuses_to_replace_mnist_silently(tmp_path, synthetic_dir):
    process = run_python(
        *mirrored(NOBODY, ROOT / "03_train_mnist.py", "--dataset", "mnist"),
        cwd=tmp_path, data_dir=synthetic_dir,
    )  # fmt: skip
    assert process.returncode == 1
    assert process.stderr.startswith("Error: MNIST is not in")
    assert process.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to(tmp_path):
    # Digits are drawn in memory, and nothing can be kept.
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    with read_only(data_dir) as prefix:
        process = run_python(
            *mirrored(NOBODY, ROOT / "03_train_mnist.py", *QUICK),
            cwd=tmp_path, data_dir=data_dir, prefix=prefix,
        )  # fmt: skip
    assert process.returncode == 0, process.stderr
    output = " ".join(process.stdout.split())
    assert "NOTICE: MNIST is not in" in output and "Permission denied" in output
    assert "They will be drawn again next time" in output
    assert "synthetic digits: 100 training" in output
    assert list(data_dir.iterdir()) == []


def test_a_full_disk_for_the_data(tmp_path):
    # One MiB has no room for digits, be they downloaded or drawn.
    process = on_small_disk(
        tmp_path,
        "1m",
        *mirrored(NOBODY, ROOT / "03_train_mnist.py", *QUICK),
    )
    assert process.returncode == 0, process.stderr
    output = " ".join(process.stdout.split())
    assert "synthetic_digits.npz cannot be written: No space left on device" in output
    assert "synthetic digits: 100 training" in output
    results = "mnist_model.pth training_history.png training_runs.csv"
    assert output.endswith(f"Left: MNIST {results}")


@pytest.mark.parametrize("name", ["with some spaces", "t\u00e4st \u6570\u5b57"])
def test_folders_with_unusual_names(tmp_path, synthetic_dir, name):
    folder = tmp_path / name
    folder.mkdir()
    for path in ROOT.glob("*.py"):
        shutil.copy(path, folder)
    data_dir = folder / "data"
    data_dir.mkdir()
    shutil.copy(synthetic_dir / "synthetic_digits.npz", data_dir)
    process = run_python(
        *mirrored(NOBODY, folder / "03_train_mnist.py", *QUICK),
        cwd=folder, data_dir="", PYTHONIOENCODING="ascii",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "Drawing" not in process.stdout  # found in data/ beside the script
    assert (folder / "mnist_model.pth").exists()


@pytest.mark.real_mnist
def test_good_files_in_a_folder_that_cannot_be_written_to(tmp_path, real_mnist_dir):
    with read_only(real_mnist_dir / "MNIST" / "raw") as prefix:
        process = run_python(
            ROOT / "03_train_mnist.py", *QUICK, "--dataset", "mnist",
            cwd=tmp_path, data_dir=real_mnist_dir, prefix=prefix,
        )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "MNIST digits: 100 training" in process.stdout


@pytest.mark.real_mnist
def test_the_original_files_are_downloaded_and_used(tmp_path, real_mnist_dir):
    source = real_mnist_dir / "MNIST" / "raw"
    if not (source / "train-images-idx3-ubyte.gz").exists():
        pytest.skip(f"the packed MNIST files are not in {source}")
    flags = ("--dataset", "mnist", "--train-samples", 100, "--epochs", 1)
    with server(lambda name: (200, (source / name).read_bytes())) as (address, _):
        process = run_python(
            *mirrored(address, ROOT / "03_train_mnist.py", *flags),
            cwd=tmp_path, data_dir=tmp_path / "data",
        )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "Downloading train-images-idx3-ubyte.gz" in process.stdout
    assert "MNIST digits: 100 training" in process.stdout
