"""How a script ends: done, stopped, or with one clear line."""

import contextlib
import errno
import os
import sys
from collections.abc import Callable

from backstage.plotting import matplotlib
from backstage.terminal import UserError, failures


def run_script(main: Callable[[], None]) -> None:
    """Call main(), and end with one clear line on whatever comes from outside.

    Exit codes: 0 done, 1 an error that was explained, 2 a bad setting, 130 stopped by
    Ctrl-C. A mistake in the code shows Python's traceback.
    """
    # A folder's name may hold letters that the console or a pipe cannot show.
    # Line by line, so that progress shows in a pipe. (IDLE's output is not a file.)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    failures.clear()
    try:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()  # pictures do not depend on anybody's matplotlibrc
            main()
        print(end="", flush=True)
    except KeyboardInterrupt:
        print("\nStopped. Files saved earlier are untouched.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        message = _explain(error)
        if message is None:
            raise
        if message:
            print(f"Error: {message}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 1))
    if failures:
        sys.exit(1)


def _explain(error: Exception) -> str | None:
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
        return "not enough memory; use a smaller setting"
    return None
