"""Vectors of catalogue items at the input of a recommender."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout

from genrec.models.layers.codes import CodeEmbedding
from genrec.models.layers.negatives import shared_candidates


class ItemEmbedding(nn.Module):
    """The sum of what a family knows of an item: an id embedding, a projection of its features, its codes.

    Args:
        num_items: Catalogue size N.
        hidden_size: Width D.
        use_ids: One learned row per item.
        feature_size: Width of the item features; 0 leaves them out.
        level_sizes: Codebook sizes; None leaves the codes out.
        feature_dropout: Rate on the features, so that they are not relied upon alone.
        variable_length: Whether semantic IDs may be shorter than L.
    """

    features: Tensor | None

    def __init__(
        self,
        num_items: int,
        hidden_size: int,
        *,
        use_ids: bool,
        feature_size: int = 0,
        level_sizes: list[int] | None = None,
        feature_dropout: float = 0.0,
        variable_length: bool = False,
    ) -> None:
        super().__init__()
        self.num_items, self.hidden_size = num_items, hidden_size
        self.ids = nn.Embedding(num_items, hidden_size) if use_ids else None
        self.codes = CodeEmbedding(level_sizes, hidden_size, variable_length) if level_sizes else None
        self.projection = nn.Linear(feature_size, hidden_size) if feature_size else None
        self.feature_dropout = feature_dropout
        self.register_buffer("features", torch.zeros(num_items, feature_size) if feature_size else None)

    def forward(self, items: Tensor, item_codes: Tensor | None = None) -> Tensor:
        """Vectors ``[..., D]`` of dense item ids ``[...]``; ``item_codes [N, L]`` where codes are used."""
        parts = []
        if self.ids is not None:
            parts.append(self.ids(items))
        if self.projection is not None and self.features is not None:
            parts.append(self.projection(dropout(self.features[items], self.feature_dropout, self.training)))
        if self.codes is not None and item_codes is not None:
            parts.append(self.codes(item_codes[items]).sum(dim=-2))
        return torch.stack(parts).sum(dim=0)

    def table(self) -> Tensor:
        """Vectors of the whole catalogue from ids and features, ``[N, D]``."""
        parts = []
        if self.ids is not None:
            parts.append(self.ids.weight)
        if self.projection is not None and self.features is not None:
            parts.append(self.projection(dropout(self.features, self.feature_dropout, self.training)))
        return torch.stack(parts).sum(dim=0)

    def next_item_loss(
        self,
        states: Tensor,
        targets: Tensor,
        *,
        bias: Tensor | None = None,
        negatives: int = 0,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """Cross-entropy of the next items under the products of states and item vectors, float32 scalar.

        Args:
            states: ``[n, D]``.
            targets: Dense items, int64 ``[n]``.
            bias: ``[N]``, added to the products.
            negatives: Items drawn evenly that the batch shares besides its own targets (:func:`shared_candidates`); 0
                takes the whole catalogue.
            label_smoothing: On the candidates.
        """
        if negatives:
            candidates, targets, correction = shared_candidates(targets, self.num_items, negatives)
            vectors = self(candidates)
            bias = None if bias is None else bias[candidates]
        else:
            vectors, correction = self.table(), None
        logits = states @ vectors.T
        logits = (logits if bias is None else logits + bias).float()
        if correction is not None:
            logits = logits - correction
        return cross_entropy(logits, targets, label_smoothing=label_smoothing)
