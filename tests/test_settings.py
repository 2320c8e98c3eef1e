"""Hyperparameters: bad values get one line, one's own are taken, runs are recorded."""

import csv
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import pytest
import torch

from backstage import runs
from backstage.settings import HYPERPARAMETERS, parse_settings
from backstage.terminal import UserError
from conftest import SCRIPTS, load_script, run_main

# What each lesson can be told, and its default.
DATA = {"dataset": "auto", "stranger": "lucas"}
LESSONS = [
    {"epochs": 100, "learning_rate": 0.1, "seed": 42},
    {"seed": 42, "samples_per_class": 14, **DATA},
    {
        "epochs": 10, "batch_size": 64, "learning_rate": 0.001, "hidden_size": 128,
        "train_samples": "all", "wrong_labels": 0.0, "seed": 42, **DATA,
        "start_from": "", "own": "", "note": "",
    },
    {"hidden_size": 128, **DATA, "model": "mnist_model.pth", "image": "", "sound": ""},
    {
        "compare": "TwoLayerNN, ThreeLayerNN, TanhNN", "seeds": 3, "epochs": 4,
        "batch_size": 128, "learning_rate": 0.001, "train_samples": "all", **DATA,
    },
]  # fmt: skip

WHOLE = ["0", "-1", "2.5", "1e3", "nan", "inf", "1,000", "", " ", "--", "9" * 25]
FLOAT = ["0", "-0.1", "nan", "inf", "-inf", "", "fast", "0,1", "1.1e38", "--"]
MOST = 2**63 - 1
DATASETS = ["auto", "mnist", "synthetic", "spoken", "speakers", "new-voices"]
VOICES = ["george", "jackson", "lucas", "nicolas", "theo", "yweweler"]
# Name, what it must be, values that are refused, and values that are taken.
VALUES = [
    ("epochs", "a whole number from 1 to 100000", [*WHOLE, "100001"], [1, 100_000]),
    ("batch_size", "a whole number from 1 to 100000", ["0", "100001"], [1, 100_000]),
    ("hidden_size", "a whole number from 1 to 10000", ["0", "10001"], [1, 10_000]),
    ("samples_per_class", "a whole number from 1 to 100", ["0", "101"], [1, 100]),
    ("seeds", "a whole number from 2 to 100", ["1", "101"], [2, 100]),
    ("seed", f"a whole number from 0 to {MOST}", ["-1", f"{2**63}"], [0, MOST]),
    ("train_samples", f"all, or a whole number from 1 to {MOST}", WHOLE, [None, MOST]),
    ("learning_rate", "a positive number up to 1e+38", FLOAT, [1e-300, 1e38]),
    ("wrong_labels", "a share from 0 to 1", ["-0.1", "1.1", "20%", ""], [0.0, 1.0]),
    ("dataset", f"one of {', '.join(DATASETS)}", ["", "MNIST", "--"], DATASETS),
    ("stranger", f"one of {', '.join(VOICES)}", ["", "Lucas", "lucas,theo"], VOICES),
    ("model", "the name of a file", ["", "\0"], ["a b.pth"]),
    # A learner's own, by the kind of the constant.
    ("dropout", "a number", ["much", "nan"], [1.0, -0.5]),
    ("layers", "a whole number", ["2.5"], [-3]),
    ("batch_norm", "one of True, False", ["yes"], [True, False]),
]  # fmt: skip
OWN = {"dropout": 0.5, "layers": 2, "batch_norm": False, "activation": "ReLU"}
DEFAULTS = {name: value for lesson in LESSONS for name, value in lesson.items()} | OWN


@pytest.mark.parametrize(("name", "defaults"), [*zip(SCRIPTS, LESSONS, strict=True)])
def test_a_lesson_hands_over_its_constants(name, defaults, monkeypatch):
    script, parse = load_script(name), Mock(side_effect=SystemExit)
    monkeypatch.setattr(script, "parse_settings", parse)
    with pytest.raises(SystemExit):
        script.main()
    parse.assert_called_once_with(script.__doc__, **defaults)


@pytest.mark.parametrize(("name", "meaning", "refused", "taken"), VALUES)
def test_values_are_checked_as_flags_and_as_constants(
    name, meaning, refused, taken, capsys, monkeypatch
):
    monkeypatch.setattr(sys, "argv", ["03_train_mnist.py"])
    flag = "--" + name.replace("_", "-")
    for value in taken:
        words = [f"{flag}={'all' if value is None else value}"]
        found = getattr(parse_settings("", words, **{name: DEFAULTS[name]}), name)
        assert (found, type(found)) == (value, type(value))
    for text in refused:
        # Before Python 3.13, argparse loses a value that is "--": it gets a space.
        shown = " --" if text == "--" else text
        faults = [(shown, [f"{flag}={text}"], DEFAULTS[name])]
        faults += [] if name in OWN else [(text, [], text)]
        for got, words, constant in faults:
            with pytest.raises(SystemExit) as stop:
                parse_settings("", words, **{name: constant})
            assert stop.value.code == 2
            assert capsys.readouterr().err == (
                f"03_train_mnist.py: argument {flag}: must be {meaning}, got {got!a} "
                "(--help lists all flags)\n"
            )


def test_every_flag_is_tested():
    any_text = {"image", "sound", "note", "compare", "start_from", "own", "activation"}
    tested = {name for name, *_ in VALUES} | any_text
    assert {*HYPERPARAMETERS, *OWN} == tested


@pytest.mark.parametrize(
    ("words", "constant"),
    [
        (["--epoch", "3"], 10), (["extra"], 10), (["--seed"], 10), (["-x"], 10),
        (["--epochs", "ten"], 10), ([], None), ([], []), ([], -1),
    ],
)  # fmt: skip
def test_a_bad_setting_is_one_line_before_anything_is_done(
    train_script, tmp_path, monkeypatch, words, constant
):
    monkeypatch.setattr(train_script, "EPOCHS", constant)
    run = run_main(train_script, *words, cwd=tmp_path, data_dir=tmp_path)
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1)
    assert run.stderr.startswith("03_train_mnist.py: ")
    assert (words[0] if words else f"--epochs: must be {VALUES[0][1]}") in run.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", [None, [128, 64], torch.relu])
def test_an_own_constant_of_another_kind_comes_back_as_it_is(value, capsys):
    words = ["--layers", "3", "--activation", "Tanh"]
    settings = vars(parse_settings("", words, **OWN, choice=value))
    assert settings == OWN | {"layers": 3, "activation": "Tanh", "choice": value}
    with pytest.raises(SystemExit):
        parse_settings("All: 100%", ["--help"], **OWN, choice=value, share="5%")
    output = " ".join(capsys.readouterr().out.split())
    assert "All: 100%" in output and "(default: 5%)" in output
    assert "--dropout X a hyperparameter of your own (default: 0.5)" in output
    assert "--choice" not in output


def test_in_a_notebook_the_words_of_its_kernel_are_not_ours(monkeypatch):
    words = ["/usr/lib/colab_kernel_launcher.py", "-f", "kernel-1234.json"]
    monkeypatch.setattr(sys, "argv", words)
    assert vars(parse_settings("", epochs=3)) == {"epochs": 3}
    monkeypatch.setattr(sys, "argv", ["03_train_mnist.py", "--epochs", "4"])  # %run
    assert vars(parse_settings("", epochs=3)) == {"epochs": 4}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "training_runs.csv"


def table(path):
    """Return what another program reads in a CSV file, without the column weights."""
    with open(path, newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    place = lines[0].index("weights")
    return [line[:place] + line[place + 1 :] for line in lines]


def test_runs_are_appended_and_what_differs_in_the_last_five_is_printed(path, capsys):
    for n in range(7):
        capsys.readouterr()
        before = path.read_bytes() if n else b""
        verdict = "good fit" if n % 2 else "underfitting"
        runs.record_run(
            path,
            {
                "epochs": 8 + n, "batch_size": 64, "dataset": "mnist", "own": "",
                "train_acc": f"{80 + n:.2f}", "val_acc": f"{90 + n:.2f}",
                "verdict": verdict, "note": "two\nlines" if n == 5 else "",
            },
        )  # fmt: skip
        assert path.read_bytes().startswith(before)  # a line is added, no more
    assert table(path)[3] == ["10", "64", "mnist", "", "82.00", "92.00", verdict, ""]
    assert len(table(path)) == 8
    expected = f"""\
       train   val
epochs   acc   acc verdict      note
    10 82.00 92.00 underfitting
    11 83.00 93.00 good fit
    12 84.00 94.00 underfitting
    13 85.00 95.00 good fit     two lines
    14 86.00 96.00 underfitting
In all: batch size 64, dataset mnist
Saved: {path}
"""
    assert capsys.readouterr().out == expected


def test_the_table_is_as_wide_as_the_console(path, capsys):
    runs.record_run(path, {"epochs": 1, "val_acc": "9", "note": "0123456789" * 9})
    row = capsys.readouterr().out.splitlines()[2]
    assert row == f"{'9':>9}{'':9}{'0123456789' * 7}"  # 88 characters


SAVED = "epochs;val_acc;note\r\n1;90;gr\u00f6\u00dfer, x\r\n"
# What the file held -> what it holds after a run of 3 epochs with dropout 0.5.
TABLES = {
    b"": ["epochs,dropout", "3,0.5"],
    b"epochs\n": ["epochs,dropout", "3,0.5"],
    b"\0\n": ["epochs,dropout", "3,0.5"],
    b"\xff\xfe": ["epochs,dropout", "3,0.5"],
    b"name,age\nAda,36\n": ["name,age,epochs,dropout", "Ada,36,,", ",,3,0.5"],
    b"epochs,sun,val_acc\n1,no,91\n2\n": [
        "epochs,sun,val_acc,dropout", "1,no,91,", "2,,,", "3,,,0.5"
    ],
    b"epochs\n1,rain\n": ["epochs,_2,dropout", "1,rain,", "3,,0.5"],
    b"epochs,note,note\n1,a,b\n": ["epochs,note,note_3,dropout", "1,a,b,", "3,,,0.5"],
    # Two runs that began the file at the same moment.
    b"epochs\n1\nepochs\n2\n": ["epochs,dropout", "1,", "2,", "3,0.5"],
}  # fmt: skip
# As spreadsheets save it: semicolons or tabs, another encoding, no last line break.
TABLES |= {
    content: ["epochs,val_acc,note,dropout", "1,90,gr\u00f6\u00dfer; x,", "3,,,0.5"]
    for content in (
        SAVED.encode("cp1252"),
        SAVED.encode("utf-8-sig"),
        SAVED.replace(";", "\t").encode("utf-16"),
        b"\xfe\xff" + SAVED.replace(";", "\t").encode("utf-16-be"),
        SAVED.rstrip().encode(),
    )
}


@pytest.mark.parametrize("content", TABLES)
def test_a_run_is_recorded_whatever_the_file_held(path, content):
    path.write_bytes(content)
    for _ in range(2):  # equal runs both stay
        runs.record_run(path, {"epochs": 3, "dropout": 0.5})
    found = [",".join(cell.replace(",", ";") for cell in row) for row in table(path)]
    assert found == [*TABLES[content], TABLES[content][-1]]


@pytest.mark.parametrize("note", ['commas, "quotes"', "two\nlines", "gr\u00f6\u00dfer"])
def test_any_note_is_recorded(path, note):
    old = note.encode("cp1252").decode("utf-8", errors="surrogateescape")  # as Linux
    for words in (["--note", note], ["--note", old], []):
        runs.record_run(path, vars(parse_settings("", words, note="", epochs=1)))
    assert [row["note"] for row in runs.read_runs(path)] == [note, note, ""]


def test_a_file_that_is_no_table_is_one_line_and_left_alone(path):
    path.write_text("9" * 200_000)
    with pytest.raises(UserError, match="is not a table of runs: move it away"):
        runs.record_run(path, {"epochs": 1})
    assert path.read_text() == "9" * 200_000


def test_runs_that_end_at_the_same_time_lose_nothing(path):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: runs.record_run(path, {"n": f"{n:02}"}), range(40)))
    found = sorted(row["n"] for row in runs.read_runs(path))
    assert found == [f"{n:02}" for n in range(40)]
    assert os.listdir(path.parent) == [path.name]


def test_the_last_run_that_wrote_a_file_is_found_and_described(path, tmp_path, capsys):
    for epochs, name in enumerate(("first", "second", "first")):
        (tmp_path / name).write_text(name)
        run = {"epochs": epochs, "batch_size": 64, "note": "", "verdict": "good fit"}
        runs.record_run(path, run, tmp_path / name)
    runs.record_run(path, {"epochs": 3})  # it wrote none
    (tmp_path / "third").write_text("trained elsewhere")
    words = "It was trained with epochs {}, batch size 64, verdict good fit"
    unknown = f"No run in {path} wrote these weights, so what they were trained on is "
    unknown += "not known."
    for name, epochs in (("first", "2"), ("second", "1"), ("third", None)):
        capsys.readouterr()
        run = runs.find_run(path, tmp_path / name)
        assert run["weights"] == runs.fingerprint(tmp_path / name)
        assert run.get("epochs") == epochs
        said = words.format(epochs) if epochs else unknown
        assert " ".join(capsys.readouterr().out.split()) == said
