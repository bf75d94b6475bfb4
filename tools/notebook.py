"""Write docs/notebook.ipynb, executed: `python -m tools.notebook` (extra docs)."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

NOTEBOOK = Path(__file__).resolve().parent.parent / "docs" / "notebook.ipynb"

CELLS = [
    "# A run, from rooms to masks\n\n"
    "What the engine does on real recordings, here on a few rendered rooms and in a minute: train "
    "folds, look at the report, predict an array. It needs nothing but `pip install '.[weights]'`.",
    """\
import re
from pathlib import Path

import numpy as np
from IPython.display import SVG, display
from PIL import Image

import roomsmith
from engine.rooms.dataset import render_rooms

render_rooms(Path("frames"), scenes=12, frames=6)
sorted(path.name for path in Path("frames/train").iterdir())""",
    "## Train\n\n"
    "`demo` is a config by name; what is put over it has the names of "
    "[the configuration](configuration.md). Eight epochs of ten rooms are a demonstration, no "
    "result.",
    """\
run = roomsmith.train(
    "demo",
    {"data.root": "frames", "training": {"epochs": 8, "validate_every": 4}},
    out="runs/notebook",
)
print(f"OOF mIoU at label resolution {run.summary.oof.miou:.3f}")
print(f"pixel accuracy {run.summary.oof.pixel_acc:.3f}, T = {run.summary.oof.temperature:g}")
{name: round(iou, 2) for name, iou in run.summary.oof.iou.items() if iou is not None}""",
    "## Look at the report\n\n"
    "`runs/notebook/report.html` is one file for a browser. Its figures are SVG; here are two.",
    """\
page = (run.path / "report.html").read_text(encoding="utf-8")
figures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
colours = dict(reversed(re.findall(r"(--\\w+): ([^;]+);", page)))  # by name; the light page's
print(len(figures), "figures")
for figure in figures[:2]:
    display(SVG(re.sub(r"var\\((--\\w+)\\)", lambda name: colours[name[1]], figure)))""",
    "## Predict an array\n\n"
    "Depth is asked for where the networks see it, as uint16 in millimetres or as metres.",
    """\
predictor = run.predictor()
stem = min(path.stem for path in Path("frames/test/image").iterdir())
image = np.array(Image.open(next(Path("frames/test/image").glob(f"{stem}.*"))))
depth = np.array(Image.open(next(Path("frames/test/depth").glob(f"{stem}.*")))).astype(np.uint16)

prediction = predictor.predict(image, depth)
print(prediction.mask.shape, prediction.probabilities.shape)
print([predictor.classes[index] for index in np.unique(prediction.mask)])

mask = Image.fromarray(prediction.mask).convert("P")
mask.putpalette([value for n in range(13) for value in (97 * n % 256, 151 * n % 256, 53 * n % 256)])
both = Image.new("RGB", (2 * image.shape[1] + 8, image.shape[0]), "white")
both.paste(Image.fromarray(image), (0, 0))
both.paste(mask.convert("RGB"), (image.shape[1] + 8, 0))
both""",
]
"""Words, then code, in turns; but for the first two."""


def executed() -> nbformat.NotebookNode:
    """The notebook, run in an empty folder."""
    cells = [
        new_markdown_cell(text) if text.startswith("#") else new_code_cell(text) for text in CELLS
    ]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"  # not drawn: the same file each time, but for its outputs
    notebook = new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    with TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        cell.metadata.clear()  # when it ran
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop("image/jpeg", None)  # Pillow shows each picture as PNG too
    return notebook


def main() -> None:
    """Write the notebook."""
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # debugpy warns of frozen modules
    # tqdm, which a package of weights imports, misses widgets that no cell uses.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")
    nbformat.write(executed(), NOTEBOOK)


if __name__ == "__main__":
    main()
