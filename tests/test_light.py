"""The compiler is loaded by who compiles, and then does what it always does."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PROGRAM = """
import sys
from engine.light import _Finder, load_lightly
load_lightly()
import torch
import timm
from kernels.confusion import resized_argmax
prob = torch.rand(1, 3, 4, 4)
before = resized_argmax(prob, (8, 8))
meta = torch.empty(2, 2, device="meta") + 1
wrapped = resized_argmax._backend_fns[None].__wrapped__
assert "torch._dynamo" not in sys.modules
assert getattr(wrapped, "__dynamo_disable") is wrapped
compiled = torch.compile(lambda p: resized_argmax(2 * p, (8, 8)) + 1, backend="eager")
assert torch.equal(compiled(prob), before + 1)
assert torch._dynamo is sys.modules["torch._dynamo"] and hasattr(torch._dynamo, "explain")
assert not [one for one in sys.meta_path if isinstance(one, _Finder) and one.is_active]
assert torch.equal(resized_argmax(prob, (8, 8)), before)
assert getattr(wrapped, "__dynamo_disable") is not wrapped
from torchvision.ops import roi_align
box = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
assert roi_align(prob, [box], (2, 2)).shape == (1, 3, 2, 2)
"""


def test_operations_run_without_the_compiler_and_as_ever_once_it_is_loaded() -> None:
    command = [sys.executable, "-W", "error::UserWarning", "-c", PROGRAM]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
