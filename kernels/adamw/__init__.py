"""AdamW, weight average and gradient norm of many tensors in one pass over their memory."""

from kernels.adamw.op import Update
from kernels.adamw.reference import Constants, State

__all__ = ["Constants", "State", "Update"]
