"""Files, written whole or not at all, and read only if they are files."""

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from backstage.terminal import UserError

LEFTOVER_AGE = 24 * 60 * 60  # seconds: no lesson takes so long to write a file


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Let the caller write a file so that `path` is never left half-written.

        with atomic_path("model.pth") as temporary_path:
            torch.save(model.state_dict(), temporary_path)

    The file is written under another name and renamed when it is complete. If
    anything goes wrong before that, an earlier file at `path` stays as it was. Where
    `path` is a link, the file that it leads to is written.

    Raises:
        UserError: the file cannot be written (no permission, disk full, ...).
    """
    named, path = path, Path(os.path.realpath(path))
    remove_leftovers(path)
    temporary_path = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary_path.touch()
        yield temporary_path
        os.replace(temporary_path, path)
    except OSError as error:
        if Path(error.filename or temporary_path) not in (temporary_path, path.parent):
            raise  # not about our file
        raise UserError(f"{named} cannot be written: {error.strerror}") from error
    except RuntimeError as error:
        # This is how torch.save says that a file could not be written.
        if "inline_container" in str(error) or "PytorchStreamWriter" in str(error):
            full = shutil.disk_usage(path.parent).free < 2**20  # bytes
            reason = "the disk is full" if full else error
            raise UserError(f"{named} cannot be written: {reason}") from error
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary_path.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """Return a name beside `path` that no other process has, on any computer."""
    return path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")


def remove_leftovers(path: Path) -> None:
    """Remove what killed runs left of temporary files for `path`, after a day."""
    for leftover in path.parent.glob(f"{path.name}.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime < LEFTOVER_AGE:
                continue
            if leftover.is_dir():  # a download's
                shutil.rmtree(leftover)
            else:
                leftover.unlink()


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
        folder = Path(os.path.realpath(path)).parent
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


def decode_text(content: bytes) -> str:
    """Return a text in whichever encoding a spreadsheet or an old terminal wrote it."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")
