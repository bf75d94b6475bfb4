"""python -m benchmarks.certify: prove the engine on this machine, section by section.

Each section runs in a process of its own until its limit, and each finding is on disk at once, in
DIR/SECTION.json; DIR/certificate.json holds them all. What needs a GPU says so where there is none.
Exit code: 1 if a section failed, else 0.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.certify.certificate import CERTIFICATE, certify
from benchmarks.certify.sections import SECTIONS
from benchmarks.command import at_least
from engine.command import run_main


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run the sections and print a table; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.certify",
        description=__doc__,
        epilog="Sections: " + "; ".join(f"{s.name}: {s.proves}" for s in SECTIONS),
        allow_abbrev=False,
    )
    add, names = parser.add_argument, [section.name for section in SECTIONS]
    add("--budget-s", type=at_least(1), default=540, metavar="N", help="seconds (default: 540)")
    add("--out", type=Path, metavar="DIR", help="where the figures go")
    add("--only", nargs="+", choices=names, metavar="SECTION", help="only these, in this order")
    add("--carry", type=Path, metavar="DIR", help="instead: what a bare machine lacks, in pieces")
    add("--python", default="3.12", metavar="X.Y", help="of that machine (default: 3.12)")
    options = parser.parse_args(arguments)
    if (options.out is None) == (options.carry is None):
        parser.error("give either --out DIR or --carry DIR")
    if options.carry:
        from benchmarks.certify.carry import carry

        carry(options.carry, options.python)
        return 0
    by_name = {section.name: section for section in SECTIONS}
    chosen = [by_name[name] for name in options.only or names]
    code = certify(chosen, options.out, time.monotonic() + options.budget_s)
    from benchmarks.certify.table import print_certificate

    print_certificate(json.loads((options.out / CERTIFICATE).read_text("utf-8")))
    return code


if __name__ == "__main__":
    run_main(main)
