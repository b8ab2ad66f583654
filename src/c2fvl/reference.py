"""Official checkpoints → networks of this package, strictly.

`read_official` is the one guarded reader of the authors' `.pth.tar` files. Its unpickler knows five harmless names and
nothing else, so nothing in a file can run; it checks the archive, every storage and every view before a tensor is
made, and has no fallback. `from_reference` then asks for an exact match of keys.
"""

import dataclasses
import io
import logging
import math
import pickle
import re
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from c2fvl.checkpoint import WEIGHTS, save_model
from c2fvl.config import Config, ModelConfig
from c2fvl.models import MODELS, build_model
from c2fvl.storage import checksum

logger = logging.getLogger(__name__)

MAX_PICKLE_BYTES = 64 * 2**20
RESAVE = (
    "open it once where it was made, with the PyTorch that wrote it, and save the weights again: "
    "torch.save({'state_dict': torch.load(FILE, map_location='cpu')['state_dict']}, NEW_FILE)"
)


def from_reference(name: str, state_dict: Mapping[str, Tensor]) -> nn.Module:
    """Return our network `name` in eval mode with the weights of an official checkpoint.

    The `module.` prefix of DataParallel and the counters `total_ops`, `total_params` that a FLOP counter left behind
    are understood; keys that the published network carries but never uses are dropped and named once in the log.
    Raises `ValueError` that lists every key that is missing, unknown or of a wrong shape.
    """
    if name not in REFERENCES:
        raise ValueError(f"no official checkpoints are known of {name!r}; known are: {', '.join(REFERENCES)}")
    arguments, translate, dead_keys = REFERENCES[name]
    weights = _clean(state_dict)
    found = arguments(weights)
    with torch.device("meta"):  # nothing of the size that a file claims is made before all of it is checked
        expected = {translate(key): (key, value) for key, value in build_model(name, found).state_dict().items()}

    missing = sorted(expected.keys() - weights.keys())
    surplus = sorted(weights.keys() - expected.keys())
    dead = [key for key in surplus if dead_keys.match(key)]
    unknown = [key for key in surplus if not dead_keys.match(key)]
    if missing or unknown:
        raise ValueError(
            f"this is not a checkpoint of the published {name}: {len(missing)} of its {len(expected)} keys are missing "
            f"({_listed(missing)}), {len(unknown)} are unknown ({_listed(unknown)})"
        )
    ours, wrong = {}, []
    for key, (our_key, like) in expected.items():
        values = weights[key]
        fault = _fault(values, like)
        if fault:
            wrong.append(f"{key}: {fault}")
            continue
        if _is_pointwise(our_key, like, values):
            values = values.reshape(like.shape)
        elif name in _POSITION_GRIDS and our_key.endswith("position_embedding"):
            values = _position_as_grid(values, like)
        if values.shape != like.shape:
            wrong.append(f"{key}: wrong shape {tuple(values.shape)} instead of {tuple(like.shape)}")
        ours[our_key] = values
    if wrong:
        raise ValueError(f"{len(wrong)} weights of the checkpoint cannot be used: {_listed(wrong)}")
    network = build_model(name, found)
    network.load_state_dict(ours, strict=True)
    if dead:
        logger.warning("%d keys that the published %s never uses were left out: %s", len(dead), name, _listed(dead))
    return network.eval()


def official_keys(name: str, network: nn.Module) -> dict[str, str]:
    """Return the official name of every key of our network, ours → theirs."""
    translate = REFERENCES[name][1]
    return {key: translate(key) for key in network.state_dict()}


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


def convert(file: Path | str, out: Path | str, *, name: str, config: Config) -> nn.Module:
    """Read an official checkpoint of `name`, write it as the model folder `out` and return the network.

    `config` gives the settings of data it was trained with, such as the preset c2fvl_qata_paper. Raises `ValueError`
    and `FileNotFoundError` as `read_official` and `from_reference` do, and `FileExistsError` for a model folder that
    is there already; then nothing is written.
    """
    if (Path(out) / WEIGHTS).exists():
        raise FileExistsError(f"{out} holds a model already and nothing is overwritten; name another folder")
    weights = read_official(file)
    network = from_reference(name, weights)
    arguments = REFERENCES[name][0](_clean(weights))
    image_size = arguments.get("image_size", config.data.image_size)
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, image_size=image_size),
        model=ModelConfig(name=name, arguments=arguments),
    )
    save_model(out, network, config, {"source": Path(file).name, "source_sha256": checksum(Path(file).read_bytes())})
    return network


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


def _clean(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights without the `module.` prefix of DataParallel and without a FLOP counter's buffers."""
    counters = ("total_ops", "total_params")
    weights: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        plain = key.removeprefix("module.")
        if plain.rsplit(".", 1)[-1] in counters:
            continue
        if plain in weights:
            raise ValueError(f"the checkpoint holds {plain!r} twice, once with the prefix 'module.'")
        weights[plain] = value
    return weights


def _listed(items: list[str], most: int = 12) -> str:
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return (", ".join(items[:most]) or "none") + more


def _fault(values: Tensor, like: Tensor) -> str | None:
    """Return what keeps a weight from being used: its layout, its kind of number, or numbers that are none."""
    if values.layout != torch.strided or values.is_meta:
        return "no dense tensor"
    if like.dtype.is_floating_point != values.dtype.is_floating_point or values.dtype.is_complex:
        return f"{values.dtype} instead of {like.dtype}"
    if not torch.isfinite(values.to(like.dtype)).all():
        return "not finite"
    return None


def _is_pointwise(key: str, ours: Tensor, theirs: Tensor) -> bool:
    """Tell whether a Linear of theirs stands where ours is a 1×1 convolution."""
    return key.endswith("weight") and ours.ndim == 4 and ours.shape[2:] == (1, 1) and ours.shape[:2] == theirs.shape


def _position_as_grid(values: Tensor, like: Tensor) -> Tensor:
    """Turn their tokens (1, T, C) into our grid (1, C, h, w); the shape is checked by the caller."""
    side = math.isqrt(values.shape[1]) if values.ndim == 3 else 0
    if not side or side * side != values.shape[1]:
        return values
    return values.transpose(1, 2).reshape(1, -1, side, side)


_POSITION_GRIDS = {"c2fvl"}
_C2FVL_RULES: list[tuple[str, str]] = [
    (r"encoder\.stem\.", "inc."),
    (r"encoder\.stages\.(\d)\.(\d)\.", "down{+0}.nConvs.{1}."),
    (r"branches\.(\d)\.position_embedding", "{V0}.embeddings.position_embeddings"),
    (r"branches\.(\d)\.patch_embedding\.", "{V0}.embeddings.patch_embeddings."),
    (r"branches\.(\d)\.attention_norm\.", "{V0}.Encoder_blocks.0.norm1."),
    (r"branches\.(\d)\.attention\.query_key_value\.", "{V0}.Encoder_blocks.0.attn.qkv."),
    (r"branches\.(\d)\.attention\.projection\.", "{V0}.Encoder_blocks.0.attn.proj."),
    (r"branches\.(\d)\.mlp_norm\.", "{V0}.Encoder_blocks.0.norm2."),
    (r"branches\.(\d)\.mlp\.expand\.", "{V0}.Encoder_blocks.0.mlp.fc1."),
    (r"branches\.(\d)\.mlp\.reduce\.", "{V0}.Encoder_blocks.0.mlp.fc2."),
    (r"branches\.(\d)\.reduction\.", "{V0}.CTBN."),
    (r"reconstructions\.(\d)\.", "reconstruct{+0}."),
    (r"decoders\.(\d)\.alignment\.average_convolution\.", "up{+0}.vlab.conv_avg."),
    (r"decoders\.(\d)\.alignment\.average_linear\.", "up{+0}.vlab.linear_avg."),
    (r"decoders\.(\d)\.alignment\.maximum_convolution\.", "up{+0}.vlab.conv_max."),
    (r"decoders\.(\d)\.alignment\.maximum_linear\.", "up{+0}.vlab.linear_max."),
    (r"decoders\.(\d)\.alignment\.bottleneck\.", "up{+0}.vlab.bottleneck."),
    (r"decoders\.(\d)\.convolutions\.(\d)\.", "up{+0}.nConvs.{1}."),
    (r"heads\.0\.", "outc."),
    (r"heads\.(\d)\.", "outc{+0}."),
]
"""Our names → theirs; {+0} is the first number plus one, {V0} the name of the transformer of that scale."""


def _c2fvl_key(key: str) -> str:
    for pattern, template in _C2FVL_RULES:
        match = re.match(pattern, key)
        if match is None:
            continue
        numbers = match.groups()
        values = {f"+{i}": str(int(number) + 1) for i, number in enumerate(numbers)}
        values |= {str(i): number for i, number in enumerate(numbers)}
        values |= {f"V{i}": f"downVit{number if number != '0' else ''}" for i, number in enumerate(numbers)}
        head = re.sub(r"\{(.*?)\}", lambda slot, values=values: values[slot[1]], template)  # type: ignore[misc]
        tail = key[match.end() :].replace("convolution.", "conv.") if template.endswith(".") else ""
        return head + tail
    raise AssertionError(f"no official name is known of {key}")


_C2FVL_DEAD = re.compile(
    r"upVit[123]?\.|downVit[123]?\.(norm|head|CTBN2|CTBN3)\.|downVit\.CTBN\.|up[1-4]\.vlab\.conv_sig\.|vlab[1-4]\.|"
    r"text_module[1-4]\.|reconstruct_text[1-4]\.|process_text[1-4]\."
)


def _c2fvl_arguments(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read width, channels, classes and size off the weights; what is absent is reported as a missing key later."""
    arguments: dict[str, Any] = {}
    stem, head = weights.get("inc.conv.weight"), weights.get("outc.weight")
    position = weights.get("downVit.embeddings.position_embeddings")
    if stem is not None and stem.ndim == 4 and stem.numel() and stem.shape[0] % 8 == 0:
        arguments |= {"base_width": stem.shape[0], "in_channels": stem.shape[1]}
    if head is not None and head.ndim == 4 and head.numel():
        arguments["num_classes"] = head.shape[0]
    if position is not None and position.ndim == 3 and position.numel():
        arguments["image_size"] = 16 * math.isqrt(position.shape[1])
    return arguments


REFERENCES: dict[str, tuple[Callable[[Mapping[str, Tensor]], dict[str, Any]], Callable[[str], str], re.Pattern[str]]]
REFERENCES = {"c2fvl": (_c2fvl_arguments, _c2fvl_key, _C2FVL_DEAD)}
"""Per network: its arguments read off the weights, our key → theirs, and the keys that theirs carries in vain."""

assert REFERENCES.keys() <= MODELS.keys()
