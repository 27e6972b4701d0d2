"""What semantic IDs are worth before a recommender is trained: measures, pictures, comparisons."""
