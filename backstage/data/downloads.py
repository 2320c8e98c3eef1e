"""Files from the internet, fetched once."""

import contextlib
import http.client
import io
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from backstage.files import remove_leftovers, temporary_name

TIMEOUT = 10  # seconds without an answer after which a server counts as dead


def download(
    urls: Iterable[str], path: Path, is_genuine: Callable[[Path], bool]
) -> None:
    """Download a file from the first address that has it.

    It is fetched into a folder of its own and moved into place when it is genuine, so
    that an interruption leaves nothing half-done.

    Args:
        urls: where the file may be found.
        path: where to put it.
        is_genuine: tells whether the downloaded file is the right one.

    Raises:
        OSError: no address delivered the file, or the folder cannot be written to.
    """
    # Imported here: it takes seconds, and only the very first run needs it. A
    # torchvision that does not fit this torch fails in one of many ways.
    try:
        from torchvision.datasets.utils import download_url
    except Exception as error:
        raise OSError(f"torchvision does not fit this torch ({error})") from error

    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    staging = temporary_name(path)
    print(f"Downloading {path.name} to {path.parent}")
    # torchvision always draws its progress bar; in a log file it would be noise.
    on_terminal = sys.stderr is not None and sys.stderr.isatty()
    bar = sys.stderr if on_terminal else io.StringIO()
    failures = []
    previous_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        for url in urls:
            try:
                with contextlib.redirect_stderr(bar):
                    download_url(url, staging, path.name)
                if not is_genuine(staging / path.name):
                    raise OSError("the file is not the original one")
            except (OSError, RuntimeError, http.client.HTTPException) as error:
                failures.append(f"{url}: {error or type(error).__name__}")
            else:
                # On Windows this fails when another script has the file open, which
                # means that it is there already.
                with contextlib.suppress(PermissionError):
                    os.replace(staging / path.name, path)
                return
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    finally:
        socket.setdefaulttimeout(previous_timeout)
    message = "; ".join(failures)
    if "CERTIFICATE_VERIFY_FAILED" in message:
        message += (
            ". About the certificate: on macOS, run 'Install Certificates.command' in "
            "Python's folder in Applications; behind a company's firewall, set the "
            "environment variable SSL_CERT_FILE to its certificate file"
        )
    raise OSError(message)
