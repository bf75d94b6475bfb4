"""What a run was made with, and a fold runs with: recorded when it begins, kept when resumed."""

import logging

from engine.config import RuntimeConfig
from engine.rundir import Record

_log = logging.getLogger(__name__)


class Machine(Record):
    """What computed."""

    system: str
    processor: str
    cores: int | None
    threads: int
    """torch's, on the CPU"""
    gpu: str | None


class Environment(Record):
    """`environment.json`: what a run was made with."""

    versions: dict[str, str | None]
    """of Python and of each package that a result may depend on, None if it is not installed"""
    machine: Machine
    commit: str | None
    """of this project, with "-dirty" if it was changed"""
    dataset_fingerprint: str


class Computer(Record):
    """What computed steps of a fold."""

    versions: dict[str, str | None]
    """As of `Environment`."""
    machine: Machine
    instructions: str
    """Of the CPU, as PyTorch's kernels use them: AVX512, AVX2, DEFAULT ..."""

    def differences(self, now: "Computer") -> list[str]:
        """What rounds otherwise there than here: `processor A -> B`. Cores do not, nor threads."""
        kinds = {
            "processor": (self.machine.processor, now.machine.processor),
            "instructions": (self.instructions, now.instructions),
            "GPU": (self.machine.gpu, now.machine.gpu),
        }
        for name in dict.fromkeys((*self.versions, *now.versions)):
            kinds[name] = self.versions.get(name), now.versions.get(name)
        return [f"{name} {was} -> {there}" for name, (was, there) in kinds.items() if was != there]


class FoldEnvironment(Record):
    """`environment.json` of a fold: where it was begun, and where it went on on another kind."""

    began: Computer
    then: tuple[Computer, ...] = ()
    """In order; each differs from the one before in what `Computer.differences` tells."""

    @property
    def last(self) -> Computer:
        """What computed its last steps."""
        return (self.began, *self.then)[-1]


class RecordedRuntime(Record):
    """The fields of [runtime] that change rounding, as resolved for one fold."""

    device: str
    """cpu, cuda or cuda:N"""
    source: str
    """resident, dali or torch"""
    kernels: str
    """fused or reference"""
    compile: str
    """on or off"""
    cuda_graphs: str
    """on or off"""
    threads: int
    """of the CPU"""
    precision: str
    """fp32 or bf16"""
    deterministic: bool = False
    """whether a GPU's gradients are; folds begun before it could be asked for have no such field"""
    layers: str = "torch"
    """fused or torch; likewise"""
    reduce: str | None = None
    """tree or fast, which is `training.reduce`; None where a batch has one part"""

    @classmethod
    def asked_for(cls, config: RuntimeConfig) -> "RecordedRuntime":
        """What a config asks for, unresolved: its `auto` and 0 record nothing."""
        return cls.model_validate({name: getattr(config, name) for name in _OF_RUNTIME})

    def of_runtime(self, config: RuntimeConfig) -> RuntimeConfig:
        """A config that asks for what is recorded here, but for the device."""
        kept = {name: getattr(self, name) for name in _OF_RUNTIME if name != "device"}
        return config.model_copy(update=kept)


_OF_RUNTIME = [name for name in RecordedRuntime.model_fields if name != "reduce"]
"""What is recorded of [runtime]."""


def resume_runtime(config: RuntimeConfig, recorded: RecordedRuntime, fold: int) -> RuntimeConfig:
    """What a fold goes on with: what it began with, unless the config names something else.

    Each departure, from the config's defaults or from the record, is logged.

    Args:
        config: of this call.
        recorded: of the call that began the fold.
        fold: its number, for the messages.
    """
    kept = {}
    for name in _OF_RUNTIME:
        began, now = getattr(recorded, name), getattr(config, name)
        if began == now or _is_open(began):
            continue
        if name not in config.model_fields_set or _is_open(now):
            kept[name] = began
            continue
        _log.warning(
            "fold %d began with %s = %s and goes on with %s, as asked: its bytes may differ from "
            "an undisturbed run's",
            *(fold, name, began, now),
        )
    if kept:
        values = ", ".join(f"{name} = {value}" for name, value in kept.items())
        _log.info("fold %d goes on with %s, as it began", fold, values)
    return config.model_copy(update=kept)


def resume_reduce(asked: str, recorded: RecordedRuntime, fold: int) -> str:
    """The `training.reduce` that a fold goes on with: the one it began with, unless asked."""
    if recorded.reduce is None or asked == recorded.reduce:
        return asked
    if asked == "auto":
        return recorded.reduce
    _log.warning(
        "fold %d began with training.reduce = %s and goes on with %s, as asked: its bytes may "
        "differ from an undisturbed run's",
        *(fold, recorded.reduce, asked),
    )
    return asked


def _is_open(value: str | int) -> bool:
    """Whether a config leaves the choice to the engine by it: auto, or 0 threads, but not false."""
    return value == "auto" or (value == 0 and not isinstance(value, bool))
