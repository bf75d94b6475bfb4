"""The form of a training step, chosen by measuring, and how far each is from float32."""
