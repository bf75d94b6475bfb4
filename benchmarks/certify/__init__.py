"""python -m benchmarks.certify: the engine proved on a machine, section by section, in minutes.

sections.py                         what there is to prove, in the order of its worth
certificate.py child.py notes.py    each in a process of its own; what it finds, on disk at once
table.py                            the certificate for a reader
experiment.py                       what is trained: full size on a GPU, the demo's on a CPU
machine.py checks.py kernels.py     versions and rates; the fused operations
run.py step.py kinds.py repeat.py decode.py rival.py ranks.py    the engine
carry.py install.py                 what a bare machine without a network lacks, in pieces
"""
