"""Several item tokenizers of one catalogue side by side: which is good, and why.

The order is a hint from the semantic IDs alone; what a recommender makes of them is measured by training one.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genrec.artifacts import MANIFEST, Manifest, read_json, verify_artifact
from genrec.errors import ArtifactError
from genrec.tokenizers.fit import QUALITY_FILE
from genrec.tokenizers.index import ItemIndex

STAGE = "tokenizer"
# What is compared: the field of a candidate, how it is called, and whether more of it is better.
CRITERIA = (("collision_rate", False), ("found_by_vectors", True), ("found_by_users", True))
NO_BETTER_THAN_CHANCE = 2.0


@dataclass(frozen=True)
class Candidate:
    """One tokenizer in numbers; None where the family or the data have no such thing.

    Attributes:
        name: The folder's name, or as much of its path as tells it from the others.
        family: Name of the tokenizer.
        level_sizes: Codebook sizes after the collision policy.
        use: Share of codes in use per level, before the policy.
        gini: Unevenness of the first level.
        collision_rate: 1 - semantic IDs / items before the policy.
        largest_bucket: Items of the most frequent semantic ID, before the policy.
        energy_left: Share of the vectors' variance that all codes together do not tell; None where codes are of a space
            that the family made for itself and there is no way back.
        found_by_vectors: Share of an item's ten nearest vectors that its semantic ID finds.
        found_by_users: The same of the ten items that share most users.
        chance: What semantic IDs drawn at random would find of the latter two at most.
        nmi: Normalized mutual information of the first level and the category, less what chance gives groups of its
            sizes.
        stability: Adjusted Rand index of the first level from another seed.
        new_items: As ``found_by_vectors`` for items that came after fitting.
        settings: What it was fitted with.
    """

    name: str
    family: str
    level_sizes: tuple[int, ...]
    use: tuple[float, ...]
    gini: float
    collision_rate: float
    largest_bucket: int
    energy_left: float | None
    found_by_vectors: float | None
    found_by_users: float | None
    chance: float
    nmi: float | None
    stability: float | None
    new_items: float | None
    settings: dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """Tokenizers of one catalogue, the most promising first.

    Attributes:
        items: N.
        candidates: See :class:`Candidate`.
        reading: Which looks good and why, in a sentence or two.
        notes: What to bear in mind when reading the numbers.
    """

    items: int
    candidates: tuple[Candidate, ...]
    reading: str
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """All of it, JSON-able."""
        return asdict(self)


def compare_tokenizers(folders: Sequence[Path]) -> Comparison:
    """Read the reports of several ``tokenizer`` folders, or of runs that hold one.

    Args:
        folders: At least one.

    Raises:
        ArtifactError: If a folder is missing, changed, no tokenizer, without a report of this version, or names other
            items than the first.
    """
    places = [folder / STAGE if (folder / STAGE / MANIFEST).is_file() else folder for folder in folders]
    manifests = [verify_artifact(place, STAGE) for place in places]
    indexes = [ItemIndex.load(place) for place in places]
    for place, index in zip(places, indexes, strict=True):
        if index.item_ids != indexes[0].item_ids:
            raise ArtifactError(
                f"{place} names other items than {places[0]}",
                expected=f"tokenizers of one catalogue, here of {indexes[0].num_items} items in one order",
                fix="compare tokenizers that were fitted on the same data set",
            )
    candidates = [
        _candidate(name, place, manifest, index.level_sizes)
        for name, place, manifest, index in zip(_names(folders), places, manifests, indexes, strict=True)
    ]
    ordered = tuple(candidates[place] for place in np.argsort(mean_ranks(candidates), kind="stable"))
    return Comparison(indexes[0].num_items, ordered, reading_of(ordered), _notes(manifests))


def mean_ranks(candidates: Sequence[Candidate]) -> np.ndarray:
    """Mean over CRITERIA of each candidate's rank, 1 for the best; equal values share the mean of their ranks.

    Args:
        candidates: At least one.

    Returns:
        float64, one per candidate.
    """
    from scipy.stats import rankdata

    ranks = []
    for field, more_is_better in CRITERIA:
        values = [getattr(candidate, field) for candidate in candidates]
        if any(value is None for value in values):
            continue
        ranks.append(rankdata([-value if more_is_better else value for value in values]))
    return np.mean(ranks, axis=0)


def reading_of(ordered: Sequence[Candidate]) -> str:
    """Which candidate looks best and why, and which say nothing about their items.

    Args:
        ordered: The most promising first.
    """
    best = ordered[0]
    parts = [f"{best.collision_rate:.1%} of its items collide"]
    if best.found_by_vectors is not None:
        parts.append(f"its semantic IDs find {best.found_by_vectors:.1%} of an item's ten nearest vectors")
    if best.found_by_users is not None:
        parts.append(f"{best.found_by_users:.1%} of the ten items that share most users with it")
    said = f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]
    sentences = [f"{best.name} looks best: {said}." if len(ordered) > 1 else f"{best.name}: {said}."]
    mute = [candidate.name for candidate in ordered if _says_nothing(candidate)]
    if mute:
        verb = "finds" if len(mute) == 1 else "find"
        sentences.append(f"{', '.join(mute)} {verb} no more than chance would: a control, or nothing was learned.")
    return " ".join(sentences)


def _says_nothing(candidate: Candidate) -> bool:
    found = [value for value in (candidate.found_by_vectors, candidate.found_by_users) if value is not None]
    return bool(found) and max(found) < NO_BETTER_THAN_CHANCE * candidate.chance


def _candidate(name: str, place: Path, manifest: Manifest, level_sizes: tuple[int, ...]) -> Candidate:
    report = read_json(place / QUALITY_FILE)
    missing = [key for key in ("likeness", "levels", "collisions") if key not in report]
    if missing:
        raise ArtifactError(
            f"{QUALITY_FILE} has no {missing[0]!r}: an earlier version of genrec wrote it",
            where=str(place),
            expected="a report of this version",
            fix="fit this tokenizer again",
        )
    likeness, before, stability = report["likeness"], report["collisions"]["before"], report.get("stability") or {}
    found = [likeness[name] for name in ("vectors", "users") if likeness[name]]
    energy, new_items = report["residual_energy"], stability.get("new_items")
    first = likeness["category"]["levels"][0] if likeness["category"] else None
    return Candidate(
        name=name,
        family=report["tokenizer"],
        level_sizes=level_sizes,
        use=tuple(level["use"] for level in report["levels"]),
        gini=report["levels"][0]["gini"],
        collision_rate=before["collision_rate"],
        largest_bucket=before["largest_bucket"],
        energy_left=energy[-1] if report.get("residual_space") == "vectors" else report["reconstruction_error"],
        found_by_vectors=likeness["vectors"]["recall"] if likeness["vectors"] else None,
        found_by_users=likeness["users"]["recall"] if likeness["users"] else None,
        chance=max((one["chance"] for one in found), default=0.0),
        nmi=first["nmi"] - first["nmi_by_chance"] if first else None,
        stability=stability["other_seed"][0] if stability else None,
        new_items=new_items["recall"] if new_items else None,
        settings={key: value for key, value in manifest.config.items() if key != "name"},
    )


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that differ from one another."""
    parts = [folder.absolute().parts for folder in folders]
    longest = max(map(len, parts))
    for length in range(1, longest + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if max(Counter(names).values()) == 1:
            return names
    return ["/".join(part) for part in parts]


def _notes(manifests: Sequence[Manifest]) -> tuple[str, ...]:
    notes = []
    if len({manifest.inputs.get("features") for manifest in manifests}) > 1:
        notes.append("the tokenizers were fitted on different vectors, and nearest vectors are those of each one's own")
    if len({manifest.inputs.get("dataset") for manifest in manifests}) > 1:
        notes.append("the data sets differ in more than their items, and so do the users that items share")
    return tuple(notes)
