"""The run whose networks label what another one has no labels of: `training.teacher = "run:RUN"`.

Fold K learns from fold K of it, which saw no label of the frames that fold K validates either; of
networks on all frames, which validate none, each learns from all of its networks.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pydantic_core import to_json

from engine import sums
from engine.config import Config
from engine.mistakes import ConfigError
from engine.rundir import Record, RunDir, named_run, refuse_unfinished, to_complete


class TeacherOrigin(Record):
    """What `origin.json` keeps of a teacher."""

    run: str
    """The folder of the run, as it was named."""
    networks: list[str]
    """SHA-256 of the file of each network's weights."""
    views: str
    """SHA-256 of how they look at frames."""

    @property
    def digest(self) -> str:
        """What is hashed in the place of `training.teacher`: the run may be moved."""
        return ",".join(["run", self.views, *self.networks])


@dataclass(frozen=True)
class Teacher:
    """A finished run that may label frames, with its own views at its own temperature."""

    run: RunDir
    config: Config
    """That it was made with."""
    temperature: float
    """That it chose, or was told to use."""

    @property
    def told(self) -> str:
        """How a message begins."""
        return f"training.teacher = 'run:{self.run.root}'"

    @property
    def origin(self) -> TeacherOrigin:
        """Hashes of its networks, whose files are read, and of its views; raises DamageError."""
        data, views = self.config.data, self.config.inference
        looks = views.scales, views.flip, views.base_hw, data.input_hw, data.fit, data.fov
        looked = hashlib.sha256(to_json((*looks, data.depth_scale, self.temperature))).hexdigest()
        networks = []
        for fold in range(self.config.networks):
            sums.check(self.run.best(fold))
            with self.run.best(fold).open("rb") as stream:
                networks.append(hashlib.file_digest(stream, "sha256").hexdigest())
        return TeacherOrigin(run=str(self.run.root), networks=networks, views=looked)

    def networks(self, fold: int, *, holds_out: bool) -> tuple[int, ...]:
        """Those of its networks that a network of a fold, or one on all frames, learns from."""
        if holds_out:
            return self.config.members(fold % self.config.data.folds)
        return tuple(range(self.config.networks))


def find_teacher(config: Config) -> Teacher:
    """The teacher that a config names; weights are not read, nor frames looked at.

    Raises:
        ConfigError: it is no run, or not finished; it has other classes or another number of folds,
            reads files otherwise, is of code that this config does not name, or has seen every
            frame that a fold is to hold out.
        FileNotFoundError: the weights of one of its networks are gone.
    """
    root = Path(config.training.teacher.removeprefix("run:"))
    told = f"training.teacher = 'run:{root}'"
    run, theirs = named_run(root, told)
    if theirs.data.classes != config.data.classes:
        strays = sorted({*theirs.data.classes} ^ {*config.data.classes})[:3]
        differing = ", ".join(strays) or "in another order"
        raise ConfigError(f"{told} has other classes ({differing}); name a run of the same classes")
    if config.holds_out and not theirs.holds_out:
        raise ConfigError(
            f"{told} was trained on all frames, those that a fold is to hold out among them; name "
            "a run of the same folds, or type training.frames=all"
        )
    folds, there = config.data.folds, theirs.data.folds
    if config.holds_out and there != folds:
        raise ConfigError(
            f"{told} has {there} folds, and this run {folds}: fold k learns from fold k; type "
            f"data.folds={there}, or name a run of the same folds"
        )
    fields = ("exif", "depth_scale", "depth_invalid")[: 3 if theirs.needs_depth else 1]
    for field in fields:
        there, here = getattr(theirs.data, field), getattr(config.data, field)
        if there != here:
            told += f" reads files with data.{field} = {there!r}, and this run with {here!r}"
            raise ConfigError(f"{told}; use the same")
    if strange := [path for path in theirs.code if path not in config.code]:
        named = ", ".join(strange)
        raise ConfigError(f"{told} runs code that this config does not name ({named}); name it too")
    refuse_unfinished(run, run.temperature)
    for fold in range(theirs.networks):
        if not run.best(fold).is_file():
            raise FileNotFoundError(
                f"{told}: {run.best(fold)} is missing; restore it, or {to_complete(root)}"
            )
    best = json.loads(sums.read(run.temperature))["best"]
    return Teacher(run, theirs, cast(float, best))


def nothing_to_label(config: Config) -> ConfigError:
    """What to do about a dataset without test frames."""
    return ConfigError(
        f"training.teacher = {config.training.teacher!r} labels test frames, and "
        f"{config.data.root} has none; put some into test/image, or leave it out"
    )


def check_teacher(config: Config, run: RunDir, known: TeacherOrigin) -> Teacher:
    """The teacher of a run that was begun with the `known` one, which it has to be.

    Raises ConfigError if it is another; else as `find_teacher`, and DamageError.
    """
    teacher = find_teacher(config)
    if teacher.origin.digest != known.digest:
        raise ConfigError(
            f"{teacher.told} has changed since {run.root} was begun with it: its networks, views "
            "or temperature are others; restore it, or begin another run: --out"
        )
    return teacher
