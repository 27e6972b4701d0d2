"""From a recipe to a run's folder: stages that run when they are stale and are skipped when they are fresh."""
