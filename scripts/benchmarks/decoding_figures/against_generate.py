"""The engine against Hugging Face's ``generate`` on the same weights, against its floor, and in bfloat16."""

import copy
import statistics
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from reference import GenerateReference
from torch import Tensor

from decoding_figures.setup import TOP_K, Batch, Figures
from decoding_figures.timing import alternate, clock
from genrec.decoding import SearchOptions, beam_search, trie_of
from genrec.models.families.decoder import Decoder
from genrec.models.families.seq2seq import Seq2Seq

NEAR_TIE = 1e-5
# Both types are tried with so many before they are timed.
WARM_USERS = 4


@dataclass
class Comparison:
    """Lists and times of both engines, batch by batch.

    Attributes:
        theirs: Seconds of ``generate`` per batch.
        ours: Seconds of genrec per batch.
        users: Users compared.
        same: Users whose lists are equal, item by item.
        near: Users whose lists differ only in the order of scores closer than 1e-5.
        gap: Largest difference of scores of equal rank.
    """

    theirs: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    users: int = 0
    same: int = 0
    near: int = 0
    gap: float = 0.0

    def add(self, expected: tuple[Tensor, Tensor], found: tuple[Tensor, Tensor]) -> None:
        """Count the users of one batch whose lists agree."""
        equal, gap = found[0] == expected[0], (found[1] - expected[1]).abs()
        self.users += len(equal)
        self.same += int(equal.all(dim=1).sum())
        self.near += int(((equal | (gap < NEAR_TIE)).all(dim=1) & ~equal.all(dim=1)).sum())
        self.gap = max(self.gap, float(gap.max()))


def compare(model: Seq2Seq | Decoder, batches: list[Batch], num_beams: int, limit: float) -> Comparison:
    """Both engines in turns over ``batches``; after the first, no batch is begun later than ``limit`` seconds."""
    reference, trie = GenerateReference(model), trie_of(model)
    result, started = Comparison(), time.perf_counter()
    beam_search(model, trie, *batches[0], SearchOptions(num_beams=num_beams), top_k=TOP_K)
    for items, lengths in batches:
        if result.ours and time.perf_counter() - started > limit:
            break
        start = clock.now()
        expected = reference.search(items, lengths, num_beams, TOP_K)
        middle = clock.now()
        found = beam_search(model, trie, items, lengths, SearchOptions(num_beams=num_beams), top_k=TOP_K)
        result.ours.append(clock.now() - middle)
        result.theirs.append(middle - start)
        result.add(expected, (found.items, found.scores))
    return result


def speed(name: str, model: Seq2Seq | Decoder, batches: list[Batch], num_beams: int, limit: float) -> Figures:
    """Medians over batches of drawn users, as a user of either would form them."""
    result = compare(model, batches, num_beams, limit)
    theirs, ours = statistics.median(result.theirs), statistics.median(result.ours)
    return {
        f"{name}_generate_seconds": theirs,
        f"{name}_genrec_seconds": ours,
        f"{name}_speedup": theirs / ours,
        f"{name}_timed_batches": len(result.ours),
        **agreement(name, result),
    }


def parity(name: str, model: Seq2Seq | Decoder, batches: list[Batch], num_beams: int, limit: float) -> Figures:
    """Agreement over many users in batches of like length, which spares ``generate`` the padding.

    Batches come in drawn order, so that a limit cuts off no kind of user. The ratio is that of the sums.
    """
    order = np.random.default_rng(1).permutation(len(batches))
    result = compare(model, [batches[number] for number in order], num_beams, limit)
    return {
        **agreement(f"{name}_by_length", result),
        f"{name}_by_length_speedup": sum(result.theirs) / sum(result.ours),
    }


def agreement(name: str, result: Comparison) -> Figures:
    """How many lists agree, and how far scores differ."""
    return {
        f"{name}_compared_users": result.users,
        f"{name}_same_top20_users": result.same,
        f"{name}_near_tie_users": result.near,
        f"{name}_max_score_difference": result.gap,
    }


def distance_from_floor(name: str, model: Seq2Seq, batch: Batch, num_beams: int, repeats: int) -> Figures:
    """The whole search against the encoder once plus the bare matrix products of the decoder for those beams.

    The encoder is genrec's own, which reads users of like length together; against T5's on the padded batch the
    distance is stated next to it. The products are the linear layers of the decoder's blocks; those of attention and
    of the head do not count for the floor.
    """
    items, lengths = batch
    tokens, mask = model.history_tokens(items, lengths)
    rows = len(items) * num_beams
    products = [
        (layer, torch.randn(rows, layer.in_features))
        for block in model.t5.decoder.block
        for name_of, layer in block.named_modules()
        if isinstance(layer, torch.nn.Linear) and not name_of.endswith(("EncDecAttention.k", "EncDecAttention.v"))
    ]

    def multiply() -> None:
        for _ in range(model.num_levels - 1):
            for layer, rows_in in products:
                layer(rows_in)

    trie = trie_of(model)
    seconds = alternate(
        {
            "encoder": lambda: model._read_history(tokens, mask),
            "padded encoder": lambda: model.t5.encoder(input_ids=tokens, attention_mask=mask),
            "products": multiply,
            "search": lambda: beam_search(model, trie, items, lengths, SearchOptions(num_beams=num_beams), top_k=TOP_K),
        },
        repeats,
    )
    floor = seconds["encoder"] + seconds["products"]
    return {
        f"{name}_floor_seconds": floor,
        f"{name}_times_the_floor": seconds["search"] / floor,
        f"{name}_times_the_padded_floor": seconds["search"] / (seconds["padded encoder"] + seconds["products"]),
        f"{name}_encoder_share": seconds["encoder"] / seconds["search"],
    }


def bfloat16(name: str, model: Seq2Seq | Decoder, batches: list[Batch], num_beams: int) -> Figures:
    """The engine in bfloat16 against itself in float32: time, and how much of the lists stays the same.

    A processor that has no bfloat16 is many times slower in it: there, one batch tells enough.
    """
    half = copy.deepcopy(model).bfloat16()
    seconds: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    kept = []
    first_users = (batches[0][0][:WARM_USERS], batches[0][1][:WARM_USERS])
    for turn, (items, lengths) in enumerate([first_users, *batches]):
        lists = []
        for kind, writer in (("float32", model), ("bfloat16", half)):
            start = clock.now()
            lists.append(
                beam_search(
                    writer, trie_of(writer), items, lengths, SearchOptions(num_beams=num_beams), top_k=TOP_K
                ).items
            )
            if turn:
                seconds[kind].append(clock.now() - start)
        kept.append(float((lists[0].unsqueeze(2) == lists[1].unsqueeze(1)).any(2).float().mean()))
        if turn and sum(seconds["bfloat16"]) > sum(seconds["float32"]):
            break
    return {
        f"{name}_bfloat16_speedup": statistics.median(seconds["float32"]) / statistics.median(seconds["bfloat16"]),
        f"{name}_bfloat16_kept_share": statistics.fmean(kept[1:]),
    }
