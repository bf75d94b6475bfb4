"""Batch to stride-4 logits: a timm encoder, a decoder, two heads."""
