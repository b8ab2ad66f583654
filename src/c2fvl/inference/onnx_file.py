"""Exported files before ONNX Runtime reads them: their checksum, and whether their weights are finite. No torch.

The checksum, in the metadata, is the SHA-256 of the file with zeros in place of the checksum. Weights are found by
walking the fields of the file, for which the package `onnx` is not needed.
"""

import hashlib
import re
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

CHECKSUM_KEY = "c2fvl.sha256"
BLANK = "0" * 64
"""The checksum of a file whose checksum is not known yet."""
_CHECKSUM = re.compile(re.escape(CHECKSUM_KEY.encode()) + rb"\x12\x40([0-9a-f]{64})")
"""Key and value of a metadata entry: tag 2, 64 bytes."""

_GRAPH, _NODE, _INITIALIZER, _ATTRIBUTE, _TENSOR, _TENSORS, _SUBGRAPH, _SUBGRAPHS = 7, 1, 5, 5, 5, 10, 6, 11
_TYPE, _FLOATS, _HALVES, _NAME, _RAW, _DOUBLES, _LOCATION = 2, 4, 5, 8, 9, 10, 14
_HALF = 10
_DTYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), _HALF: np.dtype("<f2"), 11: np.dtype("<f8")}
"""Numbers of ONNX for types that may be NaN."""
_MAX_DEPTH = 16


def sealed(content: bytes) -> bytes:
    """Return a file whose metadata have a `BLANK` checksum with its checksum."""
    start, end = _checksum_at(content)
    return content[:start] + _digest(content, start, end) + content[end:]


def check_file(content: bytes, *, outside: Collection[str] = ()) -> None:
    """Raise `ValueError`, which says what is wrong, for an exported file that must not be used.

    It was changed, has weights of NaN, or takes other weights than those named `outside` from another file.
    """
    start, end = _checksum_at(content)
    if content[start:end] != _digest(content, start, end):
        raise ValueError("does not match the checksum inside it: it is damaged or was changed")
    try:
        for tensor, in_node in _tensors(memoryview(content)):
            if not _is_finite(tensor):
                raise ValueError(f"has weights that are not finite: {_name(tensor)}")
            if _is_outside(tensor) and (in_node or _name(tensor) not in outside):
                raise ValueError(f"takes weights from another file: {_name(tensor)}")
    except IndexError as error:
        raise ValueError(f"has weights that cannot be read: {error}") from error


def tensors_outside(content: bytes) -> list[str]:
    """Return the names of the weights of a checked file whose values it does not hold."""
    return [_name(tensor) for tensor, _ in _tensors(memoryview(content)) if _is_outside(tensor)]


def _checksum_at(content: bytes) -> tuple[int, int]:
    found = list(_CHECKSUM.finditer(content))
    if len(found) != 1:
        raise ValueError(
            "has no checksum of c2fvl inside it: it is damaged, or was not exported by c2fvl of this version"
        )
    return found[0].span(1)


def _digest(content: bytes, start: int, end: int) -> bytes:
    digest = hashlib.sha256(content[:start])
    digest.update(BLANK.encode())
    digest.update(memoryview(content)[end:])
    return digest.hexdigest().encode()


def _tensors(model: memoryview) -> Iterator[tuple[memoryview, bool]]:
    """Yield each tensor, and whether it lies in a node: initializers and constants."""
    for number, graph in _fields(model):
        if number == _GRAPH:
            yield from _in_graph(graph, 0)


def _in_graph(graph: memoryview, depth: int) -> Iterator[tuple[memoryview, bool]]:
    if depth > _MAX_DEPTH:
        raise ValueError("has graphs that are nested too deeply")
    for number, part in _fields(graph):
        if number == _INITIALIZER:
            yield part, depth > 0
        if number != _NODE:
            continue
        for attribute in (value for kind, value in _fields(part) if kind == _ATTRIBUTE):
            for kind, value in _fields(attribute):
                if kind in (_SUBGRAPH, _SUBGRAPHS):
                    yield from _in_graph(value, depth + 1)
                elif kind in (_TENSOR, _TENSORS):
                    yield value, True


def _is_outside(tensor: memoryview) -> bool:
    """Tell whether the values of a tensor lie in another file."""
    return any(number == _LOCATION and _varint(value, 0)[0] for number, value in _fields(tensor))


def _is_finite(tensor: memoryview) -> bool:
    parts = list(_fields(tensor))
    kind = next((_varint(value, 0)[0] for number, value in parts if number == _TYPE), 0)
    if kind not in _DTYPES:
        return True
    in_field: dict[int, np.dtype[Any]] = {_RAW: _DTYPES[kind], _FLOATS: np.dtype("<f4"), _DOUBLES: np.dtype("<f8")}
    arrays = [np.frombuffer(value, in_field[number]) for number, value in parts if number in in_field]
    if kind == _HALF:
        halves = [number for field, value in parts if field == _HALVES for number in _varints(value)]
        arrays.append(np.array(halves, np.uint16).view(np.float16))
    return all(np.isfinite(array).all() for array in arrays)


def _name(tensor: memoryview) -> str:
    return next((bytes(value).decode("utf-8", "replace") for number, value in _fields(tensor) if number == _NAME), "?")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield number and bytes of each field of a message."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            size = _varint(message, position)[1] - position
        elif wire == 2:
            size, position = _varint(message, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"has a field of the unknown kind {wire}")
        if position + size > len(message):
            raise ValueError("has a field that reaches beyond its end")
        yield number, message[position : position + size]
        position += size


def _varints(values: memoryview) -> Iterator[int]:
    position = 0
    while position < len(values):
        value, position = _varint(values, position)
        yield value


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return a number of variable length at a position, and the position after it."""
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position
        if shift > 63:
            raise ValueError("has a number that is too long")
