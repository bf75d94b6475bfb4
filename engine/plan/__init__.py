"""`prepare new`: a config for a data set, planned from what its files show and a measured step.

`fingerprint.py` looks, `choices.py` decides, each with its reason, `paced.py` measures how much
fits the time, `written.py` makes a commented TOML of it. In the manner of nnU-Net: Isensee et al.,
"nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation", Nature
Methods 2021.
"""
