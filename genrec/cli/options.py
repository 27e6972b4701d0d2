"""Options that several verbs have."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Stage(str, Enum):
    """The stages of ``genrec run``, in order."""

    dataset = "dataset"
    features = "features"
    tokenizer = "tokenizer"
    model = "model"
    aligned = "aligned"
    transitions = "transitions"
    baselines = "baselines"
    evaluation = "evaluation"
    generation = "generation"
    report = "report"


STAGE_NAMES = ", ".join(stage.value for stage in Stage)


class Split(str, Enum):
    """How users' histories are divided."""

    leave_one_out = "leave-one-out"
    temporal = "temporal"
    ratio = "ratio"


class Ties(str, Enum):
    """What is done about interactions of a user at one time."""

    file = "file"
    shuffle = "shuffle"
    exclude = "exclude"


class Part(str, Enum):
    """The held-out parts."""

    validation = "validation"
    test = "test"


class Unknown(str, Enum):
    """What to do with items that the model does not know."""

    error = "error"
    skip = "skip"
    warn = "warn"


Recipe = Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The recipe.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be given several times.")
]
Out = Annotated[Path, typer.Option("--out", help="Folder to write.", show_default=False)]
DatasetFolder = Annotated[Path, typer.Option("--dataset", help="A folder from `genrec prepare`.", show_default=False)]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; a GPU if there is one by default.")]
