"""Hyperparameters: every bad value, given as a flag or edited in, gets one line."""

import dl_utils

import re
import sys

import pytest
from conftest import SCRIPTS, load_script

WHOLE_NUMBERS = [
    "0", "-1", "2.5", "1e3", "nan", "inf", "", " ", "many", "0x10", "9" * 25, "1,000"
]  # fmt: skip
POSITIVE_NUMBERS = ["0", "-0.1", "nan", "inf", "-inf", "", "fast", "0,1", "1e999"]
NAMES = ["", "cifar", "MNIST", "mnist ", "None"]
BAD_VALUES = {
    "epochs": [*WHOLE_NUMBERS, "100001"],
    "batch-size": [*WHOLE_NUMBERS, "55001"],
    "hidden-size": [*WHOLE_NUMBERS, "10001"],
    "train-samples": [*WHOLE_NUMBERS, "55001"],
    "samples-per-digit": [*WHOLE_NUMBERS, "101"],
    "seeds": [*WHOLE_NUMBERS, "1", "101"],
    "seed": [*WHOLE_NUMBERS[1:], str(2**63)],  # 0 is a good seed
    "learning-rate": POSITIVE_NUMBERS,
    "dataset": NAMES,
    "model": ["", "\0"],
}
# What somebody may write in place of a constant's value, and which are never right.
BAD_CONSTANTS = [None, "many", -1, float("nan"), [], 1.5j]


@pytest.fixture(scope="module", params=SCRIPTS)
def script(request):
    return load_script(request.param)


def flags_of(script):
    """Return the names of the flags that a script asks parse_settings for."""
    with pytest.MonkeyPatch.context() as patch:
        found = []

        def note(description, **defaults):
            found.extend(defaults)
            raise SystemExit

        patch.setattr(script, "parse_settings", note)
        with pytest.raises(SystemExit):
            script.main()
    return [name.replace("_", "-") for name in found]


def error_of(script, capsys, monkeypatch, *arguments):
    """Run main(), which must end with code 2; return its one line."""
    monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        script.main()
    assert stop.value.code == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.count("\n") == 1
    assert errors.isascii()
    return errors


def test_every_flag_is_tested():
    untested = set(dl_utils.HYPERPARAMETERS) - {
        name.replace("-", "_") for name in BAD_VALUES
    }
    assert untested == {"image"}  # any text may be the name of a picture


def test_a_bad_flag_gets_one_line(script, capsys, monkeypatch):
    for flag in flags_of(script):
        for value in BAD_VALUES.get(flag, []):
            error = error_of(script, capsys, monkeypatch, f"--{flag}={value}")
            assert f"--{flag}: must be " in error, value


@pytest.mark.parametrize("words", [["--epoch", "3"], ["extra"], ["--seed"], ["-x"]])
def test_a_flag_that_does_not_exist_gets_one_line(capsys, monkeypatch, words):
    script = load_script("03_train_mnist")
    assert words[0] in error_of(script, capsys, monkeypatch, *words)


def test_a_bad_constant_gets_the_same_line(script, capsys, monkeypatch):
    for flag in flags_of(script):
        constant = flag.upper().replace("-", "_")
        for value in BAD_CONSTANTS if flag in BAD_VALUES and flag != "model" else []:
            with monkeypatch.context() as patch:
                patch.setattr(script, constant, value)
                error = error_of(script, capsys, patch)
            assert f"--{flag}: must be " in error, value


def test_good_values_are_taken():
    settings = dl_utils.parse_settings(
        "",
        ["--epochs", "100000", "--learning-rate", "1e-300", "--seed", "0"],
        epochs=1,
        learning_rate=0.1,
        seed=1,
        dataset="auto",
    )
    assert vars(settings) == {
        "epochs": 100_000,
        "learning_rate": 1e-300,
        "seed": 0,
        "dataset": "auto",
    }


def test_there_are_at_least_60_bad_values():
    assert sum(map(len, BAD_VALUES.values())) >= 60


def test_the_line_names_the_flag_the_range_and_the_value(capsys, monkeypatch):
    script = load_script("03_train_mnist")
    error = error_of(script, capsys, monkeypatch, "--epochs", "ten")
    assert re.fullmatch(
        r"script\.py: argument --epochs: must be a whole number from 1 to 100000, "
        r"got 'ten' \(--help lists all flags\)\n",
        error,
    )
