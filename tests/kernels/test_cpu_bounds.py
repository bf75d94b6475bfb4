"""The Numba kernels as plain Python, where an index outside of its array is an error.

Compiled, such an index reads or writes somebody else's memory, and no result need show it.
"""

from collections.abc import Callable

UNCOMPILED = """
import numba, torch
import numpy as np
from kernels import blend_sweep, boundary_ce, confusion, tta_accumulate
from kernels.blend_sweep import reference as sweep_reference
from kernels.boundary_ce import reference as boundary_reference
from kernels.confusion import reference as confusion_reference
from kernels.tta_accumulate import reference as tta_reference

assert numba.config.DISABLE_JIT
classes, label_hw = 3, (18, 5)
label = torch.randint(0, classes, (2, *label_hw)).byte()
label[0, :4], label[1, 7], label[1, 8] = 255, classes, 254
probs = [torch.rand(2, classes, *hw) for hw in ((9, 4), (20, 3), (18, 5))]
for prob in probs:
    arguments = prob, label
    assert torch.equal(
        confusion.probability_confusion(*arguments),
        confusion_reference.probability_confusion(*arguments),
    )
winner = confusion.resized_argmax(probs[0], label_hw)
winner[0, 5] = 255
for arguments in ((winner, label, classes), (winner, label, 20)):
    assert torch.equal(confusion.confusion(*arguments), confusion_reference.confusion(*arguments))
for weight in (torch.eye(3)[:, :2], torch.rand(5, 3), torch.rand(4, 2), torch.randn(2, 2)):
    weight = weight[weight.abs().sum(1) > 0]
    arguments = probs[: weight.shape[1]], weight, label
    assert torch.equal(
        confusion.blend_confusion(*arguments), confusion_reference.blend_confusion(*arguments)
    )
fine = [torch.full((1, 3, 4, 2), 0.5, dtype=torch.float64) for _ in "ab"]
fine[0][:, 2] += 1e-12
fine[1][:, 2] += 1e-12
for weight in (torch.tensor([[0.5, 0.5], [0.0, 2.0]]), torch.tensor([[2.0, -0.5]])):
    found = confusion.blend_confusion(fine, weight.double(), torch.full((1, 8, 4), 2).byte())
    assert (found[:, 2, 2] == 32).all(), "float64 was rounded to float32"
for view_hw, flipped in (((10, 7), True), ((23, 4), False), ((18, 5), True), ((1, 1), False)):
    totals = []
    for module in (tta_accumulate, tta_reference):
        total = tta_accumulate.zero_total(2, 2, classes, label_hw, torch.device("cpu"))
        view = tta_accumulate.View(view_hw, flipped, flipped)
        module.tta_accumulate(total, probs[:1], (0.7, 1.0), [view])
        totals.append(total)
    torch.testing.assert_close(*totals)
for stride, (h, w), align_corners in ((4, (2, 3), True), (3, (1, 2), False), (1, (5, 4), False)):
    label = torch.randint(0, classes, (2, h * stride, w * stride)).byte()
    label[0, :2], label[1, -1] = 255, 255
    arguments = torch.randn(2, classes, h, w), label, torch.rand(classes), 2.0
    options = {"align_corners": align_corners, "ignored_edges": stride == 3}
    torch.testing.assert_close(
        boundary_ce.boundary_ce(*arguments, **options),
        boundary_reference.boundary_ce(*arguments, **options),
    )
label = torch.randint(0, 5, (1, 18, 5)).byte()
edge, bins = np.linspace(0, 1, 6), (np.zeros((5, 4, 3), np.int64), np.ones(5), np.zeros(5))
for sizes, (first, step) in (((9, 4), (9, 4)), (0, 1)), (((1, 1), (20, 3)), (2, 5)):
    probs = [np.random.dirichlet([1, 1, 1], hw).transpose(2, 0, 1) for hw in sizes]
    arguments = probs, np.random.rand(2, 2, 3), label[0, :18, :5].numpy()[first::step], (
        first, step, 18
    )
    found = blend_sweep.frame_crossings(*arguments)
    count, changes = sweep_reference.frame_crossings(*arguments)
    assert (found.count_CC == count).all() and len(found.share_E) == len(changes)
    blend_sweep.add_to_bins(*bins, edge, found)
    blend_sweep.soft_counts(probs, *arguments[2:])
halves = [np.random.dirichlet([1, 1, 1], (9, 4)).transpose(2, 0, 1).astype("f2") for _ in "ab"]
arguments = np.eye(2)[:, :, None].repeat(3, 2), label[0, :18, :5].numpy()[1::2], (1, 2, 18)
pair = blend_sweep.frame_crossings(halves, *arguments)
whole = blend_sweep.frame_crossings([half.astype("f4") for half in halves], *arguments)
assert all((a == b).all() for a, b in zip(pair, whole)) and len(pair.share_E)
blend_sweep.inside(found, edge, np.ones(5, bool))
order = found.share_E.argsort()
state, zeros = np.array([2, 1, 0, 2, 2], np.uint8), np.zeros((6, 3), np.int64)
events = found.share_E[order], found.kind_E3[order]
line = blend_sweep.Bins(edge, state, bins[1], zeros, zeros, zeros[0] + 9)
blend_sweep.widest_peak(line, *events)
"""


def test_no_index_leaves_its_array(run_alone: Callable[..., str]) -> None:
    run_alone("import torch; torch.manual_seed(0)" + UNCOMPILED, NUMBA_DISABLE_JIT="1")
