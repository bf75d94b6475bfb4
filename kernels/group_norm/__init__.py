"""Group normalisation in training, its gradients in passes of our own on a CPU."""

from kernels.group_norm.op import group_norm

__all__ = ["group_norm"]
