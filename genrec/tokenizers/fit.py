"""The tokenizer stage: from a recipe's section to a folder of codebooks, semantic IDs and diagnostics."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genrec.artifacts import reserve_folder, write_artifact, write_json
from genrec.artifacts.targets import paths_named
from genrec.config import TokenizerConfig
from genrec.distributed.peers import Peers, share_blocks
from genrec.errors import DataError
from genrec.features.base import ItemFeatures
from genrec.tokenizers.base import ItemTokenizer, cannot_reassign
from genrec.tokenizers.collisions import Catalogue, Resolution, resolve_collisions
from genrec.tokenizers.index import ItemIndex
from genrec.tokenizers.parts.residual import ResidualTokenizer
from genrec.tokenizers.parts.sampling import row_blocks
from genrec.tokenizers.quality.plots import draw_quality
from genrec.tokenizers.quality.report import bucket_sizes, measure_quality
from genrec.tokenizers.quality.stability import measure_stability
from genrec.tokenizers.registry import tokenizer_class, tokenizer_settings

if TYPE_CHECKING:
    from genrec.data import Dataset

STAGE = "tokenizer"
QUALITY_FILE = "quality.json"
PLOTS_FOLDER = "plots"
COLLAPSED_USE = 0.2


def build_tokenizer(config: TokenizerConfig) -> ItemTokenizer:
    """An unfitted tokenizer from its name and settings.

    Raises:
        ConfigError: If the name or a setting is not known, or the family does not have the collision policy.
    """
    tokenizer = tokenizer_class(config.name)(tokenizer_settings(config.name, config.settings, where="tokenizer"))
    # Known before hours of fitting, and even if nothing should collide.
    if tokenizer.settings.collisions == "reassign" and not tokenizer.reassigns():
        raise cannot_reassign(config.name)
    return tokenizer


def fit_tokenizer(
    config: TokenizerConfig, dataset: "Dataset", features: ItemFeatures, out: Path, *, stability: bool = False
) -> ItemIndex:
    """Fit a tokenizer, resolve collisions, and write the ``tokenizer`` folder.

    Args:
        config: Name of the tokenizer and its settings.
        dataset: The catalogue and, for popularity and collaborative families, its training part.
        features: Vectors of the catalogue.
        out: Folder to write: config.json, codebooks.safetensors, codes.parquet, index.json, quality.json, plots/.
        stability: Fit twice more on at most some thousands of items, to report whether the groups stay the same.

    Raises:
        ConfigError: If the name or a setting is not known.
        DataError: If the vectors cannot be tokenized, the first level collapses, or collisions cannot be resolved.
        ArtifactError: If the place cannot be written.
    """
    tokenizer = build_tokenizer(config)
    with reserve_folder(Path(out), STAGE, reads=_read_by(config, dataset)) as place:
        tokenizer.checkpoint_path = _checkpoint(place)
        tokenizer.fit(dataset, features)
        codes = tokenizer.encode_catalogue(dataset, features)
        return _write(tokenizer, codes, dataset, features, out, stability=stability)


def fit_together(
    config: TokenizerConfig,
    dataset: "Dataset",
    features: ItemFeatures,
    out: Path,
    peers: Peers,
    *,
    stability: bool = False,
) -> None:
    """As :func:`fit_tokenizer`, by several processes: the first one fits and writes, all name the items.

    Families that name items by anything but residuals of their own vectors are left to the first process altogether.

    Args:
        config: Name of the tokenizer and its settings.
        dataset: The same in every process.
        features: The same in every process.
        out: Folder to write.
        peers: The processes.
        stability: See :func:`fit_tokenizer`.

    Raises:
        GenrecError: As :func:`fit_tokenizer`, in every process.
    """
    tokenizer = build_tokenizer(config)
    if not _named_by_rows(type(tokenizer)):
        peers.run_on_main(lambda: fit_tokenizer(config, dataset, features, out, stability=stability).level_sizes)
        return

    def learn() -> tuple[dict[str, np.ndarray], tuple[int, ...]]:
        tokenizer.fit(dataset, features)
        return tokenizer.state(), tokenizer.level_sizes

    with reserve_folder(Path(out), STAGE, reads=_read_by(config, dataset), lock=peers.rank == 0) as place:
        tokenizer.checkpoint_path = _checkpoint(place)
        learned, tokenizer.level_sizes = peers.run_on_main(learn)
        if peers.rank:
            tokenizer.width = features.values.shape[1]
            tokenizer.restore(learned)
        blocks = list(row_blocks(len(features.values)))
        codes = share_blocks(peers, blocks, lambda part: tokenizer.encode(features.values[part]), "naming the items")
        peers.run_on_main(lambda: _write(tokenizer, codes, dataset, features, out, stability=stability).level_sizes)


def _named_by_rows(family: type[ItemTokenizer]) -> bool:
    """Whether a family names an item by its own vector, block by block, so that processes can share the blocks."""
    return (
        issubclass(family, ResidualTokenizer)
        and family._encode is ResidualTokenizer._encode
        and family.encode_catalogue is ItemTokenizer.encode_catalogue
        and family.encode_items is ItemTokenizer.encode_items
    )


def _read_by(config: TokenizerConfig, dataset: "Dataset") -> list[Path]:
    return [dataset.path, *paths_named(config.settings)]


def _checkpoint(out: Path) -> Path:
    return out.with_name(f".{out.name}.progress.safetensors")


def _write(
    tokenizer: ItemTokenizer,
    codes: np.ndarray,
    dataset: "Dataset",
    features: ItemFeatures,
    out: Path,
    *,
    stability: bool,
) -> ItemIndex:
    report = measure_quality(tokenizer, codes, features, dataset)
    if not tokenizer.settings.allow_collapse:
        refuse_collapse(report["levels"][0])
    resolution = _resolve(tokenizer, codes, dataset, features)
    if stability:
        report["stability"] = measure_stability(type(tokenizer), tokenizer.settings, dataset, features)
    report["collisions"] = resolution.report
    shared = resolution.priority if resolution.priority.any() else None
    index = ItemIndex(
        resolution.codes, resolution.level_sizes, list(features.item_ids), kind=tokenizer.kind, priority=shared
    )
    settings = tokenizer.settings.model_dump(mode="json")
    inputs = {"dataset": dataset.fingerprint, "features": features.fingerprint}
    with write_artifact(
        Path(out), STAGE, config={"name": tokenizer.name, **settings}, inputs=inputs, seed=settings["seed"]
    ) as folder:
        tokenizer.save_pretrained(folder.path)
        index.save(folder.path)
        write_json(folder.path / QUALITY_FILE, report)
        draw_quality(report, codes, bucket_sizes(codes), folder.path / PLOTS_FOLDER)
        folder.counts = {
            "items": index.num_items,
            "levels": index.num_levels,
            "collision_rate": resolution.report["before"]["collision_rate"],
        }
    return index


def refuse_collapse(level: dict[str, Any]) -> None:
    """Refuse a first level that leaves most codes unused, because nothing learned from it would be worth having.

    Args:
        level: See :func:`genrec.tokenizers.quality.report.level_quality`.

    Raises:
        DataError: If the use is under a fifth.
    """
    if level["use"] >= COLLAPSED_USE:
        return
    raise DataError(
        f"the first level collapsed: it uses {level['used']} of {level['size']} codes",
        where="tokenizer",
        expected=f"at least {COLLAPSED_USE:.0%} of the codes in use",
        fix="check that the features tell items apart, give the first level fewer codes (codebook_size, grid, "
        "num_clusters), or use tokenizer.name: rqkmeans; tokenizer.allow_collapse: true accepts it",
    )


def _resolve(tokenizer: ItemTokenizer, codes: np.ndarray, dataset: "Dataset", features: ItemFeatures) -> Resolution:
    catalogue = Catalogue(
        item_ids=features.item_ids,
        popularity=dataset.train_popularity(),
        last_level_costs=lambda rows: tokenizer.last_level_costs(features.values[rows], codes[rows]),
    )
    return resolve_collisions(tokenizer.settings.collisions, codes, tokenizer.level_sizes, catalogue)
