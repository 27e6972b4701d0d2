"""``genrec train`` as a file, for launchers that need one: the same arguments, the same code.

accelerate launch --config_file configs/accelerate/ddp.yaml scripts/train_recommender.py CONFIG --dataset DIR ...
torchrun --nproc-per-node 8 scripts/train_recommender.py CONFIG --dataset DIR ...
deepspeed --num_gpus 8 scripts/train_recommender.py CONFIG --dataset DIR ... --deepspeed configs/accelerate/zero2.json
"""

import argparse
import os
import sys

from genrec.cli import main


def follow_launcher(arguments: list[str]) -> list[str]:
    """Take out ``--deepspeed FILE``, which accelerate is told of, and the rank that ``deepspeed`` appends."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--deepspeed")
    parser.add_argument("--local_rank", "--local-rank")
    known, rest = parser.parse_known_args(arguments)
    if known.deepspeed is not None:
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
        os.environ["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = known.deepspeed
    return rest


if __name__ == "__main__":
    sys.exit(main(["train", *follow_launcher(sys.argv[1:])]))
