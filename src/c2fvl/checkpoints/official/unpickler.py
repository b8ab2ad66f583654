"""The one guarded reader of the authors' `.pth.tar` files.

Its unpickler knows a handful of harmless names and opcodes and nothing else, so nothing in a file can run; it checks
the archive, every storage and every view before a tensor is made, and has no fallback.
"""

import io
import math
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAX_PICKLE_BYTES = 64 * 2**20
RESAVE = (
    "open it once where it was made, with the PyTorch that wrote it, and save the weights again: "
    "held = torch.load(FILE, map_location='cpu'); torch.save(held.get('state_dict', held), NEW_FILE)"
)


def read_official(path: Path | str) -> dict[str, Tensor]:
    """Return the state dict of an official `.pth.tar`, with nothing executed and every byte checked.

    Raises `FileNotFoundError`, or `ValueError` for anything but a whole, plain checkpoint in PyTorch's zip format.
    """
    path = Path(path)
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            raise ValueError(
                f"{path} is not in PyTorch's zip format (files older than PyTorch 1.6 are plain pickles, which are not "
                f"read because they can run code); {RESAVE}"
            )
    try:
        with zipfile.ZipFile(path) as archive:
            checkpoint = _read_archive(archive)
    except _DamagedError as error:
        raise ValueError(f"{path} is damaged or no plain checkpoint: {error}; fetch it again, or {RESAVE}") from error
    except _DAMAGE as error:
        raise ValueError(f"{path} is damaged: {error}; fetch it again") from error

    weights = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise ValueError(f"{path} holds no state dict; expected is a table of weights or one under 'state_dict'")
    for key, value in weights.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f"{path}: the entry {key!r} of its state dict is {type(value).__name__}, not a tensor")
    return dict(weights)


class _DamagedError(ValueError):
    """A file is not what it claims to be."""


_DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, pickle.UnpicklingError, EOFError, OSError, ArithmeticError,
    AssertionError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""What reading a damaged archive and unpickling a damaged table raise; Python bounds it no more narrowly."""

_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def _read_archive(archive: zipfile.ZipFile) -> Any:
    members = archive.infolist()
    names = [member.filename for member in members]
    if len(set(names)) != len(names):
        raise _DamagedError("two members share one name")
    packed = [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise _DamagedError(f"the member {packed[0]} is compressed; PyTorch stores its members as they are")
    broken = archive.testzip()
    if broken is not None:
        raise _DamagedError(f"the checksum of {broken} is wrong")
    tables = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(tables) != 1:
        raise _DamagedError(f"it holds {len(tables)} tables of weights (data.pkl) instead of one")
    prefix = tables[0].removesuffix("data.pkl")
    if f"{prefix}byteorder" in names and archive.read(f"{prefix}byteorder") != b"little":
        raise _DamagedError("its numbers are stored big-endian, which is not read")
    if archive.getinfo(tables[0]).file_size > MAX_PICKLE_BYTES:
        raise _DamagedError(f"its table of weights is larger than {MAX_PICKLE_BYTES} bytes")
    return _Unpickler(archive, prefix, set(names), archive.read(tables[0])).load()


class _Storage:
    """The bytes of one stored array."""

    __slots__ = ("name", "values")

    def __init__(self, name: str, values: Tensor) -> None:
        self.name = name
        self.values = values


_PYTHON_UNPICKLER: Any = pickle._Unpickler


class _Unpickler(_PYTHON_UNPICKLER):
    """An unpickler that knows ordered dictionaries, storages, tensors and parameters, and nothing else.

    It is made of Python's own, opcode by opcode, so that a file can neither call nor alter anything: dictionaries take
    names and numbers as keys (hashing a deep nest would crash the process), `BUILD` is accepted for the metadata of an
    ordered dictionary and ignored, and all tensors together may not be larger than a few times the file.
    """

    def __init__(self, archive: zipfile.ZipFile, prefix: str, names: set[str], table: bytes) -> None:
        super().__init__(io.BytesIO(table))
        self.archive, self.prefix, self.names = archive, prefix, names
        self.storages: dict[str, _Storage] = {}
        self.bytes_left = 2**20 + 4 * sum(member.file_size for member in archive.infolist())

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self.rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _rebuild_parameter
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise _DamagedError(f"it asks for {module}.{name}, which no plain checkpoint needs")

    def persistent_load(self, pid: Any) -> _Storage:
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage"):
            raise _DamagedError("it refers to something that is no storage")
        _, dtype, key, _, length = pid
        if not isinstance(dtype, torch.dtype) or not isinstance(key, str) or type(length) is not int or length < 0:
            raise _DamagedError("a storage is described wrongly")
        if key not in self.storages:
            member = f"{self.prefix}data/{key}"
            if member not in self.names:
                raise _DamagedError(f"the storage {key} is missing")
            data = self.archive.read(member)
            if len(data) != length * dtype.itemsize:
                raise _DamagedError(f"the storage {key} has {len(data)} bytes instead of {length * dtype.itemsize}")
            array = np.frombuffer(bytearray(data), np.uint8)
            values = torch.from_numpy(array).view(dtype) if length else torch.empty(0, dtype=dtype)
            self.storages[key] = _Storage(key, values)
        storage = self.storages[key]
        if storage.values.dtype != dtype or len(storage.values) != length:
            raise _DamagedError(f"the storage {key} is described in two ways")
        return storage

    def rebuild_tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
        tensor = _rebuild_tensor(storage, offset, size, stride)
        self.bytes_left -= tensor.numel() * tensor.element_size()
        if self.bytes_left < 0:
            raise _DamagedError("its tensors together are many times as large as the file")
        return tensor.clone()

    def load_setitem(self) -> None:
        _check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        _check_keys(self.stack[::2])
        super().load_setitems()

    def load_build(self) -> None:
        self.stack.pop()
        if type(self.stack[-1]) is not OrderedDict:
            raise _DamagedError("it sets the state of something that has none")


_ALLOWED = (
    pickle.PROTO, pickle.STOP, pickle.MARK, pickle.EMPTY_DICT, pickle.EMPTY_LIST, pickle.EMPTY_TUPLE, pickle.TUPLE,
    pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.APPEND, pickle.APPENDS, pickle.NONE, pickle.NEWTRUE,
    pickle.NEWFALSE, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.BINFLOAT, pickle.BINUNICODE,
    pickle.GLOBAL, pickle.REDUCE, pickle.BINPERSID, pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET,
    pickle.LONG_BINGET,
)  # fmt: skip
"""What PyTorch's own pickles (protocol 2) are made of, beside the three that are replaced above."""


class _Dispatch(dict[int, Any]):
    """Opcode → how it is read; any other is refused."""

    def __missing__(self, code: int) -> Any:
        raise _DamagedError(f"its table of weights uses the pickle opcode {code}, which no plain checkpoint needs")


_Unpickler.dispatch = _Dispatch({code[0]: _PYTHON_UNPICKLER.dispatch[code[0]] for code in _ALLOWED})
_Unpickler.dispatch[pickle.SETITEM[0]] = _Unpickler.load_setitem
_Unpickler.dispatch[pickle.SETITEMS[0]] = _Unpickler.load_setitems
_Unpickler.dispatch[pickle.BUILD[0]] = _Unpickler.load_build


def _check_keys(keys: Sequence[Any]) -> None:
    if not all(type(key) in (str, int) for key in keys):
        raise _DamagedError("a table has a key that is neither a name nor a number")


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
    """Return the view that a file describes, after checking that it lies inside its storage."""
    if not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise _DamagedError("a tensor is described wrongly")
    numbers = (offset, *size, *stride)
    if not isinstance(storage, _Storage) or any(type(number) is not int or number < 0 for number in numbers):
        raise _DamagedError("a tensor is described wrongly")
    if len(size) != len(stride) or len(size) > 8:
        raise _DamagedError(f"a tensor of the storage {storage.name} has the shape {size} and the steps {stride}")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    count = math.prod(size)
    if count and (last >= len(storage.values) or count > len(storage.values)):
        raise _DamagedError(f"a tensor of the shape {size} reaches beyond its storage {storage.name}")
    return storage.values.as_strided(size, stride, offset) if count else storage.values.new_empty(size)


def _rebuild_parameter(data: Any, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise _DamagedError("a parameter holds no tensor")
    return data
