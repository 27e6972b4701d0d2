"""Training: a loop on `accelerate` that resumes exactly, length-bucketed batches, validation by real decoding."""

from genrec.training.dry_run import Estimate, dry_run
from genrec.training.train import TrainingResult, train_recommender
from genrec.training.validation import decoding_validation

__all__ = ["Estimate", "TrainingResult", "decoding_validation", "dry_run", "train_recommender"]
