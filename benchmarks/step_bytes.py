"""python -m benchmarks.step_bytes: what a full-size training step reads and writes, by kind.

Counts, not times: the step of an experiment runs on tensors without content, eagerly, operation by
operation, with the casts of a GPU's autocast to bfloat16; no GPU, frames or weights are needed.
--forms names the forms that are counted, the one that others are compared with first.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks import command
from engine.cli import load_config, parse_command_line
from engine.command import run_main

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "exp093_5.toml"

FORMS = ("plain", "one-pass", "fused")
"""As the modules are; with the optimiser in one pass; with all fused parts of the network too."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, count and print; returns the exit code."""
    parser = command.parser("step_bytes", __doc__)
    parser.add_argument("--config", type=Path, nargs="+", default=[CONFIG], metavar="FILE")
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS)
    options, flags = parse_command_line(parser, arguments)

    from benchmarks.step_trace import count, parameters_of, table

    config = load_config(options.config, flags)
    counted = {form: count(config, form) for form in options.forms}
    print(table(counted))
    if options.json:
        rows = [
            {"form": form, "kind": kind, "calls": moved.calls[kind], "bytes": moved.bytes[kind]}
            for form, moved in counted.items()
            for kind in moved.bytes
        ]
        parameters = parameters_of(config)
        size = {"parameters": sum(parameters), "tensors": len(parameters)}
        content = {"machine": command.describe_machine(), "rows": rows, "network": size}
        command.write_json(options.json, content)
    return 0


if __name__ == "__main__":
    run_main(main)
