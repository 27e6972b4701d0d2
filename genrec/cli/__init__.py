"""``genrec VERB``: reads the command line, calls the library, turns errors into messages and exit codes.

Nothing heavy is imported before a verb runs, so that ``genrec --help`` answers at once.
"""

from genrec.cli import stages  # isort: skip  (the help lists the verbs in the order of these imports)
from genrec.cli import lists  # isort: skip
from genrec.cli import views  # isort: skip
from genrec.cli.app import app, main

__all__ = ["app", "lists", "main", "stages", "views"]
