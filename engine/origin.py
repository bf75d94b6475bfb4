"""What a run was begun with that its config only names: another run's networks, code of plug-ins.

`origin.json` keeps their hashes, by which a fold is resumed exactly; once it is there, a fold that
has begun needs neither. `model.weights = "run:RUN"` starts fold K from fold K of the run, counted
round where that has fewer folds; `run:RUN#2` starts all from its fold 2. Of `training.teacher` see
`engine.teacher`.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field
from safetensors import SafetensorError, safe_open

from engine import sums
from engine.config import Config, is_run
from engine.mistakes import ConfigError
from engine.plug_ins import find_code, source_hash
from engine.rundir import Record, RunDir, named_run, to_complete
from engine.teacher import TeacherOrigin, check_teacher, find_teacher

_FOLD = re.compile(r"#(\d+)(\*?)$")
"""Behind the folder's name; an asterisk counts round."""

Channels = tuple[float, float, float]
"""Numbers of R, G and B, in units of 0..255."""


@dataclass(frozen=True)
class RunSource:
    """The fold of a run that a fold of another one starts from."""

    run: RunDir
    fold: int
    config: Config
    """That it was made with."""

    @property
    def file(self) -> Path:
        """Its weights."""
        return self.run.best(self.fold)

    def __str__(self) -> str:
        return f"fold {self.fold} of {self.run.root}"


class FoldOrigin(Record):
    """What one fold starts from."""

    fold: int
    """Of the run that is named."""
    sha256: str
    """Of the file of its weights."""
    mean: Channels
    """The normalisation that they were trained with."""
    std: Channels


class SeenFrames(Record):
    """How many frames the starting weights were trained on, by the bytes of their images."""

    validated: int
    """Training frames that a fold validates whose starting weights were."""
    test: int
    """Test frames."""
    unknown: bool = False
    """Whether the run does not tell, or one that it was started from itself."""


class Origin(Record):
    """`origin.json`."""

    run: str | None = None
    """The folder of the run, as it was named."""
    folds: list[FoldOrigin] = Field(default_factory=list)
    """By fold of this run."""
    seen: SeenFrames | None = None
    plug_ins: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of the module's source by the path that the config names."""
    teacher: TeacherOrigin | None = None

    @property
    def weights(self) -> str | None:
        """What is hashed in the place of `model.weights`: the run may be moved."""
        return ",".join(["run", *(fold.sha256 for fold in self.folds)]) if self.folds else None

    @property
    def code(self) -> list[str]:
        """What is hashed of the plug-ins."""
        return [f"plug-in {path} {sha256}" for path, sha256 in sorted(self.plug_ins.items())]


def origin_of(config: Config, run: RunDir) -> Origin | None:
    """What a run was begun with, or is going to be; None if its config names all there is.

    Raises as `find_source` and `find_teacher`; DamageError for a file of a run that is not as it
    was written.
    """
    if not (is_run(config.model.weights) or config.code or config.taught_by_run):
        return None
    return Origin.read(run.origin) if run.origin.is_file() else found_now(config)


def found_now(config: Config) -> Origin:
    """What a run of this config would be begun with now; raises as `origin_of`."""
    found: dict[str, Any] = {}
    if plug_ins := {path: source_hash(path) for path in config.code}:
        found["plug_ins"] = plug_ins
    if is_run(config.model.weights):
        found |= {"run": str(sources_of(config)[0].run.root), "folds": _folds_now(config)}
    if config.taught_by_run:
        found["teacher"] = find_teacher(config).origin
    return Origin(**found)


def sources_of(config: Config) -> list[RunSource]:
    """What each fold of a config starts from; raises as `find_source`."""
    return [find_source(config.model.of_fold(k).weights) for k in range(config.networks)]


def find_source(weights: str) -> RunSource:
    """The trained fold that `ModelConfig.of_fold` names; its file is not read.

    Raises:
        ConfigError: it is no run folder, or has no such fold.
        FileNotFoundError: the fold has no weights.
    """
    named = weights.removeprefix("run:")
    asked = _FOLD.search(named)
    root = Path(named[: asked.start()] if asked else named)
    told = f"model.weights = 'run:{root}'"
    run, config = named_run(root, told)
    folds = config.networks
    fold = int(asked[1]) if asked else 0
    if asked and asked[2]:
        fold %= folds
    if fold >= folds:
        raise ConfigError(f"{told}: there are folds 0 to {folds - 1}, and no {fold}")
    if not run.best(fold).is_file():
        trained = [k for k in range(folds) if run.best(k).is_file()]
        instead = f"start all folds from one: run:{root}#{trained[0]}" if trained else ""
        lost = f"{run.best(fold)} is missing"
        raise FileNotFoundError(f"{told}: {lost}; {instead or to_complete(root)}")
    return RunSource(run, fold, config)


def changed_code(config: Config, run: RunDir) -> list[str]:
    """The plug-ins whose module is not what it was when a run was begun, in words."""
    if not config.code or not run.origin.is_file():
        return []
    known = Origin.read(run.origin).plug_ins
    changed = (path for path in config.code if source_hash(path) != known.get(path))
    return [f"{path} ({find_code(path)})" for path in changed]


def check_origin(
    config: Config, run: RunDir, folds: Sequence[int], going_on: Sequence[int]
) -> None:
    """Refuse to begin `folds` with other weights than this run's others, or any by other code.

    Raises ConfigError; else as `find_source`.
    """
    if (folds or going_on) and (changed := changed_code(config, run)):
        raise ConfigError(
            f"{', '.join(changed)}: its module has changed since {run.root} was begun with it, "
            "and a fold is trained by one code only; undo the change, or begin another run: --out"
        )
    if not folds or not run.origin.is_file():
        return
    known = Origin.read(run.origin)
    if known.teacher is not None:
        check_teacher(config, run, known.teacher)
    for fold in folds if is_run(config.model.weights) else ():
        source = find_source(config.model.of_fold(fold).weights)
        if _fold_origin(source.file).sha256 != known.folds[fold].sha256:
            raise ConfigError(
                f"{source.file} has changed since {run.root} was begun with it; restore it, or "
                "begin another run: --out"
            )


def check_teachers(
    config: Config, networks: Sequence[int], is_trained: Callable[[int], bool]
) -> None:
    """Refuse networks that one of their fold is to teach which is neither trained nor of them.

    Networks are trained in the order of their numbers, so one of them is ready in time.
    """
    for network in networks:
        for teacher in config.teachers(network):
            if teacher in networks or is_trained(teacher):
                continue
            which = "the first" if teacher < config.data.folds else "an earlier one"
            raise ConfigError(
                f"network {network} learns from network {teacher}, {which} of its fold, which is "
                f"not trained yet; train that before it: --folds {teacher}"
            )


def is_moved(config: Config, run: RunDir, field: str) -> bool:
    """Whether a field names, in another place, the very networks that a run was begun with.

    Of `model.weights` and `training.teacher`; no other field names any.
    """
    if field == "model.weights" and is_run(config.model.weights) and run.origin.is_file():
        return Origin(folds=_folds_now(config)).weights == Origin.read(run.origin).weights
    if field == "training.teacher" and config.taught_by_run and run.origin.is_file():
        known = Origin.read(run.origin).teacher
        return known is not None and known.digest == find_teacher(config).origin.digest
    return False


def _folds_now(config: Config) -> list[FoldOrigin]:
    """What each fold of a config that names a run would start from now."""
    sources = sources_of(config)
    files = dict.fromkeys(source.file for source in sources)
    known = {file: _fold_origin(file) for file in files}
    return [known[s.file].model_copy(update={"fold": s.fold}) for s in sources]


def _fold_origin(file: Path) -> FoldOrigin:
    sums.check(file)
    try:
        with safe_open(file, framework="np") as opened:
            said = json.loads((opened.metadata() or {}).get("roomsmith", "{}"))
        mean, std = said["mean"], said["std"]
    except (OSError, SafetensorError, KeyError) as error:
        told = f"{file} does not say what it was trained with ({type(error).__name__})"
        raise ConfigError(f"model.weights: {told}; name a run that engine.train made") from error
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return FoldOrigin(fold=0, sha256=sha256, mean=mean, std=std)
