"""Measurements against named rivals, both sides interleaved in one run.

python -m benchmarks.kernel_speed     each fused operation and what a user would reach for
python -m benchmarks.full_size        one step and one frame's views: does an experiment fit?
"""
