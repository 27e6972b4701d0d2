"""One float32 vector per item: from words, sentence models, the interaction graph, or a matrix of the user's own."""

from genrec.features.base import FeatureEncoder, ItemFeatures
from genrec.features.build import build_encoder, build_features, load_encoder
from genrec.features.registry import ENCODERS, encoder_class

__all__ = [
    "ENCODERS",
    "FeatureEncoder",
    "ItemFeatures",
    "build_encoder",
    "build_features",
    "encoder_class",
    "load_encoder",
]
