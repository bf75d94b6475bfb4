"""Many independent trainings: what they are, in which order, who runs them, what they came to."""
