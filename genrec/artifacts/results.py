"""What scripts write: types for ``argparse`` that refuse a place before any work, and the file of figures."""

import argparse
from pathlib import Path

from genrec.artifacts.targets import check_file_target, check_work_folder
from genrec.errors import GenrecError


def result_file(text: str) -> Path:
    """A file of figures: new, or written by genrec before."""
    try:
        return check_file_target(Path(text))
    except GenrecError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def work_folder(text: str) -> Path:
    """A folder in which a script keeps what it makes: new, empty, or used so before; it is made by whoever uses it."""
    try:
        return check_work_folder(Path(text))
    except GenrecError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
