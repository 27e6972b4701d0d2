"""Training: exact-resume loop over `transformers.Trainer`, length-bucketed batches, validation by real decoding."""

from genrec.training.train import TrainingResult, train_recommender
from genrec.training.validation import decoding_validation

__all__ = ["TrainingResult", "decoding_validation", "train_recommender"]
