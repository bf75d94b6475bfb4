"""What is chosen on out-of-fold predictions."""
