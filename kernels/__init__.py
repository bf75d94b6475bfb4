"""Roomsmith's fused operations; each folder stands alone, nothing here imports the engine.

    boundary_ce/      stride-4 logits -> boundary-aware cross entropy at label resolution
    tta_accumulate/   views' logits -> their share of the probabilities, at every temperature
    confusion/        label and prediction -> int64 confusion matrix
    blend_sweep/      probabilities of several models -> where winners change along their blends
    crop_resize/      decoded frames + a row of draws each -> network input, depth, label
    adamw/            gradients, weights, their moments and average -> the same a step later
    depthwise_norm/   depthwise 7 x 7 convolution + LayerNorm, as ConvNeXt's block begins
    group_norm/       a group norm in training -> the same, its gradients on a CPU in fewer passes
    group_norm_relu/  GroupNorm and ReLU, with the upsampling or the sum after them
    linear/           a linear layer in low precision -> the same, its weights' gradient in float32
    scaled_weight/    a linear layer's weights x a scale of each output, in its product's dtype
    png/              a file -> depth map or label, where it holds a PNG of one channel
    columns.py        steps down channels-last cells, in vectors, that norms on a CPU are made of
    metrics.py        the figures that are read off confusion matrices, in NumPy
    compiling.py      the time that compiling them takes, told and kept apart
    ahead.py          what training on a CPU calls, compiled by other processes while data is read
    code_cache.py     where their machine code is kept
    cpu.py            what their CPU forms share: compilation, interpolation, winners, exp, log
    gpu.py            what their GPU forms share: which tensors they take, sides of tiles, uploads
    threads.py        how their CPU forms share threads with one another and with PyTorch

In each folder `reference.py` states the mathematics without tricks and is the oracle of the tests,
`op.py` checks and chooses by device, `cpu*.py` is Numba; `triton.py` and `launch.py`, where there
is a form for GPUs (not of blend_sweep and png), are Triton. What has no Numba form is the reference
on a CPU, but for adamw: the engine uses PyTorch's own there.
"""
