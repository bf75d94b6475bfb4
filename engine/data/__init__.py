"""Files to batches: index, folds, draws of the augmentation, sources."""
