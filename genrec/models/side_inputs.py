"""What a history tells besides its items, at the input of the families that read it with our causal transformer.

Extras are tensors that travel next to ``items [B, T]`` and ``lengths [B]`` as keywords of ``forward``, ``encode``,
``score_items``, ``read`` and ``route``: ``time_deltas``, int64 ``[B, T]``, the seconds since the item before, -1 where
they are unknown; ``user_values``, int64 ``[B, F]``, the buckets of the user's columns, 0 where they are unknown. A call
without them is answered as if nothing of the kind were known.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from genrec.data.histories import Histories, pad_time_deltas
from genrec.data.profiles import NOTHING, USER_BUCKETS
from genrec.errors import ConfigError
from genrec.models.base import BackboneSettings
from genrec.models.layers.history import prepend

Extras = Mapping[str, Tensor]
NO_EXTRAS: Extras = MappingProxyType({})
# 0 is unknown, 1 the same second; the last bucket begins at 2^29 seconds, 17 years.
GAP_BUCKETS = 32


class SideInputSettings(BackboneSettings):
    """Settings of what is read besides items; all of it is off by default."""

    use_times: bool = Field(False, description="add a vector of the time since the item before, in powers of two")
    use_user_features: bool = Field(False, description="add a vector of each column of the user to the start")
    user_columns: list[str] | None = Field(
        None, min_length=1, description="columns of the table of users; all that can be read if null"
    )

    @property
    def unread(self) -> dict[str, str]:
        """With the columns of users that are not read."""
        return super().unread | ({} if self.use_user_features else {"user_columns": "use_user_features: true"})

    @property
    def side_inputs(self) -> tuple[str, ...]:
        """Names of the settings that are on."""
        return tuple(name for name in ("use_times", "use_user_features") if getattr(self, name))

    def read_side_inputs(self, histories: Histories, rows: np.ndarray, size: int) -> dict[str, np.ndarray]:
        """What is read of some rows besides the items of :func:`~genrec.data.histories.pad_histories`."""
        extras = {"time_deltas": pad_time_deltas(histories, rows, size)} if self.use_times else {}
        if self.use_user_features:
            profiles, users = histories.profiles, histories.users[rows]
            if profiles is None:
                extras["user_values"] = np.full((len(users), 1), NOTHING, dtype=np.int64)
            else:
                extras["user_values"] = profiles.values(users, self.user_columns or profiles.columns)
        return extras

    def check_side_inputs(self, histories: Histories) -> None:
        """Refuse to learn from histories without what the settings say that the model reads."""
        if self.use_times and histories.timestamps is None:
            raise ConfigError(
                "the model is to read the times of interactions and the data set has none",
                where="recommender.use_times",
                expected="a data set whose interactions have a column timestamp",
                fix="prepare the data again with that column (genrec prepare --interactions FILE), or set "
                "recommender.use_times: false",
            )
        if self.use_user_features:
            self._check_columns(() if histories.profiles is None else histories.profiles.columns)

    def _check_columns(self, columns: tuple[str, ...]) -> None:
        missing = [name for name in self.user_columns or () if name not in columns]
        if missing or not columns:
            raise ConfigError(
                f"the model is to read {f'the column {missing[0]!r}' if missing else 'columns'} of users and the data "
                f"set has {'others' if columns else 'none'}",
                where="recommender.user_columns" if missing else "recommender.use_user_features",
                expected=", ".join(columns) or "a data set with columns of text, categories or whole numbers of users",
                fix="prepare the data again with a table of user_id and such columns (genrec prepare --users FILE), or "
                "set recommender.use_user_features: false",
            )


class SideInputs(nn.Module):
    """The start vector and the items of a history as inputs of a transformer, with what else is known of them.

    The gap of an item is the time from the item before it to the item itself, both read; so the first item that is read
    has none. What is not read is the time from the last item to the target, or to the moment of asking: where the last
    interaction of every user is held out, the time of the target belongs to what is to be predicted, and a model that
    learned from it would be measured with an answer that no one has when lists are made.

    Each column of the user is one learned vector per bucket; their sum is added to the start vector, which every
    position sees.

    Args:
        settings: Of the family; without extras there is no weight, and nothing is added.
    """

    def __init__(self, settings: SideInputSettings) -> None:
        super().__init__()
        self.gap_vectors = nn.Embedding(GAP_BUCKETS, settings.hidden_size) if settings.use_times else None
        self.user_vectors = None
        if settings.use_user_features:
            self.user_vectors = nn.Embedding(1 + USER_BUCKETS, settings.hidden_size, padding_idx=NOTHING)

    def forward(
        self, start: Tensor, x: Tensor, time_deltas: Tensor | None = None, user_values: Tensor | None = None
    ) -> Tensor:
        """Inputs of all positions, ``[B, 1 + T * P, D]``.

        Args:
            start: ``[D]``, read before the first item.
            x: Vectors of T items of P positions each, ``[B, T, P, D]``. The gap is at an item's last position:
                those before it take part in predicting the item itself, whose time is not known then.
            time_deltas: Seconds since the item before, int64 ``[B, T]``; -1 or None where they are unknown. Those of
                items after the T are not read.
            user_values: Buckets of the user's columns, int64 ``[B, F]``; 0 or None where they are unknown.
        """
        if self.gap_vectors is not None:
            if time_deltas is None:
                time_deltas = torch.full(x.shape[:2], -1, device=x.device)
            known = self.gap_vectors(time_delta_buckets(time_deltas[:, : x.shape[1]]))
            x = torch.cat([x[:, :, :-1], x[:, :, -1:] + known.unsqueeze(2)], dim=2)
        if self.user_vectors is not None:
            if user_values is None:
                user_values = torch.full((len(x), 1), NOTHING, device=x.device)
            start = start + self.user_vectors(user_values).sum(1, keepdim=True)
        return prepend(start, x.flatten(1, 2))

    def of_written(self, x: Tensor) -> Tensor:
        """Last positions ``[..., D]`` of items that the model wrote itself: their time is unknown."""
        return x if self.gap_vectors is None else x + self.gap_vectors.weight[0]


def time_delta_buckets(time_deltas: Tensor) -> Tensor:
    """Buckets 0 to 31 of gaps in seconds, int64: 0 below zero (unknown), 1 of zero, else 2 + floor(log2(gap)).

    By logarithm as in HSTU (Zhai et al. 2024), whose attention has a bias for each bucket of time: the order of
    magnitude matters. Gaps longer than the bounds share the last bucket.
    """
    bounds = 2 ** torch.arange(GAP_BUCKETS - 2, device=time_deltas.device)
    return torch.where(time_deltas < 0, 0, 1 + torch.bucketize(time_deltas.contiguous(), bounds, right=True))
