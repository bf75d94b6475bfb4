"""AdamW with average and norm against PyTorch's own and a float64 truth; planted faults."""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from kernels.adamw import Constants, State, Update, launch, reference

SHAPES = ((1,), (7,), (0,), (129,), (13, 5, 3, 3), (256,), (6, 1, 7, 7), (31, 31))
"""One value; odd, none, prime; channels-last; whole chunks; an axis of one; several chunks."""
DECAYS = (0.1, 0.1, 0.1, 0.1, 0.1, 0.0, 0.0, 0.1)
BETAS, EPSILON, LR = (0.9, 0.999), 1e-8, 1e-2
WEIGHTS = (0.9, 0.3, 0.001)
"""Of the new parameters in the average, a step each: both forms of `torch.lerp`."""
LOOSE, TIGHT = 5.0, 1e9
"""Limits of the norm that clip (all gradients have about 35) and that do not."""


@pytest.fixture(params=["reference", "triton"])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def device(
    kind: str,
    operation: Callable[[str, str], ModuleType],
    device_of: Callable[[str], torch.device],
    monkeypatch: pytest.MonkeyPatch,
) -> torch.device:
    """Where tensors are to lie for `Update` to run as `kind`, in blocks so small that all occur."""
    operation("adamw", "cpu" if kind == "reference" else kind)
    for name, value in {"BLOCK": 32, "CHUNK": 128, "SUMS": 16, "LANES": 4}.items():
        monkeypatch.setattr(launch, name, value)
    return device_of(kind)


def draws(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(shape, generator=generator) for shape in SHAPES]
    tensors[4] = tensors[4].contiguous(memory_format=torch.channels_last)
    return tensors


def make_state(device: torch.device, dtype: torch.dtype = torch.float32) -> State:
    """Parameters and an average that are apart, no steps taken."""
    parameter, average = ([t.to(device, dtype) for t in draws(seed)] for seed in (0, 1))
    first, second = ([torch.zeros_like(p) for p in parameter] for _ in range(2))
    step = [torch.zeros((), device=device, dtype=dtype) for _ in parameter]
    return State(parameter, first, second, average, step)


def constants(clip_norm: float) -> Constants:
    return Constants(DECAYS, *BETAS, EPSILON, clip_norm)


def take(
    state: State, clip_norm: float, gradients: Sequence[Sequence[Tensor]] | None = None
) -> list[Tensor]:
    """A step for each of WEIGHTS, in place; the norms."""
    device, dtype = state.parameter[0].device, state.parameter[0].dtype
    rate = torch.full((), LR, device=device, dtype=dtype)
    update = Update(state, [rate] * len(SHAPES), constants(clip_norm))
    given = gradients or [draws(10 + number) for number in range(len(WEIGHTS))]
    return [
        update([g.to(device, dtype) for g in grads], torch.tensor(weight, device=device))
        for grads, weight in zip(given, WEIGHTS, strict=True)
    ]


def torchs(clip_norm: float, dtype: torch.dtype) -> tuple[State, list[Tensor]]:
    """The same steps by `torch.optim.AdamW`, foreach and `torch.lerp`, on the CPU."""
    state = make_state(torch.device("cpu"), dtype)
    parameters = [p.requires_grad_() for p in state.parameter]
    groups = [
        {"params": [p for p, d in zip(parameters, DECAYS, strict=True) if d == decay]}
        | {"weight_decay": decay}
        for decay in (0.1, 0.0)
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPSILON, foreach=True)
    norms = []
    for number, weight in enumerate(WEIGHTS):
        for parameter, gradient in zip(parameters, draws(10 + number), strict=True):
            parameter.grad = gradient.to(dtype)
        gradients = [p.grad for p in parameters if p.grad is not None]
        norms.append(get_total_norm(gradients))
        if clip_norm:
            clip_grads_with_norm_(parameters, clip_norm, norms[-1])
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(state.average), parameters, weight)
    kept = [optimizer.state[p] for p in parameters]
    first, second = ([s[name] for s in kept] for name in ("exp_avg", "exp_avg_sq"))
    steps = [s["step"] for s in kept]
    return State([p.detach() for p in parameters], first, second, state.average, steps), norms


def furthest(found: State, truth: State) -> list[float]:
    """By kind, the largest difference of two states in units of 1 + the truth's magnitude."""
    return [
        max(
            float(((a.cpu().double() - b).abs() / (1 + b.abs())).max()) if a.numel() else 0.0
            for a, b in zip(one, other, strict=True)
        )
        for one, other in zip(found, truth, strict=True)
    ]


@pytest.mark.parametrize("clip_norm", [0.0, LOOSE, TIGHT])
def test_the_reference_is_torchs_adamw_with_clipping_and_average(clip_norm: float) -> None:
    truth, expected = torchs(clip_norm, torch.float64)
    state = make_state(torch.device("cpu"), torch.float64)
    rate = torch.tensor(LR, dtype=torch.float64)
    for number, weight in enumerate(WEIGHTS):
        gradients = [g.double() for g in draws(10 + number)]
        rates, share = [rate] * len(SHAPES), torch.tensor(weight, dtype=torch.float64)
        norm = reference.update(state, gradients, rates, share, constants(clip_norm))
        assert float(norm) == pytest.approx(float(expected[number]), rel=1e-14)
    assert max(furthest(state, truth)) < 1e-14


@pytest.mark.parametrize("clip_norm", [0.0, LOOSE, TIGHT])
def test_it_is_as_near_the_truth_as_torchs_own(
    kind: str, device: torch.device, clip_norm: float
) -> None:
    truth, expected = torchs(clip_norm, torch.float64)
    state = make_state(device)
    norms = take(state, clip_norm)
    assert [float(n) for n in norms] == pytest.approx([float(n) for n in expected], rel=3e-7)
    own = furthest(torchs(clip_norm, torch.float32)[0], truth)
    for ours, theirs in zip(furthest(state, truth), own, strict=True):
        assert ours <= 2 * theirs + 1e-8
    assert [int(step) for step in state.step] == [len(WEIGHTS)] * len(SHAPES)


def test_the_gradients_are_left_as_they_are(device: torch.device) -> None:
    given = [draws(10 + number) for number in range(len(WEIGHTS))]
    take(make_state(device), LOOSE, given)
    for number, gradients in enumerate(given):
        assert all(map(torch.equal, gradients, draws(10 + number)))


def test_gradients_that_lie_otherwise_give_the_same(device: torch.device) -> None:
    def apart(gradient: Tensor) -> Tensor:
        """The gradient in memory that begins at a multiple of 4 and has holes."""
        held = torch.zeros(2 * gradient.numel() + 1)
        held[1::2] = gradient.flatten()
        return held[1::2].view(gradient.shape)

    first, second = make_state(device), make_state(device)
    take(first, LOOSE)
    given = [[apart(g) for g in draws(10 + number)] for number in range(len(WEIGHTS))]
    update = Update(second, [torch.tensor(LR, device=device)] * len(SHAPES), constants(LOOSE))
    for gradients, weight in zip(given, WEIGHTS, strict=True):
        update([g.to(device) for g in gradients], torch.tensor(weight, device=device))
    for one, other in zip(first, second, strict=True):
        assert all(map(torch.equal, one, other))


# Triton's interpreter computes by NumPy, which warns of a NaN that comes up.
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("clip_norm", [0.0, LOOSE])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_spreads_as_in_torch(
    device: torch.device, clip_norm: float, value: float
) -> None:
    def bad() -> list[Tensor]:
        gradients = draws(10)
        gradients[3][128] = value
        return gradients

    state = make_state(device)
    rate, weight = torch.tensor(LR, device=device), torch.tensor(0.1, device=device)
    update = Update(state, [rate] * len(SHAPES), constants(clip_norm))
    norm = update([g.to(device) for g in bad()], weight)
    theirs = [p.requires_grad_() for p in make_state(torch.device("cpu")).parameter]
    for parameter, gradient in zip(theirs, bad(), strict=True):
        parameter.grad = gradient
    expected = get_total_norm(bad())
    if clip_norm:
        clip_grads_with_norm_(theirs, clip_norm, expected)
    torch.optim.AdamW(theirs, lr=LR, weight_decay=0.1).step()
    torch.testing.assert_close(norm.cpu(), expected, equal_nan=True)
    assert not torch.isfinite(norm)
    for ours, parameter in zip(state.parameter, theirs, strict=True):
        assert torch.equal(torch.isfinite(ours).cpu(), torch.isfinite(parameter.detach()))


def test_a_weight_of_one_copies_and_of_zero_keeps_to_the_byte(device: torch.device) -> None:
    state = make_state(device)
    update = Update(state, [torch.tensor(LR, device=device)] * len(SHAPES), constants(0.0))
    before = [a.clone() for a in state.average]
    update([g.to(device) for g in draws(10)], torch.tensor(0.0, device=device))
    assert all(map(torch.equal, state.average, before))
    update([g.to(device) for g in draws(11)], torch.tensor(1.0, device=device))
    assert all(map(torch.equal, state.average, state.parameter))


def test_two_runs_give_the_same_bytes(device: torch.device) -> None:
    states = [make_state(device) for _ in range(2)]
    norms = [take(state, LOOSE) for state in states]
    assert all(map(torch.equal, *norms))
    for one, other in zip(*states, strict=True):
        assert all(map(torch.equal, one, other))


def test_a_rate_that_is_filled_anew_is_the_next_steps(device: torch.device) -> None:
    state, rate = make_state(device), torch.tensor(LR, device=device)
    update = Update(state, [rate] * len(SHAPES), constants(0.0))
    before = [p.clone() for p in state.parameter]
    rate.fill_(0.0)
    update([g.to(device) for g in draws(10)], torch.tensor(0.5, device=device))
    assert all(map(torch.equal, state.parameter, before))


def test_it_is_registered_as_torch_wants_it(device: torch.device) -> None:
    state = make_state(device)
    rates = [torch.tensor(LR, device=device) for _ in SHAPES]
    update = Update(state, rates, constants(LOOSE))
    arguments = (
        *(list(of) for of in state),
        [g.to(device) for g in draws(10)],
        rates,
        torch.tensor(0.5, device=device),
        update._tables,
        *(list(DECAYS), *BETAS, EPSILON, LOOSE),
    )
    # Not its form for compilers: addresses are of tensors that stay, not of copies.
    tests = ("test_schema", "test_faketensor")
    done = torch.library.opcheck(torch.ops.roomsmith.adamw.default, arguments, test_utils=tests)
    assert set(done.values()) == {"SUCCESS"}


def test_what_does_not_fit_is_refused(device: torch.device) -> None:
    rates = [torch.tensor(LR, device=device)] * len(SHAPES)
    state = make_state(device)
    with pytest.raises(ValueError, match="as many of each kind"):
        Update(state, rates[1:], constants(0.0))
    with pytest.raises(ValueError, match="one tensor or more"):
        Update(State([], [], [], [], []), [], Constants([], *BETAS, EPSILON, 0.0))
    with pytest.raises(ValueError, match=r"a state is .*float16"):
        Update(state._replace(first=[t.half() for t in state.first]), rates, constants(0.0))
    with pytest.raises(ValueError, match="float32 without holes"):
        Update(State._make([t.half() for t in of] for of in state), rates, constants(0.0))
    update = Update(state, rates, constants(0.0))
    with pytest.raises(ValueError, match=r"a gradient is .*float16"):
        update([g.to(device).half() for g in draws(10)], torch.tensor(0.5, device=device))


@pytest.mark.parametrize("kind", ["triton"], indirect=True)
def test_on_the_gpu_a_state_that_begins_within_16_bytes_is_refused(device: torch.device) -> None:
    held = [[torch.zeros(9, device=device)[1:]] for _ in range(4)]
    step = [torch.zeros((), device=device)]
    state = State._make([*held, step])
    with pytest.raises(ValueError, match="multiple of 16 bytes"):
        Update(state, step, Constants([0.0], *BETAS, EPSILON, 0.0))


STEP = "size * first / (tl.sqrt(second) * root + EPSILON)"
MUTANTS = {
    "no bias correction of the first moment": ("(lr / of_first)", "lr"),
    "no bias correction of the second": ("(1.0 / tl.sqrt(of_second))", "(of_second / of_second)"),
    "a stale average": ("apart = parameter - average", f"apart = parameter + {STEP} - average"),
    "an average that stays": ("tl.store(at[4], average)", ""),
    "decay on the group that has none": ("decay_T + t, within, 0.0)", "decay_T)"),
    "steps not counted": ("tl.store(at_step, taken, within)", ""),
    "squares not clipped": (
        "(1.0 - BETA2) * clipped * clipped",
        "(1.0 - BETA2) * gradient * gradient",
    ),
    "a chunk's rest forgotten": ("if rest > 0:", "if rest > 1000000:"),
    "a rest's last value forgotten": ("i < count % BLOCK", "i < count % BLOCK - 1"),
}
"""Faults that a kernel could have: what of triton.py is replaced, and by what."""


@pytest.mark.parametrize("kind", ["triton"], indirect=True)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_fault_is_seen(
    name: str, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = MUTANTS[name]
    source = Path(launch.__file__).with_name("triton.py").read_text()
    assert source.count(old) == 1
    path = tmp_path / "mutant.py"
    path.write_text(source.replace(old, new))
    spec = importlib.util.spec_from_file_location("kernels.adamw.triton", path)
    assert spec is not None
    assert spec.loader is not None
    mutant = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mutant)
    monkeypatch.setitem(sys.modules, "kernels.adamw.triton", mutant)
    monkeypatch.setattr("kernels.adamw.triton", mutant, raising=False)
    truth, expected = torchs(LOOSE, torch.float64)
    state = make_state(device)
    norms = take(state, LOOSE)
    own = furthest(torchs(LOOSE, torch.float32)[0], truth)
    far = any(
        not ours <= 2 * theirs + 1e-8
        for ours, theirs in zip(furthest(state, truth), own, strict=True)
    )
    norms_differ = [float(n) for n in norms] != pytest.approx(
        [float(n) for n in expected], rel=3e-7
    )
    assert far or norms_differ
