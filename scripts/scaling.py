"""Loss against training compute, dense models and models with sparse experts, equal data.

    python scripts/scaling.py runs/beauty --out scaling
    python scripts/scaling.py runs/beauty runs/health --out scaling --widths 32 64 128 --expert-widths 32 --seeds 1 2 3

Each folder holds ``dataset/`` and ``features/`` of a run; semantic IDs are made once for each. Models of one family
grow
in width; those with experts have feed-forward layers that are as many times narrower as a position has experts, so that
they do the work of the dense model of their width, and the router's. All see the same users equally often, with one
learning rate for width 64 that falls with the root of the width. Operations are counted by the rule of
``genrec.models.flops``. What is done is skipped: the same command continues after an interruption, and sizes, seeds or
data sets can be added. After every model ``scaling.json``, ``scaling.md`` and ``scaling.png`` are written anew.
"""

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrec import Dataset, DecodingConfig, RecommenderConfig, TrainingConfig, load_recipe
from genrec.artifacts import MANIFEST, open_work_folder, read_json, work_folder, write_file, write_json
from genrec.models import resolve_recommender
from genrec.models.registry import families_with
from genrec.pipeline.model_folder import Companions
from genrec.pipeline.scaling import POINT_FILE, train_point
from genrec.pipeline.tokenize import tokenize_items
from genrec.pipeline.train import TrainingPlan
from genrec.reports.scaling import draw_scaling, gather_studies, reading, scaling_text

TOKENIZER = Path(__file__).resolve().parents[1] / "tokenizers" / "rqkmeans.yaml"
BASE_WIDTH = 64
FEED_FORWARD = 4

logger = logging.getLogger("genrec.scaling")


@dataclass(frozen=True)
class Size:
    """One model of the study.

    Attributes:
        width: Its ``hidden_size``.
        experts: Of each feed-forward layer; 0 for a dense model.
        experts_per_token: Of which a position uses so many.
    """

    width: int
    experts: int
    experts_per_token: int

    @property
    def name(self) -> str:
        """As in tables and folders."""
        return (
            f"experts-{self.width}-{self.experts_per_token}of{self.experts}" if self.experts else f"dense-{self.width}"
        )

    def settings(self, arguments: argparse.Namespace) -> dict[str, Any]:
        """Those of the recommender."""
        inner = FEED_FORWARD * self.width // (self.experts_per_token if self.experts else 1)
        experts = {"experts": self.experts, "experts_per_token": self.experts_per_token} if self.experts else {}
        return {
            "name": arguments.family,
            "hidden_size": self.width,
            "num_layers": arguments.layers,
            "num_heads": 2,
            "feed_forward_size": inner,
            "dropout": 0.1,
            "max_history": 20,
            **experts,
        }


def main() -> None:
    """Train what is missing and write the study."""
    arguments = parse_arguments()
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)
    sizes = [Size(width, 0, 1) for width in arguments.widths]
    sizes += [Size(width, arguments.experts, arguments.experts_per_token) for width in arguments.expert_widths]
    for seed in arguments.seeds:
        for run in arguments.runs:
            dataset = Dataset.load(run / "dataset", verify=True)
            companions = Companions(tokenizer_of(run, dataset, arguments), run / "features")
            for size in sorted(sizes, key=lambda size: size.width):
                folder = arguments.out / run.name / size.name / f"seed-{seed}"
                logger.info(f"{run.name}, {size.name}, seed {seed}")
                train_point(plan_of(size, seed, arguments), dataset, companions, folder)
                write_study(arguments.out)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders with dataset/ and features/")
    parser.add_argument("--out", type=work_folder, required=True)
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER, help="a recipe of semantic IDs")
    parser.add_argument("--family", choices=families_with("counts_flops"), default="decoder")
    parser.add_argument("--widths", type=int, nargs="*", default=[16, 32, 64, 96], help="of dense models")
    parser.add_argument("--expert-widths", type=int, nargs="*", default=[16, 32, 64, 96], help="of models with experts")
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--experts-per-token", type=int, default=2)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=3e-3, help=f"at width {BASE_WIDTH}")
    parser.add_argument("--validation-users", type=int, default=2000, help="whose lists are measured, once, at the end")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    arguments = parser.parse_args()
    open_work_folder(arguments.out)
    return arguments


def tokenizer_of(run: Path, dataset: Dataset, arguments: argparse.Namespace) -> Path:
    """The folder of semantic IDs that all sizes share, made if it is not there."""
    folder: Path = arguments.out / run.name / "tokenizer"
    if not (folder / MANIFEST).is_file():
        tokenize_items(load_recipe(arguments.tokenizer).tokenizer, dataset, run / "features", folder)
    return folder


def plan_of(size: Size, seed: int, arguments: argparse.Namespace) -> TrainingPlan:
    """How one model is trained; it is validated once, at the end, so that nothing is selected."""
    training = TrainingConfig(
        epochs=arguments.epochs,
        batch_size=64,
        learning_rate=arguments.learning_rate * (BASE_WIDTH / size.width) ** 0.5,
        eval_epochs=arguments.epochs,
        eval_users=arguments.validation_users,
        seed=seed,
    )
    recommender = RecommenderConfig.model_validate(size.settings(arguments))
    return TrainingPlan(resolve_recommender(recommender), training, DecodingConfig(top_k=10, num_beams=20))


def write_study(out: Path) -> None:
    """Gather all points below a folder into JSON, Markdown and a picture."""
    points = []
    for path in sorted(out.glob(f"*/*/seed-*/{POINT_FILE}")):
        data, size, seed = path.parts[-4:-1]
        kind = size.partition("-")[0]
        points.append({"data": data, "size": size, "kind": kind, "seed": int(seed[5:]), **read_json(path)})
    studies = gather_studies(points)
    write_json(out / "scaling.json", {"points": points, "studies": [study.as_json() for study in studies]})
    with write_file(out / "scaling.md") as path:
        path.write_text(scaling_text(studies), encoding="utf-8")
    draw_scaling(studies, out / "scaling.png")
    for study in studies:
        logger.info("\n".join([study.data, *reading(study)]))


if __name__ == "__main__":
    main()
