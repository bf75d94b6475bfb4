"""python -m tests.exported DIR: exports of real networks, by their examples alone, and back again.

DIR gets a short demo (2 folds) and a short exp093_5 with lite on the rooms, and their blend, unless
they are there; then an export of each to ONNX, OpenVINO and PyTorch, of the demo's to AOTInductor
and INT8 too. Each example runs in a Python that cannot import this project, over 50 frames of
mixed sizes; its masks are held to the engine's. Takes about 20 minutes on two cores.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from engine import blend, train
from engine.api import open_predictor
from engine.command import run_main
from engine.export.command import main as export
from engine.identity import file_hash
from engine.rundir import RunDir
from engine.suggest import Parser

FRAMES = 50
SHORT = ("--data.folds", "2", "--training.epochs", "2", "--training.validate_every", "2")
FORMS = {
    "demo": ("onnx", "openvino", "torch", "openvino-int8", "aoti"),
    "lite": ("onnx", "openvino", "torch"),
    "blend": ("onnx", "openvino", "torch"),
}
EXAMPLES = {"openvino-int8": "int8"}
BARRED = "import sys; sys.modules.update(dict.fromkeys(%r)); import runpy; "


def main() -> int:
    """Parse, train, export, compare; 0 where every mask is the engine's."""
    parser = Parser(prog="python -m tests.exported", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="demo,lite,blend", help="which of the three")
    parser.add_argument("--forms", default="", help="which forms (default: all that are meant)")
    options = parser.parse_args()
    root, wrong = options.folder, 0
    runs = {name: root / "runs" / name for name in FORMS}
    rooms = ("--data.root", "rooms", "--data.fold_kind", "scene")
    train_once(runs["demo"], "demo", *SHORT)
    train_once(runs["lite"], "exp093_5", "lite", *rooms, *SHORT)
    if not (runs["blend"] / "blend.json").exists():
        members = [str(runs["demo"]), str(runs["lite"])]
        blend.main([*members, "--out", str(runs["blend"]), "--no-submission"])
    frames = root / "frames"
    write_frames(Path("data") / "rooms" / "train", frames)
    asked = [word for word in options.forms.split(",") if word]
    for name in options.only.split(","):
        forms = [form for form in FORMS[name] if not asked or form in asked]
        out = root / "exported" / name
        export([str(runs[name]), "--to", ",".join(forms), "--out", str(out)])
        predictor = open_predictor(runs[name], device="cpu")
        truth = {
            path.stem: predictor.predict(pixels(path), pixels(frames / "depth" / path.name)).mask
            for path in sorted((frames / "image").iterdir())
        }
        for form in forms:
            share = compare(out, EXAMPLES.get(form, form), frames, truth)
            good = share >= 0.9995 or form == "openvino-int8"
            wrong += not good
            say(f"{name}, {form}: {100 * share:.4f} % of pixels as the engine's")
        carried = RunDir(out)
        for fold in range(2) if "torch" in forms and name != "blend" else ():
            same = file_hash(carried.best(fold)) == file_hash(RunDir(runs[name]).best(fold))
            wrong += not same
            say(f"{name}, weights of fold {fold} byte for byte: {same}")
    return int(wrong > 0)


def say(line: str) -> None:
    """Show a line now."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def train_once(run: Path, *words: str) -> None:
    """Train a run, unless it is finished."""
    if not (run / "summary.json").exists():
        train.main([*words, "--out", str(run), "--report.page", "false", "--resume"])


def write_frames(source: Path, out: Path) -> None:
    """Fifty frames of the training split as PNG, two of three cut to sizes of their own."""
    rng = np.random.default_rng(0)
    for kind in ("image", "depth"):
        (out / kind).mkdir(parents=True, exist_ok=True)
    images = sorted((source / "image").iterdir())
    for number, path in enumerate(images[:: max(len(images) // FRAMES, 1)][:FRAMES]):
        image, depth = pixels(path), pixels(source / "depth" / f"{path.stem}.png")
        if number % 3:
            rows, columns = (int(rng.integers(side // 2, side)) for side in depth.shape)
            image, depth = image[:rows, :columns], depth[:rows, :columns]
        Image.fromarray(image).save(out / "image" / f"{number:02d}.png")
        Image.fromarray(depth.astype(np.uint16)).save(out / "depth" / f"{number:02d}.png")


def pixels(path: Path) -> Any:
    """What a picture holds."""
    with Image.open(path) as image:
        found = np.array(image)
    return found.astype(np.uint16) if found.dtype == np.int32 else found


def compare(out: Path, form: str, frames: Path, truth: dict[str, Any]) -> float:
    """The share of pixels that an example, run on its own, has as the engine has them."""
    script, masks = (out / f"example_{form}.py").absolute(), (out.parent / "masks").absolute()
    barred = ["engine", "kernels", "timm", *(["torch"] if form in ("onnx", "openvino") else [])]
    words = [str(script), *(str((frames / k).absolute()) for k in ("image", "depth")), str(masks)]
    program = BARRED % (barred,) + f"sys.argv = {json.dumps(words)}; runpy.run_path({words[0]!r})"
    subprocess.run([sys.executable, "-I", "-c", program], check=True, stdout=subprocess.DEVNULL)
    equal = sum(int((pixels(masks / f"{stem}.png") == mask).sum()) for stem, mask in truth.items())
    return equal / float(sum(mask.size for mask in truth.values()))


if __name__ == "__main__":
    run_main(main)
