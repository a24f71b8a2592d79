"""What a user can set, typed once: the protocol, the training, and how a command runs.

Fields carry their default, bounds and description; parsing, checks, `fsar-bench run --help` and `fsar-bench list keys`
are made from them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    Strict,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from fsar_bench.config.fields import bytes_from_text, explain_fault, one_line, value_from_text
from fsar_bench.config.plain import plain_config, plain_configs
from fsar_bench.errors import ConfigError, shown, suggest
from fsar_bench.storage.limits import plan_fault
from fsar_bench.texts.characters import LONGEST

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.@-]*$"
KEY_PATTERN = r"^[A-Za-z_][A-Za-z0-9_.@-]*$"  # of a setting: in a command it is no option


def is_no_file(name: str) -> str:
    """A name that cannot be taken for the file of a config, which is a program."""
    if name.lower().endswith(".py"):
        raise ValueError(f"the name {name!r} could be taken for a file: choose one that does not end in .py.")
    return name


Count = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, le=10**15)]
Text = Annotated[str, Field(max_length=LONGEST), AfterValidator(one_line)]
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=100), AfterValidator(is_no_file)]
Sha = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Resources = dict[Annotated[str, Field(max_length=100)], bool | int | float | str | list[str] | dict[str, Any]]
LAUNCHERS = ("ray", "slurm")  # keys of options of clusters, each also the name of its launcher
LOG_BACKENDS = {  # MMEngine's visualizer backends, and the package that each needs
    "tensorboard": ("TensorboardVisBackend", "tensorboard"),
    "wandb": ("WandbVisBackend", "wandb"),
    "mlflow": ("MLflowVisBackend", "mlflow"),
    "clearml": ("ClearMLVisBackend", "clearml"),
    "neptune": ("NeptuneVisBackend", "neptune"),
    "dvclive": ("DVCLiveVisBackend", "dvclive"),
    "aim": ("AimVisBackend", "aim"),
}


class Frozen(BaseModel):
    """Base of typed values that are checked when they are made and cannot change afterwards.

    Attributes:
        unhashed_defaults: fields that are left out of the serialised form, and so of hashes, while they hold their default:
            a setting added later then changes no earlier hash.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)
    unhashed_defaults: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data = handler(self)
        fields = type(self).model_fields
        return {k: v for k, v in data.items() if k not in self.unhashed_defaults or v != fields[k].default}


class Settings(Frozen):
    """Typed values that users set by `key=value`.

    Attributes:
        prefix: what stands before a field's name in its key, such as "train.".
    """

    prefix: ClassVar[str] = ""

    @classmethod
    def of(cls, values: dict[str, Any], where: str = "") -> Self:
        """Check values; `where` opens the message of an error.

        Raises:
            ConfigError: names the first key that is unknown or has a wrong value, and what is expected.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            raise ConfigError(where + explain_fault(error, cls.prefix, cls.model_fields)) from error

    @classmethod
    def parse(cls, name: str, text: str) -> Any:
        """The value of a field from text; bounds are checked when the whole is made.

        Raises:
            ConfigError: the text does not read as the field's type.
        """
        field = cls.model_fields[name]
        return value_from_text(
            f"{cls.prefix}{name}", text, field.annotation, field.get_default(call_default_factory=True)
        )


FramesAs = Literal["as_is", "shuffled", "reversed", "middle", "differences"]


class Protocol(Settings):
    """The rules of one evaluation: what is held identical for every method that is compared."""

    unhashed_defaults = frozenset({"group_disjoint", "frames_as", "features"})

    split: Name = Field("test", description="split that is tested")
    way: int = Field(5, ge=2, le=255, description="classes per episode (N)")
    shot: int = Field(1, ge=1, le=10**6, description="labelled clips per class (K)")
    query: int = Field(1, ge=1, le=10**6, description="query clips per class")
    episodes: Count = Field(10_000, description="number of episodes")
    seed: Seed = Field(0, description="seed of the episode plan")
    frames: Count = Field(8, description="frames per clip (T)")
    sampling: Literal["midpoint"] = Field("midpoint", description="frames are the middles of T equal segments")
    template: Text = Field("a photo of {}", description="prompt template; {} stands for the class text")
    group_disjoint: bool = Field(
        False, description="supports share no source recording with the queries of their class, in training too"
    )
    frames_as: FramesAs = Field(
        "as_is",
        description="what methods see of the tested frames: as_is, or, as a control, shuffled, reversed (queries alone), middle "
        "(that frame in every place) or differences (of the features of neighbours)",
    )
    features: Literal["float32", "float16"] = Field(
        "float32",
        description="how encoded clips are kept until they are scored; float16 halves their memory and rounds them",
    )

    @field_validator("template")
    @classmethod
    def _has_one_place(cls, template: str) -> str:
        if template.count("{}") != 1 or template.count("{") != 1 or template.count("}") != 1:
            raise ValueError(f"template={template!r} needs one {{}}, the place of the class text, and no other brace.")
        return template

    @model_validator(mode="after")
    def _is_a_plan_that_can_be_read(self) -> Self:
        if fault := plan_fault(way=self.way, shot=self.shot, query=self.query, episodes=self.episodes):
            raise ValueError(fault)
        return self


KEPT_AS = str(Protocol.model_fields["features"].default)  # encoded clips, where nothing else is said
PROTOCOL_KEYS = tuple(name for name in Protocol.model_fields if name not in ("split", "sampling"))


class Train(Settings):
    """How a method is trained, on episodes of the train split."""

    prefix = "train."
    augmentation: ClassVar[tuple[str, ...]] = (
        "crop", "crop_area", "crop_ratio", "flip", "allows_flip", "jitter", "grayscale", "augmented", "squash",
    )  # fmt: skip
    unhashed_defaults = frozenset(
        {"seed", "scheduler", "hooks", "no_decay", "loss_scale", "sampling", "stride", *augmentation}
    )

    episodes: Count = Field(1000, description="training episodes")
    way: Annotated[int, Field(ge=2, le=255)] | None = Field(
        None, description="classes per training episode; none follows way="
    )
    shot: Count | None = Field(None, description="shots of a training episode; none follows shot=")
    query_per_class: Count = Field(5, description="query clips per class of a training episode")
    accumulate: Count = Field(16, description="episodes per optimiser step")
    optimizer: dict[str, Any] = Field(
        {"type": "AdamW", "lr": 1e-4, "weight_decay": 0.05}, description="optimiser, as MMEngine builds it"
    )
    clip_grad: Annotated[float, Field(gt=0)] | None = Field(
        1.0, description="largest norm of a gradient; none for no limit"
    )
    warmup: float = Field(
        0.05, ge=0, lt=1, description="share of the episodes in which the learning rate rises; a cosine follows"
    )
    scheduler: dict[str, Any] | list[dict[str, Any]] | None = Field(
        None, description="MMEngine parameter schedulers in place of warm-up and cosine"
    )
    hooks: list[dict[str, Any]] = Field([], description="further MMEngine hooks of the training, by registered type")
    val_episodes: Count = Field(1000, description="val episodes that choose the checkpoint")
    val_interval: Count = Field(208, description="episodes between validations; a multiple of train.accumulate")
    amp: Literal["auto", "off"] = Field("auto", description="mixed precision on a GPU (bfloat16), or off")
    seed: Seed | None = Field(None, description="seed of the training alone; none follows seed=")
    crop: Literal["center", "random", "resized", "multiscale"] = Field(
        "center",
        description="crop of training clips: at the centre as in evaluation, anywhere, of random area and ratio, or of the "
        "TSN family's scales and places",
    )
    crop_area: float = Field(0.08, gt=0, le=1, description="smallest share of a frame that train.crop=resized takes")
    crop_ratio: float = Field(
        4 / 3, ge=1, le=100, description="largest width : height, or its inverse, that train.crop=resized takes"
    )
    flip: Literal["off", "if_allowed", "on"] = Field(
        "off", description="mirror half of the training clips: never, if train.allows_flip is true, or always"
    )
    allows_flip: bool = Field(False, description="mirroring keeps the class of every clip; a dataset's config says so")
    jitter: float = Field(
        0.0,
        ge=0,
        le=1,
        description="random brightness, contrast and saturation (times 1 ± jitter) and hue (± jitter / 2)",
    )
    grayscale: float = Field(0.0, ge=0, le=1, description="probability of a grey training clip")
    augmented: Literal["all", "queries"] = Field(
        "all", description="training clips that are mirrored and recoloured; all are cropped"
    )
    squash: bool = Field(
        False, description="training frames are squeezed to a square before the crop, so that their ratio is lost"
    )
    sampling: Literal["segments", "whole_segments", "stride", "jittered_ends", "ends"] = Field(
        "segments",
        description="frames of training clips: a random one of each of T equal segments, or of T segments of whole frames; "
        "equidistant from a random start, between ends that move, or from the first to the last",
    )
    stride: Count = Field(1, description="frames between those that train.sampling=stride takes")
    no_decay: list[Annotated[str, Field(min_length=1, max_length=100)]] = Field(
        [], max_length=20, description="parameters without weight decay, by parts of their names, as JSON"
    )
    loss_scale: float = Field(1.0, gt=0, le=10**6, description="factor of an episode's loss before its gradient")

    @model_validator(mode="after")
    def _validates_between_updates(self) -> Self:
        if self.val_interval % self.accumulate:
            raise ValueError(
                f"train.val_interval={self.val_interval} must be a multiple of train.accumulate={self.accumulate}: "
                "checkpoints are written between optimiser steps."
            )
        return self

    @field_validator("optimizer")
    @classmethod
    def _is_plain(cls, optimizer: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(optimizer.get("type"), (str, type)):
            raise ValueError("train.optimizer needs a type, such as AdamW.")
        return plain_config(optimizer, "train.optimizer")

    @field_validator("scheduler")
    @classmethod
    def _schedulers_are_plain(cls, scheduler: Any) -> Any:
        if scheduler is None:
            return None
        is_one = isinstance(scheduler, dict)
        return plain_config(scheduler, "train.scheduler") if is_one else plain_configs(scheduler, "train.scheduler")

    @field_validator("hooks")
    @classmethod
    def _hooks_are_plain(cls, hooks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if not all(isinstance(hook.get("type"), (str, type)) for hook in hooks):
            raise ValueError('train.hooks needs a list of configs with a type, such as [{"type": "MyHook"}].')
        return plain_configs(hooks, "train.hooks")

    @model_validator(mode="after")
    def _exempts_from_some_decay(self) -> Self:
        if self.no_decay and "weight_decay" not in self.optimizer:
            raise ValueError(
                f"train.no_decay={shown(self.no_decay)} exempts parameters from the weight decay of train.optimizer, which has "
                "none: set train.optimizer.weight_decay, or leave it out."
            )
        return self

    @model_validator(mode="after")
    def _are_plans_that_can_be_drawn(self) -> Self:
        if self.way and self.shot and (fault := self._fault(self.way, self.shot)):
            raise ValueError(fault)
        return self

    def _fault(self, way: int, shot: int) -> str:
        """What is wrong with the number of episodes; empty if nothing is."""
        return plan_fault(
            way=way, shot=shot, query=self.query_per_class, episodes=self.episodes, prefix="train."
        ) or plan_fault(way=way, shot=shot, query=1, episodes=self.val_episodes, prefix="train.val_")

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The defaults as a nested dictionary, for configs to change."""
        return {name: copy.deepcopy(field.get_default()) for name, field in cls.model_fields.items()}

    def resolved(self, protocol: Protocol, typed: Iterable[str] = ()) -> Train:
        """The same training with way and shot filled in, without what has no effect.

        Args:
            protocol: what way and shot follow; a seed that is the protocol's own is left out.
            typed: fields that the user has set.

        Raises:
            ConfigError: one of them has no effect, or the training has more episodes than can be drawn.
        """
        seed = None if self.seed == protocol.seed else self.seed
        way, shot = self.way or protocol.way, self.shot or protocol.shot
        if fault := self._fault(way, shot):
            raise ConfigError(fault)
        effective = self.with_effective_augmentation()
        for name, other, value in (
            ("crop_area", "crop", "resized"),
            ("crop_ratio", "crop", "resized"),
            ("stride", "sampling", "stride"),
        ):
            if name in typed and getattr(effective, name) != getattr(self, name):
                raise ConfigError(
                    f"train.{name}={getattr(self, name):g} has no effect with train.{other}={getattr(self, other)}: say "
                    f"train.{other}={value}, or leave it out."
                )
        return effective.model_copy(update={"way": way, "shot": shot, "seed": seed})

    def with_effective_augmentation(self) -> Train:
        """The same training with `flip` on or off; what has no effect holds its default, so that it changes no hash."""
        is_mirrored = self.flip == "on" or (self.flip == "if_allowed" and self.allows_flip)
        idle = {"allows_flip"}
        idle |= set() if self.crop == "resized" else {"crop_area", "crop_ratio"}
        idle |= set() if self.sampling == "stride" else {"stride"}
        idle |= set() if is_mirrored or self.jitter or self.grayscale else {"augmented"}
        defaults = {name: type(self).model_fields[name].default for name in idle}
        return self.model_copy(update={**defaults, "flip": "on" if is_mirrored else "off"})

    @property
    def is_augmented(self) -> bool:
        """Whether clips differ from the evaluation's in more than their frames; of a resolved training."""
        is_moved = self.crop != "center" or self.flip == "on" or self.squash
        return is_moved or self.jitter > 0 or self.grayscale > 0


class Choices(Settings):
    """What is run: names of configs (or paths of custom ones), weights and readers."""

    methods: str = Field("", description="method names; all, ablations/NAME, or ./my_method.py")
    dataset: str = Field("synthact", description="dataset that is tested, by name or as ./my_dataset.py")
    train_on: str = Field("", description="dataset of the training and of val, the tested one unless it is named")
    recipe: Literal["suite", "official"] = Field(
        "suite", description="how methods are trained: by the suite's common recipe, or by the published one of each"
    )
    protocol: str = Field("", description="protocol, the dataset's unless it is named")
    backbone: str = Field(
        "", description="backbone, the dataset's unless it is named; timm:NAME takes an image model of timm"
    )
    pretrained: str = Field(
        "", description="weights of the backbone: a file, folder, tag or hf-hub: id; none for random ones"
    )
    activation: Literal["quick_gelu", "gelu"] = Field(
        "quick_gelu", description="activation of CLIP weights whose file does not tell it"
    )
    matcher: str = Field("", description="matcher in place of the method's own")
    checkpoint: str = Field("", description="trained weights to evaluate instead of training")
    reader: Text = Field("pyav", description="how clips are decoded")
    title: Text = Field("", description="what tables call the row in place of the method's title and settings")
    imports: str = Field("", description="custom modules to import, such as ./my_matchers.py")
    tuned: str = Field(
        "auto",
        description="settings that fsar-bench tune chose: auto for those of the dataset, none for the configs' own, or the "
        "folder that tuned= named then",
    )


def _size(key: str, size: str, words: tuple[str, ...]) -> str:
    """A size in bytes, or one of some words, as it was written."""
    if size not in words:
        try:
            bytes_from_text(size)
        except ValueError as error:
            raise ValueError(f"{key}={shown(size)} is no size: {error}. Or choose {' or '.join(words)}.") from None
    return size


class RunOptions(Settings):
    """How a command runs: nothing here changes a result."""

    device: Text = Field("auto", description="auto, cpu, cuda or cuda:N")
    out: Annotated[Path, Strict(False)] = Field(Path("leaderboards"), description="folder of results and tables")
    work_dir: Annotated[Path, Strict(False)] = Field(
        Path("work_dirs"), description="folder of trainings, logs and score parts"
    )
    jobs: int | Literal["auto"] = Field(
        "auto",
        description="cells that run at a time; auto: one per visible GPU, or on the CPU as many as its cores and its free memory "
        "(4 GB each) allow",
    )
    workers: int = Field(2, ge=0, le=1024, description="decode processes of each cell, or of each rank of its training")
    decode_timeout: float = Field(60.0, gt=0, le=10**6, description="seconds that one clip may take to decode")
    checkpoint_seconds: float = Field(30.0, ge=0, le=10**6, description="seconds between training checkpoints")
    score_batch: Count = Field(250, description="episodes scored at a time")
    bank_budget: Text = Field(
        "auto",
        description="memory for encoded clips, such as 4GB; more is kept in a file in work_dir. auto takes half of what is free, "
        "none has no limit",
    )
    overwrite: bool = Field(
        False, description="evaluate finished cells again (to train again, delete their folder in work_dir)"
    )
    controls: bool = Field(True, description="run the dataset's control methods too")
    log: list[str] = Field([], description=f"where training curves go too: {', '.join(LOG_BACKENDS)}")
    devices: Annotated[int, Field(ge=1, le=1024)] = Field(
        1,
        description="ranks that train one cell: GPUs, from that of device= on, or on the CPU processes that share the cores; the "
        "bytes are those of one rank with as many threads",
    )
    launcher: Literal["local", "ray", "slurm"] = Field(
        "local", description="where cells run: here, on Ray, or on Slurm"
    )
    address: Text = Field(
        "",
        description="with launcher=ray, that of a running cluster, or auto for the one of this machine (empty starts one here "
        "for the run); with launcher=slurm, local runs the jobs on this machine, to try them",
    )
    ray: Resources = Field(
        {},
        description="what each cell takes of a Ray cluster: ray.num_cpus=, ray.num_gpus=, ray.memory= (bytes); by default "
        "as many GPUs as devices= where there are any, and their share of the cores",
    )
    slurm: Resources = Field(
        {},
        description="options of the Slurm jobs: slurm.partition=, slurm.time= (minutes, 240 by default), slurm.cpus_per_task=, "
        "and what else submitit takes",
    )
    fit: Text = Field(
        "none",
        description="memory of the device that a training step may take, such as 11GB: clips of an episode are encoded as many "
        "at a time as fit, twice; none stores all of their activations",
    )
    prefetch: int = Field(1, ge=0, le=1000, description="training episodes whose clips are read ahead")

    @field_validator("bank_budget")
    @classmethod
    def _is_a_size(cls, budget: str) -> str:
        return _size("bank_budget", budget, ("auto", "none"))

    @field_validator("fit")
    @classmethod
    def _is_a_size_of_memory(cls, fit: str) -> str:
        return _size("fit", fit, ("none",))

    @field_validator("jobs", mode="before")
    @classmethod
    def _is_a_number_of_jobs(cls, jobs: Any) -> Any:
        is_number = isinstance(jobs, int) and not isinstance(jobs, bool) and 1 <= jobs <= 1024
        if jobs != "auto" and not is_number:
            raise ValueError(f"jobs={shown(jobs)} must be a whole number from 1 to 1024, or auto.")
        return jobs

    @field_validator("log")
    @classmethod
    def _backends_exist(cls, log: list[str]) -> list[str]:
        for name in log:
            if name not in LOG_BACKENDS:
                raise ValueError(f"log={shown(name)} is unknown.{suggest(name, LOG_BACKENDS)}")
        return log

    @model_validator(mode="after")
    def _fits_its_launcher(self) -> Self:
        if self.launcher == "local":
            for key in ("address", *LAUNCHERS):
                if getattr(self, key):
                    launcher = key if key in LAUNCHERS else "ray"
                    raise ValueError(
                        f"{key}= has no effect with launcher=local: say launcher={launcher}, or leave it out."
                    )
            return self
        for key in LAUNCHERS:
            if key != self.launcher and getattr(self, key):
                raise ValueError(f"{key}= has no effect with launcher={self.launcher}: leave it out.")
        if self.jobs != "auto":
            key = "ray.num_cpus" if self.launcher == "ray" else "slurm.array_parallelism"
            raise ValueError(
                f"jobs={shown(self.jobs)} is for launcher=local: a cluster runs as many cells at a time as it has room for. "
                f"Leave it out; {key}= sets how many that are."
            )
        if self.device.startswith("cuda:"):
            raise ValueError(
                f"device={self.device} names a GPU of one machine: with launcher={self.launcher}, say device=cuda."
            )
        return self

    @classmethod
    def parse(cls, name: str, text: str) -> Any:
        """The value of an option from text; `log` takes several names with commas, `jobs` also a word."""
        if name == "jobs" and not text.strip().isdigit():
            return text.strip()
        if name == "log":
            return [part.strip() for part in text.split(",") if part.strip()]
        return super().parse(name, text)
