"""The fixed structure of a configuration: every key outside `_target_` nodes, its type and its meaning.

A field whose annotation holds a `Target` is a node that names a class; its arguments are checked against that class's
signature, so that a new encoder, objective or head needs no line here. A trailing underscore is dropped (`from_`).
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from .constraints import AtLeast, Between, Count, Fraction, Partial, Positive, Target
from .schema_launch import Sweep

__all__ = ["STAGES", "Config"]


SIZES = ("n_tokens", "width", "length", "n_labels")  # of encoder and data, which an objective may need
Encoder = Annotated[dict, Target(("length",))]
Pooling = Annotated[dict, Target(("n_tokens", "width"))]
Head = Annotated[dict, Target(("in_features", "labels"))]
Optimizer = Annotated[dict, Target(("params",))]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]  # weights and their average stay float32


@dataclass
class Run:
    """What is done, where, and from which seed."""

    name: str | None = None
    """Folder name; null makes one of scale, dataset, seed and a hash of further changes."""
    seed: Count = 0
    """Seed of all random draws except those inside a mock dataset."""
    root: str = "runs"
    """Folder of all runs."""
    stages: list[str] | None = None
    """Stages to do now; null is all of them."""
    fresh: bool = False
    """Starts a new generation beside an existing run, once per launch."""
    extend: Positive | None = None
    """New total number of steps of the one stage in `run.stages`."""
    preflight: bool = False
    """Checks everything, takes two real steps, prints the plan and ends."""
    requeue: Literal["auto"] | bool = "auto"
    """Whether a SLURM job that is warned of its end queues itself again; auto does where scontrol is found."""
    evaluate: bool = True
    """Whether the stages are evaluated on test objects when they are trained; the trials of a sweep are not."""


@dataclass
class Labels:
    """Quantities that heads predict."""

    names: list[str]
    """Names of labels in the store."""
    n: Positive | None = None
    """Labelled training objects used; subsets nest."""


@dataclass
class Data:
    """How data are read."""

    num_workers: Count = 0
    """Loader processes; batches do not depend on it."""
    max_bad_fraction: Fraction = 0.1
    """Share of bad objects beyond which a run stops."""
    cache_root: str | None = None
    """Where mock data and features are kept; null is `<run.root>/.cache`."""
    stage_to: str | None = None
    """Folder on a disk of the node, such as $TMPDIR, to which stores are copied and checked before they are read."""
    block: Positive = 256
    """Rows read together; the shuffle permutes blocks and rows in them."""


@dataclass
class Weighted:
    """One entry of a weighted list of datasets."""

    weight: Annotated[float, AtLeast(0)]
    """Its share in training."""
    dataset: Annotated[dict, Target()]
    """The dataset."""
    labels: bool = True
    """false hides its labels from this stage."""


Datasets = Annotated[dict, Target()] | list[Weighted] | None


@dataclass
class Machine:
    """Where the mathematics is done, for all stages."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    """auto takes a GPU where there is one."""
    devices: Positive | Literal["auto"] | list[int] = 1
    """Devices on each node."""
    num_nodes: Positive = 1
    """Machines."""
    strategy: Literal["auto", "ddp", "fsdp2"] = "auto"
    """How ranks share the work: auto and ddp keep whole copies, fsdp2 shards weights that do not fit one device."""
    precision: Precision = "32-true"
    """Arithmetic of the forward and backward pass."""
    deterministic: bool = False
    """Refuses kernels whose sums depend on the order."""
    compile: bool = False
    """Compiles the encoders with torch.compile."""


@dataclass
class RunMachine(Machine):
    """The machine of the run."""

    stall_timeout: Annotated[float, AtLeast(1)] | None = 1800.0
    """Seconds without progress after which a rank is reported with its stack and the job ended; null never."""


@dataclass
class Trainer(Machine):
    """How long and how a stage trains."""

    max_steps: Positive = 1000
    """Optimiser steps."""
    batch_size: Positive = 64
    """Objects in one optimiser step, over all devices and micro-batches."""
    accumulate: Positive = 1
    """Micro-batches of one step."""
    val_every_steps: Positive = 200
    """Steps between validations."""
    val_batches: Positive | None = None
    """Validation batches; null is all."""
    validate_first: bool = False
    """Validates before the first step, so that training cannot end worse than it began."""
    checkpoint_every_steps: Positive = 200
    """Steps between checkpoints."""
    log_every_steps: Positive = 10
    """Steps between rows of metrics.csv."""
    keep_best: Positive = 1
    """Best checkpoints kept."""
    monitor: str = "val_loss"
    """Validation metric that decides which is best."""
    mode: Literal["min", "max"] = "min"
    """Whether less or more of it is better."""
    early_stopping_patience: Positive | None = None
    """Validations without improvement before the stage ends."""
    early_stopping_min_delta: Annotated[float, AtLeast(0)] = 0.0
    """Smallest change that counts as improvement."""
    gradient_clip: Annotated[float, AtLeast(0)] | None = 1.0
    """Largest norm of the gradient."""
    ema_decay: Fraction | None = None
    """Decay of the moving average of the weights; null keeps none."""


@dataclass
class Scheduler:
    """The learning rate as a function of the step."""

    name: Literal["warmup_cosine", "constant", "one_cycle"]
    """Its shape."""
    warmup_steps: Count = 0
    """Steps of the rise."""
    floor: Fraction | None = None
    """Final rate as a fraction of the peak."""


@dataclass
class Probe:
    """Diagnosis while training."""

    every_steps: Positive | None = None
    """Steps between probes; null probes never."""
    n: Positive = 2000
    """Objects from each of the train and validation splits."""


@dataclass
class Reference:
    """An earlier result."""

    from_: str
    """A stage of this run, a checkpoint file or an exported folder."""
    which: Literal["best", "last"] = "best"
    """Which checkpoint."""


@dataclass
class Stage:
    """What all stages have."""

    _stage_: str
    """Its kind."""
    optimizer: Optimizer
    """The optimiser's class and settings."""
    scheduler: Scheduler
    """The learning rate."""
    trainer: Trainer
    """Steps, batches, precision."""
    dataset: Datasets = None
    """null takes the run's dataset; a name, or a list of {path or dataset, weight}, its own."""


@dataclass
class Pretrain(Stage):
    """Trains one encoder without labels."""

    modality: str = ""
    """Which spectra."""
    encoder: Encoder = None  # type: ignore[assignment]
    """Signal to tokens."""
    objective: Annotated[dict, Target(SIZES)] = None  # type: ignore[assignment]
    """What is minimised."""
    probe: Probe | None = None
    """Ridge and k-NN on labelled validation objects, rank, collapse."""


@dataclass
class Align(Stage):
    """Brings embeddings of several modalities together."""

    encoders: dict[str, Reference | str] = None  # type: ignore[assignment]
    """Modality to encoder."""
    heads: dict[str, Pooling] = None  # type: ignore[assignment]
    """Modality to head on its tokens."""
    objective: Annotated[dict, Target()] = None  # type: ignore[assignment]
    """What is minimised."""
    bottleneck: Annotated[dict, Target()] | None = None
    """How an embedding is divided."""
    frozen: bool = True
    """Whether encoders stay as they are."""
    layer_decay: Annotated[float, Between(0, 1, open_low=True)] | None = None
    """Factor on the rate from each layer to the one below, where encoders are trained along."""
    cache: bool = True
    """Whether features of frozen encoders are kept on disk."""
    probe: Probe | None = None
    """Alignment, uniformity, modality gap."""


@dataclass
class Lora:
    """Low-rank adaptation of linear layers."""

    rank: Positive = 8
    """Rank of the update."""
    alpha: Annotated[float, AtLeast(0)] = 16.0
    """The update is scaled by alpha / rank."""
    pattern: str = ".*"
    """Regular expression of the layers' names."""


@dataclass
class Task:
    """One head on one or more inputs."""

    inputs: list[str]
    """<modality>.raw, .single, .aligned, or several joined by +; the head is fitted on each."""
    head: Head | None = None
    """The head; null takes that of `init`."""
    pooling: Pooling | None = None
    """Tokens to vector; null takes the stage's."""
    encoder: Encoder | None = None
    """An encoder trained from scratch with the head."""
    finetune: bool = False
    """Whether the pretrained encoder is trained along."""
    init: str | None = None
    """An earlier task whose head and pooling it starts from."""
    encoder_rate: Annotated[float, AtLeast(0)] | None = None
    """Factor on the encoder's learning rate."""
    layer_decay: Annotated[float, Between(0, 1, open_low=True)] | None = None
    """Factor on the rate from each layer to the one below."""
    optimizer: Optimizer | None = None
    """null takes the stage's."""
    scheduler: Scheduler | None = None
    """null takes the stage's."""
    augment: Annotated[dict, Target()] | None = None
    """Random changes of the training spectra: more noise, small shifts."""
    lora: Lora | None = None
    """With `finetune`: low-rank updates instead of all weights."""
    per_input: dict[str, Any] | None = None
    """Input -> keys of this task that differ there, such as a wider head for richer features."""
    trainer: Annotated[Trainer, Partial] | None = None
    """Keys that differ from the stage's."""


@dataclass
class Heads(Stage):
    """Fits heads on embeddings, or with encoders trained along."""

    tasks: dict[str, Task] = None  # type: ignore[assignment]
    """What is fitted."""
    encoders: dict[str, Reference | str] | None = None
    """Modality to encoder before alignment."""
    aligned: Reference | str | None = None
    """The alignment."""
    pooling: dict[str, Pooling] | None = None
    """Modality to pooling of its tokens."""
    embeddings: list[str] | None = None
    """Inputs whose 2-D embedding is drawn."""


STAGES: dict[str, type[Stage]] = {"pretrain": Pretrain, "align": Align, "heads": Heads}


@dataclass
class Wandb:
    """Weights & Biases."""

    project: str = "astro-train"
    """Its project."""
    mode: Literal["online", "offline", "disabled"] = "offline"
    """offline needs no account."""


@dataclass
class Logger:
    """Where numbers go besides metrics.csv."""

    tensorboard: bool = False
    """TensorBoard files."""
    wandb: Wandb | None = None
    """Weights & Biases."""


@dataclass
class Evaluation:
    """The one evaluation on test objects."""

    retrieval_gallery: Positive = 2000
    """Objects among which a counterpart is looked for."""
    posterior_samples: Positive = 1000
    """Draws from each posterior."""
    bootstrap: Positive = 200
    """Resamplings for each error."""
    report: bool = True
    """Whether report.html is written."""


@dataclass
class Config:
    """A whole run."""

    run: Run
    """What, where, seed."""
    labels: Labels
    """What is predicted."""
    data: Data
    """How data are read."""
    dataset: Annotated[dict, Target()]
    """The run's default data."""
    trainer: RunMachine
    """Machine and precision of all stages."""
    logger: Logger
    """What is written besides."""
    callbacks: dict[str, Annotated[dict, Target()]]
    """Lightning callbacks by name."""
    evaluation: Evaluation
    """How it is judged."""
    stages: dict[str, Any]
    """The stages in their order; see `STAGES`."""
    vars: dict[str, Any]
    """Free values for ${vars.x}."""
    conventions: Literal["ours", "published"] = "ours"
    """published repeats the slips of the published code."""
    scale: str | None = None
    """Name of the size."""
    variant: str | None = None
    """Name of the variant."""
    adapt: str | None = None
    """How a finished model is adapted."""
    model: str | None = None
    """The exported folder or checkpoint that is adapted."""
    experiment: str | None = None
    """Name of the experiment."""
    choices: dict[str, Any] | None = None
    """The group choices of the command."""
    sweep: Sweep | None = None
    """A search over configurations, with -m."""
