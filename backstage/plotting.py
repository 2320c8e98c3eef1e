"""Matplotlib, for pictures that are written to files: no window is ever opened."""

import contextlib
import os
import sys

from backstage.files import atomic_path
from backstage.terminal import UserError, report_failure


def _import_matplotlib():
    """Import it even where MPLBACKEND names a way to open windows that is missing.

    A notebook leaves this variable to the terminals and scripts that it starts, and
    importing Matplotlib fails if what it names is not installed.
    """
    backend = None
    if "matplotlib" not in sys.modules:
        backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib.axes
        import matplotlib.figure
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend is not None:
        with contextlib.suppress(ValueError):  # not installed
            matplotlib.rcParams["backend"] = backend
    return matplotlib


matplotlib = _import_matplotlib()
# A Figure of its own instead of pyplot's: it needs no screen and no closing.
Axes, Figure = matplotlib.axes.Axes, matplotlib.figure.Figure


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure as PNG and name the file.

    A picture that cannot be written is reported, and the lesson goes on.
    """
    try:
        with atomic_path(path) as temporary_path:
            figure.savefig(temporary_path, format="png", dpi=120)
    except UserError as error:
        report_failure(str(error))
    else:
        print(f"Saved: {path}")
