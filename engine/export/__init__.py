"""Trained networks carried away: one graph for each runtime, its model card, its example."""
