"""A run folder: its files, and the config that it was made with.

runs/NAME/
  config.toml environment.json folds.json    what was run, where, on which folds
  origin.json                                hashes of a run that it starts from, and of plug-ins
  extended.json epochs50/                    what it was before it got more epochs, if it did
  fold0/ runtime.json environment.json       what it runs with, and where
         metrics.jsonl best.safetensors
         pseudo.zip                          labels of test frames, if `training.teacher` makes some
         last.pt                             until the run is finished, or for `runtime.keep_last`
         step.json                           the form of its steps, if `runtime.tune` chose one
         int8.json int8.xml int8.bin         its network in INT8, if `runtime.inference` asks for it
  parity.json                                how far the step that ran is from eager float32
  oof/ manifest.json prob.npy                float16 (N, C, h, w), half scale
  temperature.json summary.json              the numbers
  atlas.json frames.npy worst.png            where the errors are; counts (N, C, C) of each frame
  submission.npy submission.zip              uint8 (N, H, W) in stem order; zip alone: a PNG each
  submission.csv                             row, stem
  log.txt metrics.csv report.html            each call's messages, all folds' epochs, a page
  tensorboard/ wandb/ mlflow/                the epochs once more, if `report` asks for it
  seal.json                                  finished, and on which files, by size and time

The folder of a blend has blend.json (weights, curve, gain), summary.json and the submission.
Beside each NAME stands .NAME.sum, its checksums (`engine.sums`), but for `FOR_PEOPLE`.
While a process works on a fold or on what comes after the folds, or where it was stopped at that,
`.fold0.lease` and `.results.lease` hold what is not finished (`engine.lease`).
What a JSON file holds is a `Record`, defined beside the stage that writes it.
"""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from engine import sums
from engine.cli import load_config, read_file, to_toml
from engine.config import Config
from engine.damage import DamageError
from engine.formats import (
    FORMAT,
    Sections,
    stood,
)
from engine.lease import Place
from engine.mistakes import ConfigError, damaged
from engine.whole import write_summed

FOR_PEOPLE = frozenset(("log.txt", "metrics.csv", "report.html", "tensorboard", "wandb", "mlflow"))
"""Files and folders of a run that no stage reads: the log, and what is made of other files. They
have no checksums, and are in no hash or seal."""


NOT_MEASURED = "out-of-fold: not measured, for all frames are trained on"
"""Where a score would stand of a run with `training.frames = "all"`."""


class _Name:
    """A file of the run folder: `run.summary` is the path of its `summary.json`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: "RunDir", _: type) -> Path:
        return run.root / self.name


@dataclass(frozen=True)
class RunDir:
    """The paths of one run; creates nothing by itself."""

    root: Path

    config = _Name("config.toml")
    environment = _Name("environment.json")
    folds = _Name("folds.json")
    origin = _Name("origin.json")
    extended = _Name("extended.json")
    oof = _Name("oof")
    store = _Name("oof/prob.npy")
    manifest = _Name("oof/manifest.json")
    temperature = _Name("temperature.json")
    summary = _Name("summary.json")
    parity = _Name("parity.json")
    atlas = _Name("atlas.json")
    frame_counts = _Name("frames.npy")
    worst_frames = _Name("worst.png")
    blend = _Name("blend.json")
    evaluation = _Name("evaluation.json")
    submission = _Name("submission.npy")
    submission_zip = _Name("submission.zip")
    submission_csv = _Name("submission.csv")
    seal = _Name("seal.json")
    log = _Name("log.txt")
    curves = _Name("metrics.csv")
    report = _Name("report.html")

    def fold(self, fold: int) -> Path:
        """The folder of a fold."""
        return self.root / f"fold{fold}"

    def metrics(self, fold: int) -> Path:
        """One line an epoch."""
        return self.fold(fold) / "metrics.jsonl"

    def runtime(self, fold: int) -> Path:
        """What the fold began to run with."""
        return self.fold(fold) / "runtime.json"

    def fold_environment(self, fold: int) -> Path:
        """Where the fold's steps were computed."""
        return self.fold(fold) / "environment.json"

    def step_form(self, fold: int) -> Path:
        """The form of the fold's steps, if it was tuned."""
        return self.fold(fold) / "step.json"

    def last(self, fold: int) -> Path:
        """What training goes on from; gone when the run is finished, unless `runtime.keep_last`."""
        return self.fold(fold) / "last.pt"

    def best(self, fold: int) -> Path:
        """The averaged weights of the best epoch."""
        return self.fold(fold) / "best.safetensors"

    def pseudo(self, fold: int) -> Path:
        """The labels that the fold's teacher has made of test frames, if it has one."""
        return self.fold(fold) / "pseudo.zip"

    def int8(self, fold: int) -> Path:
        """What the fold's network in INT8 was made of, and what it loses."""
        return self.fold(fold) / "int8.json"

    def int8_network(self, fold: int) -> Path:
        """The fold's network in INT8; its weights lie beside it, in `int8.bin`."""
        return self.fold(fold) / "int8.xml"

    def training(self, fold: int) -> Place:
        """What is leased to train a fold; it covers what tells of the whole run, too."""
        told = f"fold {fold} of {self.root}"
        return Place(self.root, f"fold{fold}", told, (self.fold(fold), self.root))

    @property
    def description(self) -> Place:
        """What is leased to write what the run is made from."""
        return Place(self.root, "description", f"the description of {self.root}", (self.root,))

    @property
    def results(self) -> Place:
        """What is leased for all that comes after training, or for a blend."""
        return Place(self.root, "results", str(self.root), (self.root,))


class Record(BaseModel):
    """What one stage leaves for another in a JSON file; a field that was not given is not in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> dict[str, JsonValue]:
        """The record as JSON holds it."""
        return self.model_dump(mode="json", exclude_unset=True)

    def write(self, path: Path) -> None:
        """Write the record, whole or not at all."""
        write_summed(path, json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote; a ValueError names a file that is damaged or does not fit."""
        return cls.parse(sums.read(path), path)

    @classmethod
    def parse(cls, text: bytes, path: Path, where: str = "") -> Self:
        """The record that a part of the file at `path` holds, as JSON; raises as `read`.

        The error says `where` in the file the part stands.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ValueError(damaged(path, error, where)) from error


def to_complete(root: Path) -> str:
    """What to type to complete an unfinished run: the folder knows its own config."""
    return f"complete it: python -m engine.train --out {shlex.quote(str(root))} --resume"


def refuse_unfinished(run: RunDir, *needed: Path) -> None:
    """Refuse a run that lacks one of its files; the ConfigError says how to complete it."""
    for path in needed:
        if not path.exists():
            told = f"{run.root} is not finished: it has no {path.name}"
            raise ConfigError(f"{told}; {to_complete(run.root)}")


def refuse_unscored(run: RunDir, instead: str) -> None:
    """Refuse a run that holds no frame out; the ConfigError says what to do `instead`.

    Raises as `load_run`.
    """
    if run.config.is_file() and not load_run(run).holds_out:
        raise ConfigError(f"{run.root}: {NOT_MEASURED}; {instead}")


def load_run(run: RunDir, flags: Mapping[str, JsonValue] | None = None) -> Config:
    """The config that a run folder was made with, and `flags` over it; raises as `load_config`."""
    if not run.config.is_file():
        told = f"{run.root} is not a run folder: it has no {run.config.name}"
        raise ConfigError(f"{told}; name one that engine.train made, such as runs/demo")
    return load_config([run.config], flags, stood())


def named_run(root: Path, told: str) -> tuple[RunDir, Config]:
    """A run that a field names, and its config; a ConfigError that begins with `told`, if none.

    Raises as `load_run`, too.
    """
    run = RunDir(root)
    if run.blend.is_file():
        raise ConfigError(f"{told}: that is a blend; name one of its runs")
    if not run.config.is_file():
        why = "it has no config.toml" if root.is_dir() else "there is no such folder"
        raise ConfigError(f"{told}: {why}; name the folder of a run, such as run:runs/demo")
    return run, load_run(run)


def unnamed_fields(run: RunDir) -> Sections:
    """Fields that the config of a run folder does not name, with what stood for them then.

    A command that does not name them either goes on with these. Empty for a folder that is not
    there yet; raises as `read_file`.
    """
    if not run.config.is_file():
        return {}
    named = read_file(run.config)[1]
    unnamed: Sections = {}
    for section, values in stood().items():
        said = named.get(section, {})
        keys = said if isinstance(said, dict) else {}
        unnamed[section] = {key: value for key, value in values.items() if key not in keys}
    return unnamed


def changed_config(root: Path) -> DamageError | None:
    """What is wrong with the `config.toml` of a run folder, if it is not as it was written.

    Its user may have edited it: this is an error only where what it says does not fit the rest.
    """
    try:
        sums.check(RunDir(root).config)
    except FileNotFoundError:
        return None
    except DamageError as error:
        return error
    return None


def write_config(config: Config, run: RunDir) -> None:
    """Write `config.toml`; that of an older format stays: hashes were made of what it says."""
    if run_format(run) in (None, FORMAT):
        training = config.training.model_copy(
            update={"class_weights": ordered_weights(config, run)}
        )
        text = to_toml(config.model_copy(update={"training": training}))
        write_summed(run.config, text)


def run_format(run: RunDir) -> int | None:
    """The format of a run folder, None if it has no config yet; raises as `read_file`."""
    return read_file(run.config)[0] if run.config.is_file() else None


def ordered_weights(config: Config, run: RunDir | None = None) -> dict[str, float]:
    """A config's class weights in the order that is hashed: whatever order they were typed in.

    That of the classes; but what a `run` folder holds was hashed in the order that it says.
    """
    weights, names = config.training.class_weights, list(config.data.classes)
    if run is not None and run.config.is_file():
        training = read_file(run.config)[1].get("training")
        written = training.get("class_weights") if isinstance(training, dict) else None
        names = [*(written if isinstance(written, dict) else ()), *names]
    return {name: weights[name] for name in dict.fromkeys(names) if name in weights}
