"""The person at the terminal: what is printed, and how a script ends."""

import atexit
import contextlib
import errno
import os
import signal
import sys
import textwrap
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

LINE_WIDTH = 88  # characters


class UserError(Exception):
    """Something the person at the terminal can put right.

    Its message is one clear line: what happened and what to do. run_script prints it
    without a traceback, and ends with the exit code.
    """

    exit_code = 1


class BadSettingError(UserError):
    """A hyperparameter has a value that cannot be used."""

    exit_code = 2


def print_section(title: str) -> None:
    """Print a heading."""
    print(f"\n{title}\n{'-' * len(title)}")


def wrap(text: str) -> str:
    """Return a text broken into lines of at most LINE_WIDTH characters."""
    return textwrap.fill(
        text, LINE_WIDTH, break_long_words=False, break_on_hyphens=False
    )


def print_wrapped(text: str) -> None:
    """Print a text broken into lines of at most LINE_WIDTH characters."""
    print(wrap(text))


def print_image(image: torch.Tensor) -> None:
    """Print an image, uint8 [28, 28], in characters that look darker for more ink."""
    shades = " .:-=+*#%@"
    for row in image.tolist():
        # Characters are about twice as high as wide, so each is printed twice.
        print("".join(2 * shades[value * len(shades) // 256] for value in row).rstrip())


def print_table(rows: list[dict[str, object]]) -> None:
    """Print rows of the same columns as an aligned table.

    Column names are broken at "_" to keep the columns narrow. Columns with letters
    begin at the left, numbers end at the right; format numbers first. What does not
    fit into LINE_WIDTH is cut off.
    """
    heads = {name: name.split("_") for name in rows[0]}
    height = max(len(head) for head in heads.values())
    lines = [[] for _ in range(height + len(rows))]
    for name, head in heads.items():
        values = [str(row[name]) for row in rows]
        has_letters = any(value[:1].isalpha() for value in values)
        cells = [""] * (height - len(head)) + head + values
        width = max(len(cell) for cell in cells)
        for line, cell in zip(lines, cells, strict=True):
            line.append(cell.ljust(width) if has_letters else cell.rjust(width))
    for line in lines:
        print(" ".join(line)[:LINE_WIDTH].rstrip())


def run_script(main: Callable[[], None]) -> None:
    """Call main(), and end with one clear line on whatever comes from outside.

    Exit codes: 0 done, 1 an error that was explained, 2 a bad setting, 130 stopped,
    as by Ctrl-C. A mistake in the code shows Python's traceback.
    """
    # A folder's name may hold letters that the console or a pipe cannot show.
    # Line by line, so that progress shows in a pipe. (IDLE's output is not a file.)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    stops = []  # when the user, or the system, asked this script to stop

    def stop(*_):
        stops.append(time.monotonic())
        if len(stops) == 1 or stops[-1] - stops[-2] > 1:  # not again while tidying up
            raise KeyboardInterrupt

    # SIGINT is Ctrl-C. A computer that shuts down sends SIGTERM, a window that is
    # closed SIGHUP; Windows has no SIGHUP, and nohup has it ignored.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)
            # Once Python itself is ending, there is nothing left to stop.
            atexit.register(signal.signal, number, signal.SIG_IGN)
    try:
        main()
        print(end="", flush=True)
    except BaseException as error:
        # An import that is stopped half-way may turn KeyboardInterrupt into any error.
        if stops or isinstance(error, KeyboardInterrupt):
            print("\nStopped. Files saved earlier are untouched.", file=sys.stderr)
            sys.exit(130)
        message = _explain(error)
        if message is None:
            raise
        if message:
            print(f"Error: {message}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 1))


def _explain(error: BaseException) -> str | None:
    """Return one line about an error from outside; None if it is the code's."""
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    # print() names no file when the disk is full or its reader (head, less) has gone.
    lost_output = (errno.ENOSPC, errno.EPIPE, errno.EIO, errno.EBADF)
    if isinstance(error, OSError) and not error.filename and error.errno in lost_output:
        # What could not be printed is still waiting: let Python's last try succeed.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return "" if error.errno == errno.EPIPE else f"output: {error.strerror}"
    # PyTorch "can't allocate memory" or is "out of memory. Tried to allocate ...".
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and "allocate" in str(error)
        and "memory" in str(error)
    ):
        folder = Path(sys.argv[0]).resolve().parent
        ours = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).resolve().parent == folder
        ]
        place = ""
        if ours:
            place = f" at line {ours[-1].lineno} of {Path(ours[-1].filename).name}"
        return f"not enough memory{place}; use a smaller setting"
    return None
