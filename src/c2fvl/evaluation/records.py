"""Typed records to plain values for JSON, and back."""

import dataclasses
import reprlib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

Record = TypeVar("Record")


def key(name: str) -> Any:
    """Return a field whose key in JSON is `name`, which Python does not allow as a name."""
    return dataclasses.field(metadata={"key": name})


def to_plain(value: Any) -> Any:
    """Return a record, or what holds records, as dictionaries, lists and plain values."""
    if dataclasses.is_dataclass(value):
        return {_key(field): to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: to_plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(entry) for entry in value]
    return value


def from_plain(kind: type[Record], value: Any, *, where: str) -> Record:
    """Return the record of a type in plain values; fields with a default may be missing.

    Raises `ValueError`, with `where` and the path inside, for other fields or kinds of values.
    """
    return typing.cast(Record, _read(kind, value, where))


def _read(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _record(kind, value, where)
    if origin in (typing.Union, types.UnionType):
        (other,) = (argument for argument in arguments if argument is not type(None))
        return None if value is None else _read(other, value, where)
    if origin in (list, tuple):
        entries = [
            _read(arguments[0], entry, f"{where}[{index}]") for index, entry in enumerate(_a(list, value, where))
        ]
        return origin(entries)
    if origin is dict:
        entries = _a(dict, value, where).items()
        return {name: _read(arguments[1], entry, f"{where}.{name}") for name, entry in entries}
    if kind is Any:
        return value
    return _a((int, float) if kind is float else kind, value, where)


def _record(kind: Any, value: Any, where: str) -> Any:
    entries, types_of = _a(dict, value, where), typing.get_type_hints(kind)
    given = {}
    for field in dataclasses.fields(kind):
        name = _key(field)
        if name in entries:
            given[field.name] = _read(types_of[field.name], entries[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{where} has no {name}")
    return kind(**given)


def _a(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{where} cannot be {reprlib.repr(value)}")
    return value


def _key(field: "dataclasses.Field[Any]") -> str:
    return str(field.metadata.get("key", field.name))
