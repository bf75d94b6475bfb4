"""`sweep.toml`, typed: experiments x overrides x seeds x folds, and what is made of the runs.

Every mistake becomes a ConfigError of a line each, which names file and field.
"""

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, JsonValue, ValidationError, model_validator

from engine.config import Config
from engine.mistakes import ConfigError, unreadable
from engine.named import CONFIGS
from engine.settings import Section
from engine.suggest import no_key

SWEEPS = CONFIGS / "sweeps"
"""Sweeps that come with the engine."""


def _flat(given: Any) -> Any:
    """Fields by full name, whether a file says `training.lr = 1` or `[fields.training] lr = 1`."""
    if not isinstance(given, Mapping):
        return given
    flat: dict[str, Any] = {}
    for name, value in given.items():
        in_section = name in Config.model_fields and isinstance(value, Mapping)
        flat |= (
            {f"{name}.{key}": one for key, one in value.items()} if in_section else {name: value}
        )
    return flat


Values = Annotated[dict[str, JsonValue], BeforeValidator(_flat)]
"""Fields of the config by full name."""

Grid = Annotated[
    dict[str, Annotated[tuple[JsonValue, ...], Field(min_length=1)]], BeforeValidator(_flat)
]


class Asked(Section):
    """An experiment: configs, merged left to right, and fields over them."""

    configs: tuple[str, ...] = Field(min_length=1)
    """names or paths, as of `roomsmith train`"""
    name: str = ""
    """what its runs' names begin with; empty = its configs'"""
    fields: Values = Field(default_factory=dict)
    """over the configs"""
    after: tuple[str, ...] = ()
    """experiments whose runs have to be finished before, such as those whose weights it takes"""

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, given: Any) -> Any:
        if isinstance(given, str):
            return {"configs": given.split()}
        return {"configs": given} if isinstance(given, list | tuple) else given

    @property
    def called(self) -> str:
        """The name, given or made of the configs'."""
        return self.name or "-".join(Path(config).stem for config in self.configs)


class Distribution(Section):
    """Of a field that is drawn: exactly one of these."""

    uniform: tuple[float, float] | None = None
    log_uniform: tuple[float, float] | None = None
    """uniform in the logarithm; both ends above 0"""
    integer: tuple[int, int] | None = None
    """both ends included"""
    choice: tuple[JsonValue, ...] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = self.model_dump(exclude_none=True)
        if len(given) != 1:
            raise ValueError(f"one of {', '.join(type(self).model_fields)} is needed")
        for name in ("uniform", "log_uniform", "integer"):
            low, high = given.get(name, (1, 1))
            if low > high:
                raise ValueError(f"{name} = [{low}, {high}]: the lower end comes first")
            if name == "log_uniform" and low <= 0:
                raise ValueError(f"{name} = [{low}, {high}]: both ends have to be above 0")
        return self


class Random(Section):
    """Draws of fields; one is a function of seed, number and field, whatever else is drawn."""

    count: int = Field(ge=1)
    """number of draws"""
    seed: int = Field(0, ge=0)
    """of the draws; not that of the trainings"""
    fields: Annotated[dict[str, Distribution], BeforeValidator(_flat), Field(min_length=1)]


class BlendOf(Section):
    """A blend of finished runs."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """its folder beside the runs"""
    runs: tuple[str, ...] = ("*",)
    """names of runs, or patterns"""
    method: Literal["exact", "slsqp", "equal"] = "exact"
    per_class: bool = False
    submission: bool = True


class Halving(Section):
    """Early stopping of poor runs, see `engine.sweep.halving`."""

    first: int = Field(ge=1)
    """epochs after which runs are compared for the first time"""
    factor: int = Field(3, ge=2)
    """one run in so many goes on; rungs grow by it"""


class Slurm(Section):
    """What a job of Slurm gets; `--on slurm` writes the scripts."""

    partition: str = ""
    account: str = ""
    time: str = Field("24:00:00", pattern=r"^[0-9:-]+$")
    """of a command; one that needs longer goes on in another job"""
    cpus: int = Field(4, ge=1)
    memory_gib: int = Field(16, ge=1)
    gpus: int = Field(0, ge=0)
    at_once: int = Field(0, ge=0)
    """jobs of an array at the same time, 0 = no limit"""
    requeues: int = Field(20, ge=0)
    """times that a command is queued again after it was stopped or failed"""
    setup: tuple[str, ...] = ()
    """lines of bash before the command, such as `module load` or an environment's activation"""
    program: tuple[str, ...] = Field(("roomsmith",), min_length=1)
    """what runs a command, as words: [python, -m, engine] does, too"""


class Kubernetes(Section):
    """What a pod of Kubernetes gets; `--on k8s` writes the manifests."""

    image: str = "roomsmith:latest"
    """a container image in which `program` runs"""
    namespace: str = "default"
    claim: str = "roomsmith"
    """PersistentVolumeClaim that all pods may write (ReadWriteMany), with data and runs on it"""
    mount: str = Field("/workspace", pattern="^/")
    """where it is mounted in a pod; commands run there"""
    cpus: int = Field(4, ge=1)
    memory_gib: int = Field(16, ge=1)
    gpus: int = Field(0, ge=0)
    at_once: int = Field(8, ge=1)
    """pods at the same time"""
    retries: int = Field(6, ge=0)
    """of one command that failed; that its node was taken away does not count"""
    program: tuple[str, ...] = Field(("roomsmith",), min_length=1)
    """what runs a command, as words"""


class SweepFile(Section):
    """A sweep: the product of experiments, grid, variants, random draws, seeds and folds."""

    experiments: tuple[Asked, ...] = Field(min_length=1)
    """lists of configs, or tables with `configs`, `name` and `fields`"""
    fields: Values = Field(default_factory=dict)
    """of every run"""
    grid: Grid = Field(default_factory=dict)
    """every combination of these values"""
    variants: tuple[Values, ...] = ()
    """fields that change together, one table a variant"""
    random: Random | None = None
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """of the trainings; none = that of the config"""
    folds: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """train these alone and leave the runs unfinished; none = all folds"""
    blends: tuple[BlendOf, ...] = ()
    compare: Literal["none", "first", "all"] = "none"
    """a page for each pair: with the first run, or all pairs"""
    halving: Halving | None = None
    leaderboard: bool | None = None
    """a page that ranks all runs and blends; unset: where there are several"""
    slurm: Slurm = Slurm()
    kubernetes: Kubernetes = Kubernetes()

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key, given in (("seeds", self.seeds), ("folds", self.folds or ())):
            if len(set(given)) != len(given):
                raise ValueError(f"{key} names one twice: {list(given)}")
        if self.folds is not None and (self.blends or self.compare != "none" or self.leaderboard):
            needed = "blends, compare and leaderboard need finished runs; leave out folds or these"
            raise ValueError(f"folds = {list(self.folds)} leaves runs unfinished, and {needed}")
        if self.halving and (
            self.folds is not None or self.blends or self.compare != "none" or self.leaderboard
        ):
            needed = (
                "leave out folds, blends, compare and leaderboard, and make them of who is left"
            )
            raise ValueError(f"halving leaves runs unfinished; {needed}")
        names = [asked.called for asked in self.experiments]
        for number, asked in enumerate(self.experiments):
            if names.count(asked.called) > 1:
                raise ValueError(f"two experiments are called {asked.called}; give each a name")
            for name in asked.after:
                if name not in names[:number]:
                    told = f"experiment {asked.called} is after {name}, which is not before it"
                    raise ValueError(f"{told}; there are {', '.join(names[:number]) or 'none'}")
        if self.folds is not None and any(asked.after for asked in self.experiments):
            raise ValueError("after needs finished runs, and folds leaves them unfinished")
        return self


def find_sweep(word: str) -> Path:
    """The file of a sweep by path, or by the name of one that comes with the engine."""
    path, named = Path(word), SWEEPS / f"{Path(word).stem}.toml"
    if not path.exists() and path.name == word and named.is_file():
        return named
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in SWEEPS.glob("*.toml")))
        raise ConfigError(f"{word}: No such file, and no sweep of that name; there is {known}")
    return path


def read_sweep(file: Path, fields: Mapping[str, JsonValue] | None = None) -> SweepFile:
    """The sweep that a file describes, with `fields` of the config over it, for every run.

    Raises ConfigError: it cannot be read, a key is unknown, a value does not fit.
    """
    if file.is_dir():
        raise ConfigError(f"{file} is a folder; name a sweep file, such as sweep.toml")
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise unreadable(file, error) from error
    if fields:
        before = content.get("fields", {})
        content["fields"] = {**_flat(before), **fields} if isinstance(before, dict) else before
    try:
        sweep = SweepFile.model_validate(content)
    except ValidationError as error:
        raise ConfigError(_told(file, error)) from None
    _check_names(file, sweep)
    return sweep


def _told(file: Path, error: ValidationError) -> str:
    """A line a fault."""
    lines = []
    for fault in error.errors():
        path = ".".join(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        where = f"{file}: {path}" if path else str(file)
        if fault["type"] == "extra_forbidden":
            message = f"unknown key; {_nearest(str(fault['loc'][-1]), path)}"
        elif fault["type"] == "missing" and path == "experiments":
            message = 'is missing; name configs: experiments = [["exp093_5", "lite"], ["exp093_4"]]'
        elif fault["type"] == "too_short" and path == "experiments":
            message = "names none; name configs, such as [[exp093_5, lite]]"
        elif fault["type"] not in ("value_error", "missing"):
            message = f"{fault['input']!r}: {message}"
        lines.append(f"{where}: {message}")
    return "\n".join(lines)


def _nearest(word: str, path: str) -> str:
    """What an unknown key of the file was probably meant to be."""
    if word in Config.model_fields or "." in word:
        return f"fields of the config stand under [fields], [grid] or [random.fields]: {word}"
    models: dict[str, type[Section]] = {
        "experiments": Asked,
        "random": Random,
        "blends": BlendOf,
        "halving": Halving,
        "slurm": Slurm,
        "kubernetes": Kubernetes,
    }
    above = path.partition(".")[0] if "." in path else ""
    known = list(models.get(above, SweepFile).model_fields)
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"


def _check_names(file: Path, sweep: SweepFile) -> None:
    """Refuse, by a ConfigError, what is no field of the config, and a field that is set twice."""
    known = {
        f"{name}.{key}"
        for name in Config.model_fields
        for key in type(getattr(Config(), name)).model_fields
    }
    drawn = dict.fromkeys(sweep.random.fields, "...") if sweep.random else {}
    tables: list[tuple[str, Mapping[str, Any]]] = [("fields", sweep.fields)]
    tables += [(f"experiments.{n}.fields", one.fields) for n, one in enumerate(sweep.experiments)]
    tables += [("grid", {name: values[0] for name, values in sweep.grid.items()})]
    tables += [(f"variants.{n}", one) for n, one in enumerate(sweep.variants)]
    tables += [("random.fields", drawn)]
    for table, values in tables:
        for name, value in values.items():
            if name not in known:
                told = str(no_key(name, str(value))).removeprefix("command line: ")
                raise ConfigError(f"{file}: {table}: {told}")
    varied = [*sweep.grid, *{name for one in sweep.variants for name in one}, *drawn]
    varied += ["training.seed"] if sweep.seeds else []
    for name in varied:
        if varied.count(name) > 1:
            told = "is varied twice, by two of grid, variants, random and seeds; leave one"
            raise ConfigError(f"{file}: {name} {told}")
