"""A world with known preferences: what users truly like is a formula, what they did is only a weak trace of it.

Every user has a favourite genre, every item a quality. A user's true reward of an item is 0.5 for the genre and 0.5
times the quality. Past behaviour follows the genre most of the time and never the quality, so a model of what comes
next knows half of what matters; ratings (with noise) tell the rest.
"""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from genrec.alignment.prompts import Prompts
from genrec.config import AlignmentConfig, AlignmentTraining, DataConfig, DecodingConfig, RecommenderConfig
from genrec.data import Dataset, make_dataset
from genrec.data.histories import pad_histories
from genrec.decoding import generate_lists
from genrec.models import GenerativeRecommender, build_recommender
from genrec.tokenizers.index import ItemIndex

GENRES, PER_GENRE, STEPS = 4, 20, 12
ITEMS = GENRES * PER_GENRE
STAYS = 0.7
DECODING = DecodingConfig(num_beams=20, top_k=10, batch_size=256, exclude_seen=False)


class World:
    """Users, items and the truth.

    Args:
        folder: Where the data set is written.
        seed: Of everything that is drawn.
        users: How many there are.
        dataset: The same world's, if it was prepared before.
    """

    def __init__(self, folder: Path, seed: int = 0, users: int = 160, dataset: Dataset | None = None) -> None:
        random = np.random.default_rng(seed)
        self.quality = random.random(ITEMS)
        self.favourite = random.integers(GENRES, size=users)
        rows = []
        for user in range(users):
            for step in range(STEPS):
                genre = self.favourite[user] if random.random() < STAYS else random.integers(GENRES)
                item = int(genre * PER_GENRE + random.integers(PER_GENRE))
                liked = float(random.random() < self.value(np.array([user]), np.array([[item]]))[0, 0])
                rows.append((f"u{user:03d}", f"i{item:02d}", 1_600_000_000 + 86_400 * step, liked))
        items = pl.DataFrame({"item_id": [f"i{item:02d}" for item in range(ITEMS)]})
        table = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "liked"], orient="row")
        self.dataset: Dataset = dataset or make_dataset(table, items, DataConfig(k_core=0), folder)
        self.item_of = np.array([int(name[1:]) for name in self.dataset.item_ids])
        self.user_of = np.array([int(name[1:]) for name in self.dataset.user_ids])

    def value(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """The true reward of ``items [P, k]`` (numbers of this world) for ``users [P]``."""
        return 0.5 * (items // PER_GENRE == self.favourite[users][:, None]) + 0.5 * self.quality[items]

    def reward(self, prompts: Prompts, lists: np.ndarray) -> np.ndarray:
        """The true reward as alignment asks for it."""
        return self.value(self.user_of[prompts.histories.users], self.item_of[lists])

    def true_reward(self, model: GenerativeRecommender) -> float:
        """Mean true reward of the model's ten best items for every user, from the whole training part."""
        histories = self.dataset.train()
        lists, _ = generate_lists(model, histories, decoding=DECODING, top_k=10)
        return float(self.reward(Prompts(histories, histories), lists).mean())

    def supervised(
        self, epochs: int = 40, seed: int = 0, family: str = "depth", dropout: float = 0.1, **further: Any
    ) -> GenerativeRecommender:
        """A small recommender that learned what comes next, and nothing of what is liked."""
        codes = np.stack([np.arange(ITEMS) // PER_GENRE, np.arange(ITEMS) % 5, np.arange(ITEMS) % PER_GENRE // 5], 1)
        index = ItemIndex(codes[self.item_of].astype(np.int32), (GENRES, 5, 4), self.dataset.item_ids)
        torch.manual_seed(seed)
        settings = {"hidden_size": 16, "num_layers": 1, "num_heads": 1, "max_history": STEPS}
        settings |= {"use_features": False, "depth_dropout": dropout} if family == "depth" else {}
        settings |= further
        config = RecommenderConfig(name=family, dropout=dropout, **settings)
        model = build_recommender(config, num_items=ITEMS, index=index)
        assert isinstance(model, GenerativeRecommender)
        train = self.dataset.train()
        items, lengths = (torch.from_numpy(part) for part in pad_histories(train, np.arange(len(train)), STEPS))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(epochs):
            optimizer.zero_grad()
            model(items, lengths).loss.backward()
            optimizer.step()
        return model.eval()


def recipe(**changes: object) -> AlignmentConfig:
    """Settings that suit the small world; keys of ``training`` are given among the others."""
    values = {
        "method": "dpo",
        "rewards": {"function": 1.0},
        "metric": "reward@10",
        "tolerance": 0.9,
        "stop_fall": 0.9,
        "learning_rate": 3e-3,
        "batch_size": 32,
        "share": 2.0,
        "epochs": 3,
        "patience": 9,
        **changes,
    }
    training = {key: value for key, value in values.items() if key in AlignmentTraining.model_fields}
    others = {key: value for key, value in values.items() if key not in training}
    return AlignmentConfig.model_validate({**others, "training": training})
