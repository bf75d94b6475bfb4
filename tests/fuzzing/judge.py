"""What follows a bend, and whether it may.

Allowed are: results equal to the sound folder's; results equal to those of a clean folder that
holds the changed pixels, with another fingerprint; exit code 2, or 1 for what was damaged, with a
message that names what was bent. Never a traceback, never anything else.
"""

import contextlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tomllib
import traceback
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from engine import predict, prepare, train
from engine.command import run_main
from engine.exits import MISTAKE, TROUBLE
from tests.fuzzing.bends import Bend, bend_config, bend_data, bend_run
from tests.fuzzing.world import CONFIG, World, fresh

ROOT = Path(__file__).resolve().parent.parent.parent

LIMIT_S = 120
"""A call that takes longer hangs; the slowest sound one takes a second, in its own process six."""

Main = Callable[[Sequence[str]], int]


class HangError(BaseException):
    """A call does not end; no error of the system, which it would be told as."""


class Ending(NamedTuple):
    """How a command ended: its exit code, and what it wrote."""

    code: int
    said: str


class Case(NamedTuple):
    """One bend and the commands that meet it."""

    bend: Bend
    fault: str
    """What was not allowed; empty if all was."""
    outcome: str
    """In a word, to be counted."""


def try_case(world: World, seed: int, number: int, scratch: Path) -> Case:
    """Bend one thing and judge what follows; the same for the same seed and number."""
    rng = random.Random(f"{seed} {number}")
    kind = rng.choices([_try_data, _try_run, _try_config], [5, 4, 1])[0]
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    return kind(world, rng, scratch, as_command=number % 50 == 49)


def fault_of(world: World, seed: int, number: int, scratch: Path) -> tuple[str, str]:
    """What was not allowed in a case, with a traceback if there was one; and its outcome."""
    try:
        case = try_case(world, seed, number, scratch)
    except (Exception, HangError):  # noqa: BLE001 - whatever a user would see as a traceback
        return traceback.format_exc(limit=-8), "traceback"
    return (f"{case.bend.told}\n    {case.fault}" if case.fault else ""), case.outcome


def call(main: Main, arguments: Sequence[object], *, as_command: bool = False) -> Ending:
    """Call a command, in this process or in its own.

    Raises whatever a command's `run_main` lets pass, which a user would see as a traceback.
    """
    words = [str(word) for word in arguments]
    if as_command:
        # The module names the network to timm, which the engine's own command does not know.
        known = f"import tests.quarter_encoder, {main.__module__} as m; m.run_main(m.main)"
        done = subprocess.run(
            [sys.executable, "-c", known, *words],
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        if "Traceback" in done.stderr:
            raise AssertionError(done.stderr)
        return Ending(done.returncode, done.stdout + done.stderr)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), _limit():
        try:
            run_main(lambda: main(words))
        except SystemExit as ended:
            return Ending(int(ended.code or 0), said.getvalue())
    raise AssertionError("run_main came back")


def results(run: Path) -> dict[str, bytes]:
    """What a finished run says of the frames: probabilities, choice of temperature, masks."""
    found = {}
    for name in ("oof/prob.npy", "temperature.json", "submission.npy"):
        if (run / name).exists():
            found[name] = (run / name).read_bytes()
    with zipfile.ZipFile(run / "submission.zip") as archive:
        found |= {name: archive.read(name) for name in archive.namelist()}
    return found


def _fingerprint(run: Path) -> str:
    return str(json.loads((run / "environment.json").read_text("utf-8"))["dataset_fingerprint"])


def _try_data(world: World, rng: random.Random, scratch: Path, *, as_command: bool) -> Case:
    data = fresh(world.data, scratch / "data")
    bend = bend_data(rng, data)
    out = scratch / "run"
    arguments = ["--config", world.config, "--data.root", data, "--out", out]
    ended = call(train.main, arguments, as_command=as_command)
    if ended.code:
        return Case(bend, _refused(ended, bend), "refused")
    if _fingerprint(out) == _fingerprint(world.run):
        same = results(out) == results(world.run)
        return Case(bend, "" if same else "other results, same fingerprint", "equal")
    clean = _rewritten(data, scratch / "clean")
    again = scratch / "clean-run"
    ended = call(train.main, ["--config", world.config, "--data.root", clean, "--out", again])
    if ended.code:
        return Case(bend, f"the clean folder was refused: {ended.said}", "other pixels")
    same = results(out) == results(again)
    return Case(bend, "" if same else "other results than of the clean folder", "other pixels")


def _rewritten(data: Path, clean: Path) -> Path:
    """A folder of plain PNGs with the pixels of another, as Pillow reads them."""
    for kind in ("train/image", "train/depth", "train/label", "test/image", "test/depth"):
        (clean / kind).mkdir(parents=True)
        for path in sorted((data / kind).iterdir()):
            if path.name.startswith(".") or not path.is_file():
                continue
            with contextlib.suppress(OSError), Image.open(path) as opened:
                pixels = _image(opened) if kind.endswith("image") else np.array(opened)
                Image.fromarray(pixels).save(clean / kind / f"{path.stem}.png")
    if (data / "scenes.csv").exists():
        shutil.copyfile(data / "scenes.csv", clean / "scenes.csv")
    return clean


def _image(opened: Image.Image) -> np.ndarray:
    """(H, W, 3) as it is to be seen: upright, 8 bits a channel."""
    turned = ImageOps.exif_transpose(opened)
    if turned.mode.startswith("I"):
        grey = np.round(np.asarray(turned).astype(np.float64) / 257).astype(np.uint8)
        return np.stack([grey] * 3, axis=-1)
    return np.array(turned.convert("RGB"))


def _try_run(world: World, rng: random.Random, scratch: Path, *, as_command: bool) -> Case:
    run = fresh(world.run, scratch / "run")
    bend, sound = bend_run(rng, run), results(world.run)
    steps: dict[str, tuple[Main, list[object]]] = {
        "verify": (prepare.main, ["verify", run]),
        "predict": (predict.main, [run, world.data / "test" / "image", "--out", scratch / "masks"]),
        "train": (train.main, ["--config", world.config, "--out", run]),
    }
    codes = []
    for name, (main, arguments) in steps.items():
        ended = call(main, arguments, as_command=as_command)
        codes.append(ended.code)
        if ended.code:
            if fault := _refused(ended, bend):
                return Case(bend, f"{name}: {fault}", "refused")
        elif name == "predict":
            masks = sorted((scratch / "masks").iterdir())
            if [np.array(Image.open(m)).tolist() for m in masks] != _masks(world.run):
                return Case(bend, "predict: other masks", "used")
    if codes[2] == 0 and results(run) != sound:
        return Case(bend, f"train: complete, but other results; verify said {codes[0]}", "used")
    return Case(bend, "", "refused" if any(codes) else "equal")


def _masks(run: Path) -> list[list[list[int]]]:
    masks: list[list[list[int]]] = np.load(run / "submission.npy").tolist()
    return masks


def _try_config(world: World, rng: random.Random, scratch: Path, *, as_command: bool) -> Case:
    config = scratch / "bent.toml"
    shutil.copyfile(world.config, config)
    bend = bend_config(rng, config)
    if _takes_long(config):
        return Case(bend, "", "not tried")
    out = scratch / "run"
    with contextlib.chdir(scratch):  # paths in it may be relative
        ended = call(train.main, ["--config", config, "--out", out], as_command=as_command)
    if ended.code:
        return Case(bend, _refused(ended, bend), "refused")
    whole = (out / "submission.zip").exists() and (out / "summary.json").exists()
    return Case(bend, "" if whole else "no submission", "another experiment")


def _takes_long(config: Path) -> bool:
    """Whether a config asks, which is no mistake, for hours of training or for a hub's weights."""
    try:
        sections = tomllib.loads(config.read_text("utf-8"))
        if sections.keys() - {"format", *CONFIG}:
            return False
        fetches = "weights" not in sections.get("model", {})
        return bool(fetches or sections.get("training", {}).get("epochs", 100) > 3)
    except (ValueError, AttributeError, TypeError):
        return False


def _refused(ended: Ending, bend: Bend) -> str:
    """What is wrong with how a command refused."""
    told = ended.said.strip().rsplit("error: ", 1)[-1]
    if ended.code not in (TROUBLE, MISTAKE) or "Traceback" in told:
        return f"exit code {ended.code}: {told}"
    if not any(name in told for name in bend.names):
        return f"none of {', '.join(bend.names)} in: {told}"
    return ""


@contextlib.contextmanager
def _limit() -> Iterator[None]:
    """Raises HangError in a call that takes longer than LIMIT_S."""

    def stop(*_: object) -> None:
        raise HangError(f"still running after {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


assert os.name == "posix"  # pipes, links and alarms
