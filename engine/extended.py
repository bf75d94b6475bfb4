"""`extended.json`: what a run was finished with before it was given more epochs.

It is written before the config that has more, and counts by that: a kill between the two changes
nothing.
"""

from engine.config import Config
from engine.rundir import Record, RunDir


class Stand(Record):
    """A run as it was finished."""

    epochs: int
    """Of each fold."""
    weights_hash: str
    """Of all that its weights depended on; it stands in the checkpoints that training goes on from,
    and in weights that no later epoch has bettered."""
    miou: float | None = None
    """OOF mIoU at label resolution; left out where there was none."""
    kept: str
    """The folder, in the run's, that holds it as it was."""


class Extended(Record):
    """`extended.json`."""

    stands: list[Stand]
    """In their order."""


def stands_before(config: Config, run: RunDir) -> list[Stand]:
    """What a run of this config was finished with before, if it was extended; else nothing.

    Raises DamageError.
    """
    return [one for one in _stands(run) if one.epochs < config.training.epochs]


def hashes_before(run: RunDir) -> set[str]:
    """What else a run's checkpoints and weights may have been made from; raises DamageError."""
    return {one.weights_hash for one in _stands(run)}


def _stands(run: RunDir) -> list[Stand]:
    return Extended.read(run.extended).stands if run.extended.is_file() else []
