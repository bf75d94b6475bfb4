"""Roomsmith's engine: from a folder of frames to a submission.

Nothing is imported here; this page is the map. `docs/walk.md` follows one image through the files.

    api                                         what `import roomsmith` gives
    train  predict  blend  compare              verbs: one command each; parse, call, show
    evaluate  prepare  report_command
    verbs                                       their list, and how a name becomes a command
    cli  config  settings  labels  nyuv2        files and flags become typed fields
    named  choice  suggest                      configs by name; one for a dataset without; what a
                                                wrong word was meant to be
    rundir  sums                                a run folder: its files, hashes and checksums
    origin  plug_ins  teacher                   what a run starts from besides: another run, code
    experiment rehearsal                        a config opened for work, judged, and its stages
    trained                                     runs, opened to look at frames with
    command  mistakes  damage  full_disk  exits errors and exit codes
    run_log                                     what a command says, kept in the run folder
    early                                       faults that are told before PyTorch is loaded
    formats  resume                             what older runs hold to
    profile  dry_run                            where the time of an epoch goes; what a run takes

    frames/      files on disk: listed, decoded, judged, remembered, kept decoded
    data/        folds, augmentation, sources: frames and draws become batches
    distributed/ several processes, and several parts of a batch: one training of them all
    model/       a batch becomes logits at a quarter of its size: encoder, decoders, weights
    training/    logits become a loss, the loss moves the weights; checkpoints
    views/       `Predictor`: trained weights and frames become probabilities; store, submission
    selection/   probabilities become a temperature, blend weights, intervals
    report/      summary, error atlas, tables, page/: what people look at
    export/      trained networks as one graph for other runtimes, a model card beside
    sweep/       many independent trainings: a plan, and who runs it
    runtime/     device, memory, machine, progress: what it runs on
    rooms/       the embedded dataset, rendered

Imports go one way; the contracts in `pyproject.toml` say which. The fused operations live in the
package `kernels`, which knows nothing of the engine.

Axes in names of arrays, such as `logits_BCHW`:

    B    rows of a batch                      N    frames of a split or a store
    C    classes, or channels of an image     K    candidates, counts or kept pixels, as said there
    T    softmax temperatures                 F    folds
    M    runs of a blend                      2    the two ends of a line, or row and column
    H W  pixels at the size that is counted or cut: of a frame, its labels, a crop
    h w  cells of a coarser grid that is resized to it: stride-4 logits, stored probabilities
"""
