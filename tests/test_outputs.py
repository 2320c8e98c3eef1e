"""Files, consoles and interruptions: whatever happens, one clear line and no loss."""

import contextlib
import gzip
import io
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from torchvision.datasets import utils

from backstage import files, gpu, plotting, runs, terminal, weights
from backstage.data import mnist, spoken_digits, synthetic_digits
from backstage.script import run_script
from backstage.terminal import UserError
from conftest import (
    ROOT,
    SCRIPTS,
    Finished,
    load_script,
    read_only,
    run_main,
    run_python,
)

TRAIN = ROOT / "03_train_mnist.py"
QUICK = ("--dataset", "synthetic", "--train-samples", 640, "--epochs", 2)
RESULTS = ["mnist_model.pth", "training_history.png", "training_runs.csv"]

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")


def assert_one_line(run, message):
    """The script must have ended with code 1 and this line."""
    assert (run.returncode, run.stderr) == (1, f"Error: {message}\n")


@pytest.fixture
def train(tmp_path, synthetic_dir):
    """Return a function that trains shortly in the test's folder."""
    return lambda: run_main(TRAIN.name, *QUICK, cwd=tmp_path, data_dir=synthetic_dir)


# Forks of one process, which has loaded PyTorch once, run [name, folder, code], two
# side by side. What they print comes into files. The last line of the output of their
# parent has their codes.
FORKS = """
import json, os, runpy, sys
import dl_utils

def run(script, flags):
    sys.argv = [script, *flags.split()]
    runpy.run_path(script, run_name="__main__")

def wait():
    codes.append(os.waitstatus_to_exitcode(os.waitpid(running.pop(0), 0)[1]))

outputs, jobs = json.loads(sys.argv[1])
running, codes = [], []
for name, folder, code in jobs:
    if len(running) == 2:
        wait()
    running.append(os.fork())
    if not running[-1]:
        os.chdir(folder)
        for number in (1, 2):
            path = f"{outputs}/{name}.{number}"
            os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), number)
        exec(code)
        sys.exit()
while running:
    wait()
print(json.dumps(codes))
"""
PEAK = """
print("peak", *[l.split()[1] for l in open("/proc/self/status") if "VmHWM" in l])
"""
# Room for the lesson itself, but not for a batch of 55,000 through 10,000 neurons.
LITTLE_MEMORY = """
import resource
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 2**30
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
"""
CLOSED = "os.close(1); os.close(2); sys.stdout = sys.stderr = None\n"
TALK = 'dl_utils.run_script(lambda: [print("and so on") for _ in range(100_000)])'
GONE = "ends = os.pipe(); os.dup2(ends[1], 1); os.close(ends[0]); os.close(ends[1])\n"
FULL = "os.dup2(os.open('/dev/full', os.O_WRONLY), 1)\n"


def lesson(number, flags):
    return f"run({str(ROOT / SCRIPTS[number - 1])!r}, '--dataset synthetic {flags}')\n"


LOCKED = "cannot be written: Permission denied"
SOON = "--train-samples 640 --epochs 2"
# The first word is the folder.
JOBS = {
    "locked 2": lesson(2, ""),
    "locked 4": lesson(4, ""),
    "locked 5": lesson(5, ""),
    "protected": lesson(3, ""),
    "closed": CLOSED + lesson(3, SOON),
    "gone": GONE + TALK,
    "full": FULL + TALK,
    "little": LITTLE_MEMORY + lesson(3, "--batch-size 55000 --hidden-size 10000"),
    "peak 3": lesson(3, "--epochs 1") + PEAK,
    "peak 5": lesson(5, f"{SOON} --seeds 2 --compare ThreeLayerNN") + PEAK,
}


@pytest.fixture(scope="module")
def forks(tmp_path_factory, synthetic_dir, train_script):
    """The folder of the JOBS, and how each ended."""
    if not hasattr(os, "fork") or not os.path.exists("/proc/self/status"):
        pytest.skip("there is no fork or no /proc")
    top = tmp_path_factory.mktemp("forks")
    for name in JOBS:
        (top / name.split()[0]).mkdir(exist_ok=True)
    for name in ("locked", "protected"):
        path = top / name / "mnist_model.pth"
        torch.save(train_script.SimpleNN().state_dict(), path)
    path.chmod(0o444)
    jobs = [(name, str(top / name.split()[0]), code) for name, code in JOBS.items()]
    with read_only(top / "locked") as prefix:
        process = run_python(
            "-c", FORKS, json.dumps([str(top), jobs]),
            cwd=ROOT, data_dir=synthetic_dir, prefix=prefix,
        )  # fmt: skip
    assert process.returncode == 0, process.stderr
    codes = json.loads(process.stdout.splitlines()[-1])
    ends = {
        name: Finished(code, *((top / f"{name}.{n}").read_text() for n in (1, 2)))
        for name, code in zip(JOBS, codes, strict=True)
    }
    return top, ends


def test_a_read_only_folder_and_a_protected_model(forks):
    top, ends = forks
    for name, written in (("locked 2", 2), ("locked 4", 4)):
        code, output, errors = ends[name]
        assert code == 1
        assert re.fullmatch(rf"(Error: \S+ {LOCKED}\n){{{written}}}", errors)
        assert "%" in output  # the lesson itself was given
    # What takes long to compute is not computed for nothing.
    model, lines = "mnist_model.pth", f"Error: architecture_comparison.png {LOCKED}\n"
    assert ends["locked 5"] == (1, "", lines)
    protected = f"Error: {model} cannot be written: it is protected\n"
    assert ends["protected"] == (1, "", protected)
    assert os.listdir(top / "locked") == os.listdir(top / "protected") == [model]


def test_outputs_that_are_closed_full_or_read_no_further(forks):
    top, ends = forks
    assert ends["closed"] == (0, "", "")
    assert sorted(os.listdir(top / "closed")) == RESULTS
    assert ends["gone"] == (1, "", "")
    assert ends["full"] == (1, "", "Error: output: No space left on device\n")


def test_memory_stays_within_1200_mb_and_too_little_is_one_line(forks):
    _, ends = forks
    for name in ("peak 3", "peak 5"):
        assert (ends[name].returncode, ends[name].stderr) == (0, "")
        assert int(ends[name].stdout.split()[-1]) * 1024 <= 1200 * 10**6
    assert_one_line(ends["little"], LITTLE)


def test_a_disk_that_is_full_when_the_model_is_saved(tmp_path, synthetic_dir):
    # The weights take 400 KB.
    mount = 'mount -t tmpfs -o size=300k small "$PWD" && cd "$PWD"'
    script = f'{mount} || exit 99; "$@"; code=$?; echo "Left:" $(ls -A); exit $code'
    shell = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    if not shutil.which("unshare"):
        pytest.skip("there is no unshare to mount a small disk with")
    process = run_python(
        TRAIN, *QUICK, cwd=tmp_path, data_dir=synthetic_dir, prefix=shell
    )
    if process.returncode == 99 or "unshare:" in process.stderr:
        pytest.skip(f"no small disk can be mounted here ({process.stderr.strip()})")
    assert_one_line(process, "mnist_model.pth cannot be written: the disk is full")
    assert process.stdout.endswith("Left:\n")


ON_TERMINAL = """
import os, pty, sys
sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))
"""
SLOW_DRAWING = """
import os, runpy, sys
sys.path.insert(0, os.path.dirname(sys.argv[1]))
from backstage.data import synthetic_digits
draw = synthetic_digits.make_digits
def make_digits(count, seed, progress):
    images, labels = draw(1400, seed, lambda done: progress(50 * done))
    return images.repeat(50, 1, 1), labels.repeat(50)
synthetic_digits.make_digits = make_digits
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@posix
def test_a_narrow_terminal_from_another_folder_without_home_and_display(tmp_path):
    # Pictures are drawn without any window, whatever is configured for windows, as by
    # a notebook for the programs that it starts. On a terminal there is a progress bar.
    nowhere = "env -u HOME -u DISPLAY -u WAYLAND_DISPLAY -u TERM"
    backend = "MPLBACKEND=module://matplotlib_inline.backend_inline"
    process = run_python(
        "-c", ON_TERMINAL, "sh", "-c",
        f'stty cols 40 rows 10; exec {nowhere} {backend} "$@"', "sh",
        sys.executable, "-c", SLOW_DRAWING, os.path.relpath(TRAIN, tmp_path), *QUICK,
        cwd=tmp_path, data_dir=tmp_path / "data",
    )  # fmt: skip
    assert process.returncode == 0, process.stdout
    assert "100%|" in process.stdout
    assert process.stdout.isascii() and "Warning" not in process.stdout
    assert {*RESULTS} <= {*os.listdir(tmp_path)}


def test_a_folder_in_place_of_a_result(tmp_path, train):
    for name in RESULTS:
        (tmp_path / name).mkdir()
        why = "it is not the name of a file"
        assert_one_line(train(), f"'{name}' cannot be written: {why}")
        (tmp_path / name).rmdir()


def test_a_result_that_another_program_holds_open_costs_nothing_else(
    tmp_path, train, monkeypatch
):
    def rename(source, target, rename=os.replace):
        if str(target).endswith(".png"):  # on Windows, by the program that shows it
            raise PermissionError(13, "Access is denied", str(source), 0, str(target))
        rename(source, target)

    def denied(path, mode="r", *arguments, **options):
        if str(path).endswith(".csv") and "a" in mode:
            raise PermissionError(13, "Permission denied", str(path))
        return open(path, mode, *arguments, **options)

    monkeypatch.setattr(runs, "open", denied, raising=False)
    run = train()
    assert_one_line(run, f"training_runs.csv {LOCKED}")
    assert sorted(os.listdir(tmp_path)) == RESULTS[:2]
    assert "still improving" in run.stdout
    monkeypatch.undo()
    (tmp_path / RESULTS[1]).unlink()
    monkeypatch.setattr(os, "replace", rename)
    run = train()
    assert_one_line(run, "training_history.png cannot be written: Access is denied")
    assert sorted(os.listdir(tmp_path)) == RESULTS[::2]
    assert "Test Accuracy" in run.stdout
    monkeypatch.undo()
    assert train().returncode == 0  # earlier failures are forgotten


def test_a_users_matplotlibrc_cannot_spoil_a_picture(monkeypatch):
    settings, usetex = plotting.matplotlib.rcParams, []
    monkeypatch.setitem(settings, "text.usetex", True)
    end_of(lambda: usetex.append(settings["text.usetex"]), monkeypatch)
    assert usetex == [False] and settings["text.usetex"]


@posix
def test_a_link_stays_a_link(tmp_path, train):
    (tmp_path / "drive").mkdir()
    for name in RESULTS:
        (tmp_path / name).symlink_to(tmp_path / "drive" / name)
    assert [train().returncode, train().returncode] == [0, 0]
    assert sorted(os.listdir(tmp_path / "drive")) == RESULTS
    assert all((tmp_path / name).is_symlink() for name in RESULTS)
    assert len(runs.read_runs(tmp_path / "drive" / RESULTS[2])) == 2


def test_what_killed_runs_left_is_cleared_after_a_day(tmp_path):
    young = {"model.pth", "model.tmp", "other.pth.1.tmp", "model.pth.new.tmp"}
    for name, hours in {**dict.fromkeys(young, 23), "model.pth.old.tmp": 25}.items():
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (time.time() - 3600 * hours,) * 2)
    os.utime(tmp_path / "other.pth.1.tmp", (0, 0))  # another file's
    with files.atomic_path(tmp_path / "model.pth") as temporary_path:
        assert {*os.listdir(tmp_path)} == {*young, temporary_path.name}
        temporary_path.write_text("new")
    assert {*os.listdir(tmp_path)} == young


def test_what_is_no_file_is_refused_at_once(tmp_path):
    paths = [tmp_path]
    if hasattr(os, "mkfifo"):  # reading would wait for ever, or never come to an end
        os.mkfifo(tmp_path / "pipe")
        paths += [tmp_path / "pipe", "/dev/zero"]
    for path in paths:
        refused = pytest.raises(UserError, match="it is a folder, a device or a pipe")
        with refused:
            files.check_can_read(path, "draw one")
        with refused, weights.explain_weights(path, torch.nn.Linear(1, 1)):
            pass
    for name in ("\0", "n" * 5000):  # that no file can have
        with pytest.raises(UserError, match=r"cannot be read|there is no file"):
            files.check_can_read(name, "draw one")


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
    tmp_path, synthetic_dir, train_script, monkeypatch, moment
):
    earlier_model = tmp_path / "mnist_model.pth"
    torch.save(train_script.SimpleNN().state_dict(), earlier_model)
    before = earlier_model.read_bytes()
    data_dir, flags = synthetic_dir, QUICK
    if moment in ("download", "drawing digits"):
        data_dir, flags = tmp_path / "data", ()
        monkeypatch.setattr(mnist, "MIRRORS", ["http://127.0.0.1:9/"])
    owner, attribute = MOMENTS[moment]
    function, renaming = getattr(owner, attribute), moment == "renaming the model"

    def interrupted(*arguments, **options):
        if renaming and "mnist_model.pth" not in str(arguments):
            return function(*arguments, **options)
        for path in filter(lambda argument: isinstance(argument, Path), arguments):
            if moment == "download":
                path.mkdir()
                path /= "train-images-idx3-ubyte.gz"
            if not renaming:
                path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, attribute, interrupted)
    run = run_main(TRAIN.name, *flags, cwd=tmp_path, data_dir=data_dir)
    stopped = "\nStopped. Files saved earlier are untouched.\n"
    assert (run.returncode, run.stderr) == (130, stopped)
    if moment not in ("recording", "drawing the picture"):  # these come later
        assert earlier_model.read_bytes() == before
    torch.load(earlier_model, weights_only=True)
    assert not list(tmp_path.rglob("*.tmp"))
    recorded = (tmp_path / "training_runs.csv").exists()
    assert recorded == (moment == "drawing the picture")


LITTLE = "not enough memory; use a smaller setting"


def end_of(main, monkeypatch):
    """Return how a script with this main() ends."""
    script = load_script("01_hello_pytorch")
    monkeypatch.setattr(script, "main", main)
    return run_main(script, cwd=ROOT, data_dir=ROOT)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("two\nlines"), 1, "two lines"),
        (terminal.BadSettingError("too many"), 2, "too many"),
        (MemoryError(), 1, LITTLE),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, LITTLE),
    ],
)
def test_what_comes_from_outside_is_one_line(error, code, message, monkeypatch):
    def main():
        raise error

    assert end_of(main, monkeypatch) == (code, "", f"Error: {message}\n")


MISTAKES = {
    "an OSError about another file": lambda: Path("notes.txt").read_text(),
    "a RuntimeError": lambda: torch.ones(2) @ torch.ones(3),
    "a KeyError": lambda: {}["epochs"],
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_the_code_gives_a_traceback(tmp_path, name, monkeypatch):
    with pytest.raises(Exception) as own:
        MISTAKES[name]()
    same = pytest.raises(own.type, match=re.escape(str(own.value)))
    with same:
        end_of(MISTAKES[name], monkeypatch)
    # While a file is written, it is not blamed on the disk, and the earlier one stays.
    (tmp_path / "model.pth").write_text("earlier")
    with same, files.atomic_path(tmp_path / "model.pth") as temporary_path:
        temporary_path.write_text("half")
        MISTAKES[name]()
    assert os.listdir(tmp_path) == ["model.pth"]
    assert (tmp_path / "model.pth").read_text() == "earlier"


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8"])
def test_any_encoding_of_the_output_and_line_by_line(encoding):
    # A folder's name may have letters that neither ASCII nor cp1252 can show.
    output, shown = io.TextIOWrapper(io.BytesIO(), encoding), []

    def speak():
        print("Saved: \u6570\u5b57.pth")
        shown.append(output.buffer.getvalue().decode(encoding).strip())

    with contextlib.redirect_stdout(output):
        run_script(speak)
    name = "\u6570\u5b57" if encoding == "utf-8" else r"\u6570\u5b57"
    assert shown == [f"Saved: {name}.pth"]


def test_the_messages_in_the_readme_are_those_of_the_program(
    tmp_path, synthetic_dir, train_script, monkeypatch, capsys
):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition("| Fault | What the user sees |\n|---|---|\n")[2]
    rows = [line.split(" | ")[1] for line in table.partition("\n\n")[0].splitlines()]
    quoted = {span for row in rows for span in re.findall("`([^`]+)`", row)}
    quoted |= set(re.findall(r"^\| `((?:A GPU|mnist_model)[^`]+)` \|", text, re.M))
    quoted, heard = quoted - {"--dataset mnist"}, []  # which is a flag
    assert len(quoted) >= 12

    def hear(script, *flags, data_dir=synthetic_dir):
        run = run_main(script, *flags, cwd=tmp_path, data_dir=data_dir)
        heard.append(run.stdout + run.stderr)

    monkeypatch.setattr(mnist, "MIRRORS", ["http://127.0.0.1:9/"])  # nobody listens
    monkeypatch.setattr(spoken_digits, "URL", mnist.MIRRORS[0])
    path = tmp_path / "data" / "MNIST" / "raw" / mnist.TRAIN_IMAGES[0]
    path.parent.mkdir(parents=True)
    for content in (b"damaged", gzip.compress(b"another data set's")):
        path.write_bytes(content)
        hear(TRAIN.name, "--dataset", "mnist", data_dir=tmp_path / "data")
    hear(TRAIN.name, "--dataset", "spoken", data_dir=tmp_path)
    hear(TRAIN.name, "--epochs", "ten")
    hear(TRAIN.name, "--dataset", "synthetic", "--train-samples", 55_001)
    hear(TRAIN.name, *QUICK, "--learning-rate", 1e30)
    torch.save(train_script.SimpleNN().state_dict(), tmp_path / "mnist_model.pth")
    (tmp_path / "my_digit.png").write_bytes(b"\x89PNG")
    hear(SCRIPTS[3], "--image", "my_digit.png")
    (tmp_path / "mnist_model.pth").write_bytes(b"PK")
    hear(SCRIPTS[3])
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        hear(TRAIN.name, *QUICK)

    def broken(*_, **options):
        raise KeyboardInterrupt if not options else RuntimeError("no kernel image")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", broken)
    assert not gpu.gpu_works()
    monkeypatch.setattr(train_script, "main", broken)
    hear(train_script)
    heard.append(capsys.readouterr().out)
    # The lines may be broken elsewhere; MNIST itself may not be here.
    given = " ".join(" ".join(heard).replace("synthetic", "MNIST").split())
    for message in quoted:
        assert re.search(re.escape(message).replace(r"\.\.\.", ".*"), given), message
