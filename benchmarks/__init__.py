"""Measurements against named rivals: each module here is a command, `python -m benchmarks.NAME`.

A speed is a ratio to a rival in the same run, interleaved with it, given as median and quartiles
with the machine, the versions and the commit.
"""
