"""What `benchmarks.throughput` times.

    catalogue.py         every row, its sides, its checks
    ours.py plain.py     the engine's sides, the recipe's
    light.py             all sides of the rows that need no network
    shared.py work.py    what sides start from, and what none can do without

Each side of a row is a function that is called in a process of its own, prepares what is not timed
and returns what is (`benchmarks.sides.Prepared`). No side's module imports another side's
libraries, so that the memory of its own is its own.
"""
