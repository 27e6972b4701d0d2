"""Held-out interactions replaced by others, to prove that nothing learned from them."""

from genrec.testing import corrupt_held_out as poisoned

__all__ = ["poisoned"]
