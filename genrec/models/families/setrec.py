"""Set semantic IDs: an item is one collaborative and several semantic vectors, and the next item's are written at once.

After Lin et al., "Order-agnostic Semantic ID for Large Language Model-based Generative Recommendation" (SETRec, SIGIR
2025, arXiv 2502.10833, sections 3.1 to 3.3). All tokens of an item share one position; learned queries after a history
see all of it, and of each other nothing. Each query's output is compared with that token of every catalogue item.

On the causal backbone a token sees, of its own item, only itself, and every prefix of a history has its queries in the
same pass, so a user costs one forward pass. The T5 reads a history both ways and learns one drawn item of it per step
(:class:`SetT5`). They are two models with one loss and one way to score, chosen by the setting ``backbone``. The tokens
come from the tokenizer ``set``, which is fitted before (the paper trains its autoencoder together with the
recommender).
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from genrec.config.ranges import CountOrZero, Share
from genrec.models.base import BackboneSettings, GenrecConfig, ItemScorer, TrainingOutput
from genrec.models.layers.history import draw_cuts, gather_targets
from genrec.models.layers.negatives import shared_candidates
from genrec.models.layers.set_t5 import SetT5
from genrec.tokenizers.base import Kind

# What b is while it has not been chosen, and what it is chosen from.
UNCHOSEN_WEIGHT = 0.5
WEIGHTS = tuple(step / 10 for step in range(11))


class SETRecSettings(BackboneSettings):
    """Settings of the family."""

    semantic_weight: Share | None = Field(
        None,
        description="b: items are ranked by (1 - b) of the collaborative and b of the semantic tokens; "
        "chosen on validation at the end of training if null",
    )
    negatives: CountOrZero = Field(0, description="items that a batch shares in each softmax; 0 takes all items")
    backbone: Literal["causal", "t5"] = Field("causal", description="a decoder-only or an encoder-decoder model")
    targets: Literal["uniform", "last"] = Field("uniform", description="t5: which item of a history is predicted")

    @model_validator(mode="after")
    def _causal_learns_every_item(self) -> "SETRecSettings":
        if self.backbone == "causal" and self.targets != "uniform":
            raise ValueError("targets is for backbone t5; the causal one predicts every item of a history")
        return self


class SETRec(ItemScorer):
    """Sets of vectors in, a set of vectors out, grounded on the whole catalogue; a variant has the backbone."""

    Settings: ClassVar[type[BackboneSettings]] = SETRecSettings
    settings: SETRecSettings
    needs_semantic_ids = True
    semantic_id_kind: ClassVar[Kind] = "set"
    reads_tokens = True
    variants = ("backbone", {"causal": f"{__name__}:CausalSETRec", "t5": f"{__name__}:T5SETRec"})
    tokens: Tensor

    def __init__(self, config: GenrecConfig) -> None:
        super().__init__(config)
        width, weight = self.settings.hidden_size, self.settings.semantic_weight
        self.num_tokens = config.num_tokens
        self.register_buffer("tokens", torch.zeros(config.num_items, config.num_tokens, config.token_size))
        # No bias: a missing collaborative token stays zero. One matrix for all semantic tokens: they have no order.
        self.collaborative = nn.Linear(config.token_size, width, bias=False)
        self.semantic = nn.Linear(config.token_size, width, bias=False)
        self.queries = nn.Parameter(torch.zeros(config.num_tokens, width))
        self.semantic_weight = UNCHOSEN_WEIGHT if weight is None else weight

    def set_item_tokens(self, tokens: Tensor) -> None:
        """Keep the catalogue's tokens float32 ``[N, Q, C]``, each slot scaled to a mean square of one."""
        size = tokens.square().mean(dim=(0, 2), keepdim=True).sqrt().clamp_min(1e-12)
        self.tokens.copy_(tokens / size)

    def forward(self, items: Tensor, lengths: Tensor) -> TrainingOutput:
        """Predict items from those before them; the loss is the mean over targets and tokens of the softmax."""
        states, targets = self.learned_states(items, lengths)
        tokens, correction = self.tokens, None
        if self.settings.negatives:
            candidates, targets, correction = shared_candidates(targets, len(tokens), self.settings.negatives)
            tokens = tokens[candidates]
        table = self.embed(tokens)
        losses = []
        for slot in range(self.num_tokens):
            logits = (states[:, slot] @ table[:, slot].T).float()
            losses.append(cross_entropy(logits if correction is None else logits - correction, targets))
        return self.training_output(torch.stack(losses).mean())

    @abstractmethod
    def learned_states(self, items: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """States ``[n, Q, D]`` that a training step compares with items, and those items, int64 ``[n]``."""

    @abstractmethod
    def count_targets(self, lengths: Tensor) -> int:
        """How many items the loss of such a batch is the mean over."""

    def score_items(self, items: Tensor, lengths: Tensor) -> Tensor:
        """The weighted sum over tokens of log p(token of the item), float32 ``[B, N]``; all items at once."""
        values = self.token_log_probabilities(items, lengths)
        weight = self.semantic_weight
        return (1 - weight) * values[:, 0] + weight * values[:, 1:].sum(1)

    def token_log_probabilities(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Log-softmax over the catalogue of each query's products with that token of every item, ``[B, Q, N]``.

        The normalizer is the same for all items of a user, so the ranking is that of the paper's plain products.
        """
        states = self.read(self.embed(self.tokens[items]), lengths.unsqueeze(1))[:, 0]
        logits = torch.einsum("bqd,nqd->bqn", states, self.embed(self.tokens))
        return logits.log_softmax(dim=-1, dtype=torch.float32)

    def finish_training(self, measure: Callable[[], float]) -> list[str]:
        """Choose b where the recipe leaves it open (the authors' code chooses it on test)."""
        if self.settings.semantic_weight is not None:
            return []
        weight, value = self.choose_semantic_weight(measure)
        self.settings = self.settings.model_copy(update={"semantic_weight": weight})
        self.config.settings = {**(self.config.settings or {}), "semantic_weight": weight}
        return [f"semantic_weight {weight:g} was chosen on validation, where the metric is {value:.4f} with it"]

    def choose_semantic_weight(self, measure: Callable[[], float]) -> tuple[float, float]:
        """Set b to the best of :data:`WEIGHTS`, the smallest of equally good ones.

        Args:
            measure: How good the lists of validation users are with b as it is at the moment; never of test users.

        Returns:
            b and its measure.
        """
        found = {}
        for self.semantic_weight in WEIGHTS:
            found[self.semantic_weight] = measure()
        self.semantic_weight = max(found, key=lambda weight: found[weight])
        return self.semantic_weight, found[self.semantic_weight]

    def embed(self, tokens: Tensor) -> Tensor:
        """Project ``[..., Q, C]`` to ``[..., Q, D]``: the collaborative token first, then the semantic ones."""
        return torch.cat([self.collaborative(tokens[..., :1, :]), self.semantic(tokens[..., 1:, :])], dim=-2)

    @abstractmethod
    def read(self, vectors: Tensor, prefixes: Tensor) -> Tensor:
        """What the queries say after prefixes of histories.

        Args:
            vectors: Token vectors of the items, ``[B, T, Q, D]``.
            prefixes: How many items each block of queries has seen, int64 ``[B, P]``, or ``[1, P]`` for all users;
                ``[B, 1]`` on the T5, whose encoder reads one prefix per pass.

        Returns:
            ``[B, P, Q, D]``.
        """

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, SETRec):
            nn.init.normal_(module.queries, std=self.config.initializer_range)
        if isinstance(module, SetT5):
            nn.init.normal_(module.start)


class CausalSETRec(SETRec):
    """On the causal backbone: a user costs one pass, in which every prefix of the history has its own queries."""

    def __init__(self, config: GenrecConfig) -> None:
        super().__init__(config)
        self.transformer = self.settings.transformer()
        self.post_init()

    def learned_states(self, items: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Those of every position."""
        prefixes = torch.arange(items.shape[1], device=items.device).unsqueeze(0)
        return gather_targets(self.read(self.embed(self.tokens[items[:, :-1]]), prefixes), items, lengths)

    def count_targets(self, lengths: Tensor) -> int:
        """Every item of every history."""
        return int(lengths.sum())

    def read(self, vectors: Tensor, prefixes: Tensor) -> Tensor:
        """All prefixes in one pass, kept apart by :func:`set_mask`."""
        batch, length = vectors.shape[:2]
        count = prefixes.shape[1]
        queries = self.queries.expand(batch, count, -1, -1).to(vectors.dtype)
        # Tokens take the position of their item; queries that of the item to come.
        item_positions = torch.arange(length, device=prefixes.device).expand(len(prefixes), -1)
        positions = torch.cat([item_positions, prefixes], dim=1).repeat_interleave(self.num_tokens, dim=1)
        x = torch.cat([vectors, queries], dim=1).flatten(1, 2)
        attention_mask = set_mask(positions, length * self.num_tokens)
        hidden, _ = self.transformer(x, attention_mask=attention_mask.unsqueeze(1), positions=positions)
        return hidden[:, length * self.num_tokens :].unflatten(1, (count, self.num_tokens))


class T5SETRec(SETRec):
    """On a T5, which reads a history both ways and so learns one item of it per step."""

    def __init__(self, config: GenrecConfig) -> None:
        super().__init__(config)
        settings, width = self.settings, self.settings.hidden_size
        inner = settings.feed_forward_size or 2 * width
        self.t5 = SetT5(width, settings.num_layers, settings.num_heads, inner, settings.dropout)
        self.post_init()

    def learned_states(self, items: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Those before one drawn item, or the last, of each history."""
        cuts = draw_cuts(lengths) if self.settings.targets == "uniform" else lengths - 1
        targets = items.gather(1, cuts.unsqueeze(1))[:, 0]
        states = self.read(self.embed(self.tokens[items[:, : int(cuts.max())]]), cuts.unsqueeze(1))[:, 0]
        return states, targets

    def count_targets(self, lengths: Tensor) -> int:
        """One item of each history."""
        return len(lengths)

    def read(self, vectors: Tensor, prefixes: Tensor) -> Tensor:
        """One prefix of each history."""
        return cast(Tensor, self.t5(vectors, prefixes[:, 0], self.queries).unsqueeze(1))


def set_mask(positions: Tensor, written: int) -> Tensor:
    """Who may see whom, bool ``[B, S, S]``.

    A token sees itself and the tokens of the items before its own; no one sees a query but the query itself.

    Args:
        positions: Position of the item of each token, int64 ``[B, S]``; queries are at that of the item to come.
        written: How many of the tokens are of the history; the queries follow.
    """
    place = torch.arange(positions.shape[1], device=positions.device)
    before = positions.unsqueeze(1) < positions.unsqueeze(2)
    return (before & (place < written)) | (place.unsqueeze(1) == place)
