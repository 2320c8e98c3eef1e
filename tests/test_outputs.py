"""Files, consoles and interruptions: whatever happens, one clear line and no loss."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import (
    ROOT,
    SCRIPTS,
    on_small_disk,
    prepared,
    read_only,
    run_python,
    script_environment,
)

TRAIN = ROOT / "03_train_mnist.py"
QUICK = ("--dataset", "synthetic", "--train-samples", 640, "--epochs", 2)

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")


def assert_one_line(process, *words):
    """The script must have ended with code 1 and one line that has these words."""
    assert process.returncode == 1, process.stderr
    assert process.stderr.startswith("Error: ")
    assert process.stderr.count("\n") == 1
    for word in words:
        assert word in process.stderr


@pytest.fixture
def earlier_model(tmp_path, train_script):
    """A trained model from an earlier run, in the folder of the next run."""
    path = tmp_path / "mnist_model.pth"
    torch.save(train_script.SimpleNN().state_dict(), path)
    return path


# ------------------------------------------------------------------------------
# Files that cannot be written
# ------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["03_train_mnist.py", SCRIPTS[4]])
def test_a_read_only_folder_is_noticed_before_training(tmp_path, synthetic_dir, script):
    with read_only(tmp_path) as prefix:
        process = run_python(
            ROOT / script, cwd=tmp_path, data_dir=synthetic_dir, prefix=prefix
        )
    assert_one_line(process, "cannot be written: Permission denied")
    assert "Epoch" not in process.stdout and "Training" not in process.stdout


@pytest.mark.parametrize("script", ["02_load_mnist.py", "04_load_model.py"])
def test_a_read_only_folder_for_pictures(
    tmp_path, synthetic_dir, earlier_model, script
):
    with read_only(tmp_path) as prefix:
        process = run_python(
            ROOT / script, "--dataset", "synthetic",
            cwd=tmp_path, data_dir=synthetic_dir, prefix=prefix,
        )  # fmt: skip
    assert_one_line(process, ".png cannot be written: Permission denied")
    assert "%" in process.stdout  # the lesson itself was given


@pytest.mark.parametrize(
    "name", ["mnist_model.pth", "training_history.png", "training_runs.csv"]
)
def test_a_folder_in_place_of_a_result(tmp_path, synthetic_dir, name):
    (tmp_path / name).mkdir()
    process = run_python(TRAIN, *QUICK, cwd=tmp_path, data_dir=synthetic_dir)
    assert_one_line(
        process, f"'{name}' cannot be written: it is not the name of a file"
    )


def test_a_protected_model_is_not_replaced(tmp_path, synthetic_dir, earlier_model):
    earlier_model.chmod(0o444)
    before = earlier_model.read_bytes()
    with read_only(tmp_path) as prefix:  # for the prefix alone
        tmp_path.chmod(0o755)
        process = run_python(
            TRAIN, *QUICK, cwd=tmp_path, data_dir=synthetic_dir, prefix=prefix
        )
    assert_one_line(process, "mnist_model.pth cannot be written: it is protected")
    assert earlier_model.read_bytes() == before


def test_a_disk_that_is_full_when_the_model_is_saved(tmp_path, synthetic_dir):
    # The weights take 400 KB.
    process = on_small_disk(tmp_path, "100k", TRAIN, *QUICK, data_dir=synthetic_dir)
    assert_one_line(process, "mnist_model.pth cannot be written (is the disk full?)")
    assert process.stdout.endswith("Left:\n")  # no half files


def test_a_disk_that_is_full_when_the_picture_is_drawn(tmp_path, synthetic_dir):
    process = on_small_disk(tmp_path, "420k", TRAIN, *QUICK, data_dir=synthetic_dir)
    assert_one_line(process, "training_history.png cannot be written", "No space left")
    assert process.stdout.endswith("Left: mnist_model.pth\n")


# ------------------------------------------------------------------------------
# Ctrl-C and SIGTERM
# ------------------------------------------------------------------------------


def interrupt(folder, data_dir, signal_number, after_line, delay):
    """Start a training, send a signal some time after a line; return the process."""
    process = subprocess.Popen(
        [sys.executable, TRAIN, *map(str, QUICK)],
        cwd=folder,
        env=script_environment(data_dir),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if after_line:
        assert any(line.startswith(after_line) for line in process.stdout)
    time.sleep(delay)
    process.send_signal(signal_number)
    time.sleep(0.005)
    process.send_signal(signal_number)  # nobody presses Ctrl-C just once
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


@posix
def test_signals_at_random_moments_keep_the_model(
    tmp_path, synthetic_dir, earlier_model
):
    rng = random.Random(0)
    signals = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    cases = [
        # From loading PyTorch to the end; and around the moment of saving.
        (signal.SIGINT, None, rng.uniform(0.5, 5)) for _ in range(6)
    ] + [
        (rng.choice(signals), "Epoch 2/2", rng.uniform(0, 0.05))
        for _ in range(15)
    ]  # fmt: skip

    def check(number):
        folder = tmp_path / str(number)
        folder.mkdir()
        shutil.copy(earlier_model, folder)
        code, _, errors = interrupt(folder, synthetic_dir, *cases[number])
        assert "Traceback" not in errors, errors
        assert code in (0, 130), errors
        if code == 130:
            assert re.fullmatch(r"\nStopped\.( Files saved .*)?\n", errors)
        state_dict = torch.load(folder / "mnist_model.pth", weights_only=True)
        assert state_dict["fc1.weight"].shape == (128, 784)
        assert not list(folder.glob("*.tmp"))
        return code

    with ThreadPoolExecutor(2) as pool:
        codes = list(pool.map(check, range(len(cases))))
    assert codes.count(130) >= 10  # most came in time


@posix
def test_ctrl_c_while_pytorch_is_loading(tmp_path):
    # Python itself needs a moment before the script's first line.
    process = subprocess.Popen(
        [sys.executable, "-v", ROOT / "01_hello_pytorch.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # -v names every module when it is imported.
    assert any("import 'torch." in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Stopped.\n" in errors
    assert "Traceback" not in errors
    assert output == ""


# ------------------------------------------------------------------------------
# Consoles, pipes and environments
# ------------------------------------------------------------------------------


def shell(line):
    """Return a prefix that has "$@", the command, run by a line of shell."""
    return ["sh", "-c", line, "sh"]


@posix
def test_a_reader_that_has_seen_enough(tmp_path):
    process = run_python(
        ROOT / "01_hello_pytorch.py",
        cwd=tmp_path, data_dir=tmp_path, prefix=shell('"$@" | head -1'),
    )  # fmt: skip
    assert process.stderr == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_output_into_a_file_on_a_full_disk(tmp_path):
    process = run_python(
        ROOT / "01_hello_pytorch.py",
        cwd=tmp_path, data_dir=tmp_path, prefix=shell('"$@" >/dev/full'),
    )  # fmt: skip
    assert_one_line(process, "output: No space left on device")


@posix
@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_without_output(tmp_path, synthetic_dir, closed):
    process = run_python(
        TRAIN, *QUICK,
        cwd=tmp_path, data_dir=synthetic_dir, prefix=shell(f'"$@" {closed}'),
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    assert (tmp_path / "mnist_model.pth").exists()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_any_encoding_of_the_output(tmp_path, synthetic_dir, encoding):
    # The folder's name has letters that neither ASCII nor cp1252 can show.
    missing = tmp_path / "\u6570\u5b57.pth"
    process = run_python(
        ROOT / "04_load_model.py", "--model", missing,
        cwd=tmp_path, data_dir=synthetic_dir, PYTHONIOENCODING=encoding,
    )  # fmt: skip
    assert_one_line(process, "there is no ", ".pth")


def test_from_another_folder_without_home_and_display(tmp_path, synthetic_dir):
    # A notebook hands down a way of drawing that this environment does not have.
    notebook = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    environment = script_environment(synthetic_dir, COLUMNS="20", **notebook)
    for name in ("HOME", "USERPROFILE", "DISPLAY", "WAYLAND_DISPLAY", "TERM"):
        environment.pop(name, None)
    process = subprocess.run(
        [sys.executable, os.path.relpath(TRAIN, tmp_path), *map(str, QUICK)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    assert (tmp_path / "training_history.png").exists()


@pytest.mark.skipif(
    torch.version.cuda is None or torch.cuda.is_available(),
    reason="needs PyTorch's build for GPUs, and no GPU",
)
def test_a_gpu_that_is_only_reported(tmp_path, synthetic_dir):
    preparation = "import torch; torch.cuda.is_available = lambda: True"
    process = run_python(
        *prepared(preparation, TRAIN, *QUICK), cwd=tmp_path, data_dir=synthetic_dir
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    assert process.stdout.startswith("A GPU was found but does not work (")
    assert "Training on cpu" in process.stdout


ON_TERMINAL = """
import os, pty, sys
sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))
"""


@posix
def test_a_narrow_terminal(tmp_path):
    # On a terminal there is a progress bar; it too must be ASCII.
    process = run_python(
        "-c", ON_TERMINAL, "sh", "-c", 'stty cols 40 rows 10; exec "$@"', "sh",
        sys.executable, TRAIN, *QUICK, cwd=tmp_path, data_dir=tmp_path / "data",
    )  # fmt: skip
    assert process.returncode == 0, process.stdout
    assert "100%|" in process.stdout
    assert process.stdout.isascii()


# ------------------------------------------------------------------------------
# Memory
# ------------------------------------------------------------------------------

# getrusage() counts the process that started this one as well, so it will not do.
PRINT_PEAK = """
import atexit, re

@atexit.register
def print_peak():
    kilobytes = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]
    print("Peak memory in MB:", int(kilobytes) * 1024 // 1_000_000)
"""
LIMIT_MEMORY = """
import resource
import dl_utils
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 2**30
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
"""


has_proc = pytest.mark.skipif(
    not os.path.exists("/proc/self/status"), reason="there is no /proc to read"
)


def peak_memory(script, *flags, cwd, data_dir):
    arguments = prepared(PRINT_PEAK, ROOT / script, *flags)
    process = run_python(*arguments, cwd=cwd, data_dir=data_dir)
    assert process.returncode == 0, process.stderr
    return int(re.search(r"Peak memory in MB: (\d+)", process.stdout)[1])


@has_proc
@pytest.mark.parametrize(
    ("script", "flags"),
    [(SCRIPTS[2], ["--epochs", 1]), (SCRIPTS[4], ["--epochs", 1, "--seeds", 2])],
)
def test_memory_stays_within_1200_mb(tmp_path, synthetic_dir, script, flags):
    flags += ["--dataset", "synthetic"]
    peak = peak_memory(script, *flags, cwd=tmp_path, data_dir=synthetic_dir)
    assert peak <= 1200


@has_proc
def test_ten_times_the_epochs_need_no_more_memory(tmp_path, synthetic_dir):
    flags = ["--dataset", "synthetic", "--train-samples", 2000, "--epochs"]
    few, many = (
        peak_memory(TRAIN.name, *flags, epochs, cwd=tmp_path, data_dir=synthetic_dir)
        for epochs in (3, 30)
    )
    assert many <= few + 30


@has_proc
def test_too_little_memory_is_one_line(tmp_path, synthetic_dir):
    # Room for the lesson itself, but not for a batch of 55,000 through 10,000 neurons.
    flags = ("--dataset", "synthetic", "--batch-size", 55_000, "--hidden-size", 10_000)
    process = run_python(
        *prepared(LIMIT_MEMORY, TRAIN, *flags), cwd=tmp_path, data_dir=synthetic_dir
    )
    assert_one_line(process, "not enough memory; use a smaller setting")
