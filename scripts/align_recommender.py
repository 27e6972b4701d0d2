"""``genrec align`` as a file, for launchers that need one: the same arguments, the same code."""

import sys

from genrec.cli import main

if __name__ == "__main__":
    sys.exit(main(["align", *sys.argv[1:]]))
