"""The typed configuration: sections of fields, and the rules that hold between them.

The fields stand in `engine.settings`; `engine.cli` reads files and flags into a `Config`.
"""

import re
from pathlib import Path
from typing import Any, Self

from pydantic import (
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from engine.labels import label_table, plain_map, unknown_class
from engine.nyuv2 import CLASSES, IGNORE_INDEX, SMALL_CLASSES
from engine.rules import (
    EARLIER,
    FIRST,
    check_batch,
    check_depth_start,
    check_patience,
    check_teacher,
)
from engine.settings import (
    DECODERS,
    IN_CHANNELS,
    ROOMS,
    SURFACES,
    DataFields,
    InferenceFields,
    Input,
    ModelFields,
    ReportConfig,
    RuntimeConfig,
    Section,
    SelectionConfig,
    TrainingConfig,
)

__all__ = [
    "ROOMS",
    "Config",
    "DataConfig",
    "InferenceConfig",
    "ModelConfig",
    "ReportConfig",
    "RuntimeConfig",
    "SelectionConfig",
    "TrainingConfig",
    "data_root",
    "is_code",
    "is_run",
]


_CODE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
"""A dotted path to a class or function: mypackage.mymodule:Decoder."""


def is_run(weights: str) -> bool:
    """Whether `model.weights` names a run."""
    return weights.startswith("run:")


def is_code(name: str) -> bool:
    """Whether an encoder, a decoder or a loss term is the user's own, by its dotted path."""
    return ":" in name


def _code_path(field: str, name: str) -> None:
    if not _CODE.fullmatch(name):
        needed = "name a module and what is in it: mypackage.mymodule:Name"
        raise ValueError(f"{field} = {name!r} is no path to code; {needed}")


class DataConfig(DataFields):
    """Frames, folds and augmentation."""

    @model_validator(mode="before")
    @classmethod
    def _follow_the_labels(cls, given: Any) -> Any:
        """The small classes of NYU Depth v2 are a default for labels that have them."""
        if not isinstance(given, dict) or "small_classes" in given:
            return given
        classes = given.get("classes", CLASSES)
        named = isinstance(classes, list | tuple) and not {*SMALL_CLASSES} <= {*map(str, classes)}
        return {**given, "small_classes": ()} if named else given

    @field_validator("label_map")
    @classmethod
    def _plain_map(cls, given: dict[str, int | str], info: ValidationInfo) -> dict[str, int | str]:
        # Classes that are a mistake themselves are none to look names up in.
        classes = info.data.get("classes")
        return plain_map(given, classes) if given and classes else given

    @field_validator("ignore", "depth_invalid")
    @classmethod
    def _once_each(cls, given: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        if len(set(given)) != len(given):
            raise ValueError(f"data.{info.field_name} names a value twice: {given}")
        # A depth of 0 metres is none, whatever else is missing.
        return tuple(sorted({*given, 0} if info.field_name == "depth_invalid" else given))

    @field_validator("scale_range")
    @classmethod
    def _two_scales(cls, given: tuple[float, ...]) -> tuple[float, ...]:
        if given and (len(given) != 2 or given[0] > given[1]):
            raise ValueError(
                f"data.scale_range = {list(given)}: type the smallest and the largest scale, as in "
                "0.5,2, or nothing"
            )
        return given

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"data.classes must differ from one another, got {self.classes}")
        if len(self.classes) > IGNORE_INDEX:
            raise ValueError(f"data.classes may name at most 255, got {len(self.classes)}")
        for name in self.small_classes:
            if name not in self.classes:
                raise unknown_class("data.small_classes", name, self.classes)
        if self.label_map or self.ignore:
            label_table(self.label_map, self.ignore, self.classes)
        for key, (height, width) in (("input_hw", self.input_hw), ("crop_hw", self.crop_hw)):
            if min(height, width) < 32:
                raise ValueError(f"data.{key} must be at least 32 x 32, got {height} x {width}")
        if any(side % 32 for side in self.crop_hw):
            raise ValueError(f"data.crop_hw must be multiples of 32, got {self.crop_hw}")
        if self.crop_hw[0] > self.input_hw[0] or self.crop_hw[1] > self.input_hw[1]:
            raise ValueError(
                f"data.crop_hw {self.crop_hw} is larger than data.input_hw {self.input_hw}; "
                "make the crop smaller or the input larger"
            )
        return self


class ModelConfig(ModelFields):
    """Encoder, decoder, heads and where their starting weights come from."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if min(self.aspp_rates) < 1:
            raise ValueError(f"model.aspp_rates must be at least 1, got {self.aspp_rates}")
        if is_code(self.encoder):
            _code_path("model.encoder", self.encoder)
            if self.weights == "timm" or self.weights.startswith("package:"):
                raise ValueError(
                    f"model.weights = {self.weights!r} is of timm's encoders, and model.encoder = "
                    f"{self.encoder!r} is none; type model.weights=none, or name a file or a run"
                )
        if self.supervision and self.decoder == "deeplabv3plus":
            raise ValueError(
                "model.supervision is of a decoder with a part at stride 8, and deeplabv3plus has "
                "none; type model.supervision=0, or model.decoder=fpn"
            )
        if is_code(self.decoder):
            _code_path("model.decoder", self.decoder)
        elif self.decoder not in DECODERS:
            raise ValueError(
                f"model.decoder = {self.decoder!r}: use {' or '.join(DECODERS)}, or one of your "
                "own: mypackage.mymodule:Decoder"
            )
        return self

    @property
    def in_channels(self) -> int:
        """Channels of the network's input."""
        return IN_CHANNELS[self.input]

    def of_fold(self, fold: int) -> Self:
        """The section with `{fold}` in `weights` replaced by the fold's number.

        A run without a fold gets this one; the asterisk counts round (`engine.origin`).
        """
        weights = self.weights.replace("{fold}", str(fold))
        if is_run(weights) and not re.search(r"#\d+\*?$", weights):
            weights += f"#{fold}*"
        return self.model_copy(update={"weights": weights})


class InferenceConfig(InferenceFields):
    """Views and what the probability store keeps."""

    @field_validator("base_hw", mode="wrap")
    @classmethod
    def _base_hw(cls, value: object, check: ValidatorFunctionWrapHandler) -> object:
        # What this flag names may be a list, so a word comes as a list of one.
        named = value[0] if isinstance(value, list) and len(value) == 1 else value
        try:
            return check(named)
        except ValidationError:
            needed = "type training, own, or height and width in pixels: 480,640"
            raise ValueError(f"inference.base_hw = {named!r}; {needed}") from None

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key, values in (("scales", self.scales), ("temperatures", self.temperatures)):
            if min(values) <= 0:
                raise ValueError(f"inference.{key} must be positive, got {values}")
            if len(set(values)) != len(values):
                raise ValueError(f"inference.{key} repeat: {values}")
        hw, scale = self.base_hw, min(self.scales)
        if isinstance(hw, tuple) and min(hw) * scale < 32:
            raise ValueError(f"inference.base_hw {hw} at scale {scale} is under 32 pixels")
        return self


class Config(Section):
    """One experiment."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    inference: InferenceConfig = InferenceConfig()
    selection: SelectionConfig = SelectionConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    report: ReportConfig = ReportConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not re.fullmatch("auto|cpu|cuda(:[0-9]+)?", self.runtime.device):
            named = self.runtime.device
            raise ValueError(f"runtime.device = {named!r}: use auto, cpu, cuda or cuda:N")
        check_batch(self.training, self.model.decoder)
        self._check_frames()
        check_teacher(self.training)
        check_depth_start(self.model.depth_start, self.model.weights, self.inputs)
        check_patience(self.training, holds_out=self.holds_out)
        weights = self.model.weights
        random_decoder = weights in ("none", "timm") or weights.startswith("package:")
        if not self.training.epochs and random_decoder:
            raise ValueError(
                "training.epochs = 0 takes the starting weights as the fold's, and model.weights = "
                f"{weights!r} has no trained decoder; name a file of a whole network"
            )
        for name, weight in self.training.class_weights.items():
            if name not in self.data.classes:
                raise unknown_class("training.class_weights", name, self.data.classes)
            if weight <= 0:
                raise ValueError(f"training.class_weights.{name} must be positive, got {weight}")
        if self.training.frozen_norms and weights == "none":
            raise ValueError(
                "training.frozen_norms keeps statistics of the starting weights, and model.weights "
                "= 'none' has none; type training.frozen_norms=[], or name weights"
            )
        if self.data.depth_dropout and "rgb" in self.inputs:
            field = "model.input" if self.model.input == "rgb" else "training.member_inputs"
            raise ValueError(
                f"data.depth_dropout = {self.data.depth_dropout} hides depth, and {field} = "
                f"'rgb' sees none; type data.depth_dropout=0, or rgbd in {field}"
            )
        others = self.training.member_inputs
        if others and len(others) != self.training.members - 1:
            raise ValueError(
                f"training.member_inputs names {len(others)} inputs, of the second network of a "
                f"fold and those behind it, and training.members = {self.training.members}; type "
                f"training.members={len(others) + 1}, or as many inputs"
            )
        if self.data.class_mix and (self.training.batch_size < 2 or self.training.parts > 1):
            raise ValueError(
                f"data.class_mix = {self.data.class_mix} needs 2 samples a batch or more, in one "
                "part; type training.parts=1 and a larger training.batch_size, or data.class_mix=0"
            )
        for name in self.training.loss_terms:
            _code_path("training.loss_terms", name)
        chosen = self.selection.temperature
        if chosen is not None and chosen not in self.inference.temperatures:
            raise ValueError(
                f"selection.temperature {chosen} is not among inference.temperatures "
                f"{self.inference.temperatures}"
            )
        return self

    def _check_frames(self) -> None:
        """Refuse what nothing can be held out for, where all frames are trained on."""
        training, all_frames = self.training, 'training.frames = "all"'
        if training.frames == "folds":
            return
        if not training.epochs:
            raise ValueError(f"{all_frames} trains networks; training.epochs = 0 trains none")
        temperatures = self.inference.temperatures
        if self.selection.temperature is None and len(temperatures) > 1:
            raise ValueError(
                f"{all_frames} measures no temperature, and there are {temperatures}; type "
                "selection.temperature=T, the one that the run of folds chose (its "
                f"temperature.json), such as {temperatures[-1]:g}"
            )
        if self.int8:
            raise ValueError(
                f"{all_frames} holds no frame out, on which the loss of "
                "runtime.inference = 'openvino-int8' could be measured; use openvino"
            )

    @property
    def unlabelled(self) -> int:
        """Samples of a batch that a teacher labels; 0 without one."""
        training = self.training
        asked = max(round(training.teacher_share * training.batch_size), 1)
        return min(asked, training.batch_size - 1) if training.teacher else 0

    @property
    def taught_by_run(self) -> bool:
        """Whether another run labels the test frames."""
        return self.training.teacher not in {"", FIRST, EARLIER}

    def teachers(self, network: int) -> tuple[int, ...]:
        """The networks of this run that label the test frames for one of it."""
        training = self.of_network(network).training
        if not training.teacher or self.taught_by_run:
            return ()
        before = range(network % self.data.folds, network, self.data.folds)
        return (before[0],) if training.teacher == FIRST else tuple(before)

    @property
    def networks(self) -> int:
        """How many are trained: the members of each fold, or those on all frames."""
        folds = self.data.folds if self.holds_out else 1
        return folds * self.training.members

    def members(self, fold: int) -> tuple[int, ...]:
        """The networks that validate the frames of a fold; on all frames each is by itself.

        The first networks are the first members of all folds, then come the second ones.
        """
        return tuple(range(fold, self.networks, self.data.folds)) if self.holds_out else (fold,)

    def of_network(self, network: int) -> Self:
        """The config of one of the networks: what it sees, and whether it has a teacher."""
        member = network // (self.data.folds if self.holds_out else 1)
        changed: dict[str, Section] = {}
        if self.training.member_inputs:
            seen = self.inputs[member]
            changed["model"] = self.model.model_copy(update={"input": seen})
        if self.training.teacher and not self.taught_by_run and member < 2:
            # The lone network before the second one is the first.
            told = FIRST if member else ""
            changed["training"] = self.training.model_copy(update={"teacher": told})
        return self.model_copy(update=changed) if changed else self

    @property
    def inputs(self) -> tuple[Input, ...]:
        """`model.input` of the first network of each fold and, where they differ, of all others."""
        return self.model.input, *self.training.member_inputs

    @property
    def needs_depth(self) -> bool:
        """Whether a network's input is made from depth maps, too."""
        return any(seen != "rgb" for seen in self.inputs)

    @property
    def sees_surfaces(self) -> bool:
        """Whether a network's input has channels of surfaces."""
        return any(seen in SURFACES for seen in self.inputs)

    def told(self, network: int) -> str:
        """What a network is called: by its number, with its fold where that is another one."""
        fold, number = network % self.data.folds, network // self.data.folds
        whose = f" (fold {fold}, network {number + 1})" if self.holds_out and number else ""
        return f"fold {network}{whose}"

    @property
    def holds_out(self) -> bool:
        """Whether each network is scored on frames that it did not train on."""
        return self.training.frames == "folds"

    @property
    def code(self) -> list[str]:
        """The dotted paths of the plug-ins that it names, each once."""
        named = (self.model.encoder, self.model.decoder, *self.training.loss_terms)
        return list(dict.fromkeys(filter(is_code, named)))

    @property
    def openvino(self) -> bool:
        """Whether OpenVINO runs the trained networks."""
        return self.runtime.inference != "torch"

    @property
    def int8(self) -> bool:
        """Whether they run in INT8, which changes what they predict."""
        return self.runtime.inference == "openvino-int8"


def data_root(config: Config) -> Path:
    """The dataset folder of a config."""
    return Path("data") / ROOMS if config.data.root == ROOMS else Path(config.data.root)
