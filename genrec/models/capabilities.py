"""Mixins for what only some families can: item probabilities, parallel codes, sessions, expert assignment.

- A capability is a class to inherit from, placed before the base: ``class Depth(ItemProbabilities,
  GenerativeRecommender)``. Its abstract methods are checked when the model is made, and ``isinstance`` asks for it.
- The price is multiple inheritance; none of the mixins has state or a constructor, so their order does not matter.
- They derive from ``object`` and not from ``ABC``: ``fully_shard`` replaces the class of a model by a subclass of it,
  which Python allows only where the first bases of both add the same to ``object``.
- What every family must define is abstract in :mod:`genrec.models.base` and not repeated here.
"""

from abc import ABCMeta, abstractmethod
from typing import ClassVar

from torch import Tensor

from genrec.models.base import Context


class ItemProbabilities(metaclass=ABCMeta):
    """Compares the state of a history with the vectors of items, which tells apart items that share all codes."""

    @abstractmethod
    def item_log_probabilities(self, context: Context, items: Tensor) -> Tensor:
        """Natural log-probabilities of ``items [B, C]`` by their item vectors, float32 ``[B, C]``.

        Raises:
            ConfigError: If the model was trained without an item-level loss.
        """


class ParallelCodes(metaclass=ABCMeta):
    """Codes that are independent of each other given the history: every item can be scored exactly, without a search.

    So a beam step has nothing to add: the state of the history stays that of every beam.
    """

    supports_parallel: ClassVar[bool] = True

    @abstractmethod
    def all_code_logits(self, context: Context) -> list[Tensor]:
        """Logits of every level at once, ``[B, K_l]`` each, unnormalized."""

    def beam_step(self, context: Context, level: int, codes: Tensor) -> Tensor:
        """The state of each user for its beams, ``[B, M, D]``, whatever ``codes [B, M]`` they wrote."""
        return context.state.unsqueeze(1).expand(-1, codes.shape[1], -1)


class SessionWriter(metaclass=ABCMeta):
    """Goes on writing after a complete semantic ID: the next item of a session begins there.

    ``beam_step`` is then called with positions that go on counting: position ``i * L + l`` is level l of item i. How
    many items a model may write is the ``longest_session`` of its settings.
    """

    num_levels: int

    def level_of(self, position: int) -> tuple[int, bool]:
        """Level of a position of a session within its item, and whether it is the item's last."""
        level = position % self.num_levels
        return level, level == self.num_levels - 1


class ExpertAssignment(metaclass=ABCMeta):
    """Says which item and level each position reads that layers of experts route."""

    @abstractmethod
    def expert_assignments(self, items: Tensor, lengths: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Pass every layer of experts once, and say what each position that they route reads.

        Args:
            items: Histories, int64 ``[B, T]``, right-padded.
            lengths: int64 ``[B]``.
            targets: An item that follows each, int64 ``[B]``, for families whose experts write.

        Returns:
            Item and level within it (0 where an item is one position), int64 ``[n]`` each; -1 at starts.
        """
