"""Hyperparameters: bad values get one line, one's own are taken, runs are recorded."""

import csv
import os
import sys

import pytest
import torch

from backstage import runs
from backstage.settings import HYPERPARAMETERS, parse_settings
from backstage.terminal import UserError
from conftest import ROOT, SCRIPTS, load_script, run_main, run_python

WHOLE_NUMBERS = [
    "0", "-1", "2.5", "1e3", "nan", "inf", "", " ", "many", "0x10", "9" * 25, "1,000"
]  # fmt: skip
POSITIVE_NUMBERS = ["0", "-0.1", "nan", "inf", "-inf", "", "fast", "0,1", "1e999", "--"]
NAMES = ["", "cifar", "MNIST", "mnist ", "None", "--"]
BAD_VALUES = {
    "epochs": [*WHOLE_NUMBERS, "100001", "--"],
    "batch-size": [*WHOLE_NUMBERS, "100001"],
    "hidden-size": [*WHOLE_NUMBERS, "10001"],
    "train-samples": [*WHOLE_NUMBERS, "All", "None"],
    "samples-per-class": [*WHOLE_NUMBERS, "101"],
    "seeds": [*WHOLE_NUMBERS, "1", "101"],
    "seed": [*WHOLE_NUMBERS[1:], str(2**63)],  # 0 is a good seed
    "learning-rate": POSITIVE_NUMBERS,
    "wrong-labels": ["-0.1", "1.1", "20%", "nan", "", "many"],
    "dataset": NAMES,
    "stranger": [*NAMES, "Lucas", "lucas,theo"],
    "model": ["", "\0"],
}
ANY_TEXT = {"image", "sound", "note", "compare", "start_from", "own"}
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


@pytest.fixture
def error_of(tmp_path):
    """Return a function that runs a script, which must refuse with code 2 and a line.

    It returns that line.
    """

    def refuse(script, *flags):
        run = run_main(script, *flags, cwd=tmp_path, data_dir=tmp_path)
        assert (run.returncode, run.stdout) == (2, "")
        assert run.stderr.count("\n") == 1
        assert run.stderr.isascii()
        assert os.listdir(tmp_path) == []
        return run.stderr

    return refuse


# ------------------------------------------------------------------------------
# Bad values
# ------------------------------------------------------------------------------


def test_every_flag_is_tested():
    tested = {name.replace("-", "_") for name in BAD_VALUES}
    assert set(HYPERPARAMETERS) - tested == ANY_TEXT


def test_there_are_at_least_60_bad_values():
    assert sum(map(len, BAD_VALUES.values())) >= 60


def test_a_bad_flag_gets_one_line(script, error_of):
    for flag in flags_of(script):
        for value in BAD_VALUES.get(flag, []):
            error = error_of(script, f"--{flag}={value}")
            assert f"--{flag}: must be " in error, value


def test_a_bad_constant_gets_the_same_line(script, error_of, monkeypatch):
    for flag in flags_of(script):
        constant = flag.upper().replace("-", "_")
        for value in BAD_CONSTANTS if flag in BAD_VALUES and flag != "model" else []:
            with monkeypatch.context() as patch:
                patch.setattr(script, constant, value)
                error = error_of(script)
            assert f"--{flag}: must be " in error, value


@pytest.mark.parametrize("words", [["--epoch", "3"], ["extra"], ["--seed"], ["-x"]])
def test_a_flag_that_does_not_exist_gets_one_line(error_of, train_script, words):
    assert words[0] in error_of(train_script, *words)


def test_the_line_names_the_flag_the_range_and_the_value(error_of, train_script):
    assert error_of(train_script, "--epochs", "ten").endswith(
        "argument --epochs: must be a whole number from 1 to 100000, got 'ten' "
        "(--help lists all flags)\n"
    )


def test_more_images_than_there_are_get_one_line(train_script, synthetic_dir, tmp_path):
    run = run_main(
        train_script, "--dataset", "synthetic", "--train-samples", 55_001,
        cwd=tmp_path, data_dir=synthetic_dir,
    )  # fmt: skip
    assert run.returncode == 2
    assert run.stderr == (
        "Error: there are 55,000 training images of synthetic digits, so "
        "--train-samples cannot be 55001: use fewer, or all\n"
    )


# ------------------------------------------------------------------------------
# Good values
# ------------------------------------------------------------------------------


def test_constants_are_the_defaults_and_flags_win():
    settings = parse_settings(
        "", ["--learning-rate", "0.1"], epochs=3, learning_rate=0.001
    )
    assert vars(settings) == {"epochs": 3, "learning_rate": 0.1}


def test_values_at_the_edges_are_taken():
    words = [
        "--epochs",
        "100000",
        "--learning-rate",
        "1e-300",
        "--seed",
        "0",
        "--wrong-labels",
        "1",
    ]
    settings = parse_settings(
        "", words, epochs=1, learning_rate=0.1, seed=1, wrong_labels=1, dataset="auto"
    )
    assert list(vars(settings).values()) == [100_000, 1e-300, 0, 1.0, "auto"]


@pytest.mark.parametrize(("text", "expected"), [("all", None), ("100", 100)])
def test_training_images_are_a_number_or_all(text, expected):
    assert parse_settings("", [], train_samples=text).train_samples == expected


OWN = {"dropout": 0.5, "layers": 2, "batch_norm": False, "activation": "ReLU"}


@pytest.mark.parametrize("value", [None, [128, 64], (3, 3), {"p": 0.5}, torch.relu])
def test_an_own_constant_of_another_kind_comes_back_as_it_is(value, capsys):
    settings = parse_settings("", ["--layers", "3"], **OWN, choice=value)
    assert settings.choice is value and settings.layers == 3
    with pytest.raises(SystemExit):
        parse_settings("", ["--help"], **OWN, choice=value)
    assert "--choice" not in capsys.readouterr().out


@pytest.mark.parametrize("launcher", ["ipykernel", "colab_kernel"])
def test_in_a_notebook_the_words_of_its_kernel_are_not_ours(launcher, monkeypatch):
    words = [f"/usr/lib/{launcher}_launcher.py", "-f", "kernel-1234.json"]
    monkeypatch.setattr(sys, "argv", words)
    assert vars(parse_settings("", epochs=3)) == {"epochs": 3}
    monkeypatch.setattr(sys, "argv", ["03_train_mnist.py", "--epochs", "4"])  # %run
    assert vars(parse_settings("", epochs=3)) == {"epochs": 4}


def test_a_note_in_an_old_encoding_is_recorded(tmp_path):
    word = b"gr\xf6\xdfer".decode("utf-8", errors="surrogateescape")  # as Linux does
    settings = parse_settings("", ["--note", word], note="")
    runs.record_run(tmp_path / "runs.csv", vars(settings))
    assert runs.read_runs(tmp_path / "runs.csv")[0]["note"] == "gr\u00f6\u00dfer"


def test_own_hyperparameters_are_read_by_the_kind_of_their_constants():
    assert vars(parse_settings("", [], **OWN)) == OWN
    words = [
        "--dropout",
        "1",
        "--layers",
        "-3",
        "--batch-norm",
        "True",
        "--activation",
        "Tanh",
    ]
    settings = vars(parse_settings("", words, **OWN))
    assert list(settings.values()) == [1.0, -3, True, "Tanh"]
    assert list(map(type, settings.values())) == [float, int, bool, str]


@pytest.mark.parametrize(
    ("word", "meaning"),
    [
        ("--dropout=much", "must be a number, got 'much'"),
        ("--dropout=nan", "must be a number, got 'nan'"),
        ("--layers=2.5", "must be a whole number, got '2.5'"),
        ("--batch-norm=yes", "must be one of True, False, got 'yes'"),
    ],
)
def test_a_bad_value_of_an_own_hyperparameter_gets_one_line(capsys, word, meaning):
    with pytest.raises(SystemExit) as stop:
        parse_settings("", [word], **OWN)
    assert stop.value.code == 2
    assert meaning in capsys.readouterr().err


def test_help_shows_own_hyperparameters_and_percent_signs(capsys):
    with pytest.raises(SystemExit):
        parse_settings("All of it: 100%", ["--help"], **OWN, share="5%")
    output = " ".join(capsys.readouterr().out.split())
    assert "100%" in output and "(default: 5%)" in output
    assert "--dropout X a hyperparameter of your own (default: 0.5)" in output


# ------------------------------------------------------------------------------
# The record of runs
# ------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    return tmp_path / "training_runs.csv"


def rows(path):
    """Return what another program reads in a CSV file."""
    with open(path, newline="", encoding="utf-8") as file:
        return [
            {name: value for name, value in row.items() if name != "weights"}
            for row in csv.DictReader(file)
        ]


def test_runs_are_appended_and_the_last_five_printed(path, capsys):
    for number in range(7):
        capsys.readouterr()
        runs.record_run(path, {"epochs": number, "val_acc": f"{90 + number:.2f}"})
    assert rows(path) == [
        {"epochs": str(number), "val_acc": f"{90 + number:.2f}"} for number in range(7)
    ]
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    printed = [line[:2] for line in lines if len(line) > 1 and line[0].isdigit()]
    assert printed == [[str(n), f"{90 + n:.2f}"] for n in range(2, 7)]
    assert lines[-1] == ["Saved:", str(path)]


def test_what_is_the_same_in_all_runs_is_printed_once(path, capsys):
    for epochs in (1, 2):
        runs.record_run(path, {"epochs": epochs, "batch_size": 64, "val_acc": "90"})
    output = capsys.readouterr().out
    assert "In all: batch size 64\n" in output


def test_new_columns_are_added_and_missing_cells_stay_empty(path):
    path.write_text("epochs,weather,val_acc\n1,rain,91\n2\n")
    runs.record_run(path, {"epochs": 3, "dropout": 0.5})
    assert rows(path) == [
        {"epochs": "1", "weather": "rain", "val_acc": "91", "dropout": ""},
        {"epochs": "2", "weather": "", "val_acc": "", "dropout": ""},
        {"epochs": "3", "weather": "", "val_acc": "", "dropout": "0.5"},
    ]


def test_cells_without_a_heading_are_kept(path):
    path.write_text("epochs\n1,rain\n")
    runs.record_run(path, {"epochs": 2})
    assert [list(row.values()) for row in rows(path)] == [["1", "rain"], ["2", ""]]


def test_the_mark_that_spreadsheets_put_in_front_is_understood(path):
    path.write_text("epochs,val_acc\n1,90\n", encoding="utf-8-sig")
    runs.record_run(path, {"epochs": 2, "val_acc": 91})
    assert [row["epochs"] for row in rows(path)] == ["1", "2"]


SAVED = "epochs;val_acc;note\r\n1;90;gr\u00f6\u00dfer, x\r\n"


@pytest.mark.parametrize(
    "content",
    [
        SAVED.encode("cp1252"),
        SAVED.encode("utf-8-sig"),
        SAVED.replace(";", "\t").encode("utf-16"),
        b"\xfe\xff" + SAVED.replace(";", "\t").encode("utf-16-be"),
        SAVED.rstrip().encode(),
    ],
    ids=["semicolons", "with a mark", "tabs", "the other way round", "no last line"],
)
def test_a_table_that_a_spreadsheet_has_saved_is_understood(path, content):
    path.write_bytes(content)
    runs.record_run(path, {"epochs": 2, "val_acc": 91, "note": "b"})
    runs.record_run(path, {"epochs": 3, "val_acc": 92, "note": "c"})
    assert rows(path) == [
        {"epochs": "1", "val_acc": "90", "note": "gr\u00f6\u00dfer, x"},
        {"epochs": "2", "val_acc": "91", "note": "b"},
        {"epochs": "3", "val_acc": "92", "note": "c"},
    ]


def test_a_second_column_of_one_name_is_kept(path):
    path.write_text("epochs,note,note\n1,a,b\n")
    runs.record_run(path, {"epochs": 2, "note": "c"})
    found = [list(row.values()) for row in rows(path)]
    assert found == [["1", "a", "b"], ["2", "c", ""]]


def test_a_line_break_in_a_note_does_not_tear_the_table(path, capsys):
    runs.record_run(path, {"epochs": 1, "val_acc": "90", "note": "two\nlines"})
    assert "two lines" in capsys.readouterr().out


def test_only_a_line_is_added_where_the_columns_are_the_same(path):
    runs.record_run(path, {"epochs": 1})
    before = path.read_bytes()
    runs.record_run(path, {"epochs": 2})
    assert path.read_bytes() == before + b"2,\r\n"


@pytest.mark.parametrize(
    "note", ['commas, "quotes"', "two\nlines", "\u6570\u5b57", "="]
)
def test_any_note_is_recorded(path, note):
    runs.record_run(path, {"epochs": 1, "note": note})
    runs.record_run(path, {"epochs": 2, "note": ""})
    assert [row["note"] for row in runs.read_runs(path)] == [note, ""]


@pytest.mark.parametrize(
    "content",
    ["", "\n\n", "epochs\n", "name,age\nAda,36\n", "\0\n", "\xff\xfe"],
    ids=["empty", "blank lines", "heading only", "another table", "zero", "not UTF-8"],
)
def test_a_run_is_recorded_whatever_the_file_held(path, content):
    path.write_bytes(content.encode("latin-1"))
    runs.record_run(path, {"epochs": 1})
    assert runs.read_runs(path)[-1]["epochs"] == "1"


def test_a_file_that_is_no_table_is_one_line_and_left_alone(path):
    path.write_text("9" * 200_000)
    with pytest.raises(UserError, match="is not a table of runs: move it away"):
        runs.record_run(path, {"epochs": 1})
    assert path.read_text() == "9" * 200_000


def test_equal_runs_both_stay(path):
    for _ in range(2):
        runs.record_run(path, {"epochs": 1})
    assert len(rows(path)) == 2


RECORD = """
import multiprocessing, sys
from backstage.runs import record_run

def record(path, process, all_ready):
    all_ready.wait()
    for number in range(10):
        record_run(path, {"process": process, "number": number})

if __name__ == "__main__":
    # Forks need not load PyTorch again, where there are forks.
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in methods else "spawn")
    all_ready = context.Barrier(4)
    processes = [
        context.Process(target=record, args=(sys.argv[1], number, all_ready))
        for number in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
"""


def test_processes_that_record_at_the_same_time_lose_nothing(tmp_path):
    (tmp_path / "record.py").write_text(RECORD)
    process = run_python(
        "record.py", "runs.csv", cwd=tmp_path, data_dir=tmp_path, PYTHONPATH=str(ROOT)
    )
    assert (process.returncode, process.stderr) == (0, "")
    recorded = runs.read_runs(tmp_path / "runs.csv")
    found = sorted((row["process"], row["number"]) for row in recorded)
    assert found == [(str(p), str(n)) for p in range(4) for n in range(10)]
    assert not list(tmp_path.glob("*.tmp"))


# ------------------------------------------------------------------------------
# Which run wrote a file of weights
# ------------------------------------------------------------------------------


def test_the_run_that_wrote_a_file_is_found(path, tmp_path, capsys):
    for name in ("first", "second"):
        (tmp_path / name).write_text(name)
        runs.record_run(path, {"note": name}, tmp_path / name)
    runs.record_run(path, {"note": "wrote nothing"})
    for name in ("first", "second"):
        assert runs.find_run(path, tmp_path / name)["note"] == name
        assert f"It was trained with note {name}\n" in capsys.readouterr().out
    (tmp_path / "first").write_text("retrained elsewhere")
    assert runs.find_run(path, tmp_path / "first").keys() == {"weights"}


def test_without_a_record_no_run_is_found(path, tmp_path, capsys):
    (tmp_path / "model").write_text("weights")
    assert runs.find_run(path, tmp_path / "model").keys() == {"weights"}
    output = " ".join(capsys.readouterr().out.split())
    assert "what they were trained on is not known" in output


def test_a_run_is_described_in_words(path, tmp_path, capsys):
    (tmp_path / "model").write_text("weights")
    run = {"epochs": "10", "batch_size": "64", "note": "", "verdict": "good fit"}
    runs.record_run(path, run, tmp_path / "model")
    capsys.readouterr()
    runs.find_run(path, tmp_path / "model")
    expected = "It was trained with epochs 10, batch size 64, verdict good fit\n"
    assert capsys.readouterr().out == expected
