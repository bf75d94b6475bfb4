"""Measurements against named rivals, both sides interleaved in one run.

python -m benchmarks.kernel_speed     each fused operation and what a user would reach for
python -m benchmarks.predict_kernels  how long would each kernel take on a GPU that is not here?
python -m benchmarks.full_size        one step and one frame's views: does an experiment fit?
python -m benchmarks.step_bytes       what a full-size step reads and writes, by kind and form
python -m benchmarks.throughput       the whole engine and the published recipe (`plain/`)
python -m benchmarks.quality          the engine and the recipe, trained alike: which scores higher?
python -m benchmarks.time_to_accuracy  mIoU against minutes of training; what a change is worth
python -m benchmarks.certify          is the engine right, and how fast, on this GPU?
python -m benchmarks.gate             did a ratio fall between two measurements?

    certify/             the sections of `certify`
    rows/                what `throughput` measures: both sides of each row, their floors
    known_rows.py        every row of `throughput`: its sides, check and size
    measure.py sides.py  a row, or a curve of it: processes that take turns, and what they hold
    subset.py fit.py     frames for both sides; the power law of a curve
    cases.py             what `kernel_speed` measures; crop_case.py: its longest case
    timing.py            in one process, in turns; the machine's floors
    step_trace.py op_bytes.py   the step on tensors without content; bytes of each operation
    figures.py report.py turns and statistics; tables and the picture
    equal_time.py        two trainings of a fold in equal time; recipes.py: what is trained
    points.py curves.py  a training's clock, and its curve; levers.py: what changes are worth
    plain_fold.py        the recipe's training of a fold, timed
    work.py apart.py     trainings that go on after a stop, each in a process of its own
    pace.py              how long each part may take, and the line that tells how far it is
    lowering.py sass.py  a kernel's machine code for a GPU that is not here, and its loops
    recording.py         what an operation would launch there; prediction.py: how long that takes
    predicted_cases.py   what `predict_kernels` predicts
    command.py scene.py  what commands share; inputs that look like rooms
"""
