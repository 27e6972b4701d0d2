"""New items in addition to the semantic IDs of a catalogue whose own may not change, because a model has learned
them."""

from collections.abc import Callable, Sequence

import numpy as np

from genrec.errors import ArtifactError, DataError, first_rows
from genrec.tokenizers.base import CollisionPolicy
from genrec.tokenizers.collisions import Catalogue, Resolution, group_of, rank_in_group, resolve_collisions
from genrec.tokenizers.index import ItemIndex


def place_new_items(
    index: ItemIndex, codes: np.ndarray, policy: CollisionPolicy, last_level_costs: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Semantic IDs of new items, in their order: none of the old ones moves.

    ``suffix``: the lowest free suffix of the prefix. ``reassign``: the nearest free code on the last level. Where none
    is free, the semantic ID that the fewest items have is shared; so is with ``bucket``, and with ``suffix`` where the
    catalogue has no such level because nothing collided in it, the one that the tokenizer says. ``error``: every
    semantic ID must be free.

    Args:
        index: The catalogue.
        codes: int32 ``[n, L']``, what the tokenizer says, before any policy.
        policy: That of the tokenizer.
        last_level_costs: Rows of ``codes`` int64 ``[m]`` to costs float64 ``[m, K]`` of every last code.

    Returns:
        int32 ``[n, L]``.

    Raises:
        DataError: With ``error`` if a new item collides.
        ArtifactError: If the codes do not have the levels of the index.
    """
    with_suffix = policy == "suffix" and codes.shape[1] == index.num_levels - 1
    if not with_suffix and codes.shape[1] != index.num_levels:
        raise ArtifactError(
            f"the tokenizer writes {codes.shape[1]} codes, the item index has {index.num_levels} levels",
            fix="restore the tokenizer folder, or train again",
        )
    if with_suffix:
        return np.column_stack([codes, _least_used(index, codes)]).astype(np.int32)
    if policy == "error":
        _refuse_collisions(index, codes)
    if policy == "reassign":
        return np.column_stack([codes[:, :-1], _nearest_free(index, codes, last_level_costs)]).astype(np.int32)
    return codes.astype(np.int32)


def place_catalogue(
    policy: CollisionPolicy, codes: np.ndarray, level_sizes: Sequence[int], catalogue: Catalogue
) -> Resolution:
    """Semantic IDs of a whole other catalogue for a model whose codebooks may not grow.

    As :func:`genrec.tokenizers.collisions.resolve_collisions`, but there are as many suffixes as the model knows: where
    more items have equal codes, they share semantic IDs, and all of them do where the model has no level of suffixes.

    Args:
        policy: That of the tokenizer.
        codes: int32 ``[N, L']``, what the tokenizer says, before any policy.
        level_sizes: Codebook size of every level of the model, length L.
        catalogue: What policies may look at.

    Returns:
        With codes int32 ``[N, L]``.

    Raises:
        DataError: With ``error`` if items collide, with ``reassign`` if a prefix has more items than last codes.
    """
    if policy != "suffix":
        return resolve_collisions(policy, codes, level_sizes, catalogue)
    if codes.shape[1] == len(level_sizes) - 1:
        codes = np.column_stack([codes, rank_in_group(group_of(codes)) % level_sizes[-1]]).astype(np.int32)
    return resolve_collisions("bucket", codes, level_sizes, catalogue)


def _least_used(index: ItemIndex, prefixes: np.ndarray) -> np.ndarray:
    """The last code that the fewest items below each prefix have, the lowest of several."""
    used, groups = _last_codes_used(index, prefixes)
    chosen = np.empty(len(prefixes), dtype=np.int32)
    for row, group in enumerate(groups):
        chosen[row] = used[group].argmin()
        used[group][chosen[row]] += 1
    return chosen


def _nearest_free(
    index: ItemIndex, codes: np.ndarray, last_level_costs: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    used, groups = _last_codes_used(index, codes[:, :-1])
    chosen = codes[:, -1].copy()
    for row, group in enumerate(groups):
        taken = used[group]
        if taken[chosen[row]]:
            costs = last_level_costs(np.array([row]))[0]
            # Among the codes that the fewest items have: the free ones, as long as there are any.
            chosen[row] = np.where(taken > taken.min(), np.inf, costs).argmin()
        taken[chosen[row]] += 1
    return chosen


def _last_codes_used(index: ItemIndex, prefixes: np.ndarray) -> tuple[dict[int, np.ndarray], list[int]]:
    """For each prefix that new items have, how many items have each last code; and the prefix of each new item."""
    group = group_of(np.concatenate([index.codes[:, :-1], prefixes]))
    old, new = group[: index.num_items], group[index.num_items :]
    used = {int(prefix): np.zeros(index.level_sizes[-1], dtype=np.int64) for prefix in np.unique(new)}
    for item in np.flatnonzero(np.isin(old, new)):
        used[int(old[item])][index.codes[item, -1]] += 1
    return used, new.tolist()


def _refuse_collisions(index: ItemIndex, codes: np.ndarray) -> None:
    group = group_of(np.concatenate([index.codes, codes]))
    shared = np.bincount(group)[group[index.num_items :]] > 1
    if not shared.any():
        return
    rows = np.flatnonzero(shared)
    others = np.flatnonzero(group[: index.num_items] == group[index.num_items + rows[0]])
    owner = f"the item {index.item_ids[others[0]]!r}" if len(others) else "another new item"
    raise DataError(
        f"{len(rows)} new items get codes that are taken: the first shares its own with {owner}",
        where=f"the new items, {first_rows((rows + 1).tolist())}",
        expected="a semantic ID of its own for every item (tokenizer.collisions: error)",
        fix="leave these items out, or train with collisions: suffix or bucket",
    )
