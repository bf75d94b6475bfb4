"""The loop: step, losses, optimiser, weight average, checkpoint."""
