"""What `benchmarks.throughput` times; `benchmarks.known_rows` lists the rows, sides, checks.

    ours.py plain.py     the engine's sides, and what both start from; the recipe's
    lightning.py         a step of the recipe under Lightning
    light.py             all sides of the rows that need no network
    work.py              what no side can do without

Each side of a row is a function that is called in a process of its own, prepares what is not timed
and returns what is (`benchmarks.sides.Prepared`). No side's module imports another side's
libraries, so that the memory of its own is its own.
"""
