"""The command line: constants that a script passes to parse_settings are also flags."""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from backstage.data.datasets import DATASETS
from backstage.data.spoken_digits import VOICES
from backstage.files import decode_text


def _number(kind: type, low: float, high: float, meaning: str) -> Callable:
    """Return a function that turns a text into a number from low to high."""

    def convert(text: str) -> int | float:
        try:
            number = kind(text)
        except ValueError:
            number = math.nan
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"must be {meaning}, got {text!a}")
        return number

    return convert


def _whole_number(low: int, high: int) -> Callable[[str], int]:
    return _number(int, low, high, f"a whole number from {low} to {high}")


def _count_or_all(text: str) -> int | None:
    """Turn "all" into None, and other texts into a whole number."""
    meaning = f"all, or a whole number from 1 to {sys.maxsize}"
    return None if text == "all" else _number(int, 1, sys.maxsize, meaning)(text)


def _choice(*allowed: str) -> Callable[[str], str]:
    """Return a function that accepts one of a few texts."""

    def convert(text: str) -> str:
        if text not in allowed:
            raise argparse.ArgumentTypeError(
                f"must be one of {', '.join(allowed)}, got {text!a}"
            )
        return text

    return convert


def _file_name(text: str) -> str:
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"must be the name of a file, got {text!a}")
    return text


def _text(text: str) -> str:
    """Return a text that can be printed and recorded, whatever the terminal sent."""
    return decode_text(text.encode("utf-8", errors="surrogateescape"))


# The hyperparameters of the lessons: how to read each, and what it is. The upper
# limits keep a slip of the finger from filling the memory.
HYPERPARAMETERS = {
    "epochs": (_whole_number(1, 100_000), "passes over the training data"),
    "batch_size": (_whole_number(1, 100_000), "images per training step"),
    "learning_rate": (
        _number(float, sys.float_info.min, 1e38, "a positive number up to 1e+38"),
        "step size of the optimizer",
    ),
    "seeds": (_whole_number(2, 100), "runs per architecture, each with another seed"),
    "hidden_size": (_whole_number(1, 10_000), "neurons in the hidden layer"),
    "train_samples": (_count_or_all, "training images to use; few show overfitting"),
    "wrong_labels": (
        _number(float, 0, 1, "a share from 0 to 1"),
        "share of the training labels to replace by random ones",
    ),
    "seed": (_whole_number(0, 2**63 - 1), "start of all random numbers"),
    "samples_per_class": (_whole_number(1, 100), "images per class in the picture"),
    "dataset": (_choice(*DATASETS), f"one of {', '.join(DATASETS)}"),
    "stranger": (_choice(*VOICES), "voice that new-voices tests on"),
    "compare": (_text, "names of the architectures to compare"),
    "model": (_file_name, "file of weights to load"),
    "image": (str, "picture of a handwritten digit to read, instead of the lesson"),
    "sound": (str, "recording of a spoken digit to read, instead of the lesson"),
    "start_from": (str, "file of weights to begin with, instead of random ones"),
    "own": (str, "file of your own examples, from the page of lesson 4"),
    "note": (_text, "a remark that is recorded with the run"),
}


def _converter(default: object) -> Callable[[str], object] | None:
    """Return how to read a hyperparameter of the learner's own, by its constant."""
    largest = sys.float_info.max
    if isinstance(default, bool):
        return lambda text: _choice("True", "False")(text) == "True"
    if isinstance(default, int):
        return _number(int, -largest, largest, "a whole number")
    if isinstance(default, float):
        return _number(float, -largest, largest, "a number")
    return _text if isinstance(default, str) else None


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help lists all flags)\n")


def parse_settings(
    description: str, argv: list[str] | None = None, **defaults: object
) -> argparse.Namespace:
    """Read a script's hyperparameters from the command line.

    The constants at the top of the script are the defaults, and are checked like the
    flags: whoever edits a constant to a bad value gets the same message.

    Args:
        description: the first lines of --help.
        argv: the words of the command line; None means the real one.
        defaults: name of a hyperparameter -> the script's constant. A name that is
            not in HYPERPARAMETERS is one of the learner's own: its flag takes what
            its constant is, a number, a text, True or False. A constant of another
            kind, such as a list or None, has no flag, and comes back as it is.

    Returns:
        A namespace with one attribute per hyperparameter.

    Raises:
        SystemExit: code 2 after one line about a bad value; 0 after --help.
    """
    parser = _OneLineParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for name, default in defaults.items():
        own = (_converter(default), "a hyperparameter of your own")
        convert, meaning = HYPERPARAMETERS.get(name, own)
        if convert is None:
            parser.set_defaults(**{name: default})
            continue
        parser.add_argument(
            "--" + name.replace("_", "-"),
            type=convert,
            default=str(default),  # argparse converts, and so checks, a text
            metavar="X",
            help=f"{meaning} (default: {'none' if default == '' else default})".replace(
                "%", "%%"
            ),
        )
    if argv is None:
        # In a notebook, they belong to its kernel: ipykernel_launcher.py -f ....json
        in_notebook = Path(sys.argv[0]).name.endswith("kernel_launcher.py")
        argv = [] if in_notebook else sys.argv[1:]
    # Before Python 3.13, argparse loses a value that is "--", and then its way.
    return parser.parse_args(
        [word.replace("=--", "= --") if word.endswith("=--") else word for word in argv]
    )
