"""The project as a whole: what its files promise about each other."""

import re

import pytest

from conftest import ROOT, SCRIPTS

SOURCES = [ROOT / name for name in (*SCRIPTS, "dl_utils.py")]
SOURCES += [
    path for name in ("backstage", "tests") for path in ROOT.glob(f"{name}/*.py")
]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_sources_are_ascii(path):
    assert path.read_text(encoding="utf-8").isascii()


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_have_one_ending(name):
    text = (ROOT / name).read_text()
    assert text.endswith('\n\nif __name__ == "__main__":\n    run_script(main)\n')


def test_the_oldest_versions_are_those_that_the_workflow_tests():
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    requirements = (ROOT / "requirements.txt").read_text()
    floors = re.findall(r"^(\w+)>=([\d.]+)$", requirements, re.MULTILINE)
    assert len(floors) == 6
    for package, version in floors:
        assert re.search(rf"\b{package}=={re.escape(version)}(\.0)?\s", workflow)


def test_the_readme_begins_with_commands_that_exist():
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```(?:bash|powershell)\n(.*?)```", readme, re.DOTALL)
    first_blocks = [block.strip() for block in blocks[:5]]
    assert all("\n" not in block for block in first_blocks)
    for block in first_blocks:
        assert "requirements.txt" in block
    endings = [*3 * ["03_train_mnist.py"], *2 * ["pytest"]]
    for block, ending in zip(first_blocks, endings, strict=True):
        assert block.endswith(ending)
    for script in re.findall(r"python (\S+\.py)", readme):
        assert (ROOT / script).exists()


def test_every_figure_is_measured_in_ci_run_and_in_one_cell_of_the_workflow():
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    assert workflow.count("figures: --figures\n") == 1
    assert "pytest -ra ${{ matrix.figures }}\n" in workflow
    assert (ROOT / ".ci" / "run").read_text().endswith("\npytest -ra --figures\n")


@pytest.mark.real_mnist
def test_every_lesson_writes_the_files_that_it_names(lessons_on_mnist):
    assert lessons_on_mnist.files == {
        "01_hello_pytorch.py": set(),
        "02_load_mnist.py": {"mnist_samples.png", "mnist_overview.png"},
        "03_train_mnist.py": {
            "mnist_model.pth",
            "training_history.png",
            "training_runs.csv",
        },
        "04_load_model.py": {
            "predictions.png",
            "confusion_matrix.png",
            "what_it_learned.png",
            "my_network.html",
        },
        "05_experiment_architectures.py": {"architecture_comparison.png"},
    }
