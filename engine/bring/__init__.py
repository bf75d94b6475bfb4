"""Data sets in other forms become a folder that the engine reads: `prepare nyuv2` and the like.

A form is one module with a `Source` (`source.py`): which frames there are, and the pixels of one.
`folder.py` writes any of them, frame by frame; `command.py` says which flags each takes.
"""
