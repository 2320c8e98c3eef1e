"""05_experiment_architectures.py: a fair comparison, and an honest conclusion."""

import argparse
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn

import backstage.pictures
from conftest import load_script, run_main


@pytest.fixture(scope="module")
def script():
    return load_script("05_experiment_architectures")


def layers(model):
    """Return for example "Flatten, Linear 784 128, ReLU"."""
    words = []
    for layer in model:
        sizes = layer.weight.shape[::-1] if hasattr(layer, "weight") else []
        words.append(" ".join(map(str, [type(layer).__name__, *sizes])))
    return ", ".join(words)


def test_every_architecture_is_what_its_name_says(script):
    def mlp(between):
        return f"Flatten, Linear 784 {between} 10"

    models = {name: build() for name, build in script.ARCHITECTURES.items()}
    assert {name: layers(model) for name, model in models.items()} == {
        "TwoLayerNN": mlp("128, ReLU, Linear 128"),
        "ThreeLayerNN": mlp("256, ReLU, Linear 256 128, ReLU, Linear 128"),
        "TanhNN": mlp("128, Tanh, Linear 128"),
        "Wide": mlp("512, ReLU, Linear 512"),
        "Deep": mlp(f"64, {2 * 'ReLU, Linear 64 64, '}ReLU, Linear 64"),
        "LeakyReLU": mlp("128, LeakyReLU, Linear 128"),
        "GELU": mlp("128, GELU, Linear 128"),
        "Dropout": mlp("128, ReLU, Dropout, Linear 128"),
        "Convolution": "Conv2d 3 3 1 8, ReLU, MaxPool2d, Flatten, Linear 1352 10",
    }
    assert models["Dropout"][3].p == 0.2


def test_an_unknown_name_is_an_error_that_names_all(script):
    for names, unknown in {"": "", "TwoLayerNN, Mine": "Mine", "wide": "wide"}.items():
        with pytest.raises(script.BadSettingError) as error:
            script.choose_architectures(names)
        known = ", ".join(script.ARCHITECTURES)
        assert str(error.value) == f"--compare: there is no '{unknown}', only {known}"
    assert [*script.choose_architectures(" Wide ,Deep")] == ["Wide", "Deep"]


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (nn.Linear(784, 10), TypeError, "forward"),  # no lambda
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 9)), IndexError, "9 is"),
        (nn.Flatten, RuntimeError, "does not require grad"),  # nothing to learn
    ],
)
def test_a_mistake_in_a_network_is_pythons_traceback_before_any_training(
    build, error, words, script, synthetic_dir, tmp_path, monkeypatch
):
    monkeypatch.setitem(script.ARCHITECTURES, "Mine", build)
    monkeypatch.delattr(script, "train_epoch")
    flags = ("--dataset", "synthetic", "--compare", "TwoLayerNN, Mine")
    with pytest.raises(error, match=words):
        run_main(script, *flags, cwd=tmp_path, data_dir=synthetic_dir)


def test_every_seed_is_a_plain_training_of_its_own(script, synthetic, monkeypatch):
    train_loader, val_loader, _ = script.load_mnist_data(
        dataset="synthetic", train_samples=150
    )
    train_set = train_loader.dataset
    settings = argparse.Namespace(seeds=2, epochs=2, batch_size=64, learning_rate=0.003)
    clock = iter([0, 1, 5, 8])
    monkeypatch.setattr(script.time, "perf_counter", lambda: next(clock))
    build = script.ARCHITECTURES["Dropout"]
    arguments = ("Mine", build, train_set, val_loader, settings, "cpu")
    found = script.run_experiment(*arguments)
    assert (found.name, found.parameters, found.seconds) == ("Mine", 101_770, 2)
    for seed, curve in enumerate(found.val_acc.tolist()):
        torch.manual_seed(seed)
        order = torch.Generator().manual_seed(seed)
        images = torch.utils.data.TensorDataset(*train_set.tensors)
        loader = torch.utils.data.DataLoader(images, 64, True, generator=order)
        model = build()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.003, fused=True)
        for accuracy in curve:
            for batch, labels in loader:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(batch), labels).backward()
                optimizer.step()
            _, expected = script.evaluate_model(model, val_loader, "cpu")
            assert accuracy == pytest.approx(expected, abs=0.05)
        torch.testing.assert_close(found.models[seed].state_dict(), model.state_dict())


# ------------------------------------------------------------------------------
# Conclusions
# ------------------------------------------------------------------------------


def always(answer):
    """Return a network that gives one answer to everything."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    nn.init.zeros_(network[1].weight)
    network[1].bias.data = torch.eye(10)[answer]
    return network


def result(script, name, finals, parameters=100, answers=()):
    val_acc = np.array([[99.0, final] for final in finals])
    models = [always(answer) for answer in answers]
    return script.Result(name, parameters, val_acc, parameters / 1000, models)


def test_a_difference_of_up_to_3_standard_errors_is_a_tie(script):
    # All spread by 0.2, so the standard error is 0.2 * sqrt(2 / 3) = 0.163; more runs
    # tell finer differences.
    for difference, runs, tie in ((0.48, 1, 1), (0.5, 1, 0), (0.3, 1, 1), (0.3, 4, 0)):
        finals = np.tile([97.0, 97.2, 97.4], runs)
        one, two = (result(script, "", finals + more) for more in (0, difference))
        assert (script.is_tie(one, two), script.is_tie(two, one)) == (tie, tie)
    # However far apart, two that vary much may tie.
    assert script.is_tie(one, result(script, "", [90.0, 99.0, 99.0]))


def test_the_smallest_of_those_that_tie_is_chosen_and_tested(
    script, synthetic_dir, tmp_path, monkeypatch
):
    low = result(script, "Low", [90.0, 91.0], 1, [0, 0])
    best = result(script, "Best", [97.0, 98.0], 3000, [1, 1])
    near = result(script, "Near", [97.0, 97.5], 2000, [4, 4])
    other = result(script, "Other", [97.0, 97.5], 3000, [3, 3])
    save = Mock()
    monkeypatch.setattr(backstage.pictures, "save_figure", save)
    tied = "the smallest of those that tie"
    for results, conclusion, choice in (
        ([low, best, near], "Best beats Low; Best, Near tie", f"Near: {tied}"),
        ([best, low], "Best beats Low", "Best: the best"),
        ([other, best], "Other, Best tie", f"Best: {tied}"),
        ([best], "Best alone, so there is nothing to compare", "Best: the best"),
    ):
        monkeypatch.setattr(script, "run_experiment", Mock(side_effect=results))
        names = ", ".join([*script.ARCHITECTURES][: len(results)])
        flags = ("--dataset", "synthetic", "--compare", names, "--seeds", 2)
        run = run_main(script, *flags, cwd=tmp_path, data_dir=synthetic_dir)
        assert f"\n{conclusion}.\n" in run.stdout
        assert f"\n{choice} on validation.\n" in run.stdout
        title = f"{conclusion} (synthetic digits, 2 seeds each)"
        assert save.call_args.args[0].get_suptitle() == title
        if near in results:  # 9.83% of the test set are 4, as lesson 2 says
            assert "\nTest Accuracy: 9.83% (mean of 2 runs)\n" in run.stdout
            # The rest of the picture is in the transcript.
            bars = save.call_args.args[0].axes[2].patches
            assert [bar.get_height() for bar in bars] == [0.001, 3, 2]
