"""``genrec tokenize`` as a file: under ``accelerate launch`` or ``torchrun`` one process fits and all name items."""

import sys

from genrec.cli import main

if __name__ == "__main__":
    sys.exit(main(["tokenize", *sys.argv[1:]]))
