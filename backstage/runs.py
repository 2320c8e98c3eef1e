"""The table of runs, training_runs.csv: recorded, printed, and found again."""

import csv
import hashlib
import io
import itertools
import os
from pathlib import Path

from backstage.files import atomic_path, check_can_read, decode_text
from backstage.terminal import UserError, print_table, print_wrapped, report_failure

# The columns of a run record that show how it went; all others are its settings.
RESULTS = ("train_acc", "val_acc", "verdict", "note")


def fingerprint(path: str | os.PathLike) -> str:
    """Return a short text that tells one file's content from another's."""
    # With a letter in front, no spreadsheet takes it for a number.
    return "w" + hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]


def read_runs(path: str | os.PathLike) -> list[dict[str, str]]:
    """Return the runs in a CSV file, the oldest first; none if there is no such file.

    It may have been saved by a spreadsheet, with semicolons or tabs and in another
    encoding. Cells without a column name, or with one that another column has already,
    get one; missing cells are empty.

    Raises:
        UserError: the file cannot be read, or is no table.
    """
    return _parse(_read(path), path)


def _read(path: str | os.PathLike) -> bytes:
    if not os.path.exists(path):
        return b""
    check_can_read(path, "")
    return Path(path).read_bytes()


def _parse(content: bytes, path: str | os.PathLike) -> list[dict[str, str]]:
    text = decode_text(content).replace("\0", "")  # Python 3.10's reader refuses \0
    heading = text.lstrip().split("\n", 1)[0]
    delimiter = max(",;\t", key=heading.count)
    try:
        table = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise UserError(f"{path} is not a table of runs: move it away") from error
    header, *rows = [row for row in table if any(row)] or [[]]
    columns = []
    for i in range(max(map(len, [header, *rows]))):
        name = header[i] if i < len(header) else ""
        columns.append(name if name and name not in columns else f"{name}_{i + 1}")
    # Two runs that begin the file at the same moment may both write its heading.
    return [
        dict(itertools.zip_longest(columns, row, fillvalue=""))
        for row in rows
        if row != header
    ]


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

    A file that cannot be written is reported, and the lesson goes on.

    Raises:
        UserError: the file cannot be read, or is no table.
    """
    weights = fingerprint(model_path) if model_path else ""
    run = {name: str(value) for name, value in (record | {"weights": weights}).items()}
    content = _read(path)
    runs = [*_parse(content, path), run]
    columns = list(dict.fromkeys(name for run in runs for name in run))
    heading = _to_csv([columns])
    line = _to_csv([[run.get(name, "") for name in columns]])
    try:
        as_ours = content.startswith(heading) and content.endswith(b"\n")
        if as_ours or not content:
            # One line in one piece: another run that ends at this moment stays as well.
            with open(path, "ab", buffering=0) as file:
                file.write(line if content else heading + line)
        else:  # other columns, or another program's way to write them
            rows = [[run.get(name, "") for name in columns] for run in runs]
            with atomic_path(path) as temporary_path:
                temporary_path.write_bytes(heading + _to_csv(rows))
        ending = f"Saved: {path}"
    except (OSError, UserError) as error:
        # As when a spreadsheet holds the file open.
        report_failure(f"{path} cannot be written: {getattr(error, 'strerror', error)}")
        ending = ""
    _print_runs([dict.fromkeys(columns, "") | run for run in runs[-5:]])
    if ending:
        print(ending)


def _to_csv(rows: list[list[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _print_runs(runs: list[dict[str, str]]) -> None:
    """Print runs as a table of what differs between them and how they went."""
    columns = [name for name in runs[0] if name not in (*RESULTS, "weights")]
    same = [name for name in columns if len({run[name] for run in runs}) == 1]
    shown = [*(name for name in columns if name not in same), *RESULTS]
    print_table([{name: run.get(name, "") for name in shown} for run in runs])
    if same:
        print_wrapped(f"In all: {_describe({name: runs[0][name] for name in same})}")


def _describe(run: dict[str, str]) -> str:
    """Return for example "epochs 10, batch size 64, ..., verdict good fit"."""
    values = (f"{name} {value}" for name, value in run.items() if value)
    return ", ".join(text.replace("_", " ") for text in values)


def find_run(
    runs_path: str | os.PathLike, model_path: str | os.PathLike
) -> dict[str, str]:
    """Return the recorded run that wrote a file of weights, and say which it was.

    Returns:
        column name -> text; only `weights`, the file's fingerprint, if none is known.

    Raises:
        UserError: the table of runs cannot be read.
    """
    weights = fingerprint(model_path)
    runs = [run for run in read_runs(runs_path) if run.pop("weights", "") == weights]
    run = runs[-1] if runs else {}
    if run:
        print_wrapped(f"It was trained with {_describe(run)}")
    else:
        print_wrapped(
            f"No run in {runs_path} wrote these weights, so what they were trained on "
            "is not known."
        )
    return run | {"weights": weights}
