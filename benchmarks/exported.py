"""Latency and size of each form that a run was exported to, beside the engine's own.

    python -m benchmarks.exported RUN [--out RUN/export] [--frames 16] [--rounds 5] [--json FILE]

Forms that the folder holds are timed on the same training frames, one frame a call, in turns: each
round passes all frames by every form. The engine's own is what `roomsmith predict` calls, by
PyTorch and by OpenVINO, with the views of the export.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.command import at_least, describe_machine, parser, write_json
from engine.export.form import FORMS
from engine.export.records import NAME, Export
from engine.mistakes import ConfigError
from engine.rundir import RunDir
from engine.trained import Sight, choose_runs


def main() -> None:
    """Print a table in Markdown; leaves the figures as JSON if that is asked for."""
    made = parser("exported", __doc__)
    made.add_argument("run", type=Path)
    made.add_argument("--out", type=Path, help="folder of the files (default: RUN/export)")
    made.add_argument("--frames", type=at_least(1), default=16)
    made.add_argument("--rounds", type=at_least(2), default=5)
    options = made.parse_args()
    folder = options.out or options.run / "export"
    if not (folder / NAME).is_file():
        raise ConfigError(f"{folder} is no export; python -m engine.export {options.run} first")
    note = Export.read(folder / NAME)
    rows = measure(options.run, folder, note, options.frames, options.rounds)
    content = {"machine": describe_machine(), "told": note.told, "frames": options.frames}
    if options.json is not None:
        write_json(options.json, content | {"rounds": options.rounds, "rows": rows})
    print("| form | ms a frame | quartiles | MiB | pixels as the engine's |")
    print("| --- | --- | --- | --- | --- |")
    for row in rows:
        share = "" if row["equal"] is None else f"{100 * row['equal']:.3f} %"
        low, high = row["quartiles_ms"]
        print(
            f"| {row['form']} | {row['ms']:.0f} | {low:.0f} .. {high:.0f} | {row['mib']:.1f} "
            f"| {share} |"
        )


def measure(
    root: Path, folder: Path, note: Export, frames: int, rounds: int
) -> list[dict[str, Any]]:
    """A row for the engine and for each form: milliseconds a frame, by round, and size."""
    import numpy as np
    import torch

    from engine.data.checked import read_dataset
    from engine.export.check import engine_mask
    from engine.frames.decode import read_frame
    from engine.runtime.device import set_up_device
    from engine.trained import open_system
    from engine.views.int8 import spread

    depth = note.told["depth"] is not None
    folds = [int(fold) for fold in note.told["runs"][0]["weights_sha256"]]
    once = len(note.told["views"]) == 1 and not note.told["mirrored"]
    seen = Sight(None, (1.0,), flip=False) if once else Sight()
    of_all = choose_runs([root], Sight(device="cpu", runtime="torch"))
    fold = folds[0] if len(folds) < of_all[0].config.data.folds else None
    calls: dict[str, Callable[..., Any]] = {}
    sizes: dict[str, float] = {}
    for runtime in ("torch", "openvino"):
        sight = replace(seen, device="cpu", runtime=runtime)
        chosen = choose_runs([root], sight, fold)
        system = open_system(chosen, sight, set_up_device(chosen[0].config.runtime))
        name = f"the engine, {runtime}"
        calls[name] = lambda *frame, system=system: (engine_mask(system, frame), None)
        weights = [RunDir(one.run.root).best(fold) for one in chosen for fold in one.folds]
        sizes[name] = sum(path.stat().st_size for path in weights)
    for form, made in note.forms.items():
        calls[form] = FORMS[form].open_model(folder)
        own = [name for name in made.files if "/" not in name and name != "config.toml"]
        sizes[form] = sum((folder / name).stat().st_size for name in own)
    samples = spread(read_dataset(of_all[0].config).train.samples, frames)
    held = [read_frame(sample)[: 1 + depth] for sample in samples]
    took_s: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for call in calls.values():  # compiles, and finds its threads
            for frame in held[:2]:
                call(*frame)
        for _ in range(rounds):
            for name, call in calls.items():
                start_s = time.perf_counter()
                for frame in held:
                    call(*frame)
                took_s[name].append((time.perf_counter() - start_s) / len(held))
    rows = []
    for name, each in took_s.items():
        low, median, high = (1000 * np.quantile(each, [0.25, 0.5, 0.75])).tolist()
        made_form = note.forms.get(name)
        rows.append(
            {
                "form": name,
                "ms": median,
                "quartiles_ms": [low, high],
                "mib": sizes[name] / 2**20,
                "equal": None if made_form is None else made_form.agreement.share,
            }
        )
    return rows


if __name__ == "__main__":
    main()
