"""What `benchmarks.throughput` times: one file per part of the work.

Each side of a row is a function that is called in a process of its own, prepares what is not timed
and returns what is (`benchmarks.sides.Prepared`). Both sides import what they need themselves, so
that the memory of their libraries is theirs.
"""
