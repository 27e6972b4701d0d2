"""``genrec embed`` as a file: ``accelerate launch`` or ``torchrun`` with it shares the items among processes."""

import sys

from genrec.cli import main

if __name__ == "__main__":
    sys.exit(main(["embed", *sys.argv[1:]]))
