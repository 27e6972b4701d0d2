"""Recommenders: one file per family, shared blocks in ``layers``."""

from genrec.models.base import Context, GenerativeRecommender, GenrecConfig, ItemScorer, ItemTexts, RecommenderModel
from genrec.models.registry import (
    ResolvedRecommender,
    build_recommender,
    check_kind,
    check_texts,
    load_recommender,
    parse_recommender,
    recommender_class,
    resolve_recommender,
)

__all__ = [
    "Context",
    "GenerativeRecommender",
    "GenrecConfig",
    "ItemScorer",
    "ItemTexts",
    "RecommenderModel",
    "ResolvedRecommender",
    "build_recommender",
    "check_kind",
    "check_texts",
    "load_recommender",
    "parse_recommender",
    "recommender_class",
    "resolve_recommender",
]
