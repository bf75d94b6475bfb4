"""Views of a frame (test-time augmentation) and the store of out-of-fold probabilities."""
