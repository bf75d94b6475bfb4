"""Trained weights and frames become probabilities: views, out-of-fold store, submission."""
