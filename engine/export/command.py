"""python -m engine.export: trained networks -> one graph for ONNX, OpenVINO, PyTorch or AOTI."""

import difflib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engine.config import ROOMS, Config, data_root
from engine.early import check_out
from engine.export.form import FORMS, check_packages
from engine.export.records import NAME
from engine.export.sizes import needed_hw
from engine.lease import look
from engine.mistakes import ConfigError
from engine.rundir import RunDir
from engine.settings import SURFACES
from engine.suggest import Parser
from engine.trained import Sight, TrainedRun, choose_runs
from engine.verbs import program


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and export; returns the exit code."""
    parser = Parser(
        prog=program("export"),
        description="Carry a trained run, or a blend, away as one graph: a uint8 image in, and "
        "uint16 depth if the networks see it, mask and confidence out. Each file is held to the "
        "engine's masks on training frames before it gets its name; beside it a model card and an "
        "example that needs the runtime alone.",
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="a run of engine.train, or a blend of engine.blend")
    forms = "; ".join(f"{name}: {form.summary}" for name, form in FORMS.items())
    add("--to", required=True, metavar="FORM,...", help=forms)
    add("--fold", type=int, metavar="K", help="the networks of this fold alone (default: all)")
    views = "1: look once, unmirrored; all: as the run (default: %(default)s)"
    add("--views", choices=("1", "all"), default="all", help=views)
    add("--out", type=Path, help="folder of the files (default: RUN/export)")
    size = "height x width of the frames, for a graph of one size: where views follow the frame's"
    add("--size", metavar="HxW", help=size)
    where = "the run's dataset, if it was moved: its training frames are what files are held to"
    add("--data", type=Path, help=where)
    code = "import the plug-ins that the run names, which runs their code"
    add("--allow-code", action="store_true", help=code)
    options = parser.parse_args(arguments)
    asked = _forms(options.to)
    hw = None if options.size is None else _size(options.size)
    once = options.views == "1"
    seen = Sight(None, (1.0,), flip=False) if once else Sight()
    sight = replace(seen, device="cpu", runtime="torch", allow_code=options.allow_code)
    out = options.out or options.run / "export"
    check_out(out)
    _refuse_others(out)
    check_packages(asked)
    chosen = choose_runs([options.run], sight, options.fold)
    _check_inputs(chosen)
    hw = needed_hw(chosen, hw)
    _check_data(chosen[0].config, chosen[0].run, options.data)
    from engine.export.make import Order, export, place

    look(place(out))
    export(Order(options.run, chosen, sight, options.fold, hw, options.data), asked, out)
    return 0


def _forms(words: str) -> list[str]:
    named = list(dict.fromkeys(word.strip() for word in words.split(",") if word.strip()))
    for name in named:
        if name not in FORMS:
            near = difflib.get_close_matches(name, FORMS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(FORMS)}"
            raise ConfigError(f"--to {name}: no such form; {hint}")
    if not named:
        raise ConfigError(f"--to names no form; there are {', '.join(FORMS)}")
    return named


def _size(text: str) -> tuple[int, int]:
    sides = text.lower().replace(",", "x").split("x")
    if len(sides) != 2 or not all(side.isdigit() and int(side) > 1 for side in sides):
        raise ConfigError(f"--size {text}: needed is height x width in pixels, as in 480x640")
    return int(sides[0]), int(sides[1])


def _check_inputs(chosen: Sequence[TrainedRun]) -> None:
    """Refuse networks whose input a graph cannot make of a frame."""
    for one in chosen:
        if gravity := [seen for seen in one.inputs if SURFACES.get(seen) == "hha"]:
            raise ConfigError(
                f"{one.run.root} has model.input = {gravity[0]!r}, whose direction of "
                "gravity is searched for outside of any graph: only the engine runs it; export a "
                "run of model.input = 'rgbdn', 'rgbd' or 'rgb'"
            )


def _check_data(config: Config, run: RunDir, moved: Path | None) -> None:
    """Refuse a dataset that is not there; the embedded one is rendered where it is not."""
    root = moved or data_root(config)
    if not root.is_dir() and (moved or config.data.root != ROOMS):
        raise ConfigError(
            f"{root}, the dataset of {run.root}, is not there, and files are held to the engine's "
            "masks of its training frames; name where it is now: --data FOLDER"
        )


def _refuse_others(out: Path) -> None:
    """Refuse a folder that holds anything but an export, or what one that was killed left."""
    if not out.is_dir() or (out / NAME).is_file():
        return
    if strays := sorted(path.name for path in out.iterdir() if not path.name.startswith(".")):
        raise ConfigError(
            f"--out {out} holds other files, such as {strays[0]}; choose another --out"
        )
