"""Settings in TOML files: presets, `base` files, `section.key=value` overrides.

What a preset or a file leaves out keeps the value of its `base`, or else the default of `c2fvl.config`.
"""

import dataclasses
import json
import math
import tomllib
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from c2fvl.config import SECTIONS, Config
from c2fvl.files.parsing import parse_toml
from c2fvl.messages import did_you_mean, nearest_names

PRESETS = Path(__file__).parent / "presets"


def preset_names() -> list[str]:
    """Return the names of the presets that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def load_config(source: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Return the settings of a preset's name or a TOML file's path, changed by `section.key=value` overrides.

    Raises `FileNotFoundError` for a name that is no preset and no file, and `ValueError` that names the setting,
    its value and what was expected.
    """
    path = _find(source, Path())
    config = _from_table(_resolved(path, ()), str(path))
    if not config.preset:
        config = dataclasses.replace(config, preset=path.stem)
    return override(config, overrides)


def _find(source: str | Path, beside: Path) -> Path:
    """Return the file of a preset's name or of a path, which is relative to the folder `beside`."""
    path = beside / source
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            raise FileNotFoundError(f"there is no settings file {path}")
        return path
    path = PRESETS / f"{source}.toml"
    if not path.is_file():
        near = did_you_mean(str(source), preset_names()) or "."
        raise FileNotFoundError(f"{str(source)!r} is neither a preset nor a file{near} See `c2fvl presets`.")
    return path


def _resolved(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """Return the table of a file with what it leaves out from its base, and the base of its base."""
    if path.resolve() in above:
        raise ValueError(f"{path} is its own base: {' → '.join(entry.stem for entry in (*above, path))}")
    try:
        table = _parsed(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a TOML file: it is not UTF-8 text ({error})") from error
    _from_table({name: content for name, content in table.items() if name != "base"}, str(path))  # errors name the file
    base = table.pop("base", None)
    if base is None:
        return table
    if not isinstance(base, str):
        raise ValueError(f"{path}: base is {base!r}; expected the name of a preset or the path of a TOML file")
    below = _resolved(_find(base, path.parent), (*above, path.resolve()))
    below.pop("preset", None)
    return _merged(table, below)


def _merged(table: Mapping[str, Any], below: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` with the entries of `table`; the arguments of another network are dropped."""
    merged = dict(below)
    for section, content in table.items():
        if not isinstance(content, dict):
            merged[section] = content
            continue
        old = dict(below.get(section, {}))
        if section == "model" and content.get("name", old.get("name")) != old.get("name"):
            old.pop("arguments", None)
        new = {**old, **content}
        if isinstance(old.get("arguments"), dict) and isinstance(content.get("arguments"), dict):
            new["arguments"] = {**old["arguments"], **content["arguments"]}
        merged[section] = new
    return merged


def parse_config(text: str, *, where: str = "settings") -> Config:
    """Return the settings of TOML text; `where` names the text in errors."""
    return _from_table(_parsed(text, where), where)


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        return parse_toml(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{where} is not valid TOML: {error}") from error


def override(config: Config, overrides: Iterable[str]) -> Config:
    """Return `config` with `section.key=value` changes; the value is read as TOML, or else as plain text.

    Another `model.name` begins without the arguments of the network before, wherever it stands among the changes.
    """
    table = _as_table(config)
    for item in sorted(overrides, key=lambda item: not item.startswith("model.name=")):
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
        new = _toml_value(value.strip())
        if parts == ["model", "name"] and new != section["name"]:
            section["arguments"] = {}
        section[parts[-1]] = new
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


def settings_table() -> list[tuple[str, str, str]]:
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
            values[name] = _section(name, content, f"{where}: {name}")
    return Config(**values)


def _section(section: str, content: Mapping[str, Any], where: str) -> Any:
    kind = SECTIONS[section]
    fields = {item.name: item for item in dataclasses.fields(kind)}
    types = typing.get_type_hints(kind)
    values = {}
    for name, value in content.items():
        if name not in fields:
            near = nearest_names(name, fields, prefix=f"{section}.")
            raise ValueError(f"{where}.{name}: this is not a setting{near}")
        values[name] = _checked(value, types[name], fields[name].metadata, f"{where}.{name}")
    return kind(**values)


def _checked(value: Any, kind: Any, metadata: Mapping[str, Any], where: str) -> Any:
    """Return `value` as `kind`, or raise an error that says what was expected."""
    if kind is float and type(value) is int:
        value = float(value) if abs(value) < 1e300 else math.inf
    if typing.get_origin(kind) is tuple:
        value = (value,) if isinstance(value, str) else value
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise ValueError(f"{where} is {value!r}; expected a list of names")
        return tuple(value)
    if typing.get_origin(kind) is dict:
        plain = value.values() if isinstance(value, dict) else [None]
        parts = [part for item in plain for part in (item if isinstance(item, list | tuple) else [item])]
        if not all(isinstance(part, str | int | float | bool) for part in parts):
            raise ValueError(f"{where} is {value!r}; expected a table of names and plain values, or lists of them")
        return dict(value)
    if type(value) is not kind:
        raise ValueError(f"{where} is {value!r}; expected {_KINDS[kind]}")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{where} is {value}; expected a finite number")
    choices, minimum = metadata.get("choices"), metadata.get("minimum")
    if choices and value not in choices:
        raise ValueError(f"{where} is {value!r}; expected one of {', '.join(choices)}")
    if minimum is not None and value < minimum:
        raise ValueError(f"{where} is {value}; expected at least {minimum}")
    maximum = metadata.get("maximum")
    if maximum is not None and value > maximum:
        raise ValueError(f"{where} is {value}; expected at most {maximum}")
    return value


_KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _toml_value(text: str) -> Any:
    try:
        return parse_toml(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return {"True": True, "False": False}.get(text, text)


def _toml(value: Any) -> str:
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
        return "".join(each if each.isprintable() else f"\\U{ord(each):08X}" for each in text)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, float):
        return repr(value)
    return str(value)
