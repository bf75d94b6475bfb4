"""Where a fold's form comes from: the fold itself, a file, the cache, or a measurement."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from engine.cli import load_config
from engine.damage import DamageError
from engine.experiment import Experiment
from engine.runtime.device import DevicePolicy, choose_operations
from engine.runtime.forms import PLAIN, StepForm
from engine.sums import sum_file
from engine.training.loop import FoldTask
from engine.training.tuning import choice
from engine.training.tuning.check import Errors
from engine.training.tuning.choice import Means, choose_form, machine
from engine.training.tuning.options import Options, obstacle, options
from engine.training.tuning.tuner import Tuned

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
POLICY = DevicePolicy(CPU, None, compile=False, operations=choose_operations("fused", CPU))
FOREACH = PLAIN.at("optimizer", "foreach")

MakeTask = Callable[..., FoldTask]


@dataclass
class Bench:
    """A machine where `foreach` takes half of a step's time, and bfloat16 a quarter."""

    bf16: bool = False
    now_s: float = 0.0
    prepared: list[str] = field(default_factory=list)
    name: str = "a machine"

    def means(self) -> Means:
        there: Options = {"optimizer": ("fused", "foreach"), "compile": ("off",)}
        return Means(
            clock=lambda: self.now_s,
            machine=lambda *_: {"device": self.name},
            options=lambda *_: there,
            workshop=lambda _, policy: Shop(self, policy.autocast_dtype or torch.float32),
            bf16_is_fast=lambda: self.bf16,
        )


@dataclass
class Shop:
    bench: Bench
    products: torch.dtype

    def prepare(self, form: StepForm) -> "Step":
        self.bench.prepared.append(form.told())
        share = 0.25 if self.products == torch.bfloat16 else 1.0
        return Step(self.bench, share * (0.5 if form.optimizer == "foreach" else 1.0))


@dataclass
class Step:
    bench: Bench
    seconds: float

    def run(self) -> None:
        torch.rand(3)
        self.bench.now_s += self.seconds

    def errors(self) -> Errors:
        return Errors(0.0, 0.0, {"weight": 0.0}, 0.0, 0.0, "bytes")


@pytest.fixture
def tuned_task(make_task: MakeTask, tmp_path: Path) -> MakeTask:
    """`tuned_task(tune=...)`: fold 1 with a folder and a cache of its own."""

    def make(**runtime: object) -> FoldTask:
        task = make_task(runtime={"cache": str(tmp_path / "cache"), **runtime})
        task.run.fold(1).mkdir(parents=True, exist_ok=True)
        return task

    return make


def test_a_new_fold_is_measured_and_what_was_chosen_is_recorded(tuned_task: MakeTask) -> None:
    task, bench = tuned_task(tune="auto"), Bench()
    policy = choose_form(task, POLICY, begun=False, means=bench.means())
    assert policy == POLICY.formed(FOREACH)
    recorded = Tuned.read(task.run.step_form(1))
    assert recorded.form == FOREACH
    assert recorded.machine == {"device": "a machine"}
    assert [tried.form.told() for tried in recorded.tried] == ["plain", "optimizer = foreach"]
    assert sum_file(task.run.step_form(1)).exists()


def test_what_is_measured_leaves_the_generators_as_they_were(tuned_task: MakeTask) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    choose_form(tuned_task(tune="auto"), POLICY, begun=False, means=Bench().means())
    assert torch.equal(torch.get_rng_state(), before)


def test_another_run_on_the_same_machine_measures_nothing(
    tuned_task: MakeTask, tmp_path: Path
) -> None:
    first, later, elsewhere = Bench(), Bench(), Bench(name="another machine")
    for bench in (first, later, elsewhere):
        policy = choose_form(tuned_task(tune="auto"), POLICY, begun=False, means=bench.means())
        assert policy.form == FOREACH
    assert first.prepared == elsewhere.prepared == ["plain", "optimizer = foreach"]
    assert later.prepared == []
    assert len(list((tmp_path / "cache").glob("tuned-*.json"))) == 2


def test_a_damaged_entry_of_the_cache_is_measured_again(
    tuned_task: MakeTask, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = tuned_task(tune="auto")
    choose_form(task, POLICY, begun=False, means=Bench().means())
    (entry,) = (tmp_path / "cache").glob("tuned-*.json")
    content = entry.read_bytes()
    entry.write_bytes(content.replace(b"foreach", b"Foreach"))
    bench = Bench()
    with caplog.at_level(logging.WARNING, logger="engine"):
        choose_form(task, POLICY, begun=False, means=bench.means())
    assert bench.prepared
    assert "is damaged" in caplog.text
    assert Tuned.read(entry).form == FOREACH


def test_a_file_is_obeyed_and_nothing_is_measured(tuned_task: MakeTask, tmp_path: Path) -> None:
    path, bench = tmp_path / "step.json", Bench()
    path.write_text('{"form": {"optimizer": "foreach"}}', encoding="utf-8")
    task = tuned_task(tune=str(path))
    policy = choose_form(task, POLICY, begun=False, means=bench.means())
    assert (policy.form, bench.prepared) == (FOREACH, [])
    assert Tuned.read(task.run.step_form(1)).form == FOREACH
    # What a run left is such a file.
    again = tuned_task(tune=str(task.run.step_form(1)))
    assert choose_form(again, POLICY, begun=False).form == FOREACH


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            '{"form": {"cudnn": "race"}}',
            "cudnn = race needs a GPU, and this is cpu; choose",
        ),
        ('{"form": {"optimizer": "slow"}}', "optimizer"),
        ('{"form": {"warp": "on"}}', "warp"),
    ],
)
def test_a_file_that_asks_for_what_is_not_here_is_refused_by_name(
    text: str, told: str, tuned_task: MakeTask, tmp_path: Path
) -> None:
    path = tmp_path / "form.json"
    path.write_text(text, encoding="utf-8")
    task = tuned_task(tune=str(path))
    with pytest.raises((ValueError, RuntimeError), match=told) as raised:
        choose_form(task, POLICY, begun=False)
    assert str(path) in str(raised.value)
    assert not task.run.step_form(1).exists()


@pytest.mark.parametrize("tune", ["off", "auto", "elsewhere.json"])
def test_a_fold_that_was_tuned_goes_on_with_its_form_whatever_is_asked(
    tune: str, tuned_task: MakeTask, caplog: pytest.LogCaptureFixture
) -> None:
    choose_form(tuned_task(tune="auto"), POLICY, begun=False, means=Bench().means())
    bench = Bench(name="another machine")
    with caplog.at_level(logging.INFO, logger="engine"):
        policy = choose_form(tuned_task(tune=tune), POLICY, begun=True, means=bench.means())
    assert (policy.form, bench.prepared) == (FOREACH, [])
    told = "fold 1 goes on with a step of optimizer = foreach, as it began"
    assert [record.getMessage() for record in caplog.records] == [told]


def test_a_fold_that_was_not_tuned_is_not_tuned_when_it_goes_on(
    tuned_task: MakeTask, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench()
    with caplog.at_level(logging.INFO, logger="engine"):
        policy = choose_form(tuned_task(tune="auto"), POLICY, begun=True, means=bench.means())
    assert (policy, bench.prepared) == (POLICY, [])
    assert caplog.messages == ["fold 1 goes on with an untuned step, as it began"]


def test_a_fold_whose_form_is_not_to_be_had_here_goes_on_untuned_and_says_that_it_rounds_otherwise(
    tuned_task: MakeTask, caplog: pytest.LogCaptureFixture
) -> None:
    task = tuned_task()
    Tuned(form=PLAIN.at("cudnn", "race")).write(task.run.step_form(1))
    assert choose_form(task, POLICY, begun=True) == POLICY
    assert caplog.messages == [
        "fold 1 began with a step that cannot be had here (cudnn = race needs a GPU, and this is "
        "cpu); it goes on untuned, and from here on rounding differs from an undisturbed run's"
    ]
    task.run.step_form(1).write_text("{}", encoding="utf-8")
    with pytest.raises(DamageError):
        choose_form(task, POLICY, begun=True)


def test_what_a_killed_call_chose_is_gone_when_the_fold_begins_untuned(
    tuned_task: MakeTask,
) -> None:
    task = tuned_task(tune="auto")
    choose_form(task, POLICY, begun=False, means=Bench().means())
    assert choose_form(tuned_task(), POLICY, begun=False) == POLICY
    assert not task.run.step_form(1).exists()
    assert not sum_file(task.run.step_form(1)).exists()


def test_the_folds_of_an_experiment_are_begun_and_resumed_so(
    open_run: Callable[..., Experiment], tmp_path: Path
) -> None:
    path = tmp_path / "form.json"
    Tuned(form=FOREACH).write(path)
    run = open_run(tmp_path / "run", runtime={"tune": str(path)})
    assert run.begin(0)[1].form == FOREACH
    assert open_run(tmp_path / "other").begin(0)[1].form == PLAIN


def test_on_a_cpu_nothing_is_measured_where_bf16_is_slow(
    tuned_task: MakeTask, caplog: pytest.LogCaptureFixture
) -> None:
    bench, task = Bench(), tuned_task(tune="auto")
    means = replace(bench.means(), options=options)
    with caplog.at_level(logging.INFO, logger="engine"):
        assert choose_form(task, POLICY, begun=False, means=means) == POLICY
    assert bench.prepared == []
    assert caplog.messages == [
        "tune: nothing to measure: no other form of the step would leave the same bytes on a CPU"
    ]
    assert not task.run.step_form(1).exists()


def test_bf16_is_offered_by_name_with_its_measured_gain_and_not_taken(
    tuned_task: MakeTask, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(bf16=True)
    means = replace(bench.means(), options=options)
    told = "tune: bf16 would take 0.25 of a step's time: --runtime.precision bf16"
    for measured in (2, 2):  # the second call remembers
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="engine"):
            policy = choose_form(tuned_task(tune="auto"), POLICY, begun=False, means=means)
        assert policy == POLICY
        assert caplog.messages[-1] == told
        assert len(bench.prepared) == measured
    already = replace(POLICY, autocast_dtype=torch.bfloat16)
    caplog.clear()
    choose_form(tuned_task(tune="auto"), already, begun=False, means=means)
    assert told not in caplog.messages


def test_what_a_choice_depends_on_is_in_its_key(make_task: MakeTask) -> None:
    known = machine(make_task(), POLICY)
    others = {
        "dtype": machine(make_task(), replace(POLICY, autocast_dtype=torch.bfloat16)),
        "shapes": machine(make_task(data={"crop_hw": (32, 32)}), POLICY),
        "model": machine(make_task(model={"drop_path": 0.3}), POLICY),
        "training": machine(make_task(training={"clip_norm": 7.0}), POLICY),
        "runtime": machine(make_task(), replace(POLICY, replay=True)),
    }
    for name, other in others.items():
        assert {key for key in known if known[key] != other[key]} == {name}
    # Where the weights come from changes no time, nor does what is no part of a step.
    same = make_task(model={"weights": "timm"}, training={"epochs": 9})
    assert machine(same, POLICY) == known


def test_a_changed_kernel_is_another_key(
    make_task: MakeTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = tmp_path / "kernels" / "one" / "triton.py"
    kernel.parent.mkdir(parents=True)
    keys = set()
    for text in ("tile = 1", "tile = 2"):
        kernel.write_text(text, encoding="utf-8")
        monkeypatch.setattr(choice, "_ROOT", tmp_path)
        keys.add(machine(make_task(), POLICY)["sources"])
    assert len(keys) == 2


def test_what_a_gpu_is_offered(make_task: MakeTask) -> None:
    policy = replace(POLICY, device=GPU, replay=True)
    plain = {"encoder": "test_convnext", "dropout": 0.0, "drop_path": 0.0}
    task = make_task(model=plain, training={"batch_size": 4})
    everything: Options = {
        "optimizer": ("fused", "foreach", "one_pass"),
        "cudnn": ("heuristic", "race"),
        **dict.fromkeys(("depthwise_norm", "norm", "layer_scale"), ("off", "on")),
        **dict.fromkeys(("weight_gradient", "residual", "group_norm", "heads"), ("off", "on")),
        "parts": (1, 2, 4),
        "compile": ("off", "on", "channels_last"),
    }
    assert options(task, policy) == everything
    assert "cudnn" not in options(task, replace(policy, deterministic=True))
    asked = make_task(model=plain, runtime={"compile": "on"})
    assert options(asked, policy)["compile"] == ("on", "channels_last")
    never = make_task(model=plain, runtime={"compile": "off"})
    assert options(never, policy)["compile"] == ("off",)
    cut = make_task(model=plain, training={"batch_size": 4, "accumulate": 2})
    assert "parts" not in options(cut, policy)
    assert options(task, POLICY) == {}


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ({"encoder": "test_efficientnet"}, "normalises over the batch"),
        ({"dropout": 0.1}, "decoder.drop draws at random"),
        ({"drop_path": 0.1}, "draws at random"),
    ],
)
def test_a_batch_is_not_cut_where_that_would_change_more_than_rounding(
    model: dict[str, object], why: str, make_task: MakeTask
) -> None:
    plain = {"encoder": "test_convnext", "dropout": 0.0, "drop_path": 0.0}
    told = obstacle(PLAIN.at("parts", 2), make_task(model={**plain, **model}), POLICY)
    assert told is not None
    assert why in told
    told = obstacle(PLAIN.at("parts", 4), make_task(model=plain), POLICY)
    assert told == "parts = 4 do not divide the 2 images that pass together"


def test_a_file_that_is_not_there_is_told_before_pytorch_is_loaded(tmp_path: Path) -> None:
    from engine.early import check_inputs

    config = load_config([], {"runtime": {"tune": str(tmp_path / "absent.json")}})
    with pytest.raises(FileNotFoundError, match=r"absent\.json' is no file; name one, or use auto"):
        check_inputs(config, [])
