"""What the tests share: the scripts as modules, and the two data sets."""

import contextlib
import csv
import importlib.util
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

# One thread each, because tests and background runs share the cores, and PyTorch's
# threads lose much time when they wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import dl_utils  # noqa: E402

# Where the tests look for real MNIST. The tests themselves work on folders of their
# own, so this is read before any test changes it.
REAL_DATA_DIR = dl_utils.DATA_DIR


SCRIPTS = sorted(path.name for path in ROOT.glob("0*.py"))


def pytest_configure(config):
    config.addinivalue_line("markers", "real_mnist: needs the real MNIST files")


def load_script(name):
    """Import a script whose name, such as 03_train_mnist, is no Python identifier."""
    path = (ROOT / name).with_suffix(".py")  # an absolute name stays as it is
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_python(*arguments, cwd, data_dir, prefix=(), **environment):
    """Run Python as a learner would, and return the finished process."""
    return subprocess.run(
        [*prefix, sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=script_environment(data_dir, **environment),
        capture_output=True,
        text=True,
        timeout=900,
    )


def prepared(preparation, script, *flags):
    """Return what to give Python to run a script after some lines of preparation."""
    code = f"""
import runpy, sys
from pathlib import Path
sys.argv = sys.argv[1:]
sys.path.insert(0, str(Path(sys.argv[0]).parent))
{preparation}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    return ["-c", code, script, *flags]


def script_environment(data_dir, **environment):
    return os.environ | {"MNIST_DATA_DIR": str(data_dir)} | environment


def pytest_collection_modifyitems(items):
    # At the end, so that their runs can go on in the background from the beginning.
    items.sort(key=lambda item: item.path.name == "test_figures.py")


@pytest.fixture(scope="session", autouse=True)
def background_runs(request, tmp_path_factory):
    """Start what test_figures needs, one run after the other, beside other tests."""
    last = request.session.items[-1]
    with ThreadPoolExecutor(1) as pool:
        futures = {}
        if last.path.name == "test_figures.py" and has_real_mnist():
            for run in last.module.RUNS:
                folder = tmp_path_factory.mktemp("run")
                execute = last.module.execute
                futures[run] = pool.submit(execute, run, folder, REAL_DATA_DIR)
        yield futures
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def read_only(folder):
    """Take away the right to write into a folder; yield a prefix for commands.

    An administrator may write everywhere, and so starts them without that privilege.
    """
    if sys.platform == "win32":
        pytest.skip("Windows folders have no such permission")
    prefix = []
    if os.geteuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("root may write everywhere, and there is no setpriv")
        rights = "-dac_override,-dac_read_search"
        prefix = ["setpriv", "--bounding-set", rights, "--inh-caps", rights]
    mode = folder.stat().st_mode
    folder.chmod(0o555)
    try:
        yield prefix
    finally:
        folder.chmod(mode)


def on_small_disk(folder, size, *arguments, data_dir=None):
    """Run Python where the folder (and the data, if no data_dir is given) is tiny.

    The last line of its output names the files that are left there.
    """
    if not shutil.which("unshare"):
        pytest.skip("there is no unshare to mount a small disk with")
    mount = 'mount -t tmpfs -o size="$0" small "$1" && cd "$1" && shift'
    script = f'{mount} || exit 99; "$@"; code=$?; echo "Left:" $(ls -A); exit $code'
    shell = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, size, folder]
    process = run_python(
        *arguments, cwd=folder, data_dir=data_dir or folder, prefix=shell
    )
    if process.returncode == 99 or "unshare:" in process.stderr:
        pytest.skip(f"no small disk can be mounted here ({process.stderr.strip()})")
    return process


@pytest.fixture(scope="session")
def train_script():
    return load_script("03_train_mnist")


@pytest.fixture(scope="session")
def synthetic_dir(tmp_path_factory):
    """A data folder in which the synthetic digits have been drawn already."""
    folder = tmp_path_factory.mktemp("synthetic")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dl_utils, "DATA_DIR", folder)
        dl_utils.load_raw_digits("synthetic")
    return folder


@pytest.fixture
def synthetic(synthetic_dir, monkeypatch):
    """Let dl_utils use the synthetic digits."""
    monkeypatch.setattr(dl_utils, "DATA_DIR", synthetic_dir)


def has_real_mnist():
    raw = REAL_DATA_DIR / "MNIST" / "raw"
    return all(any(raw.glob(f"{name}*")) for name in dl_utils.MNIST_FILES)


@pytest.fixture(scope="session")
def real_mnist_dir():
    """The data folder with real MNIST; skips the test where there is none."""
    if not has_real_mnist():
        pytest.skip(
            f"real MNIST is not in {REAL_DATA_DIR}: python 03_train_mnist.py gets it"
        )
    return REAL_DATA_DIR


@pytest.fixture
def real_mnist(real_mnist_dir, monkeypatch):
    """Let dl_utils use real MNIST."""
    monkeypatch.setattr(dl_utils, "DATA_DIR", real_mnist_dir)


def assert_fits_the_console(output):
    """Redirected output on Windows takes ASCII only, and a narrow window 88 columns."""
    assert output.isascii()
    assert max(map(len, output.splitlines())) <= 88


class Lessons(NamedTuple):
    """The five lessons, run in order in one folder."""

    folder: Path
    outputs: dict[str, str]  # script -> what it printed
    files: dict[str, set[str]]  # script -> the files that it wrote


@pytest.fixture(scope="session")
def lessons_on_mnist(tmp_path_factory, real_mnist_dir):
    """Run all lessons with their defaults on real MNIST."""
    lessons = Lessons(tmp_path_factory.mktemp("lessons"), {}, {})
    for script in SCRIPTS:
        before = {path.name for path in lessons.folder.iterdir()}
        process = run_python(ROOT / script, cwd=lessons.folder, data_dir=real_mnist_dir)
        assert process.returncode == 0, process.stderr
        lessons.outputs[script] = process.stdout
        lessons.files[script] = {p.name for p in lessons.folder.iterdir()} - before
    return lessons


def training_runs(folder):
    """Return the rows of training_runs.csv."""
    with open(folder / "training_runs.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def tiny_loader():
    """25 random images in batches of 10, 10 and 5."""
    generator = torch.Generator().manual_seed(0)
    dataset = torch.utils.data.TensorDataset(
        torch.randn(25, 1, 28, 28, generator=generator),
        torch.randint(0, 10, (25,), generator=generator),
    )
    return torch.utils.data.DataLoader(dataset, batch_size=10)
