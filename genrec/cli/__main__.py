"""``python -m genrec.cli`` is ``genrec``."""

import sys

from genrec.cli import main

if __name__ == "__main__":
    sys.exit(main())
