"""Measurements against named rivals, both sides interleaved in one run.

python -m benchmarks.kernel_speed     each fused operation and what a user would reach for
python -m benchmarks.full_size        one step and one frame's views: does an experiment fit?
python -m benchmarks.throughput       the whole engine and the published recipe (`plain/`)
python -m benchmarks.quality          the engine and the recipe, trained alike: which scores higher?

    rows/                          what `throughput` measures: both sides of each row, their floors
    measure.py sides.py memory.py  a row: processes that take turns, and what they hold
    curves.py fit.py plot.py       cost against work
    cases/ timing.py               what `kernel_speed` measures, in one process
    engine_parts.py                the engine's insides, as all of these use them
    figures.py rates.py report.py  turns and statistics, the machine's floors, tables
    gate.py                        whether a ratio fell
"""
