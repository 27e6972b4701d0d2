"""What scripts write: types for ``argparse`` that refuse a place before any work, and the file of figures."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genrec.artifacts.files import write_json
from genrec.artifacts.locks import open_work_folder
from genrec.artifacts.marks import MARK
from genrec.artifacts.targets import check_file_target
from genrec.errors import GenrecError


def result_file(text: str) -> Path:
    """A file of figures: new, or written by genrec before."""
    try:
        return check_file_target(Path(text))
    except GenrecError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def work_folder(text: str) -> Path:
    """A folder in which a script keeps what it makes: new, empty, or used so before."""
    try:
        return open_work_folder(Path(text))
    except GenrecError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def write_result(path: Path, figures: Mapping[str, Any]) -> None:
    """Write figures as JSON with the mark by which the file is known again."""
    write_json(path, {"generator": MARK, **figures})
