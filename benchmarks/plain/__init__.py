"""The rival: the published recipe as one writes it with today's libraries.

    recipe.py      the variants of it: AMP, memory format, passes a temperature
    data.py        OpenCV decodes, albumentations augments, a DataLoader's workers run it
    model.py       segmentation_models_pytorch's FPN and a head for depth
    loss.py        cross-entropy on full-resolution logits, L1 on depth
    run.py         folds, AdamW, schedule, validation, an average of the state dict; then views by
                   cv2.resize, out-of-fold probabilities, temperature, submission, blend
    lightning_fold.py   the training of a fold by Lightning's Trainer
    onnx_runtime.py     the network in evaluation mode by ONNX Runtime
    decoders.py    files by imagecodecs and by pyspng
    selection.py   numpy.bincount, mIoU, blend weights by a grid and by SLSQP

It reads the engine's config and is told which frames belong to which fold, so that both sides
train one experiment from the same weights; none of the work is done by the engine.
"""
