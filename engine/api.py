"""Roomsmith from Python: what `import roomsmith` gives.

    import roomsmith
    run = roomsmith.train("demo", {"training.epochs": 2}, out="runs/short")
    run = roomsmith.Run.open("runs/short")
    prediction = run.predictor().predict(image_HW3)

Errors are the commands', as exceptions: ValueError (ConfigError, DatasetError) and
FileNotFoundError for a caller's mistakes, RuntimeError for trouble outside the program. What the
commands print is logged under the names `engine` and `kernels`; `start_logging` prints it.
PyTorch is loaded by the first call that computes.

Axes: C classes, H W pixels of an image, h w cells of the coarser grid that networks predict on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from pydantic import JsonValue

from engine.cli import load_config
from engine.command import start_logging, wait_asleep_where_busy
from engine.config import Config
from engine.mistakes import ConfigError
from engine.named import config_file
from engine.rundir import RunDir, load_run, refuse_unfinished, unnamed_fields
from engine.trained import Sight, choose_runs, open_system

__all__ = [
    "Config",
    "ConfigError",
    "Prediction",
    "Predictor",
    "Run",
    "Sight",
    "blend",
    "evaluate",
    "open_predictor",
    "start_logging",
    "train",
]

if TYPE_CHECKING:
    # Not to import roomsmith: each loads PyTorch, SciPy or what else takes a second.
    from numpy.typing import NDArray

    from engine.report.evaluation import Evaluation
    from engine.report.summary import Summary
    from engine.selection.blend_search import Blend
    from engine.views.masks import Rows, System

Names = str | Path | Sequence[str | Path]
"""Configs by name ("exp093_5", "lite") or path, merged left to right."""


@dataclass(frozen=True)
class Run:
    """A run folder, finished or not; `Run.open` and `train` make one."""

    path: Path

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """The run in a folder that `train` or `roomsmith train` made.

        Raises:
            ConfigError: it is no run folder, or its config cannot be read.
        """
        run = cls(Path(path))
        load_run(RunDir(run.path))
        return run

    @property
    def config(self) -> Config:
        """What it was made with; raises as `open`."""
        return load_run(RunDir(self.path))

    def extend(self, epochs: int, *, allow_code: bool = False) -> None:
        """Give a finished run more epochs, `epochs` in all, as `roomsmith train --extend`.

        What it was is kept (docs/run-folder.md). Stopped, the same call goes on.

        Args:
            epochs: more than it has.
            allow_code: import plug-ins that its config names.

        Raises:
            ConfigError: it is not finished, has as many epochs, or did not keep its checkpoints.
            DatasetError, RuntimeError: as `train`.
        """
        config = _over(self.config, _sections({"training.epochs": epochs}))
        run = RunDir(self.path)
        _complete(config, run, None, resume=True, allow_code=allow_code, more=True)

    @property
    def summary(self) -> "Summary":
        """Its figures: `summary.oof.miou` is its OOF mIoU at label resolution.

        Of a run with `training.frames = "all"`, which measures none, `summary.oof` raises a
        ConfigError, and `summary.oof_scores` is None.

        Raises:
            ConfigError: the run is not finished; the message says how to complete it.
            DamageError: `summary.json` is not as it was written.
        """
        from engine.report.summary import Summary

        run = RunDir(self.path)
        refuse_unfinished(run, run.summary)
        return Summary.read(run.summary)

    def predictor(
        self,
        fold: int | None = None,
        device: str | None = None,
        sight: Sight | None = None,
        *,
        allow_code: bool = False,
    ) -> "Predictor":
        """Open its trained networks, see `open_predictor`."""
        return open_predictor(self, fold=fold, device=device, sight=sight, allow_code=allow_code)


@dataclass(frozen=True, eq=False)
class Predictor:
    """Trained networks, opened: arrays in, the masks out that `roomsmith predict` writes."""

    config: Config
    """Of the run that says how frames are read: the first that sees depth, or else the first."""
    system: "System"

    @property
    def classes(self) -> tuple[str, ...]:
        """Their C names, by index."""
        return self.config.data.classes

    def predict(
        self, image_HW3: "NDArray[Any]", depth_HW: "NDArray[Any] | None" = None
    ) -> "Prediction":
        """Predict one image.

        Args:
            image_HW3: (H, W, 3) uint8 RGB, upright.
            depth_HW: (H, W) uint16 in the run's unit (`data.depth_scale`), or floats, metres;
                needed where the networks see depth (`model.input = "rgbd"`), elsewhere not looked
                at.

        Raises:
            ValueError: a shape or type is another, or depth is missing; the message says what came
                and what is needed.
        """
        import torch

        from engine.data.arrays import array_frame, frame_batch
        from engine.frames.reading import Reading

        reading, depth = Reading.of(self.config.data), self.config.needs_depth
        frame = array_frame(image_HW3, depth_HW, reading, need_depth=depth)
        policy = self.system.policy
        with torch.inference_mode():
            found = [
                rows._replace(prob_BChw=rows.prob_BChw.clone())  # the next may overwrite it
                for rows in self.system.rows(frame_batch([frame], policy.device))
            ]
            argmax = policy.operations.resized_argmax
            mask_1HW = torch.cat([argmax(*rows) for rows in found], dim=1)
        return Prediction(mask_1HW[0].cpu().numpy(), self.classes, tuple(found))


@dataclass(frozen=True, eq=False)
class Prediction:
    """What an image shows."""

    mask: "NDArray[Any]"
    """(H, W) uint8, the index of the most probable class of each pixel."""
    classes: tuple[str, ...]
    """The C names, by index."""
    _rows: "tuple[Rows, ...]"

    @cached_property
    def probabilities(self) -> "NDArray[Any]":
        """(C, H, W) float32 softmax probabilities at the run's temperature, of each pixel.

        They are computed when they are asked for: of a large image they take C times 4 bytes a
        pixel.
        """
        sized = [rows.at_size()[0].cpu().numpy() for rows in self._rows]
        return np.concatenate(sized, axis=1)


def open_predictor(
    runs: "Run | str | Path | Sequence[Run | str | Path]",
    *,
    fold: int | None = None,
    device: str | None = None,
    sight: Sight | None = None,
    allow_code: bool = False,
) -> Predictor:
    """Open what looks at new images, as `roomsmith predict` does.

    Args:
        runs: a finished run, several, which count alike, or the folder of a blend.
        fold: the networks of this fold alone; None = of all folds.
        device: auto, cpu, cuda or cuda:N; None = the run's.
        sight: size, scales, flip and tiles of the views; None = the run's.
        allow_code: import plug-ins that the runs name; opening them then runs that code.

    Raises:
        ConfigError: a run is not finished or has no such fold, or runs do not fit together.
        FileNotFoundError: weights are missing.
        DamageError: a file is not as it was written.
        ValueError: the device is not there.
    """
    wait_asleep_where_busy()
    seen = sight or Sight()
    if device is not None:
        seen = replace(seen, device=device)
    if allow_code:
        seen = replace(seen, allow_code=True)
    chosen = choose_runs(_paths(_several(runs)), seen, fold)
    from engine.runtime.device import set_up_device

    first = next((one for one in chosen if one.config.needs_depth), chosen[0]).config
    return Predictor(first, open_system(chosen, seen, set_up_device(first.runtime)))


def train(
    config: Names | Config = "demo",
    overrides: Mapping[str, Any] | None = None,
    *,
    out: str | Path | None = None,
    folds: Sequence[int] | None = None,
    resume: bool = False,
    allow_code: bool = False,
) -> Run:
    """Train the folds of an experiment, to its temperature and submission, as `roomsmith train`.

    What is done already in the run folder is not done again; a finished run answers at once.

    Args:
        config: names or paths of configs, or a `Config`.
        overrides: fields over them, by full name or by section: `{"training.epochs": 3}` or
            `{"training": {"epochs": 3}}`.
        out: the run folder; None = `runs/` and the names of the configs, which a `Config` lacks.
        folds: train only these; None = all. The run is finished when all are trained.
        resume: go on with a fold that was stopped half-way.
        allow_code: import plug-ins that a `Config`, or a config of a run folder, names; those of
            config files of your own, and of overrides, always are.

    Raises:
        ConfigError: a field is unknown or does not fit, or `out` holds another experiment.
        DatasetError: files of the dataset are missing or faulty; it names each.
        ValueError, FileNotFoundError, RuntimeError: as of the command.
    """
    flags, files = _sections(overrides or {}), list[Path]()
    if isinstance(config, Config):
        if out is None:
            raise ConfigError("a Config has no name to make a run folder of; give out=FOLDER")
        run = RunDir(Path(out))
        settings = _over(config, flags)
    else:
        several = [config] if isinstance(config, str | Path) else config
        files = [config_file(str(one)) for one in several]
        run = RunDir(Path(out) if out else Path("runs") / "-".join(file.stem for file in files))
        settings = load_config(files, flags, unnamed_fields(run))
    if settings.code:
        from engine.plug_ins import permit_named

        permit_named(settings, files, flags)
    _complete(settings, run, folds, resume=resume, allow_code=allow_code)
    return Run(run.root)


def _complete(
    config: Config,
    run: RunDir,
    folds: Sequence[int] | None,
    *,
    resume: bool,
    allow_code: bool,
    more: bool = False,
) -> None:
    """`engine.train.train`, once the plug-ins that the config names may be imported."""
    if config.code:
        from engine.plug_ins import refuse_code

        refuse_code({str(run.root): config}, allow=allow_code)
    wait_asleep_where_busy()
    from engine.train import chosen_folds, train

    train(config, run, chosen_folds(config, folds), resume=resume, more=more)


def evaluate(
    runs: "Run | str | Path | Sequence[Run | str | Path]",
    data: str | Path,
    *,
    fold: int | None = None,
    sight: Sight | None = None,
    depth: str | Path | None = None,
    out: str | Path | None = None,
) -> "Evaluation":
    """Score what `open_predictor` would open on labelled frames, as `roomsmith evaluate`.

    Args:
        runs: see `open_predictor`.
        data: a folder with `image` and `label`, or a dataset: its test, if that has labels, else
            its train.
        fold: see `open_predictor`.
        sight: likewise; `Sight(allow_code=True)` imports plug-ins that the runs name.
        depth: folder of depth maps; None = `depth` beside the labels.
        out: the folder that is written into; None = `evaluations/NAME` in the first run's.

    Returns:
        What `evaluation.json` says.

    Raises:
        ConfigError: there are no labelled frames or no depth maps; else as `open_predictor`.
        DatasetError: naming every file that cannot be used.
    """
    wait_asleep_where_busy()
    from engine.evaluate import evaluate as score

    seen, roots = sight or Sight(), _paths(_several(runs))
    maps, folder = (None if place is None else Path(place) for place in (depth, out))
    return score(choose_runs(roots, seen, fold), seen, Path(data), maps, folder, roots)[0]


def blend(
    runs: Sequence[Run | str | Path],
    out: str | Path,
    *,
    method: Literal["exact", "slsqp", "equal"] = "exact",
    per_class: bool = False,
    submission: bool = True,
    allow_code: bool = False,
) -> "Blend":
    """Find the weights with which finished runs are best together, as `roomsmith blend`.

    Args:
        runs: two or more, trained on the same folds.
        out: folder of the blend.
        method: exact; slsqp: the exact searches start at the maximum of the soft mIoU; equal.
        per_class: then weight each class of each run.
        submission: predict the test frames, too.
        allow_code: import plug-ins that the runs name, for the test frames.

    Returns:
        What `blend.json` holds: weights, OOF mIoU at store resolution, gain and its interval.

    Raises:
        ConfigError: `out` holds something else, or a run is not finished.
        ValueError: the runs do not fit together.
    """
    from engine.blend import Options
    from engine.blend import blend as complete

    options = Options(
        *(_paths(runs), Path(out), method, per_class),
        submission=submission,
        allow_code=allow_code,
    )
    complete(options)
    from engine.selection.blend_search import Blend

    return Blend.read(RunDir(options.out).blend)


def _several(runs: "Run | str | Path | Sequence[Run | str | Path]") -> Sequence[Run | str | Path]:
    return [runs] if isinstance(runs, Run | str | Path) else runs


def _paths(runs: Sequence[Run | str | Path]) -> list[Path]:
    return [run.path if isinstance(run, Run) else Path(run) for run in runs]


def _sections(overrides: Mapping[str, Any]) -> dict[str, dict[str, JsonValue]]:
    """Overrides by section and key, whichever way they are named."""
    sections: dict[str, dict[str, JsonValue]] = {}
    for name, value in overrides.items():
        section, dot, key = name.partition(".")
        if dot:
            sections.setdefault(section, {})[key] = value
        elif isinstance(value, Mapping):
            sections.setdefault(section, {}).update(value)
        else:
            needed = "name a field in full: {'training.epochs': 3}"
            raise ConfigError(f"overrides: {name!r} = {value!r} is no section; {needed}")
    return sections


def _over(config: Config, flags: Mapping[str, dict[str, JsonValue]]) -> Config:
    given = config.model_dump()
    return load_config([], {name: {**given[name], **flags.get(name, {})} for name in given})
