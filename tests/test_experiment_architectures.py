"""05_experiment_architectures.py: a fair comparison, and an honest conclusion."""

import argparse
import re

import numpy as np
import pytest
import torch
from torch import nn

from conftest import ROOT, assert_fits_the_console, load_script, run_main

SCRIPT = ROOT / "05_experiment_architectures.py"
QUICK = ("--dataset", "synthetic", "--train-samples", 500, "--epochs", 2)


@pytest.fixture(scope="module")
def script():
    return load_script("05_experiment_architectures")


def result(script, name, finals, parameters=100):
    val_acc = np.array([[50.0, final] for final in finals])
    return script.Result(name, parameters, val_acc, 1.0, [])


# ------------------------------------------------------------------------------
# Architectures
# ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "activation"),
    [
        ("TwoLayerNN", 101_770, nn.ReLU),
        ("ThreeLayerNN", 235_146, nn.ReLU),
        ("TanhNN", 101_770, nn.Tanh),
    ],
)
def test_the_three_architectures(script, name, parameters, activation):
    model = script.ARCHITECTURES[name]()
    assert isinstance(model, nn.Sequential)
    assert type(model).__name__ == name
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert any(isinstance(layer, activation) for layer in model)
    assert isinstance(model[-1], nn.Linear)  # logits: no activation at the end
    assert model(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


READY = ["Wide", "Deep", "LeakyReLU", "GELU", "Dropout", "Convolution"]


def test_every_ready_entry_and_an_own_one_can_be_compared(synthetic_dir, tmp_path):
    code = SCRIPT.read_text(encoding="utf-8")
    (tmp_path / "edited.py").write_text(
        code.replace(
            '    "Wide":',
            '    "Tiny": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10)),\n'
            '    "Wide":',
        )
    )
    names = ["TwoLayerNN", "ThreeLayerNN", "TanhNN", *READY, "Tiny"]
    flags = ("--train-samples", 100, "--epochs", 1, "--seeds", 2)
    run = run_main(
        load_script(tmp_path / "edited.py"),
        *("--dataset", "synthetic", "--compare", " ,".join(names), *flags),
        cwd=tmp_path,
        data_dir=synthetic_dir,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert_fits_the_console(run.stdout)
    found = re.findall(r"^(\w+) +seed 1: Val Acc", run.stdout, re.M)
    assert found == names
    assert re.search(r"^Tiny +7,850 ", run.stdout, re.M)


@pytest.mark.parametrize("names", ["", "TwoLayerNN, Mine", "twolayernn", "Wide; Deep"])
def test_an_unknown_name_is_code_2(script, names, tmp_path):
    run = run_main(script, "--compare", names, cwd=tmp_path, data_dir=tmp_path)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("Error: --compare: there is no '")
    assert "only TwoLayerNN, ThreeLayerNN, TanhNN, Wide" in run.stderr


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("Wide", "Flatten Linear ReLU Linear"),
        ("Deep", "Flatten Linear ReLU Linear ReLU Linear ReLU Linear"),
        ("GELU", "Flatten Linear GELU Linear"),
        ("Dropout", "Flatten Linear ReLU Dropout Linear"),
    ],
)
def test_a_perceptron_has_the_layers_that_its_entry_says(script, name, layers):
    model = script.ARCHITECTURES[name]()
    assert [type(layer).__name__ for layer in model] == layers.split()


# ------------------------------------------------------------------------------
# Conclusions
# ------------------------------------------------------------------------------


def test_a_difference_of_up_to_3_standard_errors_is_a_tie(script):
    # Both spread by 0.2, so the standard error is 0.2 * sqrt(2 / 3) = 0.163.
    one = result(script, "One", [97.0, 97.2, 97.4])
    for difference, tie in ((0.48, True), (0.5, False)):
        finals = [97.0 + difference, 97.2 + difference, 97.4 + difference]
        assert script.is_tie(one, result(script, "Two", finals)) is tie
        assert script.is_tie(result(script, "Two", finals), one) is tie
    assert script.is_tie(one, result(script, "Two", [90.0, 99.0, 99.0]))


def test_more_runs_tell_finer_differences(script):
    for runs, tie in ((1, True), (4, False)):
        one = result(script, "One", [97.0, 97.2, 97.4] * runs)
        two = result(script, "Two", [97.3, 97.5, 97.7] * runs)
        assert script.is_tie(one, two) is tie


def test_a_win_and_a_tie_are_named(script):
    results = [
        result(script, "Low", [90.0, 91.0]),
        result(script, "Best", [97.0, 98.0]),
        result(script, "Near", [97.0, 97.5]),
    ]
    assert script.conclude(results) == "Best beats Low; Best, Near tie"
    assert script.conclude(results[::2]) == "Near beats Low"
    assert script.conclude(results[1:]) == "Best, Near tie"


def test_one_architecture_alone(script):
    conclusion = script.conclude([result(script, "TwoLayerNN", [97.0, 97.2])])
    assert conclusion == "TwoLayerNN alone, so there is nothing to compare"


@pytest.mark.filterwarnings("ignore:Mean of empty", "ignore:invalid value")
def test_of_those_that_tie_with_the_best_the_smallest_is_chosen(
    script, synthetic_dir, tmp_path, monkeypatch
):
    small = result(script, "Small", [90.0, 91.0], parameters=1)
    best = result(script, "Best", [97.0, 98.0], parameters=30)
    near = result(script, "Near", [97.0, 97.5], parameters=20)
    large = result(script, "Large", [97.0, 97.5], parameters=40)
    for results, line in (
        ([small, best, near], "Near: the smallest of those that tie on validation."),
        ([small, best], "Best: the best on validation."),
        ([best, large], "Best: the smallest of those that tie on validation."),
    ):
        waiting = iter(results)
        monkeypatch.setattr(
            script, "run_experiment", lambda *_, waiting=waiting: next(waiting)
        )
        names = ", ".join([*script.ARCHITECTURES][: len(results)])
        flags = ("--compare", names, "--seeds", 2)
        run = run_main(script, *QUICK, *flags, cwd=tmp_path, data_dir=synthetic_dir)
        assert f"\n{line}\n" in run.stdout


# ------------------------------------------------------------------------------
# Runs
# ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quick_run(script, tmp_path_factory, synthetic_dir):
    folder = tmp_path_factory.mktemp("run")
    run = run_main(script, *QUICK, cwd=folder, data_dir=synthetic_dir)
    assert (run.returncode, run.stderr) == (0, "")
    return folder, run.stdout


def test_it_writes_one_picture(quick_run):
    folder, output = quick_run
    assert [path.name for path in folder.iterdir()] == ["architecture_comparison.png"]
    assert "Saved: architecture_comparison.png\n" in output


def test_every_architecture_runs_with_three_seeds(quick_run):
    for name in ("TwoLayerNN", "ThreeLayerNN", "TanhNN"):
        seeds = re.findall(rf"^{name} +seed (\d): Val", quick_run[1], re.M)
        assert seeds == ["0", "1", "2"]


def test_test_accuracy_appears_once_and_only_after_the_choice(quick_run):
    output = quick_run[1]
    assert output.count("Test Accuracy") == 1
    assert "test" not in output[: output.index("Choice")].lower()


def test_the_output_is_ascii_and_fits_the_screen(quick_run):
    assert_fits_the_console(quick_run[1])
    assert "synthetic digits" in quick_run[1]


@pytest.fixture
def run_experiment(script, synthetic):
    """Return a function that trains an architecture with two seeds, two epochs."""
    train_loader, val_loader, _ = script.load_mnist_data(
        dataset="synthetic", train_samples=500
    )
    settings = argparse.Namespace(seeds=2, epochs=2, batch_size=32, learning_rate=0.001)
    return lambda build: script.run_experiment(
        "name", build, train_loader.dataset, val_loader, settings, "cpu"
    )


def test_same_seed_same_images_for_all(script, run_experiment, monkeypatch):
    seen = {}

    def note_first_batch(model, loader, *_):
        labels = next(iter(loader))[1].tolist()
        seen.setdefault(type(model).__name__, []).append(labels)

    monkeypatch.setattr(script, "train_epoch", note_first_batch)
    monkeypatch.setattr(script, "evaluate_model", lambda *_: (0.0, 50.0))
    for build in (script.TwoLayerNN, script.TanhNN):
        run_experiment(build)
    assert seen["TwoLayerNN"] == seen["TanhNN"]
    orders = seen["TwoLayerNN"]
    assert len({tuple(order) for order in orders}) == 4  # per seed and epoch another


def test_a_repeated_experiment_gives_the_same_figures(script, run_experiment):
    first, again = run_experiment(script.TwoLayerNN), run_experiment(script.TwoLayerNN)
    assert first.val_acc.tolist() == again.val_acc.tolist()
    assert first.val_acc.shape == (2, 2)


# ------------------------------------------------------------------------------
# Networks that do not work
# ------------------------------------------------------------------------------


@pytest.fixture
def compare(script, synthetic_dir, tmp_path, monkeypatch):
    """Return a function that compares architectures of a learner's own."""

    def run(architectures, *flags):
        monkeypatch.setattr(script, "ARCHITECTURES", architectures)
        monkeypatch.setattr(script, "COMPARE", ", ".join(architectures))
        return run_main(script, *QUICK, *flags, cwd=tmp_path, data_dir=synthetic_dir)

    return run


@pytest.fixture
def untrained(script, monkeypatch):
    """Forbid any training."""

    def train_epoch(*_):
        pytest.fail("it began to train")

    monkeypatch.setattr(script, "train_epoch", train_epoch)


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (nn.Linear(784, 10), TypeError, "forward"),
        (
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(28, 10)),
            RuntimeError,
            r"mat1 and mat2 .* \(2x784 and 28x10\)",
        ),
        (
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 9)),
            IndexError,
            "Target 9 is out of bounds",
        ),
        (nn.Flatten, RuntimeError, "does not require grad"),
        (lambda: None, TypeError, "not callable"),
    ],
    ids=["no lambda", "wrong size", "nine classes", "nothing to learn", "no network"],
)
def test_a_mistake_in_a_network_is_pythons_traceback_before_any_training(
    compare, untrained, script, build, error, words
):
    with pytest.raises(error, match=words):
        compare({"TwoLayerNN": script.TwoLayerNN, "Mine": build})


def test_one_training_image_is_enough_to_run(script, compare):
    run = compare(script.ARCHITECTURES, "--train-samples", 1, "--seeds", 2)
    assert (run.returncode, run.stderr) == (0, "")


def test_one_alone_has_nothing_to_be_compared_with(compare, script):
    run = compare({"Mine": script.TwoLayerNN}, "--seeds", 2)
    assert (run.returncode, run.stderr) == (0, "")
    assert "Mine alone" in run.stdout


# ------------------------------------------------------------------------------
# Real MNIST
# ------------------------------------------------------------------------------


@pytest.mark.real_mnist
def test_figures_on_real_digits(lessons_on_mnist):
    output = lessons_on_mnist.outputs[SCRIPT.name]
    rows = re.findall(r"^(\w+NN) +([\d,]+) +([\d.]+) ", output, re.M)
    assert [row[1] for row in rows] == ["101,770", "235,146", "101,770"]
    means = {name: float(mean) for name, _, mean in rows}
    assert all(96.3 <= mean <= 98 for mean in means.values())
    assert means["TanhNN"] < means["ThreeLayerNN"]
    accuracy = re.search(r"Test Accuracy: ([\d.]+)%", output)[1]
    assert 96.8 <= float(accuracy) <= 98.3
