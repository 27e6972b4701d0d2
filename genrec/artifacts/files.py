"""Single files: written whole or not at all, hashed in pieces."""

import hashlib
import json
import os
import re
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Any

from genrec.errors import ArtifactError, ConfigError, GenrecError, explain

# Names of what is being written, next to its target of the first group's name.
TEMPORARY = re.compile(r"\.(.+)\.genrec-[0-9a-f]{8}\.(?:part|old)")

_CHECKS: ContextVar[Mapping[Path, Callable[[], object]]] = ContextVar("checks", default=MappingProxyType({}))


def fingerprint(value: Any) -> str:
    """SHA-256 of a JSON-able value in canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def write_file(target: Path) -> Iterator[Path]:
    """Write one file atomically: yields a temporary path next to it that replaces it on success.

    Links are followed; the new file has the permissions that the umask gives.

    Raises:
        ConfigError: If the target is a folder, a device or anything else that is no file.
        ArtifactError: If the place cannot be written or the disk is full.
    """
    target = Path(os.path.realpath(target))
    if os.path.lexists(target) and not target.is_file():
        raise ConfigError(f"{target} is not a file", expected="a file to create or replace", fix="give another path")
    temporary = temporary_name(target)
    try:
        with reporting_write_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch()
            mode = stat.S_IMODE(temporary.stat().st_mode)
            yield temporary
            # Some libraries write files that only their owner can read.
            temporary.chmod(mode)
            sync(temporary)
            replace_file(temporary, target)
            sync(target.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def replace_file(source: Path, target: Path) -> None:
    """Rename a finished file to its target, after another look at what is there (:func:`rechecking`)."""
    check = _CHECKS.get().get(target)
    if check is not None:
        check()
    os.replace(source, target)


@contextmanager
def rechecking(target: Path, check: Callable[[], object]) -> Iterator[None]:
    """While entered, ``check`` is called before anything takes the target's place: work may take hours."""
    token = _CHECKS.set({**_CHECKS.get(), target: check})
    try:
        yield
    finally:
        _CHECKS.reset(token)


def temporary_name(target: Path, ending: str = "part") -> Path:
    """A hidden name next to a target that :func:`temporary_names` finds again."""
    return target.with_name(f".{target.name}.genrec-{uuid.uuid4().hex[:8]}.{ending}")


def temporary_names(target: Path) -> list[Path]:
    """What killed processes left next to a target; only for whoever holds the lock of the target."""
    siblings = target.parent.iterdir() if target.parent.is_dir() else ()
    matches = ((path, TEMPORARY.fullmatch(path.name)) for path in siblings)
    return sorted(path for path, match in matches if match and match[1] == target.name)


def write_json(target: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; non-finite numbers become null."""
    with write_file(target) as temporary:
        temporary.write_text(json.dumps(plain_json(value), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ArtifactError: If it is missing, cannot be read, or is not JSON that Python can hold.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ArtifactError(f"{path.name} is missing", where=str(path.parent), fix="make the folder again") from error
    except OSError as error:
        raise ArtifactError(
            f"{path.name} cannot be read: {error.strerror}", where=str(path), fix="make the folder again"
        ) from error
    return parse_json(content, path)


def parse_json(content: bytes, path: Path) -> Any:
    """Parse the content of a JSON file.

    Args:
        content: Its bytes.
        path: Of the file, for the message.

    Raises:
        ArtifactError: If it is not UTF-8, not JSON, nested too deeply, or holds an integer of thousands of digits.
    """
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        too_long = not isinstance(error, RecursionError | json.JSONDecodeError | UnicodeDecodeError)
        deep = isinstance(error, RecursionError)
        reason = ": it is nested too deeply" if deep else ": a number in it is too long" if too_long else ""
        raise ArtifactError(
            f"{path.name} is not readable JSON{reason}", where=str(path), fix="make the folder again"
        ) from error


@contextmanager
def reporting_write_errors(target: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write into an :class:`ArtifactError` that names the target.

    Also those that a library wrapped into an error of its own; what is missing is not about the target, and passes.
    """
    try:
        yield
    except (GenrecError, FileNotFoundError):
        raise
    except Exception as error:
        known = explain(error)
        if not isinstance(known, ArtifactError):
            raise
        full = known.what.startswith("the disk is full")
        what = f"{known.what} while writing {target}" if full else f"{target} cannot be written: {known.what}"
        raise ArtifactError(what, where=known.where, fix=known.fix) from error


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def plain_json(value: Any) -> Any:
    """A value as JSON can hold it: keys are text, numbers of NumPy are plain, those that are not finite are null."""
    if isinstance(value, Mapping):
        return {str(key): plain_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(inner) for inner in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if (isinstance(value, float) and value != value) or value in (float("inf"), float("-inf")) else value
