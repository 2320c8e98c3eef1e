"""05_experiment_architectures.py: a fair comparison, and an honest conclusion."""

import dl_utils

import re
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, assert_fits_the_console, load_script, run_python
from torch import nn

SCRIPT = ROOT / "05_experiment_architectures.py"
QUICK = ("--dataset", "synthetic", "--train-samples", "500", "--epochs", "2")


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
    assert sum(p.numel() for p in model.parameters()) == parameters
    layers = list(model.modules())
    assert any(isinstance(layer, activation) for layer in layers)
    assert isinstance(layers[-1], nn.Linear)  # logits: no activation at the end
    assert model(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


def test_the_lines_in_reserve_work(tmp_path):
    text = SCRIPT.read_text()
    start = text.index('    # "Wide"')
    end = text.index("\n}", start)
    reserve = text[start:end].replace("    # ", "    ")
    edited = tmp_path / "edited.py"
    edited.write_text(text[:start] + reserve + text[end:])
    script = load_script(edited.with_suffix(""))
    names = {"Wide", "Deep", "Leaky", "GELU", "Dropout"}
    assert names <= set(script.ARCHITECTURES)
    for name in names:
        assert script.ARCHITECTURES[name]()(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


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
        assert (
            script.is_tie(one, result(script, "Two", [97.3, 97.5, 97.7] * runs)) is tie
        )


def test_a_win_and_a_tie_are_named(script):
    results = [
        result(script, "Low", [90.0, 91.0]),
        result(script, "Best", [97.0, 98.0]),
        result(script, "Near", [97.0, 97.5]),
    ]
    assert script.conclude(results) == "Best beats Low; Best, Near tie"
    assert script.conclude(results[::2]) == "Near beats Low"
    assert script.conclude(results[1:]) == "Best, Near tie"


def test_of_those_that_tie_with_the_best_the_smallest_is_chosen(script):
    results = [
        result(script, "Smallest", [90.0, 91.0], parameters=1),
        result(script, "Best", [97.0, 98.0], parameters=30),
        result(script, "Near", [97.0, 97.5], parameters=20),
    ]
    assert script.choose(results).name == "Near"
    assert script.choose(results[:2]).name == "Best"


# ------------------------------------------------------------------------------
# Runs
# ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory, synthetic_dir):
    folder = tmp_path_factory.mktemp("run")
    process = run_python(
        SCRIPT, *QUICK, cwd=folder, data_dir=synthetic_dir, PYTHONIOENCODING="ascii"
    )
    assert process.returncode == 0, process.stderr
    return folder, process


def test_it_writes_one_picture(quick_run):
    folder, process = quick_run
    assert [path.name for path in folder.iterdir()] == ["architecture_comparison.png"]
    assert "Saved: architecture_comparison.png\n" in process.stdout
    assert process.stderr == ""


def test_every_architecture_runs_with_three_seeds(quick_run):
    output = quick_run[1].stdout
    for name in ("TwoLayerNN", "ThreeLayerNN", "TanhNN"):
        assert re.findall(rf"^{name} +seed (\d): Val", output, re.M) == ["0", "1", "2"]


def test_test_accuracy_appears_once(quick_run):
    output = quick_run[1].stdout
    assert output.count("Test Accuracy") == 1
    assert "test" not in output[: output.index("Choice")].lower()


def test_the_output_is_ascii_and_fits_the_screen(quick_run):
    output = quick_run[1].stdout
    assert_fits_the_console(output)
    assert "synthetic digits" in output


def test_one_more_architecture_is_one_more_line(tmp_path, synthetic_dir):
    text = SCRIPT.read_text()
    mark = '    "TanhNN": TanhNN,\n'
    assert mark in text
    edited = text.replace(
        mark, mark + '    "Tiny": lambda: network(nn.Linear(784, 10)),\n'
    )
    (tmp_path / "edited.py").write_text(edited)
    process = run_python(
        tmp_path / "edited.py", *QUICK, "--seeds", 2,
        cwd=tmp_path, data_dir=synthetic_dir, PYTHONPATH=str(ROOT),
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert re.search(r"^Tiny +7,850 ", process.stdout, re.M)


def test_same_seed_same_images_for_all(script, synthetic, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        script,
        "train_epoch",
        lambda model, loader, *_: seen.setdefault(type(model).__name__, []).append(
            next(iter(loader))[1].tolist()
        ),
    )
    monkeypatch.setattr(script, "evaluate_model", lambda *_: (0.0, 50.0))
    train_loader, val_loader, _ = script.load_mnist_data(dataset="synthetic")
    settings = script.argparse.Namespace(
        seeds=2, epochs=2, batch_size=32, learning_rate=0.001
    )
    for build in (script.TwoLayerNN, script.TanhNN):
        script.run_experiment(
            "name", build, train_loader.dataset, val_loader, settings, "cpu"
        )
    assert seen["TwoLayerNN"] == seen["TanhNN"]
    orders = seen["TwoLayerNN"]
    assert len({tuple(order) for order in orders}) == 4  # per seed and epoch another


SHARED = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


@pytest.mark.parametrize(
    ("architectures", "message"),
    [
        ({}, "ARCHITECTURES is empty"),
        ({"Mine": nn.Linear(784, 10)}, 'Mine does not work: write "lambda:" in front'),
        (
            {"Mine": lambda: nn.Sequential(nn.Flatten(), nn.Linear(28, 10))},
            r"Mine does not work: .*mat1 and mat2 .* \(2x784 and 28x10\)",
        ),
        (
            {"Mine": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 9))},
            r"Mine does not work: it turns 2 images into \[2, 9\]",
        ),
        ({"Mine": lambda: SHARED}, "Mine does not work: it is the same each time"),
        ({"Mine": nn.Flatten}, "Mine does not work: .*empty parameter list"),
        ({"Mine": lambda: None}, "Mine does not work"),
    ],
    ids=[
        "none",
        "no lambda",
        "layers that do not fit",
        "nine classes",
        "one for all seeds",
        "nothing to learn",
        "no network",
    ],
)
def test_a_network_that_does_not_work_is_noticed_first(
    script, synthetic, monkeypatch, architectures, message
):
    monkeypatch.setattr(script, "ARCHITECTURES", architectures)
    monkeypatch.setattr(sys, "argv", ["05_experiment_architectures.py"])
    with pytest.raises(dl_utils.UserError, match=message):
        script.main()


def test_one_architecture_alone(script):
    conclusion = script.conclude([result(script, "TwoLayerNN", [97.0, 97.2])])
    assert conclusion == "TwoLayerNN alone, so there is nothing to compare"


def test_a_diverged_network_is_not_compared(tmp_path, synthetic_dir):
    process = run_python(
        SCRIPT, *QUICK, "--learning-rate", "1e30", cwd=tmp_path, data_dir=synthetic_dir
    )
    assert process.returncode == 1
    assert process.stderr.startswith("Error: TwoLayerNN diverged")
    assert list(tmp_path.iterdir()) == []


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
