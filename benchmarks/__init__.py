"""Measurements against named rivals, both sides interleaved in one run.

python -m benchmarks.kernel_speed     each fused operation and what a user would reach for
python -m benchmarks.full_size        one step and one frame's views: does an experiment fit?
python -m benchmarks.throughput       the whole engine and the published recipe (`plain/`)
python -m benchmarks.quality          the engine and the recipe, trained alike: which scores higher?

    throughput.py       the command
    rows/               what is measured: both sides of each row, their checks and floors
    measure.py sides.py memory.py       a row: processes that take turns, and what they hold
    curves.py fit.py plot.py            cost against work
    gate.py report.py timing.py rates.py
"""
