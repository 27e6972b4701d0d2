"""Preference alignment: pairs, rewards, losses, and training that moves a recommender towards what users prefer."""

from genrec.alignment.align import AlignmentResult, IterationResult, align_recommender
from genrec.alignment.monitor import score_candidates
from genrec.alignment.objectives import PairObjective
from genrec.alignment.pairs import feedback_column
from genrec.alignment.preferences import Preferences
from genrec.alignment.prompts import Prompts, training_prompts
from genrec.alignment.rewards import Reward
from genrec.alignment.scoring import sequence_log_probs

__all__ = [
    "AlignmentResult",
    "IterationResult",
    "PairObjective",
    "Preferences",
    "Prompts",
    "Reward",
    "align_recommender",
    "feedback_column",
    "score_candidates",
    "sequence_log_probs",
    "training_prompts",
]
