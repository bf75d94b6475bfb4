"""Samples to batches: folds, draws of the augmentation, inputs, sources."""
