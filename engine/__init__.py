"""Roomsmith's engine: from a folder of frames to a submission.

Nothing is imported here; this page is the map. One image on its way, in the order in which to open
the files:

    config.py  nyuv2.py  cli.py   what an experiment is: typed fields, class names and units, flags
    experiment.py                 one opened for work: checked data, folds, device, hashes
    data/                         image + depth + label files become batches
        index                     the folder is read and checked; every fault is reported at once
        folds                     which frames a fold trains on, and how much leaks
        augment                   every random draw, a pure function of (seed, epoch, sample)
        sources                   draws + frames -> a batch on the device (resident, DALI, torch)
        views                     whole frames at the size that the network is to see them
    model/                        a batch becomes logits at a quarter of its size
        encoder  weights          any timm network with features at strides 4 to 32
        fpn  deeplabv3plus        the decoders
        network                   encoder, decoder, segmentation head, depth head
    training/                     logits become a loss, the loss moves the weights; checkpoints
    inference/                    trained weights become out-of-fold probabilities, by many views
    selection/                    probabilities become a temperature, a summary and an error atlas
        sweep  blend              several runs' probabilities become weights, exactly
    members.py                    the runs of a blend, checked to belong together
    rundir.py                     the folder in which those stages meet, file by file

The commands put the stages together: `python -m engine.train`, `engine.predict`, `engine.blend`,
`engine.compare`, `engine.prepare`.

Imports go one way: commands > experiment, members > training, inference, selection > data, model >
cli, rundir > config > nyuv2, normalisation. Parts on one level never import each other; they meet
in files of the run folder. The fused operations live in the package `kernels`, which knows nothing
of the engine.
"""
