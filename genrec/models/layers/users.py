"""Who took which item in training: draws of an item's users, each known by other items."""

import numpy as np
import torch
from torch import Tensor, nn

from genrec.data.histories import Histories


class ItemUsers(nn.Module):
    """The training interactions from both sides; moved with a model, and never saved.

    Args:
        histories: Of the training part.
        num_items: N.
    """

    item_starts: Tensor
    item_users: Tensor
    user_starts: Tensor
    user_items: Tensor

    def __init__(self, histories: Histories, num_items: int) -> None:
        super().__init__()
        items, lengths = np.asarray(histories.items), np.asarray(histories.lengths)
        rows = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        counts = np.bincount(items, minlength=num_items)
        for name, values in (
            ("item_starts", np.concatenate([[0], counts.cumsum()])),
            ("item_users", rows[np.argsort(items, kind="stable")]),
            ("user_starts", np.concatenate([[0], lengths.cumsum()])),
            ("user_items", items),
        ):
            self.register_buffer(name, torch.tensor(values), persistent=False)

    def draw(self, items: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """For each item one of its users, and of what else this user took some items, with replacement.

        In training both are drawn evenly; otherwise it is the first user, and items spread over the history.

        Args:
            items: int64 ``[n]``.
            size: How many draws of a history; those of the item itself count as none.

        Returns:
            Items int64 ``[n, size]``, and where there is one, bool: nowhere for an item without users.
        """
        starts = self.item_starts[items]
        counts = self.item_starts[items + 1] - starts
        chosen, places = torch.zeros(len(items), device=items.device), torch.arange(size, device=items.device)
        shares = ((places + 0.5) / size).expand(len(items), -1)
        if self.training:
            chosen, shares = torch.rand_like(chosen), torch.rand_like(shares)
        user = (chosen * counts).long().minimum(counts - 1).clamp_min(0)
        users = self.item_users[(starts + user).clamp_max(len(self.item_users) - 1)].long()
        first = self.user_starts[users].unsqueeze(1)
        lengths = self.user_starts[users + 1].unsqueeze(1) - first
        others = self.user_items[first + (shares * lengths).long().minimum(lengths - 1)].long()
        return others, (others != items.unsqueeze(1)) & (counts > 0).unsqueeze(1)
