"""The house: three floors, each of which knows only the one below."""

import ast
import re
import subprocess
import sys

import pytest

from conftest import ROOT, SCRIPTS, run_python
from documents import speaking_blocks

BACKSTAGE = sorted(
    path.relative_to(ROOT).as_posix() for path in ROOT.rglob("backstage/**/*.py")
)
OWN = {"dl_utils", "backstage", *(name.removesuffix(".py") for name in SCRIPTS)}
TOP_LEVEL = {
    *SCRIPTS,
    "dl_utils.py",
    "backstage",
    "README.md",
    "LEARNING_GUIDE.md",
    "ML_CONCEPTS_EXPLAINED.md",
    "requirements.txt",
    "images",
    "tests",
    ".ci",
    ".github",
    ".gitignore",
    ".ruff.toml",
    "LICENSE",
}


def imports(name):
    """Yield (statement, module) for all imports in a file, wherever they stand."""
    for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield node, "." * node.level + (node.module or "")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name


def own_imports(name):
    """Return which files of the house a file imports: their first names."""
    modules = {module.split(".")[0] for _, module in imports(name)}
    assert "" not in modules, "relative imports hide the floor"
    return modules & OWN


# ------------------------------------------------------------------------------
# Floors
# ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_import_dl_utils_only(name):
    assert own_imports(name) == {"dl_utils"}


def test_dl_utils_imports_backstage_only():
    assert own_imports("dl_utils.py") == {"backstage"}


@pytest.mark.parametrize("name", BACKSTAGE)
def test_backstage_imports_nothing_from_above(name):
    assert own_imports(name) <= {"backstage"}


def test_backstage_has_no_circle():
    below = {
        name: {
            f"{module.replace('.', '/')}.py"
            for _, module in imports(name)
            if module.startswith("backstage.")
        }
        for name in BACKSTAGE
    }
    while below:
        ready = {name for name, needed in below.items() if not needed & below.keys()}
        assert ready, f"these import each other: {sorted(below)}"
        below = {name: needed for name, needed in below.items() if name not in ready}


def test_nothing_else_lies_at_top_level():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert {name.split("/")[0] for name in listing.splitlines()} <= TOP_LEVEL


# ------------------------------------------------------------------------------
# Contents
# ------------------------------------------------------------------------------


def test_nothing_is_passed_on_in_vain():
    used = {
        alias.name
        for name in SCRIPTS
        for node, module in imports(name)
        if module == "dl_utils"
        for alias in node.names
    }
    code = (ROOT / "dl_utils.py").read_text(encoding="utf-8")
    passed_on = {
        alias.name
        for node in ast.parse(code).body
        if isinstance(node, ast.ImportFrom) and node.module.startswith("backstage")
        for alias in node.names
        if len(re.findall(rf"\b{alias.name}\b", code)) == 1
    }
    # Lesson 6 is written by learners, from the blocks in the guide.
    used |= {
        alias.name
        for node in ast.parse(speaking_blocks()[1]).body
        if isinstance(node, ast.ImportFrom) and node.module == "dl_utils"
        for alias in node.names
    }
    assert passed_on <= used


@pytest.mark.parametrize(
    ("name", "most"),
    [("01", 5), ("02", 12), ("03", 17), ("04", 16), ("05", 13)],
)
def test_a_lesson_takes_few_names(name, most):
    (script,) = (script for script in SCRIPTS if script.startswith(name))
    taken = [
        alias.name
        for node, module in imports(script)
        if module == "dl_utils"
        for alias in node.names
    ]
    assert len(taken) <= most


@pytest.mark.parametrize("name", [*SCRIPTS, "dl_utils.py", *BACKSTAGE])
def test_imports_stand_in_the_usual_order(name):
    def group(module):
        first = module.split(".")[0]
        return 2 if first in OWN else int(first not in sys.stdlib_module_names)

    text = (ROOT / name).read_text(encoding="utf-8")
    groups = [
        group(module) for node, module in imports(name) if node.col_offset == 0
    ]  # fmt: skip
    assert groups == sorted(groups)
    assert "noqa" not in text


# ------------------------------------------------------------------------------
# Importing has no effects
# ------------------------------------------------------------------------------

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
assert evaluate_model and parse_settings
import matplotlib.pyplot as plt
assert plt.get_backend() == "svg", plt.get_backend()
plt.imshow([[0]])
plt.show()
show = [sys.executable, "-c", "import os; print(os.environ['MPLBACKEND'])"]
assert subprocess.check_output(show, text=True).strip() == "svg"
print("done")
"""


def test_importing_dl_utils_changes_nothing_and_loads_only_what_is_needed(
    tmp_path,
):
    process = run_python(
        "-W", "error::RuntimeWarning", "-c", IMPORT,
        cwd=ROOT, data_dir=tmp_path, MPLBACKEND="svg",
    )  # fmt: skip
    assert (process.stdout, process.stderr) == ("done\n", "")
