"""``genrec generate`` as a file: ``accelerate launch`` or ``torchrun`` with it shares the users among processes."""

import sys

from genrec.cli import main

if __name__ == "__main__":
    sys.exit(main(["generate", *sys.argv[1:]]))
