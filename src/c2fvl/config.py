"""Settings: frozen dataclasses ⇄ TOML, with `section.key=value` overrides.

A preset is a TOML file of the sections below; what it leaves out keeps the default given here. Every setting carries
one sentence of help, from which `c2fvl settings` and the reference in `docs/settings.md` are made.
"""

import dataclasses
import difflib
import json
import math
import tomllib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PRESETS = Path(__file__).parent / "presets"


def _setting(
    default: Any, meaning: str, *, choices: tuple[str, ...] = (), least: float | None = None, most: float | None = None
) -> Any:
    return field(default=default, metadata={"help": meaning, "choices": choices, "least": least, "most": most})


@dataclass(frozen=True)
class DataConfig:
    """Which films, and how they become the network's input."""

    root: str = _setting("", "folder that holds Train_Folder, Val_Folder, …, or a csv table of one's own")
    train_split: str = _setting("train", "split to train on")
    val_split: str = _setting("val", "split to validate on")
    table: str = _setting("", "caption table to use in place of <Split>_text.xlsx; {split} stands for the split's name")
    image_size: int = _setting(224, "side in pixels to which films are resized for the network", least=16)
    resize: str = _setting(
        "exact",
        "exact: films averaged over area when they shrink, masks by nearest neighbour; published: both bilinear on "
        "8 bits, and every touched pixel of the mask counts",
        choices=("exact", "published"),
    )
    channel_order: str = _setting("rgb", "order in which the network sees colours", choices=("rgb", "bgr"))
    augmentation: str = _setting(
        "consistent",
        "consistent: the report moves with the film, no quarter turns; paper: as published, the text unmoved; none",
        choices=("consistent", "paper", "none"),
    )
    text: str = _setting(
        "attributes",
        "attributes: the eight numbers of C2FVL; none: the network sees no report",
        choices=("attributes", "none"),
    )
    missing_text: str = _setting(
        "error", "what a film without attributes is: an error, or allowed", choices=("error", "allow")
    )
    text_dropout: float = _setting(0.0, "share of training films whose report is withheld", least=0, most=1)
    workers: int = _setting(0, "processes that read films beside the training; 0 reads in the training itself", least=0)


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    name: str = _setting("c2fvl", "name of the network, as `c2fvl models` lists it")
    arguments: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "its keyword arguments, as model.arguments.NAME", "choices": ()}
    )


@dataclass(frozen=True)
class LossConfig:
    """The weighted sum that is minimised."""

    dice: float = _setting(0.5, "weight of the Dice loss", least=0)
    cross_entropy: float = _setting(0.5, "weight of the balanced cross-entropy", least=0)
    alignment: float = _setting(
        1.0, "weight of the cosine alignment of the side maps (C2FVL); 0 leaves it out", least=0
    )
    side_maps: float = _setting(0.0, "weight of Dice and cross-entropy on every side map; 0 leaves it out", least=0)


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser and its learning rate."""

    name: str = _setting("adam", "adam, or adamw (decoupled weight decay)", choices=("adam", "adamw"))
    learning_rate: float = _setting(1e-3, "highest learning rate", least=0)
    weight_decay: float = _setting(0.0, "weight decay", least=0)
    clip_norm: float = _setting(0.0, "largest norm of the whole gradient; 0 does not clip", least=0)
    schedule: str = _setting(
        "cosine_restarts",
        "cosine_restarts: from the highest to the least rate within each period, set once an epoch; one_cycle: up in "
        "the first tenth, then down a cosine over all epochs, set every step; constant",
        choices=("cosine_restarts", "one_cycle", "constant"),
    )
    period: int = _setting(10, "epochs of one period of cosine_restarts", least=1)
    least_rate: float = _setting(1e-4, "learning rate at the end of a period or cycle", least=0)


@dataclass(frozen=True)
class TrainConfig:
    """The loop."""

    epochs: int = _setting(100, "most epochs", least=1)
    batch_size: int = _setting(4, "films in a batch, per process", least=1)
    accumulation: int = _setting(1, "batches whose gradients are summed before a step", least=1)
    precision: str = _setting("fp32", "arithmetic of the network", choices=("fp32", "bf16", "fp16"))
    ema: float = _setting(
        0.0, "decay of an exponential moving average of the weights; 0 keeps none", least=0, most=0.99999
    )
    patience: int = _setting(50, "epochs without a better Dice after which training stops; 0 never stops", least=0)
    best_from_epoch: int = _setting(1, "first epoch, counted from 1, whose Dice may count as the best", least=1)
    seed: int = _setting(0, "seed of everything random", least=0, most=2**31)
    deterministic: bool = _setting(False, "use deterministic algorithms only, and raise where there is none")
    threads: int = _setting(0, "processor threads; 0 leaves the machine's default", least=0)
    device: str = _setting("auto", "where to train", choices=("auto", "cpu"))
    max_hours: float = _setting(0.0, "stop and save after so many hours of this call; 0 has no limit", least=0)
    save_minutes: float = _setting(10.0, "also save the state within an epoch so often; 0 only at its end", least=0)
    trackers: tuple[str, ...] = _setting((), "trackers of Accelerate that follow the run: tensorboard, wandb, …")


@dataclass(frozen=True)
class Config:
    """All settings of one run."""

    preset: str = _setting("", "name of the preset that these settings began as")
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "model": ModelConfig,
    "loss": LossConfig,
    "optimizer": OptimizerConfig,
    "train": TrainConfig,
}


def preset_names() -> list[str]:
    """Return the names of the presets that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def load_config(source: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Return the settings of a preset's name or a TOML file's path, changed by `section.key=value` overrides.

    Raises `FileNotFoundError` for a name that is no preset and no file, and `ValueError` that names the setting,
    its value and what was expected.
    """
    path = Path(source)
    if path.suffix != ".toml" and not path.is_file():
        path = PRESETS / f"{source}.toml"
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no preset {str(source)!r} and no such file{nearest_names(str(source), preset_names())} "
                f"Presets are: {', '.join(preset_names())}"
            )
    if not path.is_file():
        raise FileNotFoundError(f"there is no settings file {path}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no TOML file: it is not UTF-8 text ({error})") from error
    config = parse_config(text, where=str(path))
    if not config.preset:
        config = dataclasses.replace(config, preset=path.stem)
    return override(config, overrides)


def parse_config(text: str, *, where: str = "settings") -> Config:
    """Return the settings of TOML text; `where` names the text in errors."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{where} is not valid TOML: {error}") from error
    return _from_table(table, where)


def override(config: Config, overrides: Iterable[str]) -> Config:
    """Return `config` with `section.key=value` changes; the value is read as TOML, or else as plain text."""
    table = _as_table(config)
    for item in overrides:
        key, sign, value = item.partition("=")
        parts = key.strip().split(".")
        if not sign or len(parts) not in (2, 3) or not all(parts):
            raise ValueError(f"{item!r} is not of the form section.key=value, such as train.epochs=20")
        section = table.get(parts[0])
        if not isinstance(section, dict):
            raise ValueError(f"{item!r}: there is no section {parts[0]!r}{nearest_names(parts[0], list(SECTIONS))}")
        for part in parts[1:-1]:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise ValueError(f"{item!r}: {'.'.join(parts[:-1])} holds no further settings")
        section[parts[-1]] = _toml_value(value.strip())
    return _from_table(table, "command line")


def to_toml(config: Config) -> str:
    """Return the settings as TOML that `parse_config` reads back to an equal object."""
    lines = [f"preset = {_toml(config.preset)}", ""]
    for section, values in _as_table(config).items():
        if section == "preset":
            continue
        lines.append(f"[{section}]")
        lines += [f"{key} = {_toml(value)}" for key, value in values.items() if not isinstance(value, dict)]
        for key, value in values.items():
            if isinstance(value, dict) and value:
                lines += ["", f"[{section}.{key}]", *(f"{name} = {_toml(item)}" for name, item in value.items())]
        lines.append("")
    return "\n".join(lines)


def describe_settings() -> list[tuple[str, str, str]]:
    """Return (section.key, default as TOML, meaning) of every setting, in order."""
    described = []
    for section, kind in SECTIONS.items():
        default = kind()
        for item in dataclasses.fields(kind):
            value = getattr(default, item.name)
            meaning, choices = item.metadata["help"], item.metadata["choices"]
            if choices and not all(choice in meaning for choice in choices):
                meaning += f" ({', '.join(choices)})"
            described.append((f"{section}.{item.name}", "{}" if isinstance(value, dict) else _toml(value), meaning))
    return described


def _as_table(config: Config) -> dict[str, Any]:
    return dataclasses.asdict(config)


def _from_table(table: Mapping[str, Any], where: str) -> Config:
    values: dict[str, Any] = {}
    for name, content in table.items():
        if name == "preset":
            values[name] = _checked(content, str, {}, f"{where}: preset")
        elif name not in SECTIONS or not isinstance(content, dict):
            raise ValueError(f"{where}: there is no section {name!r}{nearest_names(name, list(SECTIONS))}")
        else:
            values[name] = _section(SECTIONS[name], content, f"{where}: {name}")
    return Config(**values)


def _section(kind: type, content: Mapping[str, Any], where: str) -> Any:
    fields = {item.name: item for item in dataclasses.fields(kind)}
    types = typing.get_type_hints(kind)
    values = {}
    for name, value in content.items():
        if name not in fields:
            raise ValueError(f"{where}.{name}: there is no such setting{nearest_names(name, list(fields))}")
        values[name] = _checked(value, types[name], fields[name].metadata, f"{where}.{name}")
    return kind(**values)


def _checked(value: Any, kind: Any, metadata: Mapping[str, Any], where: str) -> Any:
    """Return `value` as `kind`, or raise an error that says what was expected."""
    if kind is float and type(value) is int:
        value = float(value)
    if typing.get_origin(kind) is tuple:
        value = (value,) if isinstance(value, str) else value
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise ValueError(f"{where} is {value!r}; expected is a list of names")
        return tuple(value)
    if typing.get_origin(kind) is dict:
        if not isinstance(value, dict) or not all(
            isinstance(item, str | int | float | bool) for item in value.values()
        ):
            raise ValueError(f"{where} is {value!r}; expected is a table of names and plain values")
        return dict(value)
    if type(value) is not kind:
        raise ValueError(f"{where} is {value!r}; expected is {_KINDS[kind]}")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{where} is {value}; expected is a finite number")
    choices, least = metadata.get("choices"), metadata.get("least")
    if choices and value not in choices:
        raise ValueError(f"{where} is {value!r}; expected is one of {', '.join(choices)}")
    if least is not None and value < least:
        raise ValueError(f"{where} is {value}; expected is at least {least}")
    most = metadata.get("most")
    if most is not None and value > most:
        raise ValueError(f"{where} is {value}; expected is at most {most}")
    return value


_KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return {"True": True, "False": False}.get(text, text)


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, float):
        return repr(value)
    return str(value)


def nearest_names(name: str, known: Iterable[str]) -> str:
    """Return the end of an error about a name that is not known: the nearest that are, or all."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=2)
    return f"; did you mean {' or '.join(near)}?" if near else f"; known are {', '.join(known)}."
