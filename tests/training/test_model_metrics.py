"""What a model tells of itself is in the training log."""

import io
import json

from rich.console import Console
from tiny_training import TinyData, TinyModel, quality, settings

from genrec.config import DecodingConfig
from genrec.training import train_recommender


class TellingModel(TinyModel):
    def training_metrics(self):
        return {"calls": [self.calls], "half": 0.5}


def test_the_log_holds_what_the_model_tells(tmp_path):
    console = Console(file=io.StringIO())
    train_recommender(
        TellingModel(), TinyData(), settings(epochs=1), DecodingConfig(), tmp_path, validate=quality, console=console
    )
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    told = [record for record in records if "loss" in record]
    assert told
    assert all(record["half"] == 0.5 for record in told)
    assert [record["calls"] for record in told] == [[record["step"]] for record in told]
