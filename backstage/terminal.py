"""The person at the terminal: what is printed, and what is said of faults."""

import sys
import textwrap

import torch

LINE_WIDTH = 88  # characters

# What went wrong without stopping the script, such as a picture that cannot be written.
failures: list[str] = []


class UserError(Exception):
    """Something the person at the terminal can put right.

    Its message is one clear line: what happened and what to do. run_script prints it
    without a traceback, and ends with the exit code.
    """

    exit_code = 1


class BadSettingError(UserError, ValueError):
    """A hyperparameter has a value that cannot be used."""

    exit_code = 2


def report_failure(message: str) -> None:
    """Say what went wrong, and let the script go on; run_script ends it with code 1."""
    failures.append(message)
    print(f"Error: {message}", file=sys.stderr)


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
        values = [" ".join(str(row[name]).split()) for row in rows]
        has_letters = any(value[:1].isalpha() for value in values)
        cells = [""] * (height - len(head)) + head + values
        width = max(len(cell) for cell in cells)
        for line, cell in zip(lines, cells, strict=True):
            line.append(cell.ljust(width) if has_letters else cell.rjust(width))
    for line in lines:
        print(" ".join(line)[:LINE_WIDTH].rstrip())
