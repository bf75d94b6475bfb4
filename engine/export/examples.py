"""Scripts that predict by an exported file and need its runtime alone, Pillow and NumPy besides."""

_BEGIN = '''\
"""python {file} IMAGES {depths}MASKS: a mask and a confidence for each image of a folder.

Needs {needs}: pip install {install}
"""
'''

_IMAGES = """
*folders, out = map(Path, sys.argv[1:])
out.mkdir(parents=True, exist_ok=True)
for path in sorted(folders[0].iterdir()):
    frame = [np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))[None]]
    if told["depth"]:  # 16-bit PNG in units of told["depth"]["unit_m"] metres
        depth = Image.open(folders[1] / f"{path.stem}.png")
        frame.append(np.asarray(depth).astype(np.uint16)[None])
    mask, confidence = run(frame)
    Image.fromarray(mask[0]).save(out / f"{path.stem}.png")
    Image.fromarray(confidence[0]).save(out / f"{path.stem}.confidence.png")
    print(path.name, ", ".join(told["classes"][k] for k in np.unique(mask)))
"""

_ONNX = """
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

model = Path(__file__).with_name("model.onnx")
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
told = json.loads(session.get_modelmeta().custom_metadata_map["roomsmith"])
run = lambda frame: session.run(None, dict(zip(("image", "depth"), frame)))
"""

_OPENVINO = """
import json
import sys
from pathlib import Path

import numpy as np
import openvino
from PIL import Image, ImageOps

model = openvino.Core().read_model(Path(__file__).with_name("{model}"))
told = json.loads(model.get_rt_info(["roomsmith"]).astype(str))
compiled = openvino.compile_model(model, "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})
run = lambda frame: list(compiled(frame).values())
"""

_TORCH = """
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

files = {"roomsmith.json": ""}
program = torch.export.load(Path(__file__).with_name("model.pt2"), extra_files=files)
told, module = json.loads(files["roomsmith.json"]), program.module()
run = lambda frame: [found.numpy() for found in module(*map(torch.tensor, frame))]
"""

_AOTI = """
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

module = torch._inductor.aoti_load_package(str(Path(__file__).with_name("model.aoti.pt2")))
noted, cpu = module.get_metadata(), Path("/proc/cpuinfo").read_text()
if noted["processor"] not in cpu:
    sys.exit(f"this is machine code for {noted['processor']} alone: export it on this computer")
told = json.loads(noted["roomsmith"])
run = lambda frame: [found.numpy() for found in module(*map(torch.tensor, frame))]
"""

_PARTS = {
    "onnx": ("example_onnx.py", "onnxruntime", _ONNX),
    "openvino": ("example_openvino.py", "openvino", _OPENVINO.format(model="model.xml")),
    "openvino-int8": ("example_int8.py", "openvino", _OPENVINO.format(model="int8.xml")),
    "torch": ("example_torch.py", "torch", _TORCH),
    "aoti": ("example_aoti.py", "torch", _AOTI),
}


def example(form: str, *, depth: bool) -> tuple[str, str]:
    """The name of a form's example, and the script."""
    file, package, opened = _PARTS[form]
    begin = _BEGIN.format(
        file=file,
        depths="DEPTHS " if depth else "",
        needs=package,
        install=f"{package} numpy pillow",
    )
    return file, begin + opened + _IMAGES
