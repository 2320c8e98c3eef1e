"""Files that the lessons write and read: pictures, weights, run records."""

import contextlib
import csv
import hashlib
import itertools
import os
import pickle
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

from backstage.terminal import UserError, print_table, print_wrapped

if os.name == "nt":
    import msvcrt
else:
    import fcntl

# The columns of a run record that show how it went; all others are its settings.
RESULTS = ("train_acc", "val_acc", "verdict", "note")


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Let the caller write a file so that `path` is never left half-written.

        with atomic_path("model.pth") as temporary_path:
            torch.save(model.state_dict(), temporary_path)

    The file is written under another name and renamed when it is complete. If
    anything goes wrong before that, an earlier file at `path` stays as it was.

    Raises:
        UserError: the file cannot be written (no permission, disk full, ...).
    """
    path = Path(path)
    remove_leftovers(path)
    temporary_path = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary_path.touch()
        yield temporary_path
        os.replace(temporary_path, path)
    except OSError as error:
        if Path(error.filename or temporary_path) not in (temporary_path, path.parent):
            raise  # not about our file
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    except RuntimeError as error:
        # This is how torch.save says that a file could not be written.
        if "inline_container" in str(error) or "PytorchStreamWriter" in str(error):
            full = shutil.disk_usage(path.parent).free < 2**20  # bytes
            reason = "the disk is full" if full else error
            raise UserError(f"{path} cannot be written: {reason}") from error
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary_path.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove what killed runs left of temporary files for `path`."""
    for leftover in path.parent.glob(f"{path.name}.*.tmp"):
        with contextlib.suppress(OSError, ValueError):
            if _is_running(int(leftover.suffixes[-2][1:])):
                continue
            if leftover.is_dir():  # a download's
                shutil.rmtree(leftover)
            else:
                leftover.unlink()


def _is_running(process_id: int) -> bool:
    if os.name == "nt":
        return False  # Windows itself protects a file that is in use
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


def check_can_write(*paths: str | os.PathLike) -> None:
    """Find out before a long training whether its results can be written.

    Raises:
        UserError: a file cannot be written.
    """
    for path in paths:
        if not path or Path(path).is_dir():
            raise UserError(f"{path!r} cannot be written: it is not the name of a file")
        if Path(path).exists() and not os.access(path, os.W_OK):
            raise UserError(f"{path} cannot be written: it is protected")
        folder = Path(path).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from error


def check_can_read(path: str | os.PathLike, when_missing: str) -> None:
    """Find out whether a path leads to a file that can be opened and read to its end.

    Raises:
        UserError: there is no such file (the message adds when_missing), or it is a
            folder, a device or a pipe, which might never end.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            open(path, "rb").close()
    except FileNotFoundError:
        raise UserError(f"there is no file {path}: {when_missing}") from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", error)
        raise UserError(f"{path} cannot be read: {reason}") from error
    if not stat.S_ISREG(mode):
        raise UserError(f"{path} cannot be read: it is a folder, a device or a pipe")


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure as PNG and name the file.

    Raises:
        UserError: the file cannot be written.
    """
    with atomic_path(path) as temporary_path:
        figure.savefig(temporary_path, format="png", dpi=120)
    print(f"Saved: {path}")


@contextlib.contextmanager
def explain_file_errors(path: str | os.PathLike) -> Iterator[None]:
    """Turn what is wrong with a file of weights into one clear line.

        with explain_file_errors(path):
            state_dict = torch.load(path, weights_only=True)

    What the file cannot be blamed for, such as a misspelt argument, passes through.

    Raises:
        UserError: the file is missing, damaged, or holds more than weights.
    """
    check_can_read(path, "run 03_train_mnist.py first")
    # torch.save writes a zip archive, which holds checksums of its contents.
    whole_model = (
        f"{path} holds more than weights, such as a whole model. Loading it could run "
        "code, so it is refused: save model.state_dict() instead"
    )
    again = "run 03_train_mnist.py again"
    with open(path, "rb") as file:
        start = file.read(2)
    if not start:
        raise UserError(f"{path} is empty: {again}")
    if start[:1] == b"\x80":  # a bare pickle
        raise UserError(whole_model)
    if start != b"PK":
        raise UserError(f"{path} was not written by torch.save: {again}")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip() is not None
            parts = {name.rpartition("/")[2] for name in archive.namelist()}
    except Exception:  # zipfile raises many kinds on damaged files
        damaged = True
    if damaged:
        raise UserError(f"{path} is damaged or incomplete: {again}")
    # constants.pkl: a program for TorchScript, not weights.
    if not {"data.pkl", "version"} <= parts or "constants.pkl" in parts:
        raise UserError(f"{path} was not written by torch.save: {again}")
    try:
        yield
    except pickle.UnpicklingError as error:
        raise UserError(whole_model) from error
    except RuntimeError as error:
        if "PytorchStreamReader" not in str(error):
            raise
        raise UserError(f"{path} was not written by torch.save: {again}") from error


def check_weights(
    path: str | os.PathLike, state_dict: object, model: nn.Module
) -> None:
    """Find out whether what a file holds are weights for this model.

    Raises:
        UserError: they are not; the message names the first difference.
    """
    if not isinstance(state_dict, dict) or not all(
        isinstance(value, torch.Tensor) for value in state_dict.values()
    ):
        raise UserError(
            f"{path} does not hold weights by name: it must be saved with "
            "torch.save(model.state_dict(), path)"
        )
    expected = model.state_dict()
    same_class = "make the class SimpleNN here equal to that of lesson 3"
    for name in expected:
        if name not in state_dict:
            raise UserError(
                f"{path} has no {name}, which the model needs: {same_class}"
            )
    for name, tensor in state_dict.items():
        if name not in expected:
            raise UserError(f"{path} holds {name}, which the model lacks: {same_class}")
        in_file, in_model = list(tensor.shape), list(expected[name].shape)
        if in_file != in_model:
            cure = same_class
            if name == "fc1.weight" and in_file[1:] == in_model[1:]:
                cure = f"use --hidden-size {in_file[0]}, as in training"
            raise UserError(
                f"{path} holds weights of another size ({name} is {in_file} in the "
                f"file, {in_model} in the model): {cure}"
            )
        if not tensor.isfinite().all():
            raise UserError(f"{path} holds weights like nan or inf: train again")


def fingerprint(path: str | os.PathLike) -> str:
    """Return a short text that tells one file's content from another's."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]


def read_runs(path: str | os.PathLike) -> list[dict[str, str]]:
    """Return the runs in a CSV file, the oldest first; none if there is no such file.

    Cells without a column name get one, and missing cells are empty.

    Raises:
        UserError: the file cannot be read.
    """
    if not os.path.exists(path):
        return []
    check_can_read(path, "")
    try:
        # utf-8-sig: spreadsheet programs put a mark in front.
        with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
            lines = (line.replace("\0", "") for line in file)  # Python 3.10 refuses \0
            header, *rows = [row for row in csv.reader(lines) if row] or [[]]
    except csv.Error as error:
        raise UserError(f"{path} is not a table of runs: move it away") from error
    width = max(map(len, [header, *rows]))
    columns = [*header, *(f"column_{i + 1}" for i in range(len(header), width))]
    return [dict(itertools.zip_longest(columns, row, fillvalue="")) for row in rows]


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Let one of a user's processes at a time go on; a lock ends with its process."""
    name = f"training_runs.{getattr(os, 'getuid', int)()}.lock"
    with open(Path(tempfile.gettempdir(), name), "a") as file:
        if os.name == "nt":
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def record_run(
    path: str | os.PathLike,
    record: dict[str, object],
    model_path: str | os.PathLike | None = None,
) -> None:
    """Append one run to a CSV file, and print its last five runs as a table.

    New columns are added, and columns that the file already has are kept.

    Args:
        path: the CSV file; its first line holds the names of the columns.
        record: column name -> value.
        model_path: the file of weights that the run wrote, so that find_run can tell.

    Raises:
        UserError: the file cannot be read or written.
    """
    weights = fingerprint(model_path) if model_path else ""
    run = {name: str(value) for name, value in (record | {"weights": weights}).items()}
    with _one_at_a_time():
        runs = [*read_runs(path), run]
        columns = list(dict.fromkeys(name for run in runs for name in run))
        with (
            atomic_path(path) as temporary_path,
            open(temporary_path, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(runs)
    _print_runs([dict.fromkeys(columns, "") | run for run in runs[-5:]])
    print(f"Saved: {path}")


def _print_runs(runs: list[dict[str, str]]) -> None:
    """Print runs as a table of what differs between them and how they went."""
    columns = [name for name in runs[0] if name not in (*RESULTS, "weights")]
    same = [name for name in columns if len({run[name] for run in runs}) == 1]
    shown = [*(name for name in columns if name not in same), *RESULTS]
    print_table([{name: run.get(name, "") for name in shown} for run in runs])
    if same:
        print_wrapped(f"In all: {describe_run({name: runs[0][name] for name in same})}")


def describe_run(run: dict[str, str]) -> str:
    """Return for example "epochs 10, batch size 64, ..., verdict good fit"."""
    values = (f"{name} {value}" for name, value in run.items() if value)
    return ", ".join(text.replace("_", " ") for text in values)


def find_run(
    runs_path: str | os.PathLike, model_path: str | os.PathLike
) -> dict[str, str]:
    """Return the recorded run that wrote a file of weights; empty if none did."""
    weights = fingerprint(model_path)
    runs = (run for run in read_runs(runs_path) if run.pop("weights", "") == weights)
    return next(reversed(list(runs)), {})
