"""Files, consoles and interruptions: whatever happens, one clear line and no loss."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from torchvision.datasets import utils

from backstage import files, plotting, runs, terminal, weights
from backstage.data import mnist, synthetic_digits
from backstage.script import run_script
from backstage.terminal import UserError
from conftest import (
    ROOT,
    SCRIPTS,
    Finished,
    load_script,
    on_small_disk,
    prepared,
    read_only,
    run_main,
    run_python,
    script_environment,
)

TRAIN = ROOT / "03_train_mnist.py"
QUICK = ("--dataset", "synthetic", "--train-samples", 640, "--epochs", 2)
RESULTS = ["mnist_model.pth", "training_history.png", "training_runs.csv"]

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")


def assert_one_line(run, *words):
    """The script must have ended with code 1 and one line that has these words."""
    assert run.returncode == 1, run.stderr
    assert run.stderr.startswith("Error: ")
    assert run.stderr.count("\n") == 1
    for word in words:
        assert word in run.stderr


@pytest.fixture
def earlier_model(tmp_path, train_script):
    """A trained model from an earlier run, in the folder of the next run."""
    path = tmp_path / "mnist_model.pth"
    torch.save(train_script.SimpleNN().state_dict(), path)
    return path


# Runs scripts in one process: python -c RUNS RUNS-FOLDER-DATA, as JSON; their ends are
# the last line of its output. What depends on rights or memory needs another process.
RUNS = """
import json, sys
from conftest import run_main
runs, data_dir = json.loads(sys.argv[1])
print(json.dumps([run_main(*run, cwd=cwd, data_dir=data_dir) for cwd, *run in runs]))
"""


def run_together(*runs, data_dir, prefix=(), preparation=""):
    """Run several (folder, script, *flags) in one process; return their ends."""
    process = run_python(
        "-c", preparation + RUNS, json.dumps([runs, str(data_dir)], default=str),
        cwd=ROOT / "tests", data_dir=data_dir, prefix=prefix,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return [Finished(*end) for end in json.loads(process.stdout.splitlines()[-1])]


# ------------------------------------------------------------------------------
# Files that cannot be written
# ------------------------------------------------------------------------------


def test_a_read_only_folder_and_a_protected_model(
    tmp_path, synthetic_dir, train_script
):
    locked, other = tmp_path / "locked", tmp_path / "other"
    for folder in (locked, other):
        folder.mkdir()
        torch.save(train_script.SimpleNN().state_dict(), folder / "mnist_model.pth")
    protected = other / "mnist_model.pth"
    before = protected.read_bytes()
    protected.chmod(0o444)
    with read_only(locked) as prefix:
        *pictures, comparison, model = run_together(
            (locked, SCRIPTS[1], *QUICK[:2]),
            (locked, SCRIPTS[3], *QUICK[:2]),
            (locked, SCRIPTS[4]),
            (other, SCRIPTS[2], *QUICK),
            data_dir=synthetic_dir,
            prefix=prefix,
        )
    for run in pictures:
        assert run.returncode == 1
        lines = run.stderr.splitlines()
        assert len(lines) >= 2
        for line in lines:
            assert re.fullmatch(r"Error: \S+ cannot be written: Perm.+ denied", line)
        assert "%" in run.stdout  # the lesson itself was given
    # What takes long to compute is not computed for nothing.
    assert_one_line(comparison, "cannot be written: Permission denied")
    assert_one_line(model, "mnist_model.pth cannot be written: it is protected")
    assert comparison.stdout == model.stdout == ""
    assert protected.read_bytes() == before
    assert os.listdir(locked) == os.listdir(other) == ["mnist_model.pth"]


@pytest.mark.parametrize("name", RESULTS)
def test_a_folder_in_place_of_a_result(tmp_path, synthetic_dir, name):
    (tmp_path / name).mkdir()
    run = run_main(TRAIN.name, *QUICK, cwd=tmp_path, data_dir=synthetic_dir)
    assert_one_line(run, f"'{name}' cannot be written: it is not the name of a file")


def test_a_disk_that_is_full_when_the_model_is_saved(tmp_path, synthetic_dir):
    # The weights take 400 KB.
    process = on_small_disk(tmp_path, "300k", TRAIN, *QUICK, data_dir=synthetic_dir)
    assert_one_line(process, "mnist_model.pth cannot be written: the disk is full")
    assert process.stdout.endswith("Left:\n")


def test_an_interrupted_write_keeps_the_earlier_file(tmp_path):
    path = tmp_path / "model.pth"
    path.write_text("earlier")
    with pytest.raises(KeyboardInterrupt), files.atomic_path(path) as temporary_path:
        temporary_path.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "earlier"
    assert os.listdir(tmp_path) == [path.name]


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    path = tmp_path / "model.pth"
    path.mkdir()
    with (
        pytest.raises(UserError, match=r"model\.pth cannot be written"),
        files.atomic_path(path) as temporary_path,
    ):
        temporary_path.write_text("new")
    assert os.listdir(tmp_path) == [path.name]


def test_a_picture_that_cannot_be_written_costs_nothing_else(
    tmp_path, synthetic_dir, monkeypatch
):
    def held_open(source, target, rename=os.replace):
        if str(target).endswith(".png"):  # on Windows, by the program that shows it
            raise PermissionError(
                13, "Access is denied", str(source), None, str(target)
            )
        rename(source, target)

    monkeypatch.setattr(os, "replace", held_open)
    run = run_main(TRAIN.name, *QUICK, cwd=tmp_path, data_dir=synthetic_dir)
    assert_one_line(run, "training_history.png cannot be written: Access is denied")
    assert sorted(os.listdir(tmp_path)) == ["mnist_model.pth", "training_runs.csv"]
    assert "Test Accuracy" in run.stdout
    run = run_main(SCRIPTS[3], cwd=tmp_path, data_dir=synthetic_dir)
    assert (run.returncode, run.stderr.count("\n")) == (1, 3)
    assert "Saved: my_network.html" in run.stdout


def test_a_table_that_a_spreadsheet_holds_open_costs_nothing_else(
    tmp_path, synthetic_dir, monkeypatch
):
    def denied(path, mode="r", *arguments, **options):
        if str(path).endswith(".csv") and "a" in mode:
            raise PermissionError(13, "Permission denied", str(path))
        return open(path, mode, *arguments, **options)

    monkeypatch.setattr(runs, "open", denied, raising=False)
    run = run_main(TRAIN.name, *QUICK, cwd=tmp_path, data_dir=synthetic_dir)
    assert_one_line(run, "training_runs.csv cannot be written: Permission denied")
    assert sorted(os.listdir(tmp_path)) == ["mnist_model.pth", "training_history.png"]
    assert "still improving" in run.stdout


def test_a_users_matplotlibrc_cannot_spoil_a_picture(
    tmp_path, synthetic_dir, monkeypatch
):
    pictures = []
    for usetex in (False, True):
        monkeypatch.setitem(plotting.matplotlib.rcParams, "text.usetex", usetex)
        run = run_main(SCRIPTS[1], *QUICK[:2], cwd=tmp_path, data_dir=synthetic_dir)
        assert (run.returncode, run.stderr) == (0, "")
        pictures.append((tmp_path / "mnist_overview.png").read_bytes())
        assert plotting.matplotlib.rcParams["text.usetex"] is usetex
    assert pictures[0] == pictures[1]


@posix
def test_a_link_stays_a_link(tmp_path, synthetic_dir):
    drive = tmp_path / "drive"
    drive.mkdir()
    for name in RESULTS:
        (tmp_path / name).symlink_to(drive / name)
    for _ in range(2):
        run = run_main(TRAIN.name, *QUICK, cwd=tmp_path, data_dir=synthetic_dir)
        assert (run.returncode, run.stderr) == (0, "")
    assert sorted(os.listdir(drive)) == RESULTS
    assert all((tmp_path / name).is_symlink() for name in RESULTS)
    assert len(runs.read_runs(drive / "training_runs.csv")) == 2


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: Path("notes.txt").read_text(),  # another file
        lambda: torch.ones(2) @ torch.ones(3),  # a RuntimeError
        lambda: torch.saev(),
        lambda: 1 / 0,
    ],
    ids=["another file", "shapes", "misspelt", "arithmetic"],
)
def test_a_mistake_while_writing_is_not_blamed_on_the_disk(
    tmp_path, monkeypatch, mistake
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception) as own:
        mistake()
    with pytest.raises(own.type) as error, files.atomic_path("model.pth"):
        mistake()
    assert str(error.value) == str(own.value)
    assert os.listdir(tmp_path) == []


def test_what_killed_runs_left_is_cleared_after_a_day(tmp_path):
    names = ("model.pth", "model.tmp", "other.pth.1.tmp", "model.pth.new.tmp")
    for name in names:
        (tmp_path / name).write_text("not a leftover, or a living run's")
    old = tmp_path / "model.pth.old.tmp"
    old.write_text("half")
    os.utime(old, (time.time() - 90_000,) * 2)
    with files.atomic_path(tmp_path / "model.pth") as temporary_path:
        assert set(os.listdir(tmp_path)) == {*names, temporary_path.name}
        temporary_path.write_text("new")
    assert set(os.listdir(tmp_path)) == {*names}


# ------------------------------------------------------------------------------
# Files that cannot be read
# ------------------------------------------------------------------------------


def test_what_is_no_file_is_refused_at_once(tmp_path):
    paths = [tmp_path]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")  # reading would wait for a writer for ever
        paths += [tmp_path / "pipe", "/dev/zero"]  # or never come to an end
    for path in paths:
        with pytest.raises(UserError, match="it is a folder, a device or a pipe"):
            files.check_can_read(path, "draw one")
        with (
            pytest.raises(UserError, match="it is a folder, a device or a pipe"),
            weights.explain_weights(path, torch.nn.Linear(1, 1)),
        ):
            pass


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"there is no file .*a\.png: draw one"):
        files.check_can_read(tmp_path / "a.png", "draw one")


@pytest.mark.parametrize("name", ["\0", "n" * 5000])
def test_a_name_that_no_file_can_have_is_one_line(name):
    with pytest.raises(UserError, match=r"cannot be read|there is no file"):
        files.check_can_read(name, "draw one")


# ------------------------------------------------------------------------------
# Ctrl-C
# ------------------------------------------------------------------------------

# Moment -> the module or class, and its function, that is half-way when Ctrl-C comes.
# What it writes is half-written by then.
MOMENTS = {
    "download": (utils, "download_url"),
    "drawing digits": (synthetic_digits, "make_digits"),
    "training": (torch.optim.Adam, "step"),
    "saving the model": (torch, "save"),
    "renaming the model": (os, "replace"),
    "recording": (runs, "fingerprint"),
    "drawing the picture": (Figure, "savefig"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_stop_at_any_moment_keeps_the_earlier_results(
    tmp_path, synthetic_dir, earlier_model, monkeypatch, moment
):
    before = earlier_model.read_bytes()
    data_dir, flags = synthetic_dir, QUICK
    if moment in ("download", "drawing digits"):
        data_dir, flags = tmp_path / "data", ()
        monkeypatch.setattr(mnist, "MIRRORS", ["http://127.0.0.1:9/"])
    owner, attribute = MOMENTS[moment]
    function = getattr(owner, attribute)

    def interrupted(*arguments, **options):
        for path in filter(lambda argument: isinstance(argument, Path), arguments):
            if moment == "download":
                path.mkdir()
                path /= "train-images-idx3-ubyte.gz"
            if moment != "renaming the model":
                path.write_bytes(b"half")
        if moment != "renaming the model" or "mnist_model.pth" in str(arguments):
            raise KeyboardInterrupt
        return function(*arguments, **options)

    monkeypatch.setattr(owner, attribute, interrupted)
    run = run_main(TRAIN.name, *flags, cwd=tmp_path, data_dir=data_dir)
    assert run.returncode == 130
    assert run.stderr == "\nStopped. Files saved earlier are untouched.\n"
    results = list(MOMENTS)  # in the order in which they come
    if results.index(moment) <= results.index("renaming the model"):
        assert earlier_model.read_bytes() == before
    torch.load(earlier_model, weights_only=True)
    assert not list(tmp_path.rglob("*.tmp"))
    recorded = (tmp_path / "training_runs.csv").exists()
    assert recorded == (moment == "drawing the picture")


# Stopped by itself.
STOPPED = """
import os, signal
from dl_utils import run_script
run_script(lambda: (os.kill(os.getpid(), signal.SIGINT), print("still here")))
"""


@posix
def test_a_stopped_script_ends_with_130_and_no_traceback(tmp_path):
    # nohup and "&" let a process ignore Ctrl-C, and its children as well.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    process = run_python("-c", heard + STOPPED, cwd=ROOT, data_dir=tmp_path)
    assert process.returncode == 130
    assert process.stderr == "\nStopped. Files saved earlier are untouched.\n"
    assert process.stdout == ""


# ------------------------------------------------------------------------------
# How a script ends
# ------------------------------------------------------------------------------


def end_of(main, monkeypatch):
    """Return how a script with this main() ends."""
    script = load_script("01_hello_pytorch")
    monkeypatch.setattr(script, "main", main)
    return run_main(script, cwd=ROOT, data_dir=ROOT)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("the disk is full"), 1, "Error: the disk is full\n"),
        (UserError("two\nlines"), 1, "Error: two lines\n"),
        (terminal.BadSettingError("too many"), 2, "Error: too many\n"),
        (KeyboardInterrupt(), 130, "\nStopped. Files saved earlier are untouched.\n"),
        (OSError(28, "No space left on device"), 1, "output: No space left on device"),
        (MemoryError(), 1, "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "not enough"),
    ],
)
def test_what_comes_from_outside_is_one_line(error, code, message, monkeypatch):
    def main():
        raise error

    monkeypatch.setattr(os, "dup2", lambda *_: None)  # pytest's output stays
    run = end_of(main, monkeypatch)
    assert run.returncode == code
    assert message in run.stderr
    assert run.stderr.strip().count("\n") == 0


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: Path("notes.txt").read_text(),
        lambda: Path().read_text(),
        lambda: 1 / 0,
        lambda: torch.ones(2) @ torch.ones(3),
        lambda: torch.lod("model.pth"),
        lambda: {}["epochs"],
    ],
    ids=["missing file", "folder", "arithmetic", "shapes", "misspelt", "key"],
)
def test_a_mistake_in_the_code_gives_a_traceback(mistake, monkeypatch):
    with pytest.raises(Exception) as own:
        mistake()
    with pytest.raises(own.type):
        end_of(mistake, monkeypatch)


# ------------------------------------------------------------------------------
# Consoles, pipes and environments
# ------------------------------------------------------------------------------


def shell(line):
    """Return a prefix that has "$@", the command, run by a line of shell."""
    return ["sh", "-c", line, "sh"]


TALK = """
from dl_utils import run_script
run_script(lambda: [print("and so on") for _ in range(100_000)])
"""


@posix
def test_a_reader_that_has_seen_enough(tmp_path):
    process = run_python(
        "-c", TALK, cwd=ROOT, data_dir=tmp_path, prefix=shell('"$@" | head -1')
    )
    assert (process.stdout, process.stderr) == ("and so on\n", "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_output_into_a_file_on_a_full_disk(tmp_path):
    process = run_python(
        "-c", TALK, cwd=ROOT, data_dir=tmp_path, prefix=shell('"$@" >/dev/full')
    )
    assert_one_line(process, "output: No space left on device")


@posix
def test_without_any_output(tmp_path, synthetic_dir):
    process = run_python(
        TRAIN, *QUICK,
        cwd=tmp_path, data_dir=synthetic_dir, prefix=shell('"$@" >&- 2>&-'),
    )  # fmt: skip
    assert process.returncode == 0
    assert torch.load(tmp_path / "mnist_model.pth", weights_only=True)
    assert sorted(os.listdir(tmp_path)) == RESULTS


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_without_one_of_the_outputs(tmp_path, synthetic_dir, monkeypatch, stream):
    script = load_script("03_train_mnist")
    train = script.main

    def main():
        with getattr(contextlib, f"redirect_{stream}")(None):
            run_script(train)

    monkeypatch.setattr(script, "main", main)
    run = run_main(script, *QUICK, cwd=tmp_path, data_dir=synthetic_dir)
    assert (run.returncode, run.stderr) == (0, "")
    assert (tmp_path / "mnist_model.pth").exists()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_any_encoding_of_the_output(monkeypatch, encoding):
    # A folder's name may have letters that neither ASCII nor cp1252 can show.
    output = io.TextIOWrapper(io.BytesIO(), encoding)

    def main():
        with contextlib.redirect_stdout(output):
            run_script(lambda: print("Saved: \u6570\u5b57.pth"))

    assert end_of(main, monkeypatch).returncode == 0
    shown = output.buffer.getvalue().decode(encoding)
    assert re.match(r"Saved: (\\u6570\\u5b57|\u6570\u5b57)\.pth\s", shown)


def test_from_another_folder_without_home_and_display(tmp_path, synthetic_dir):
    # Pictures are drawn without any window, whatever is configured for windows, as by
    # a notebook for the programs that it starts.
    environment = script_environment(synthetic_dir, COLUMNS="20")
    environment["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
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


ON_TERMINAL = """
import os, pty, sys
sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))
"""
DRAWING = """
from backstage.data import synthetic_digits
draw = synthetic_digits.make_digits
def make_digits(count, seed, progress):
    images, labels = draw(1400, seed, lambda done: progress(50 * done))
    return images.repeat(50, 1, 1), labels.repeat(50)
synthetic_digits.make_digits = make_digits
"""


@posix
def test_a_narrow_terminal(tmp_path):
    # On a terminal there is a progress bar; it too must be ASCII.
    process = run_python(
        "-c", ON_TERMINAL, "sh", "-c", 'stty cols 40 rows 10; exec "$@"', "sh",
        sys.executable, *prepared(DRAWING, TRAIN, *QUICK),
        cwd=tmp_path, data_dir=tmp_path / "data",
    )  # fmt: skip
    assert process.returncode == 0, process.stdout
    assert "100%|" in process.stdout
    assert process.stdout.isascii()


# ------------------------------------------------------------------------------
# Memory
# ------------------------------------------------------------------------------

has_proc = pytest.mark.skipif(
    not os.path.exists("/proc/self/status"), reason="there is no /proc to read"
)
# Lets every run end with the most memory that the process has had so far.
PRINT_PEAK = """
import re, conftest
without_peak = conftest.run_main
def with_peak(*arguments, **options):
    code, output, errors = without_peak(*arguments, **options)
    kilobytes = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]
    return code, output, errors + str(int(kilobytes) * 1024 // 1_000_000)
conftest.run_main = with_peak
"""
LIMIT_MEMORY = """
import resource
import dl_utils
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 2**30
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
"""


@has_proc
def test_memory_stays_within_1200_mb(tmp_path, synthetic_dir):
    runs = run_together(
        (tmp_path, TRAIN.name, *QUICK[:2], "--epochs", 1),
        (tmp_path, SCRIPTS[4], *QUICK[:2], "--epochs", 1, "--seeds", 2),
        data_dir=synthetic_dir,
        preparation=PRINT_PEAK,
    )
    assert [run.returncode for run in runs] == [0, 0]
    assert max(int(run.stderr) for run in runs) <= 1200


@has_proc
def test_more_epochs_need_no_more_memory(tmp_path, synthetic_dir, monkeypatch):
    script = load_script("03_train_mnist")
    evaluate_model, megabytes = script.evaluate_model, []

    def measure(*arguments):
        status = Path("/proc/self/status").read_text()
        megabytes.append(int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1000)
        return evaluate_model(*arguments)

    monkeypatch.setattr(script, "evaluate_model", measure)
    flags = (*QUICK[:4], "--epochs", 30)
    run = run_main(script, *flags, cwd=tmp_path, data_dir=synthetic_dir)
    assert run.returncode == 0, run.stderr
    assert len(megabytes) == 32  # before training, after each epoch, and the test
    assert megabytes[30] <= megabytes[3] + 30


@has_proc
def test_too_little_memory_is_one_line(tmp_path, synthetic_dir):
    # Room for the lesson itself, but not for a batch of 55,000 through 10,000 neurons.
    flags = ("--dataset", "synthetic", "--batch-size", 55_000, "--hidden-size", 10_000)
    process = run_python(
        *prepared(LIMIT_MEMORY, os.path.relpath(TRAIN, tmp_path), *flags),
        cwd=tmp_path, data_dir=synthetic_dir,
    )  # fmt: skip
    assert_one_line(process, "not enough memory; use a smaller setting")
