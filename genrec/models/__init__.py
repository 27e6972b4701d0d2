"""Recommenders: one file per family, shared blocks in ``layers``."""

from genrec.models.base import Context, GenerativeRecommender, GenrecConfig, ItemScorer, ItemTexts, RecommenderModel
from genrec.models.registry import (
    build_recommender,
    check_kind,
    check_texts,
    load_recommender,
    parse_recommender,
    recommender_class,
)

__all__ = [
    "Context",
    "GenerativeRecommender",
    "GenrecConfig",
    "ItemScorer",
    "ItemTexts",
    "RecommenderModel",
    "build_recommender",
    "check_kind",
    "check_texts",
    "load_recommender",
    "parse_recommender",
    "recommender_class",
]
