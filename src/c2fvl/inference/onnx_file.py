"""Exported files before ONNX Runtime reads them: their checksum, and whether their weights are finite. No torch.

The checksum, in the metadata, is the SHA-256 of the file with zeros in place of the checksum. Weights are found by
walking the fields of the file, for which the package `onnx` is not needed.
"""

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

CHECKSUM_KEY = "c2fvl.sha256"
BLANK = "0" * 64
"""The checksum of a file whose checksum is not known yet."""
_CHECKSUM = re.compile(re.escape(CHECKSUM_KEY.encode()) + rb"\x12\x40([0-9a-f]{64})")
"""Key and value of a metadata entry: tag 2, 64 bytes."""

_GRAPH, _NODE, _INITIALIZER, _ATTRIBUTE, _TENSOR, _TENSORS, _SUBGRAPH, _SUBGRAPHS = 7, 1, 5, 5, 5, 10, 6, 11
_TYPE, _FLOATS, _HALVES, _NAME, _RAW, _DOUBLES = 2, 4, 5, 8, 9, 10
_HALF = 10
_DTYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), _HALF: np.dtype("<f2"), 11: np.dtype("<f8")}
"""Numbers of ONNX for types that may be NaN."""
_MAX_DEPTH = 16


def sealed(content: bytes) -> bytes:
    """Return a file whose metadata have a `BLANK` checksum with its checksum."""
    start, end = _checksum_at(content)
    return content[:start] + _digest(content, start, end) + content[end:]


def check_file(content: bytes) -> None:
    """Raise `ValueError`, which says what is wrong, for an exported file that was changed or has weights of NaN."""
    start, end = _checksum_at(content)
    if content[start:end] != _digest(content, start, end):
        raise ValueError("does not match the checksum inside it: it is damaged or was changed")
    try:
        broken = next(_not_finite(memoryview(content)), None)
    except (IndexError, ValueError) as error:
        raise ValueError(f"has weights that cannot be read: {error}") from error
    if broken is not None:
        raise ValueError(f"has weights that are not finite: {broken}")


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


def _not_finite(model: memoryview) -> Iterator[str]:
    for number, graph in _fields(model):
        if number == _GRAPH:
            yield from _in_graph(graph, 0)


def _in_graph(graph: memoryview, depth: int) -> Iterator[str]:
    """Yield the names of tensors that are not finite, of initializers and of constants in nodes."""
    if depth > _MAX_DEPTH:
        raise ValueError("its graphs are nested too deeply")
    for number, part in _fields(graph):
        if number == _INITIALIZER and not _is_finite(part):
            yield _name(part)
        if number != _NODE:
            continue
        for attribute in (value for kind, value in _fields(part) if kind == _ATTRIBUTE):
            for kind, value in _fields(attribute):
                if kind in (_SUBGRAPH, _SUBGRAPHS):
                    yield from _in_graph(value, depth + 1)
                elif kind in (_TENSOR, _TENSORS) and not _is_finite(value):
                    yield _name(value)


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
            raise ValueError(f"a field has the unknown kind {wire}")
        if position + size > len(message):
            raise ValueError("a field reaches beyond its end")
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
            raise ValueError("a number is too long")
