"""The one guarded reader of weights that other programs saved with PyTorch: `.pth` and `.pth.tar`.

The unpickler knows a few harmless names and opcodes, so nothing in a file can run. Archive, storages and views are
checked before a tensor is made. `torch.load(weights_only=True)` is no substitute: a key of deeply nested tuples ends
the process, and no checksum is compared.
"""

import io
import math
import pickle
import re
import struct
import sys
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from c2fvl.files.storage import checksum

MAX_PICKLE_BYTES = 64 * 2**20
RESAVE = (
    "open it once where it was made, with the PyTorch that wrote it, and save the weights again: "
    "held = torch.load(FILE, map_location='cpu'); torch.save(held.get('state_dict', held), NEW_FILE)"
)
_CHECKSUM_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.pth")
"""How `torch.hub` names a file: with the first digits of its SHA-256."""
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def read_checkpoint(path: Path | str) -> dict[str, Tensor]:
    """Return the state dict of a file of PyTorch, with nothing executed and every byte checked.

    PyTorch's zip format has checksums of its own. A file of the older format is read only if its name carries a
    checksum, as `efficientnet-lite0-57934424.pth`. Raises `FileNotFoundError`, or `ValueError` for anything but a
    whole, plain checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    with open(path, "rb") as file:
        begin = file.read(4)
    is_zip = begin == b"PK\x03\x04"
    if not is_zip and not begin.startswith(b"\x80"):  # of a pickle
        raise ValueError(
            f"{path} is no checkpoint: it is not in PyTorch's zip format and not in its older format; expected a file "
            ".pth or .pth.tar that PyTorch saved"
        )
    named = _CHECKSUM_IN_NAME.search(path.name)
    if not is_zip and named is None:
        raise ValueError(
            f"{path} is not in PyTorch's zip format, and its name carries no checksum (files older than PyTorch 1.6 "
            f"have none inside); {RESAVE}"
        )
    try:
        if named is not None and not checksum(path.read_bytes()).startswith(named[1]):
            raise _DamagedError(f"its SHA-256 does not begin with {named[1]}, as its name says")
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                checkpoint = _read_archive(archive)
        else:
            checkpoint = _read_legacy(path.read_bytes())
    except _DamagedError as error:
        raise ValueError(f"{path} is damaged or no plain checkpoint: {error}; fetch it again, or {RESAVE}") from error
    except _DAMAGE as error:
        raise ValueError(f"{path} is damaged: {error}; fetch it again") from error

    weights = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise ValueError(f"{path} holds no state dict; expected a table of weights, or one under 'state_dict'")
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

    def read_storage(key: str, num_bytes: int) -> bytes:
        if f"{prefix}data/{key}" not in names:
            raise _DamagedError(f"the storage {key} is missing")
        return archive.read(f"{prefix}data/{key}")

    size = sum(member.file_size for member in members)
    return _Unpickler(io.BytesIO(archive.read(tables[0])), read_storage, size).load()


def _read_legacy(data: bytes) -> Any:
    """Read the format before PyTorch 1.6: four pickles, then a list of keys and for each key a length and numbers."""

    def refuse(key: str, num_bytes: int) -> bytes:
        raise _DamagedError("a storage stands where none is expected")

    lengths: dict[str, int] = {}

    def measure(key: str, num_bytes: int) -> bytes:
        lengths[key] = num_bytes
        if sum(lengths.values()) > len(data):
            raise _DamagedError("its storages are larger than the file")
        return bytes(num_bytes)

    file = io.BytesIO(data[:MAX_PICKLE_BYTES])
    head = [_Unpickler(file, refuse, 0).load() for _ in range(3)]
    if head[:2] != [_LEGACY_MAGIC, _LEGACY_PROTOCOL] or not isinstance(head[2], dict):
        raise _DamagedError("it does not begin as a file of PyTorch")
    if head[2].get("little_endian") is not True or sys.byteorder != "little":
        raise _DamagedError("its numbers are stored big-endian, which is not read")
    table = file.tell()
    _Unpickler(file, measure, len(data)).load()
    keys = _Unpickler(file, refuse, 0).load()
    if not isinstance(keys, list) or not all(type(key) is str for key in keys) or sorted(keys) != sorted(lengths):
        raise _DamagedError("its list of storages does not fit its table of weights")
    storages, position = {}, file.tell()
    for key in keys:
        storages[key] = data[position + 8 : position + 8 + lengths[key]]
        position += 8 + lengths[key]
    if position != len(data):
        raise _DamagedError(f"it has {len(data)} bytes instead of {position}")
    file.seek(table)
    return _Unpickler(file, lambda key, num_bytes: storages[key], len(data)).load()


class _Storage:
    """One stored array."""

    __slots__ = ("name", "values")

    def __init__(self, name: str, values: Tensor) -> None:
        self.name = name
        self.values = values


_PYTHON_UNPICKLER: Any = pickle._Unpickler


class _Unpickler(_PYTHON_UNPICKLER):
    """An unpickler that knows ordered dictionaries, storages, tensors and parameters, and nothing else.

    It is made of Python's own, opcode by opcode, so that a file can neither call nor alter anything. Keys of
    dictionaries are strings and numbers, because hashing deeply nested tuples would end the process. `BUILD` is
    accepted for the metadata of an ordered dictionary and ignored. All tensors together may not be larger than a few
    times the file. `read_storage` returns the bytes of a storage, given its key and the number of bytes expected.
    """

    def __init__(self, file: io.BytesIO, read_storage: Callable[[str, int], bytes], file_size: int) -> None:
        super().__init__(file)
        self.read_storage = read_storage
        self.storages: dict[str, _Storage] = {}
        self.bytes_left = 2**20 + 4 * file_size

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
        if not (isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] == "storage" and pid[5:] in ((), (None,))):
            raise _DamagedError("it refers to something that is no storage")
        _, dtype, key, _, length, *_ = pid
        if not isinstance(dtype, torch.dtype) or not isinstance(key, str) or type(length) is not int or length < 0:
            raise _DamagedError("a storage is described wrongly")
        if key not in self.storages:
            data = self.read_storage(key, length * dtype.itemsize)
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
