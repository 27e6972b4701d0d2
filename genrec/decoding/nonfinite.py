"""Errors for NaN and infinite logits or scores, which name the user concerned."""

from torch import Tensor

from genrec.errors import ArtifactError


class NonFiniteLogitsError(ArtifactError):
    """The model gave NaN or infinite logits, or scores of items.

    Args:
        user: Row of the batch, or the user's id once it is known.
        step: Level whose codes were to be written, from 0; None for scores of items.
    """

    def __init__(self, user: int | str, step: int | None = None) -> None:
        self.user, self.step = user, step
        what, when = ("scores of items", "") if step is None else ("logits", f" at step {step}")
        super().__init__(
            f"the model's {what} are NaN or infinite for user {user}{when}",
            expected=f"finite {what}",
            fix="use a checkpoint with finite weights, or float32 if this runs in float16",
        )


def refuse_broken_scores(scores: Tensor) -> None:
    """Refuse scores of items ``[B, C]`` that are NaN or infinite; -inf means that there is no such item.

    Raises:
        NonFiniteLogitsError: Naming the first row.
    """
    if not scores.numel():
        return
    # The largest of a row with NaN is NaN, and nothing is less than infinite about it.
    broken = ~(scores.amax(dim=1) < float("inf"))
    if broken.any():
        raise NonFiniteLogitsError(int(broken.nonzero()[0]))
