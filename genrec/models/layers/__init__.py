"""Blocks that several recommender families share."""
