"""All verbs, in the order in which the help lists them."""

from genrec.cli import stages  # isort: skip
from genrec.cli import lists  # isort: skip
from genrec.cli import views  # isort: skip
from genrec.cli.app import app, run_line

__all__ = ["app", "lists", "run_line", "stages", "views"]
