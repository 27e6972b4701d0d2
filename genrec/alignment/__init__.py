"""Preference alignment: pairs, rewards, losses, and training that moves a recommender towards what users prefer."""
