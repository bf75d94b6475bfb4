"""Trained runs as what frames are looked at by: one, a fold of one, several, or a blend.

What is refused is refused before PyTorch is loaded, but for a blend, whose file takes it.
"""

import argparse
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from engine.config import Config
from engine.early import check_packages, check_weights
from engine.mistakes import ConfigError
from engine.rundir import RunDir, changed_config, load_run, refuse_unfinished
from engine.settings import Input

if TYPE_CHECKING:
    from engine.runtime.device import DevicePolicy
    from engine.views.masks import System

_log = logging.getLogger(__name__)

Size = tuple[int, int]

TILE = 960
"""Least side of tiles that nobody names; see `benchmarks.tiles` for what it costs."""

TILE_STEP = 128
"""Of larger training crops a tile has the sides, to multiples of it."""

OVERLAP = 0.375
"""Share of a tile's side on which the next one lies too, where none is named."""


@dataclass(frozen=True)
class Sight:
    """How frames are looked at, and by what; None is as each run has it."""

    size: str | Size | None = None
    """`inference.base_hw`; with tiles, None is the frame's own size."""
    scales: tuple[float, ...] | None = None
    flip: bool | None = None
    batch: int | None = None
    """Frames that pass together."""
    tile: Size | Literal["auto"] | None = None
    """Height and width of tiles, in pixels of a view; None looks at frames whole."""
    overlap: float = OVERLAP
    device: str | None = None
    runtime: str | None = None
    """`runtime.inference`: what runs the networks."""
    allow_code: bool = False
    """Whether plug-ins that the runs name may be imported, which runs their code."""

    def flags(self) -> dict[str, JsonValue]:
        """What it sets of a config, by section."""
        size = "own" if self.size is None and self.tile is not None else self.size
        views: dict[str, Any] = {"base_hw": size, "scales": self.scales, "flip": self.flip}
        views["batch_size"] = self.batch
        runs = {"device": self.device, "inference": self.runtime}
        return {
            section: {name: value for name, value in fields.items() if value is not None}
            for section, fields in (("inference", views), ("runtime", runs))
        }


class TrainedRun(NamedTuple):
    """A run, and its part in what looks at frames."""

    run: RunDir
    config: Config
    """Its own, but for what a `Sight` sets."""
    folds: tuple[int, ...]
    """The numbers of the networks that look."""
    temperature: float
    weight: float | dict[str, float]
    """By class, if it is not one for all."""

    @property
    def inputs(self) -> tuple[Input, ...]:
        """What these networks see, each once, as `model.input` has it."""
        return tuple(dict.fromkeys(self.config.of_network(n).model.input for n in self.folds))

    @property
    def fold(self) -> int | None:
        """The fold whose networks alone look, or the lone network on all frames; else None."""
        of = {n % self.config.data.folds if self.config.holds_out else n for n in self.folds}
        return of.pop() if len(of) == 1 else None


def add_sight(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `read_sight` reads, and `--fold`."""
    add = parser.add_argument
    add("--fold", type=int, metavar="K", help="the networks of this fold alone (default: all)")
    add("--size", help="H,W | own | training: size that views are scaled from (default: the run's)")
    add("--scales", help="scales of the views, such as 0.75,1,1.25 (default: the run's)")
    flip = "look at each scale mirrored, too (default: as the run)"
    add("--flip", action=argparse.BooleanOptionalAction, default=None, help=flip)
    add("--batch", type=int, help="frames a pass (default: the run's)")
    tiles = "look in overlapping tiles of H,W pixels, with --size own by default; "
    tiles += f"alone: {TILE},{TILE}, or the training crop's size if that is larger"
    add("--tile", nargs="?", const="auto", metavar="H,W", help=tiles)
    shared = "share of a tile's side that its neighbour covers too (default: %(default)s)"
    add("--overlap", type=float, default=OVERLAP, help=shared)
    add("--device", help="auto | cpu | cuda | cuda:N (default: the run's)")
    code = "let plug-ins that a run names be imported: opening it then runs that code"
    add("--allow-code", action="store_true", help=code)
    networks = "what runs the networks (default: the run's)"
    add("--runtime", choices=("torch", "openvino", "openvino-int8"), help=networks)


def read_sight(options: argparse.Namespace) -> Sight:
    """How the flags of `add_sight` say that frames are looked at.

    Raises:
        ConfigError: a flag has a value that does not fit.
    """
    size: str | Size | None = options.size
    if size not in (None, "own", "training"):
        size = _sides("--size", str(size), "own, training, or H,W as in 480,640")
    tile: Size | Literal["auto"] | None = options.tile
    if tile not in (None, "auto"):
        tile = _sides("--tile", str(tile), "H,W as in 512,512")
        if any(side % 32 or side < 64 for side in tile):
            near = ",".join(str(max(round(side / 32), 2) * 32) for side in tile)
            raise ConfigError(f"--tile {options.tile}: sides are multiples of 32; type {near}")
    if not 0 <= options.overlap <= 0.75:
        raise ConfigError(f"--overlap {options.overlap}: needed is a share between 0 and 0.75")
    scales = None
    if options.scales is not None:
        try:
            scales = tuple(float(word) for word in options.scales.split(","))
        except ValueError:
            told = "needed are numbers, as in 0.75,1,1.25"
            raise ConfigError(f"--scales {options.scales}: {told}") from None
    return Sight(
        *(size, scales, options.flip, options.batch, tile, options.overlap),
        *(options.device, options.runtime, options.allow_code),
    )


def choose_runs(
    roots: Sequence[Path], sight: Sight, fold: int | None = None
) -> tuple[TrainedRun, ...]:
    """The runs of these folders, or of the blend that a lone folder holds.

    Args:
        roots: run folders, which count alike, or one folder of `engine.blend`.
        sight: how they are to look at frames.
        fold: the networks of this fold alone, of each.

    Raises:
        ConfigError: a folder is neither, a run is not finished or lacks the fold, or runs differ
            in their classes, or in how they read files; or code is not allowed.
        FileNotFoundError: the weights of a fold are lost.
        DamageError: a run's config was changed, and its predictions were made with another.
        RuntimeError: a package is not installed.
    """
    blends = [root for root in roots if RunDir(root).blend.is_file()]
    if blends and len(roots) > 1:
        raise ConfigError(f"{blends[0]} is a blend, which cannot be mixed again; name its runs")
    if blends:
        chosen = _members(RunDir(blends[0]), sight, fold)
    else:
        alike = 1 / len(roots)
        chosen = tuple(_open(RunDir(root), sight, fold, None, alike) for root in roots)
    for other in chosen[1:]:
        _check_alike(chosen[0], other)
    if any(one.config.code for one in chosen):
        from engine.plug_ins import refuse_code

        refuse_code({str(one.run.root): one.config for one in chosen}, allow=sight.allow_code)
        for one in chosen:
            _tell_changed_code(one)
    return chosen


def open_system(chosen: Sequence[TrainedRun], sight: Sight, policy: "DevicePolicy") -> "System":
    """What looks at frames: the networks of one run, or of several, in tiles if `sight` says so.

    Raises as `load_fold`, and ConfigError where runs would bring a tiled frame to several sizes.
    """
    from engine.views.mixture import Mixture
    from engine.views.predictor import open_predictor
    from engine.views.tile_pass import Tile
    from engine.views.tiles import Tiled

    first = chosen[0].config
    if any(config.code and config.runtime.cuda_graphs == "auto" for _, config, *_ in chosen):
        policy = replace(policy, replay=False)  # as `open_experiment`
    predictors = [
        open_predictor(config, run, folds, policy).at(temperature)
        for run, config, folds, temperature, _ in chosen
    ]
    lone = len(predictors) == 1
    system = predictors[0] if lone else Mixture(predictors, _weights(chosen))
    if sight.tile is None:
        return system
    if len({_zoom(one.config) for one in chosen}) > 1:
        told = "see frames in several zooms, and tiles are of one; name it: --size own, or H,W"
        raise ConfigError(f"{chosen[0].run.root} and the others {told}")
    hw = tile_hw(first, sight)
    asked = first.inference.base_hw
    size = f"{asked[0]} x {asked[1]} pixels" if isinstance(asked, tuple) else f"{asked} size"
    _log.info("tiles of %d x %d pixels, of frames at their %s", *hw, size)
    return Tiled(system, Tile(hw, sight.overlap))


def seen_config(one: TrainedRun, sight: Sight) -> Config:
    """The config by which a run looks at what passes its networks: at a tile, if there are any."""
    if sight.tile is None:
        return one.config
    # A tile is of a view, whatever its scale.
    tile = {"base_hw": tile_hw(one.config, sight), "scales": (1.0,)}
    inference = one.config.inference.model_copy(update=tile)
    return one.config.model_copy(update={"inference": inference})


def tile_hw(config: Config, sight: Sight) -> Size:
    """Height and width of tiles, pixels; by default `TILE`, or the training crop's if larger."""
    if isinstance(sight.tile, tuple):
        return sight.tile
    height, width = (
        max(math.ceil(side / TILE_STEP) * TILE_STEP, TILE) for side in config.data.crop_hw
    )
    return height, width


def _open(
    run: RunDir,
    sight: Sight,
    fold: int | None,
    temperature: float | None,
    weight: float | dict[str, float],
) -> TrainedRun:
    from engine.selection.records import TemperatureChoice

    flags = sight.flags()
    config = load_run(run, flags)
    counted = config.data.folds if config.holds_out else config.networks
    if fold is not None and not 0 <= fold < counted:
        raise ConfigError(f"--fold {fold}: {run.root} has folds 0 to {counted - 1}")
    refuse_unfinished(run, run.temperature)
    if (changed := changed_config(run.root)) is not None:
        if not config.holds_out:  # no store of its predictions says what it was made with
            raise changed
        from engine.selection.members import refuse_other_config

        refuse_other_config(load_run(run), run)
    folds = tuple(range(config.networks)) if fold is None else config.members(fold)
    check_packages(config.runtime)
    check_weights(config, run, folds)
    if temperature is None:
        temperature = TemperatureChoice.read(run.temperature).best
    return TrainedRun(run, config, folds, temperature, weight)


def _tell_changed_code(one: TrainedRun) -> None:
    from engine.origin import changed_code

    if changed := changed_code(one.config, one.run):
        told = "%s: its module has changed since %s was trained with it"
        _log.warning(told, ", ".join(changed), one.run.root)


def _members(blend: RunDir, sight: Sight, fold: int | None) -> tuple[TrainedRun, ...]:
    from engine.selection.blend_search import Blend

    found = Blend.read(blend.blend)
    return tuple(
        _open(_find(blend, Path(member.run)), sight, fold, member.temperature, member.weight)
        for member in found.members
    )


def _find(blend: RunDir, named: Path) -> RunDir:
    """The run that a blend names, by a path from where `engine.blend` was called."""
    for root in (named, blend.root.resolve().parent / named.name):
        if RunDir(root).config.is_file():
            return RunDir(root)
    raise ConfigError(
        f"{blend.root} blends the run {named}, which is neither there nor beside the blend; put "
        f"it there, or call from the folder that {named} is a path from"
    )


def _weights(chosen: Sequence[TrainedRun]) -> NDArray[np.float64]:
    """(M, C)."""
    classes = chosen[0].config.data.classes
    given = (one.weight for one in chosen)
    by_name = (w if isinstance(w, dict) else dict.fromkeys(classes, w) for w in given)
    return np.array([[weight[name] for name in classes] for weight in by_name], np.float64)


def _check_alike(one: TrainedRun, other: TrainedRun) -> None:
    a, b, names = one.config, other.config, f"{one.run.root} and {other.run.root}"
    if a.data.classes != b.data.classes:
        strays = sorted({*a.data.classes} ^ {*b.data.classes})[:3]
        differing = ", ".join(strays) or "in another order"
        raise ConfigError(f"{names} have other classes ({differing}); use runs of one class list")
    fields = ["exif"]
    if a.needs_depth and b.needs_depth:
        fields += ["depth_scale", "depth_invalid"]
    for field in fields:
        asked = getattr(a.data, field), getattr(b.data, field)
        if asked[0] != asked[1]:
            told = f"{names} read files in other ways: data.{field} = {asked[0]!r}, {asked[1]!r}"
            raise ConfigError(f"{told}; use runs that were trained with the same")


def _zoom(config: Config) -> tuple[object, ...]:
    """What the size that a frame is brought to depends on."""
    base, data = config.inference.base_hw, config.data
    return (base, data.input_hw, data.fit) if base == "training" else (base,)


def _sides(flag: str, text: str, needed: str) -> Size:
    words = text.lower().replace("x", ",").split(",")
    if len(words) != 2 or not all(word.strip().isdigit() for word in words):
        raise ConfigError(f"{flag} {text}: needed is {needed}")
    return int(words[0]), int(words[1])
