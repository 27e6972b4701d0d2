"""What every item tokenizer must fulfil, checked on the small data set of :mod:`genrec.testing.world`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from genrec.artifacts import read_json, read_manifest, verify_artifact
from genrec.config import TokenizerConfig
from genrec.data import Dataset
from genrec.errors import ConfigError, DataError
from genrec.features import ItemFeatures
from genrec.testing.rules import require
from genrec.testing.world import corrupt_held_out, tiny_dataset, tiny_features, tiny_interactions
from genrec.tokenizers import ItemIndex, ItemTokenizer, TokenizerSettings, fit_tokenizer, tokenizer_class
from genrec.tokenizers.fit import QUALITY_FILE

SUFFIXES = {".json", ".safetensors", ".parquet", ".png"}


@dataclass(frozen=True)
class TokenizerContract:
    """The rules for one family, each a method; a method that writes is given a new or empty folder.

    Attributes:
        name: Registered name of the family.
        dataset: The small data set.
        features: Its vectors.
        settings: Settings that fit 40 items and are quick.
    """

    name: str
    dataset: Dataset
    features: ItemFeatures
    settings: Mapping[str, Any] = field(default_factory=dict)

    def fit(self, out: Path, **changed: Any) -> ItemIndex:
        """Fit with these settings, some of them changed, and write the ``tokenizer`` folder."""
        config = TokenizerConfig(name=self.name, **{**self.settings, **changed})
        return fit_tokenizer(config, self.dataset, self.features, out)

    def check_class(self) -> None:
        """It is a documented :class:`ItemTokenizer` with settings, called what it is registered as."""
        family = tokenizer_class(self.name)
        require(issubclass(family, ItemTokenizer), f"{family} is an ItemTokenizer")
        require(issubclass(family.Settings, TokenizerSettings), "Settings is a TokenizerSettings")
        require(family.name == self.name, f"name is {self.name!r}, not {family.name!r}")
        require(bool(family.__doc__), "the class has a docstring")

    def check_semantic_ids(self, folder: Path) -> None:
        """Every item of the catalogue has a semantic ID of its own, of codes below the level sizes."""
        verify_artifact(folder, "tokenizer")
        index = ItemIndex.load(folder)
        require(index.item_ids == self.dataset.item_ids, "the index has the items of the data set in their order")
        different = len(np.unique(index.codes, axis=0))
        require(different == self.dataset.num_items, f"{different} semantic IDs for {self.dataset.num_items} items")
        require(bool((index.codes < np.array(index.level_sizes)).all()), "codes are below the level sizes")

    def check_same_bytes(self, folder: Path, out: Path) -> None:
        """Fitted again, it writes the same bytes."""
        index = self.fit(out)
        require(read_manifest(out).fingerprint == read_manifest(folder).fingerprint, "two fits write equal folders")
        require(ItemIndex.load(folder).fingerprint == index.fingerprint, "two fits give equal semantic IDs")

    def check_files(self, folder: Path) -> None:
        """The folder holds tables, arrays, JSON and pictures, and nothing that runs code when it is read."""
        suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
        require(suffixes <= SUFFIXES, f"only {sorted(SUFFIXES)} are written, not {sorted(suffixes - SUFFIXES)}")

    def check_quality(self, folder: Path) -> None:
        """The quality report counts the items, the use of every level and the collisions."""
        report, index = read_json(folder / QUALITY_FILE), ItemIndex.load(folder)
        require(report["tokenizer"] == self.name, "the report names the tokenizer")
        require(report["items"] == self.dataset.num_items, "the report counts the items")
        for level in report["levels"]:
            require(0 < level["use"] <= 1, f"a share of the codes is used: {level}")
            require(1 <= level["perplexity"] <= level["size"] * (1 + 1e-9), f"perplexity is within the size: {level}")
        collisions, different = report["collisions"], len(np.unique(index.codes, axis=0))
        require(collisions["before"]["identifiers"] <= self.dataset.num_items, "at most one semantic ID per item")
        require(collisions["after"]["identifiers"] == different, "different semantic IDs are counted")
        require(bool(report["neighbors"]), "the report says which neighbors share codes")

    def check_new_items(self, folder: Path, out: Path) -> None:
        """A loaded tokenizer names items it has not seen, one by one as together, or refuses to; saving keeps both."""
        tokenizer = ItemTokenizer.from_pretrained(folder)
        require(bool(tokenizer.level_sizes), "level sizes are known after loading")
        tokenizer.save_pretrained(out)
        again = ItemTokenizer.from_pretrained(out)
        if not tokenizer.encodes_new_items:
            self._check_refusal(tokenizer)
            known = tokenizer.encode_catalogue(self.dataset, self.features)
            require(
                np.array_equal(again.encode_catalogue(self.dataset, self.features), known), "saving changes nothing"
            )
            return
        items, unseen = self.dataset.items, self.features.values[::-1] * 0.9 + 0.01
        codes, levels = tokenizer.encode_items(items, unseen), len(tokenizer.level_sizes)
        require(codes.dtype == np.int32, f"codes are int32, not {codes.dtype}")
        require(codes.shape == (len(items), levels), f"codes are [{len(items)}, {levels}], not {list(codes.shape)}")
        inside = (codes >= 0) & (codes < np.array(tokenizer.level_sizes))
        require(bool(inside.all()), "codes of new items are within the level sizes")
        require(np.array_equal(again.encode_items(items, unseen), codes), "saving changes nothing")
        alone = [tokenizer.encode_items(items[row : row + 1], unseen[row : row + 1]) for row in range(8)]
        require(np.array_equal(np.concatenate(alone), codes[:8]), "an item's codes do not depend on its batch")
        require(tokenizer.encode_items(items[:0], unseen[:0]).shape == (0, levels), "no items have no codes")

    def _check_refusal(self, tokenizer: ItemTokenizer) -> None:
        try:
            tokenizer.encode(self.features.values)
        except ConfigError as error:
            message = str(error)
        else:
            message = "no error"
        require("cannot name items that it was not fitted on" in message, f"new items are refused: {message}")

    def check_held_out(self, folder: Path, out: Path) -> None:
        """No byte depends on held-out interactions: with other items there the files are the same."""
        dataset = tiny_dataset(out / "dataset", corrupt_held_out(tiny_interactions()))
        TokenizerContract(self.name, dataset, tiny_features(dataset), self.settings).fit(out / "tokenizer")
        first, second = (read_manifest(one).files for one in (folder, out / "tokenizer"))
        require(first == second, "held-out interactions change nothing that is written")

    def check_bad_input(self, out: Path) -> None:
        """An unknown setting and a vector that is not finite are refused with an error, and nothing is written."""
        values = np.where(np.arange(len(self.features.values))[:, None] == 6, np.nan, self.features.values)
        broken = ItemFeatures(values, self.features.item_ids, {})
        refused = []
        for contract, changed, expected in (
            (self, {"colisions": "error"}, ConfigError),
            (TokenizerContract(self.name, self.dataset, broken, self.settings), {}, DataError),
        ):
            try:
                contract.fit(out / "tokenizer", **changed)
            except expected as error:
                refused.append(str(error))
        require(len(refused) == 2, "an unknown setting and NaN are refused")
        require("did you mean 'collisions'" in refused[0], f"the nearest key is named: {refused[0]}")
        require("NaN or infinity" in refused[1] and "row 6" in refused[1], f"the row is named: {refused[1]}")
        require(not list(out.iterdir()), "nothing is written after an error")


def check_tokenizer(name: str, settings: Mapping[str, Any], folder: Path) -> None:
    """Check a registered item tokenizer against all rules.

    Args:
        name: In :data:`genrec.tokenizers.TOKENIZERS`.
        settings: Settings that fit 40 items and are quick.
        folder: A new or empty folder for what is written on the way.

    Raises:
        AssertionError: With the rule that is broken.
        GenrecError: If the tokenizer cannot be fitted at all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dataset = tiny_dataset(folder / "dataset")
    contract = TokenizerContract(name, dataset, tiny_features(dataset), settings)
    contract.check_class()
    fitted = folder / "tokenizer"
    contract.fit(fitted)
    contract.check_semantic_ids(fitted)
    contract.check_files(fitted)
    contract.check_quality(fitted)
    contract.check_same_bytes(fitted, folder / "again")
    contract.check_new_items(fitted, folder / "saved")
    (folder / "corrupted").mkdir()
    contract.check_held_out(fitted, folder / "corrupted")
    (folder / "refused").mkdir()
    contract.check_bad_input(folder / "refused")
