"""What the tests share: the scripts as modules, and the data sets."""

import contextlib
import csv
import importlib.util
import io
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

# One thread each, because tests and background runs share the cores, and PyTorch's
# threads lose much time when they wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
import torchvision

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import backstage.data.datasets  # noqa: E402
import backstage.data.mnist  # noqa: E402
import backstage.plotting  # noqa: E402
import dl_utils  # noqa: E402

# Where the tests look for real data. The tests themselves work on folders of their
# own, so this is read before any test changes it.
REAL_DATA_DIR = backstage.data.datasets.DATA_DIR
FSDD_ARCHIVE = "free-spoken-digit-dataset-1.0.10.tar.gz"

# The five lessons; a sixth script beside them is the learner's own.
SCRIPTS = sorted(path.name for path in ROOT.glob("0[1-5]_*.py"))


def pytest_addoption(parser):
    parser.addoption(
        "--figures",
        nargs="?",
        const="one",
        choices=["one", "all"],
        help="measure the documents' figures again, with one seed each (minutes) or "
        "with all three (--figures=all: dozens of trainings)",
    )


def pytest_configure(config):
    config.addinivalue_line("markers", "real_mnist: needs the real MNIST files")


def measures_figures(item):
    return item.path.name == "test_figures.py"


def needs_lessons(item):
    return "lessons_on_mnist" in item.fixturenames


def pytest_collection_modifyitems(config, items):
    # What waits for runs in the background comes last, so that they have time.
    items.sort(key=lambda item: 2 * measures_figures(item) + needs_lessons(item))
    if not config.getoption("figures"):
        skip = pytest.mark.skip(reason="takes minutes: pytest --figures")
        for item in filter(measures_figures, items):
            item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def background_runs(request, tmp_path_factory):
    """Start long runs on real MNIST, one after the other, beside other tests.

    "lessons" are the five lessons; the other keys are the RUNS of test_figures.py.
    """
    items = request.session.items
    figures = request.config.getoption("figures") and measures_figures(items[-1])
    futures = {}
    with ThreadPoolExecutor(1) as pool:
        if has_real_mnist() and (figures or any(map(needs_lessons, items))):
            folder = tmp_path_factory.mktemp("lessons")
            futures["lessons"] = pool.submit(run_lessons, folder)
        if has_real_mnist() and figures:
            module = items[-1].module
            for run in module.RUNS:
                folder = tmp_path_factory.mktemp("run")
                futures[run] = pool.submit(module.execute, run, folder, REAL_DATA_DIR)
        yield futures
        pool.shutdown(cancel_futures=True)


def load_script(name):
    """Import a script whose name, such as 03_train_mnist, is no Python identifier."""
    path = (ROOT / name).with_suffix(".py")  # an absolute name stays as it is
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Finished(NamedTuple):
    """How a script ended that ran in this process; the names are subprocess's."""

    returncode: int
    stdout: str
    stderr: str


def run_main(script, *flags, cwd, data_dir):
    """Run a script in this process, which saves the seconds that Python needs to start.

    script: its name, or the module that load_script returned, patched or not. A mistake
    in the code is raised, where run_python would show a traceback.
    """
    module = script if isinstance(script, ModuleType) else load_script(script)
    output, errors = io.StringIO(), io.StringIO()
    code = 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", [module.__file__, *map(str, flags)])
        patch.setattr(backstage.data.datasets, "DATA_DIR", Path(data_dir))
        patch.setitem(sys.modules, module.__name__, module)  # for pickle
        try:
            dl_utils.run_script(module.main)
        except SystemExit as stop:
            code = stop.code or 0
    if isinstance(code, str):  # Python prints it and ends with 1
        errors.write(f"{code}\n")
        code = 1
    return Finished(code, output.getvalue(), errors.getvalue())


def run_python(*arguments, cwd, data_dir, prefix=(), **environment):
    """Run Python as a learner would, and return the finished process."""
    return subprocess.run(
        [*prefix, sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"MNIST_DATA_DIR": str(data_dir)} | environment,
        capture_output=True,
        text=True,
        timeout=900,
    )


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


@pytest.fixture(scope="session")
def train_script():
    return load_script("03_train_mnist")


@pytest.fixture(scope="session")
def synthetic_dir(tmp_path_factory):
    """A data folder in which the synthetic digits have been drawn already."""
    folder = tmp_path_factory.mktemp("synthetic")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backstage.data.datasets, "DATA_DIR", folder)
        backstage.data.datasets.load_raw_data("synthetic")
    return folder


@pytest.fixture
def synthetic(synthetic_dir, monkeypatch):
    """Let the lessons find the synthetic digits."""
    monkeypatch.setattr(backstage.data.datasets, "DATA_DIR", synthetic_dir)


@pytest.fixture(scope="session")
def synthetic_network(synthetic_dir, train_script):
    """The network of lesson 3, trained on synthetic digits with its defaults."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backstage.data.datasets, "DATA_DIR", synthetic_dir)
        train_loader, *_ = dl_utils.load_mnist_data(dataset="synthetic")
    torch.manual_seed(0)
    model = train_script.SimpleNN()
    rate = train_script.LEARNING_RATE
    optimizer = torch.optim.Adam(model.parameters(), rate, fused=True)
    criterion = torch.nn.CrossEntropyLoss()
    for _ in range(train_script.EPOCHS):
        train_script.train_epoch(model, train_loader, criterion, optimizer, "cpu")
    return model


def real_mnist_files():
    folder = REAL_DATA_DIR / "MNIST" / "raw"
    return [folder / name for name in backstage.data.mnist.FILES]


def has_real_mnist():
    return all(path.is_file() for path in real_mnist_files())


@pytest.fixture(scope="session")
def real_mnist_dir():
    """The data folder with real MNIST; skips the test where there is none."""
    if not has_real_mnist():
        pytest.skip(f"no real MNIST in {REAL_DATA_DIR}: 03_train_mnist.py gets it")
    return REAL_DATA_DIR


@pytest.fixture
def real_mnist(real_mnist_dir, monkeypatch):
    """Let the lessons find real MNIST."""
    monkeypatch.setattr(backstage.data.datasets, "DATA_DIR", real_mnist_dir)


@pytest.fixture(scope="session")
def real_fsdd_dir():
    """The data folder with the spoken digits; skips the test where there are none."""
    if not (REAL_DATA_DIR / "FSDD" / FSDD_ARCHIVE).is_file():
        pytest.skip(f"{FSDD_ARCHIVE} is not in {REAL_DATA_DIR / 'FSDD'}")
    return REAL_DATA_DIR


@pytest.fixture
def tiny_loader():
    """25 random images in batches of 10, 10 and 5."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(25, 1, 28, 28, generator=generator)
    labels = torch.randint(0, 10, (25,), generator=generator)
    dataset = torch.utils.data.TensorDataset(images, labels)
    return torch.utils.data.DataLoader(dataset, batch_size=10)


def find_chromium(chromium):
    names = (chromium.executable_path, "chromium", "chromium-browser", "google-chrome")
    found = [path for path in map(shutil.which, names) if path]
    return (
        found[0] if found else pytest.skip("no Chromium: playwright install chromium")
    )


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no playwright: pip install playwright"
    )
    with playwright.sync_playwright() as session:
        browser = session.chromium.launch(
            executable_path=find_chromium(session.chromium),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Open a page from its file, offline; at the end, nothing must have gone wrong."""
    with contextlib.ExitStack() as visits:

        def visit(path, width=1200, height=800, **options):
            size = {"width": width, "height": height}
            context = browser.new_context(viewport=size, **options)
            visits.callback(context.close)
            context.set_offline(True)
            page = context.new_page()
            said, asked = [], []
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("request", lambda request: asked.append(request.url))
            page.goto(path.as_uri())
            page.wait_for_selector("main:not([hidden])")
            pages.append((path, said, asked))
            return page

        pages = []
        yield visit
    for path, said, asked in pages:
        assert said == []
        assert [url for url in asked if not url.startswith("blob:")] == [path.as_uri()]


class Lessons(NamedTuple):
    """The five lessons, run in order in one folder."""

    folder: Path
    outputs: dict[str, str]  # script -> what it printed
    files: dict[str, set[str]]  # script -> the files that it wrote


def run_lessons(folder):
    """Run all lessons with their defaults on real MNIST."""
    lessons = Lessons(folder, {}, {})
    for script in SCRIPTS:
        before = {path.name for path in folder.iterdir()}
        process = run_python(ROOT / script, cwd=folder, data_dir=REAL_DATA_DIR)
        assert process.returncode == 0, process.stderr
        lessons.outputs[script] = process.stdout
        lessons.files[script] = {path.name for path in folder.iterdir()} - before
    return lessons


@pytest.fixture(scope="session")
def lessons_on_mnist(real_mnist_dir, background_runs):
    """All lessons, run with their defaults on real MNIST."""
    return background_runs["lessons"].result()


@pytest.fixture(scope="session")
def trained_model_path(lessons_on_mnist):
    """The weights that lesson 3 saves with its defaults on real MNIST."""
    return lessons_on_mnist.folder / "mnist_model.pth"


def training_runs(folder):
    """Return the rows of training_runs.csv."""
    with open(folder / "training_runs.csv", newline="") as file:
        return list(csv.DictReader(file))


def assert_fits_the_console(output):
    """Redirected output on Windows takes ASCII only, and a narrow window 88 columns."""
    assert output.isascii()
    assert max(map(len, output.splitlines())) <= 88


class QuickLessons(NamedTuple):
    """The five lessons, run quickly and in order in one folder, without a GPU."""

    outputs: dict[str, str]  # script -> what it printed
    files: dict[str, set[str]]  # script -> the files that it wrote
    figures: dict[str, list]  # script -> the Figures that it drew


@pytest.fixture(scope="session")
def quick_lessons(synthetic_dir, tmp_path_factory):
    """All lessons on the synthetic digits, and lesson 4 once more with a picture."""
    folder = tmp_path_factory.mktemp("quick")
    digit = torch.ones(60, 60)
    digit[10:15, 15:45] = 0  # a 7, black on white
    for row in range(15, 50):
        digit[row, 47 - row // 2 : 53 - row // 2] = 0
    torchvision.utils.save_image(digit, folder / "my_digit.png")
    few = ("--dataset", "synthetic", "--train-samples", 1000, "--epochs", 2)
    lessons, files = QuickLessons({}, {}, {}), {"my_digit.png"}
    for script, *flags in (
        [SCRIPTS[0]],
        [SCRIPTS[1], "--dataset", "synthetic"],
        [SCRIPTS[2], *few],
        [SCRIPTS[3]],
        [SCRIPTS[4], *few, "--seeds", 2],
        [SCRIPTS[3], "--image", "my_digit.png"],
    ):
        figures = lessons.figures.setdefault(script, [])
        savefig = backstage.plotting.Figure.savefig

        def record(figure, *args, figures=figures, savefig=savefig, **options):
            figures.append(figure)
            savefig(figure, *args, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.cuda, "is_available", lambda: False)
            patch.setattr(backstage.plotting.Figure, "savefig", record)
            run = run_main(script, *flags, cwd=folder, data_dir=synthetic_dir)
        assert (run.returncode, run.stderr) == (0, "")
        lessons.outputs[script] = lessons.outputs.get(script, "") + run.stdout
        written = {path.name for path in folder.iterdir()} - files
        lessons.files.setdefault(script, written)
        files |= written
    return lessons


@pytest.fixture(scope="session")
def seeds(request):
    """The seeds that figures are measured with; the texts have means of three."""
    return (42, 1, 2) if request.config.getoption("figures") == "all" else (42,)
