"""Preference alignment: pairs, rewards, losses, and training that moves a recommender towards what users prefer."""

from genrec.alignment.align import AlignmentResult, IterationResult, align_recommender
from genrec.alignment.preferences import Preferences
from genrec.alignment.prompts import Prompts, training_prompts
from genrec.alignment.rewards import Reward
from genrec.alignment.scoring import sequence_log_probs

__all__ = [
    "AlignmentResult",
    "IterationResult",
    "Preferences",
    "Prompts",
    "Reward",
    "align_recommender",
    "sequence_log_probs",
    "training_prompts",
]
