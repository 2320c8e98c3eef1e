"""The house: three floors, each of which knows only the one below, and its papers."""

import ast
import graphlib
import re
import subprocess

import pytest

from conftest import ROOT, SCRIPTS, run_python
from documents import TEXTS, blocks, speaking_blocks

README = TEXTS["README.md"]
BACKSTAGE = [
    path.relative_to(ROOT).as_posix() for path in ROOT.rglob("backstage/**/*.py")
]
OWN = {"dl_utils", "backstage", *(name.removesuffix(".py") for name in SCRIPTS)}
TOP_LEVEL = {
    *SCRIPTS, "dl_utils.py", "backstage", *TEXTS, "requirements.txt", "LICENSE",
    "images", "tests", ".ci", ".github", ".gitignore", ".ruff.toml",
}  # fmt: skip


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def imports(source):
    """Yield (module, names) for all imports in some code, wherever they stand."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield module, {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            yield from ((alias.name, set()) for alias in node.names)


def test_each_floor_knows_only_the_one_below():
    known = {}
    for name in (*SCRIPTS, "dl_utils.py", *BACKSTAGE):
        assert read(name).isascii(), name
        modules = {module.split(".")[0] for module, _ in imports(read(name))}
        assert "" not in modules, f"{name}: relative imports hide the floor"
        known[name] = modules & OWN
    assert all(known[name] == {"dl_utils"} for name in SCRIPTS)
    assert known["dl_utils.py"] == {"backstage"}
    assert all(known[name] <= {"backstage"} for name in BACKSTAGE)


def test_backstage_has_no_circle():
    below = {
        name: [f"{module.replace('.', '/')}.py" for module, _ in imports(read(name))]
        for name in BACKSTAGE
    }
    graphlib.TopologicalSorter(below).prepare()  # raises CycleError


def test_nothing_is_passed_on_in_vain():
    code = read("dl_utils.py")
    passed_on = {
        name
        for module, names in imports(code)
        for name in names
        if module.startswith("backstage") and len(re.findall(rf"\b{name}\b", code)) == 1
    }
    # Lesson 6 is written by learners, from the blocks in the guide.
    used = {
        name
        for source in (*map(read, SCRIPTS), speaking_blocks()[1])
        for module, names in imports(source)
        for name in names
        if module == "dl_utils"
    }
    assert passed_on <= used


def test_nothing_else_lies_at_top_level():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert {name.split("/")[0] for name in listing.splitlines()} <= TOP_LEVEL


# In a thread, as some servers and notebooks import; what PyTorch and Matplotlib do
# themselves is not ours.
IMPORT = """
import os, signal, subprocess, sys, threading
import matplotlib, torch, torch.utils.data, matplotlib.figure

def state():
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    return dict(os.environ), handlers, torch.get_num_threads(), torch.initial_seed()

before = state()
thread = threading.Thread(target=exec, args=("from dl_utils import *", globals()))
thread.start()
thread.join()
assert state() == before
# Each of them takes a good part of a second, and no lesson needs it.
assert not {"torchvision", "matplotlib.pyplot"} & sys.modules.keys()
import matplotlib.pyplot as plt
plt.imshow([[0]])
plt.show()
show = [sys.executable, "-c", "import os; print(os.environ['MPLBACKEND'])"]
assert subprocess.check_output(show, text=True).strip() == plt.get_backend() == "svg"
print("done")
"""


def test_importing_dl_utils_changes_nothing_and_loads_only_what_is_needed(tmp_path):
    process = run_python(
        "-W", "error::RuntimeWarning", "-c", IMPORT,
        cwd=ROOT, data_dir=tmp_path, MPLBACKEND="svg",
    )  # fmt: skip
    assert (process.stdout, process.stderr) == ("done\n", "")


def test_the_readme_begins_with_commands_that_do_all():
    commands = blocks(README, "(?:bash|powershell)")[:5]
    endings = 3 * ["python 03_train_mnist.py"] + 2 * ["pytest"]
    for command, ending in zip(commands, endings, strict=True):
        (line,) = command.splitlines()  # one line to paste
        steps = re.split(r" && |; ", line)
        assert re.fullmatch(r"py(thon3)? -m venv \.venv", steps[0])
        assert "-r requirements.txt" in steps[-2]
        assert steps[-1].removeprefix(".venv\\Scripts\\") == ending


def test_the_readme_says_what_each_lesson_writes():
    rows = re.findall(r"^\| `(\d\d_\w+\.py)` \| [^|]+ \| ([^|]+) \|", README, re.M)
    assert [script for script, _ in rows] == SCRIPTS
    for script, files in rows:
        # Its docstring lists them, too; that it is right, test_transcripts.py sees.
        listed = re.search(r"^It writes:(.*?)\n\n", read(script), re.M | re.S)[1]
        names = re.findall(r"\b\w+\.(?:png|pth|csv|html)\b", listed)
        assert re.findall(r"`(\S+)`", files) == sorted(names, key=files.find)


def test_the_workflow_tests_the_oldest_versions_and_every_figure_once():
    workflow = read(".github/workflows/tests.yml")
    floors = re.findall(r"^(\w+)>=([\d.]+)$", read("requirements.txt"), re.MULTILINE)
    assert len(floors) == 6
    for package, version in floors:
        assert re.search(rf"\b{package}=={re.escape(version)}(\.0)?\s", workflow)
    assert workflow.count("figures: --figures\n") == 1
    assert "pytest -ra ${{ matrix.figures }}\n" in workflow
    assert read(".ci/run").endswith("\npytest -ra --figures\n")
