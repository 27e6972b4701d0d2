"""Recommenders, one file per family."""
