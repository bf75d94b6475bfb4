"""What can be set: every field of every section, its default and its range.

The defaults are the values that the five published experiments share, but for the zoom (`data.fit`,
`inference.base_hw`). What holds between fields stands in `engine.config`, which is where a section
is imported from.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from engine import nyuv2

ROOMS = "rooms"
"""The `data.root` that stands for the embedded procedural dataset, kept in `data/rooms`."""

DECODERS = ("fpn", "deeplabv3plus")
"""Values of `model.decoder` that are no path to code."""

Input = Literal["rgb", "rgbd", "rgbdn", "rgbhha"]
"""What a network may see of a frame."""

IN_CHANNELS: dict[str, int] = {"rgb": 3, "rgbd": 4, "rgbdn": 7, "rgbhha": 6}
"""Number of channels of the network's input, by `model.input`."""

SURFACES = {"rgbdn": "normals", "rgbhha": "hha"}
"""What `engine.data.surface` makes of a frame's depth for it, by `model.input`."""


class Section(BaseModel):
    """Fields by name; frozen, and what it does not know is a mistake."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class DataFields(Section):
    """Frames, folds and augmentation."""

    root: str = ROOMS
    """dataset folder, or 'rooms': the embedded one"""
    classes: tuple[str, ...] = Field(nyuv2.CLASSES, min_length=2)
    """class names by index"""
    label_map: dict[str, int | str] = {}
    """class of each value in label files: an index, a name or 'ignore', else the value is it"""
    ignore: tuple[Annotated[int, Field(ge=0, le=65535)], ...] = ()
    """values in label files that mean unlabelled, besides 255"""
    depth_scale: float = Field(0.001, gt=0)
    """metres that a unit of the depth maps stands for"""
    depth_invalid: tuple[Annotated[int, Field(ge=0, le=65535)], ...] = (0,)
    """values in depth maps that mean missing; 0 always does"""
    fov: float = Field(63.31, gt=0, lt=180)
    """horizontal field of view of the camera, degrees, for surfaces; NYU Depth v2's"""
    exif: Literal["turn", "ignore"] = "turn"
    """images that carry an EXIF orientation: turn them upright, or leave them as stored"""
    splits: str = ""
    """file, here or in the dataset's folder, that says each frame's fold, or train and validation:
    CSV, JSON or text; empty: folds are cut by fold_kind"""
    folds: int = Field(5, ge=2)
    """number of folds"""
    fold_kind: Literal["random", "blocked", "scene", "content"] = "blocked"
    """how to split"""
    fold_seed: int = Field(42, ge=0)
    """seed of the split"""
    blocks_per_fold: int = Field(8, ge=1)
    """contiguous blocks in a blocked fold"""
    input_hw: tuple[int, int] = (720, 960)
    """size that training zooms a frame to, pixels"""
    fit: Literal["keep", "stretch"] = "keep"
    """keep: frames keep their aspect and get input_hw's area; stretch: they become input_hw"""
    crop_hw: tuple[int, int] = (576, 768)
    """training crop, pixels of the input"""
    scale_limit: float = Field(0.2, ge=0, lt=1)
    """random scale in 1 +- limit"""
    scale_range: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """random scale between these two, as often halved as doubled: 0.5,2; empty: by scale_limit"""
    scale_p: float = Field(0.5, ge=0, le=1)
    """probability of a random scale"""
    class_aware_p: float = Field(0.5, ge=0, le=1)
    """probability of a class-aware crop"""
    small_classes: tuple[str, ...] = nyuv2.SMALL_CLASSES
    """classes a class-aware crop is centred on; unset, none where data.classes lack one of these"""
    flip_p: float = Field(0.5, ge=0, le=1)
    """probability of a horizontal flip"""
    jitter_p: float = Field(0.5, ge=0, le=1)
    """probability of brightness and contrast"""
    brightness: float = Field(0.2, ge=0, le=1)
    """brightness shift, share of full scale"""
    contrast: float = Field(0.2, ge=0, lt=1)
    """contrast gain in 1 +- contrast"""
    hue: float = Field(0.0, ge=0, le=0.5)
    """hue turned by up to this share of its circle, where brightness is changed; 0 = off"""
    saturation: float = Field(0.0, ge=0, le=1)
    """saturation gain in 1 +- saturation, where brightness is changed; 0 = off"""
    depth_dropout: float = Field(0.0, ge=0, lt=1)
    """probability that a network sees no depth of a sample; its depth is still predicted"""
    class_mix: float = Field(0.0, ge=0, le=1)
    """probability that half of the classes of the batch's next sample are pasted over a sample,
    with label and depth (ClassMix)"""


class ModelFields(Section):
    """Encoder, decoder, heads and where their starting weights come from."""

    encoder: str = "convnext_base"
    """timm model name, or one of your own: mypackage.mymodule:Encoder"""
    weights: str = Field("timm", min_length=1)
    """none | timm | package:NAME | run:RUN, the folder of a run to fine-tune, or run:RUN#FOLD
    | a .safetensors, .pt or .pth file or a folder of smp's save_pretrained,
    {fold} = the fold's number"""
    decoder: str = "fpn"
    """fpn | deeplabv3plus | one of your own: mypackage.mymodule:Decoder; the others' fields are
    ignored"""
    input: Input = "rgb"
    """3 channels; rgbd: 4, with inverse depth; rgbdn: 7, with surface normals behind it; rgbhha: 6,
    with height above the floor and angle with gravity behind it"""
    depth_start: float = Field(1.0, ge=0, le=1)
    """where weights have a stem for RGB: those of the channels behind it start as so many times
    the mean of RGB's; 0: the network sees RGB alone at first, and learns the rest"""
    pyramid_channels: int = Field(256, ge=8)
    """FPN pyramid width"""
    segmentation_channels: int = Field(128, multiple_of=32, ge=32)
    """FPN segmentation width"""
    dropout: float = Field(0.2, ge=0, lt=1)
    """FPN dropout before the heads"""
    aspp_channels: int = Field(256, ge=8)
    """DeepLabV3+ width"""
    aspp_rates: tuple[int, int, int] = (12, 24, 36)
    """DeepLabV3+ dilation rates, cells of stride 16"""
    aspp_dropout: float = Field(0.5, ge=0, lt=1)
    """DeepLabV3+ dropout after its pyramid"""
    drop_path: float = Field(0.0, ge=0, lt=1)
    """stochastic depth of the encoder"""
    supervision: float = Field(0.0, ge=0)
    """weight of the cross-entropy of a second head, on the decoder's part at stride 8, which only
    training runs; 0 = none"""


class TrainingConfig(Section):
    """Optimisation and loss."""

    seed: int = Field(42, ge=0)
    """seed of weights, draws and dropout"""
    epochs: int = Field(50, ge=0)
    """epochs a fold, 0 = the starting weights are the fold's"""
    batch_size: int = Field(4, ge=1)
    """samples a step"""
    accumulate: int = Field(1, ge=1)
    """parts in which a step's batch passes the network, for less memory"""
    parts: int = Field(1, ge=1)
    """parts of a step's batch that several processes may share out: each passes by itself, cut
    further by accumulate"""
    reduce: Literal["auto", "tree", "fast"] = "auto"
    """how parts are added up; tree: in one order, so that any number of processes gives the same
    bytes; fast: as they come, batch norms over all parts; auto: tree on a CPU, fast on a GPU"""
    lr: float = Field(1e-4, gt=0)
    """peak learning rate"""
    lr_of: dict[str, Annotated[float, Field(gt=0)]] = {}
    """learning rate of parts, as a factor of lr: encoder = 0.1; of several that hold a weight the
    innermost counts"""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """factor of the rate from each layer of the encoder to the one below it, besides lr_of"""
    frozen: tuple[str, ...] = ()
    """parts that are not trained, batch norm statistics neither: encoder, encoder.stages.0, ..."""
    frozen_norms: tuple[str, ...] = ()
    """parts whose batch norms keep the statistics of the starting weights and normalise by them,
    while scales and shifts are trained: encoder, ..."""
    weight_decay: float = Field(1e-4, ge=0)
    """AdamW weight decay"""
    schedule: Literal["cosine_epoch", "warmup_cosine", "linear", "one_cycle"] = "cosine_epoch"
    """per-epoch cosine, or warm-up then cosine per step; linear: warm-up then a straight line;
    one_cycle: by cosines from lr / 25 up, then down to lr / 250,000"""
    warmup: float = Field(0.1, ge=0, lt=1)
    """share of the steps that warm up"""
    clip_norm: float = Field(0.0, ge=0)
    """gradient norm limit, 0 = none"""
    ema_decay: float = Field(0.999, ge=0, lt=1)
    """decay of the weight average"""
    ema_warmup: bool = False
    """let the decay grow as (1 + t) / (10 + t)"""
    class_weights: dict[str, float] = {}
    """loss weight by class, else 1"""
    balance: float = Field(0.0, ge=0, le=1)
    """power of (median share / share) of a class's pixels in a fold's training frames, by which its
    class weight is multiplied; then all are scaled to a pixel-weighted mean of 1; 0 = off"""
    boundary_weight: float = Field(1.0, gt=0)
    """weight of pixels at label edges"""
    ignored_edges: bool = False
    """unlabelled neighbours make an edge"""
    depth_weight: float = Field(0.1, ge=0)
    """weight of the auxiliary depth L1, 0 = off"""
    dice_weight: float = Field(0.0, ge=0)
    """weight of the soft Dice loss at stride 4, added to the cross-entropy; 0 = off"""
    lovasz_weight: float = Field(0.0, ge=0)
    """weight of the Lovasz-softmax loss at stride 4, 0 = off"""
    focal_weight: float = Field(0.0, ge=0)
    """weight of the focal loss at stride 4, 0 = off"""
    focal_gamma: float = Field(2.0, ge=1)
    """power of the focal loss by which a cell counts less the surer it is"""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """share of the cross-entropy that goes to one with all classes alike, at stride 4"""
    loss_terms: dict[str, Annotated[float, Field(gt=0)]] = {}
    """weight of each term of your own that is added: mypackage.mymodule:function"""
    validate_every: int = Field(1, ge=1)
    """epochs between validations"""
    patience: int = Field(0, ge=0)
    """early stopping: validations in a row without a higher mIoU after which a fold ends; the
    schedule is spread over epochs as ever; 0 = off"""
    frames: Literal["folds", "all"] = "folds"
    """all: networks trained on every frame, for as many steps as a fold has; nothing is held out,
    so out-of-fold is not measured: choose by folds first"""
    members: int = Field(1, ge=1)
    """networks of each fold, or of frames = "all", whose probabilities are averaged, each with a
    seed of its own: seed, seed + 1, ..."""
    member_inputs: tuple[Input, ...] = ()
    """model.input of the second of these networks, the third, ...; empty: all see the same"""
    teacher: str = ""
    """run:RUN, the folder of a finished run whose networks label the test frames, which are then
    trained on too: fold k by its fold k, frames = "all" by all of them; first: the first network of
    each fold labels them for its other members; earlier: those trained before for each; empty:
    none"""
    teacher_share: float = Field(0.25, gt=0, lt=1)
    """share of a batch that the teacher labels: at least one sample, and not all"""
    teacher_threshold: float = Field(0.0, ge=0, lt=1)
    """pixels whose class the teacher gives a lower probability are ignored, 0 = none"""


class InferenceFields(Section):
    """Views and what the probability store keeps."""

    scales: tuple[float, ...] = Field((0.5, 0.75, 1.0, 1.25, 1.5), min_length=1)
    """sizes of the views, as shares of base_hw"""
    flip: bool = True
    """add the mirrored view of every scale"""
    temperatures: tuple[float, ...] = Field((0.7, 0.8, 0.9, 1.0), min_length=1)
    """softmax temperatures to score"""
    base_hw: Literal["training", "own"] | tuple[int, int] = "training"
    """size that views are scaled from and averaged at: training's zoom, to multiples of 32; the
    frame's own; or height,width in pixels"""
    batch_size: int = Field(4, ge=1)
    """frames a forward pass, fewer if memory is short"""


class SelectionConfig(Section):
    """What is chosen on out-of-fold predictions."""

    temperature: float | None = None
    """use this one of inference.temperatures; none = the one of the best OOF mIoU at label
    resolution"""


class RuntimeConfig(Section):
    """What runs the experiment, and is no part of it.

    Those of `engine.runtime.recorded` change rounding: they are resolved when a fold begins, and
    kept when it is resumed. The others are free: they may differ from call to call, but for
    `inference = "openvino-int8"`, by which predictions are others.
    """

    workers: int = Field(2, ge=1)
    """decoding threads"""
    cache: str = ""
    """folder of decoded frames, empty = the user's cache folder"""
    cache_gib: float = Field(64.0, ge=0)
    """GiB that stay in it, least recently used go first, none that is in use; 0 = no limit"""
    cache_days: float = Field(90.0, ge=0)
    """days that what nobody uses stays in it, 0 = for ever"""
    log_every: int = Field(20, ge=1)
    """steps between progress lines"""
    save_every: int = Field(200, ge=1)
    """steps between checkpoints"""
    keep_last: bool = False
    """keep the folds' last.pt, from which training goes on, when the run is finished"""
    memory_gib: float = Field(0.0, ge=0)
    """GiB that decoded frames, or a pass of views, may take, 0 = by what there is"""
    device: str = "auto"
    """auto | cpu | cuda | cuda:N"""
    source: Literal["auto", "resident", "dali", "torch"] = "auto"
    """frames decoded once and kept, or files by DALI or plain PyTorch"""
    kernels: Literal["fused", "reference"] = "fused"
    """fused operations, or plain PyTorch in their place"""
    layers: Literal["auto", "fused", "torch"] = "auto"
    """batch norms, depthwise convolutions and group norms that a CPU trains: kernels of ours, with
    the bytes of PyTorch's for x86, or PyTorch's; auto: ours, if the network is eager"""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile the network; auto: for replayed steps, if they are many enough"""
    tune: str = Field("off", min_length=1)
    """off | auto: measure forms of the step when a fold begins, use the fastest that is as near to
    float32 as the plain one | a file that such a measurement left: fold0/step.json of a run"""
    shard_optimizer: bool = False
    """of several processes each keeps the optimiser's state and the average of some weights only
    (ZeRO-1): less memory, the same bytes"""
    cuda_graphs: Literal["auto", "on", "off"] = "auto"
    """record steps and views once, replay them; auto: on a GPU"""
    deterministic: bool = False
    """on a GPU: the same bytes every time, for slower steps; a CPU gives them anyway"""
    threads: int = Field(0, ge=0)
    """CPU threads, 0 = torch's choice"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """autocast type"""
    inference: Literal["torch", "openvino", "openvino-int8"] = "torch"
    """what runs the trained networks; openvino: faster on a CPU; openvino-int8: faster still, in
    INT8, for a loss in mIoU that is measured and told"""


class ReportConfig(Section):
    """What a run shows of itself while it runs and when it ends; no result depends on it.

    It is in no hash and may differ from call to call. All of it is made from the run folder.
    """

    page: bool = True
    """write report.html when a run is finished"""
    tensorboard: bool = False
    """write the figures of each epoch for TensorBoard, into the run folder"""
    wandb: bool = False
    """the same for Weights & Biases, one run a fold"""
    mlflow: bool = False
    """the same for MLflow, one run a fold"""
    online: bool = False
    """let W&B and MLflow send to the server that they are set up for; else they write into the run
    folder only"""
