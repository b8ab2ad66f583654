"""Decode the one page of a TIFF file so that every error in it is an error.

The decoder inside OpenCV passes over its own errors: rows of a damaged strip, and whole images in a compression that it
lacks, come out as zeros. Here each strip or tile must decode to exactly as many bytes as it holds pixels for.
"""

import io
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS_PER_STRIP, _STRIP_LENGTHS = 273, 274, 277, 278, 279
_MAX_VALUE, _PLANAR, _PREDICTOR, _COLOUR_MAP = 281, 284, 317, 320
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_LENGTHS, _FORMAT = 322, 323, 324, 325, 339

_NONE, _LZW, _DEFLATE, _OLD_DEFLATE, _PACKBITS = 1, 5, 8, 32946, 32773
_OTHER_COMPRESSIONS: Mapping[int, str] = {
    2: "CCITT", 3: "CCITT Group 3", 4: "CCITT Group 4", 6: "old JPEG", 7: "JPEG", 9: "JBIG", 10: "JBIG",
    22610: "JPEG XR", 33003: "JPEG 2000", 33004: "JPEG 2000", 33005: "JPEG 2000", 34661: "JBIG", 34712: "JPEG 2000",
    34887: "LERC", 34892: "lossy JPEG", 34925: "LZMA", 34926: "Zstandard", 34927: "WebP", 34933: "PNG",
    34934: "JPEG XR", 50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE = range(4)
_UNSIGNED, _FLOAT = 1, 3
_MAX_TAGS = 4096
_SAVE_AGAIN = "save it without compression or with Deflate, or as PNG"
_DAMAGED = "the TIFF file is damaged"

_CLEAR, _END, _FIRST = 256, 257, 258  # codes of LZW
_LITERALS = [bytes([value]) for value in range(256)] + [b"", b""]


@dataclass(frozen=True)
class TiffPage:
    """The tags of the one page that say how its pixels are stored."""

    height: int
    width: int
    channels: int
    """As stored: 1 for a palette."""
    bits: int
    floating: bool
    photometric: int
    compression: int
    predictor: int
    planar: bool
    """Whether each channel has strips or tiles of its own."""
    tile: tuple[int, int]
    """(height, width) of a strip or tile."""
    is_tiled: bool
    offsets: tuple[int, ...]
    lengths: tuple[int, ...]
    byte_order: str
    palette: tuple[int, ...]
    max_value: int | None
    """Highest value that a sample can have, where the file gives it."""
    orientation: int


def read_page(data: bytes) -> TiffPage:
    """Read the tags of the one page. Raises `ValueError` for what is damaged or not supported, with the remedy."""
    large = data[2:4] in (b"+\x00", b"\x00+")
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if large else 8])
        _check_number_of_tags(data, tags.next, large)
        stream = io.BytesIO(data)
        stream.seek(tags.next)
        tags.load(stream)
        page = _page(tags, "<" if data[:2] == b"II" else ">")
    except Exception as error:  # on damaged tags Pillow raises all kinds of exceptions
        raise ValueError(f"{_DAMAGED} or cut short ({error}); copy or download it again") from error
    if tags.next:
        raise ValueError("the TIFF file holds several pages; save the page you need as a separate file")
    _check(page, tags, len(data))
    return page


def _check_number_of_tags(data: bytes, start: int, large: bool) -> None:
    (number,) = struct.unpack_from(("<" if data[:2] == b"II" else ">") + ("Q" if large else "H"), data, start)
    if number > _MAX_TAGS:
        raise ValueError(f"{number} tags")


def _page(tags: Any, byte_order: str) -> TiffPage:
    is_tiled = _STRIP_OFFSETS not in tags
    height, width = int(tags[_HEIGHT]), int(tags[_WIDTH])
    rows = min(int(tags.get(_ROWS_PER_STRIP, height)), height)
    maximum = tags.get(_MAX_VALUE)
    return TiffPage(
        height=height,
        width=width,
        channels=int(tags.get(_SAMPLES, 1)),
        bits=int(tags.get(_BITS, (1,))[0]),
        floating=_FLOAT in tags.get(_FORMAT, ()),
        photometric=int(tags[_PHOTOMETRIC]),
        compression=int(tags.get(_COMPRESSION, _NONE)),
        predictor=int(tags.get(_PREDICTOR, 1)),
        planar=int(tags.get(_PLANAR, 1)) == 2 and int(tags.get(_SAMPLES, 1)) > 1,
        tile=(int(tags[_TILE_HEIGHT]), int(tags[_TILE_WIDTH])) if is_tiled else (rows, width),
        is_tiled=is_tiled,
        offsets=tuple(map(int, tags[_TILE_OFFSETS if is_tiled else _STRIP_OFFSETS])),
        lengths=tuple(map(int, tags[_TILE_LENGTHS if is_tiled else _STRIP_LENGTHS])),
        byte_order=byte_order,
        palette=tuple(map(int, tags.get(_COLOUR_MAP, ()))),
        max_value=None if maximum is None else int(max(maximum) if isinstance(maximum, tuple) else maximum),
        orientation=int(tags.get(_ORIENTATION, 1)),
    )


def _check(page: TiffPage, tags: Any, size: int) -> None:
    if page.compression not in _DECODERS:
        name = _OTHER_COMPRESSIONS.get(page.compression, f"number {page.compression}")
        raise ValueError(f"the TIFF file uses the compression {name}, which is not supported; {_SAVE_AGAIN}")
    if page.photometric > _PALETTE:
        raise ValueError(
            f"the TIFF file uses colour space {page.photometric} (CMYK, Lab, YCbCr?); save it as grey or RGB"
        )
    if len(set(tags.get(_BITS, ()))) > 1 or set(tags.get(_FORMAT, (_UNSIGNED,))) not in ({_UNSIGNED}, {_FLOAT}):
        raise ValueError("the TIFF file holds signed or mixed samples; save it as unsigned 8 or 16 bit")
    if page.predictor not in ((1, 2, 3) if page.floating else (1, 2)):
        raise ValueError(f"the TIFF file uses predictor {page.predictor}, which is not supported; {_SAVE_AGAIN}")
    if page.predictor == 2 and page.bits not in (8, 16, 32):
        raise ValueError(f"the TIFF file uses predictor 2 for {page.bits} bits, which is not supported; {_SAVE_AGAIN}")
    if int(tags.get(_FILL_ORDER, 1)) != 1:
        raise ValueError(f"the TIFF file stores its bits in reverse order, which is not supported; {_SAVE_AGAIN}")
    least_channels = 3 if page.photometric == _RGB else 1
    if page.channels < least_channels or (page.photometric == _PALETTE and page.channels > 1):
        raise ValueError(f"{_DAMAGED}: {page.channels} channels in colour space {page.photometric}; get it again")
    if min(page.height, page.width) < 1:
        return  # the caller refuses it, as in every format
    if min(page.tile) < 1 or len(page.offsets) != len(page.lengths) or len(page.offsets) != _num_blocks(page):
        raise ValueError(f"{_DAMAGED}: the number of its strips or tiles is wrong; get it again")
    if page.tile[0] * page.tile[1] > 4 * max(page.height, 256) * max(page.width, 256):
        raise ValueError(f"{_DAMAGED}: its tiles are larger than its image; get it again")
    ends = [offset + length for offset, length in zip(page.offsets, page.lengths, strict=True)]
    if max(ends) > size or min(page.lengths) < 0:
        raise ValueError("the TIFF file is cut short (its pixels lie beyond its end); copy or download it again")


def _grid(page: TiffPage) -> tuple[int, int]:
    """Return how many strips or tiles lie below and beside each other."""
    return -(-page.height // page.tile[0]), -(-page.width // page.tile[1])


def _num_blocks(page: TiffPage) -> int:
    down, across = _grid(page)
    return down * across * (page.channels if page.planar else 1)


def decode_tiff(data: bytes, page: TiffPage) -> NDArray[Any]:
    """Return the pixels as stored, (H, W) or (H, W, C): uint8, uint16 or float32; white-is-zero is inverted.

    Samples of less than 8 or 16 bits, and 16-bit samples with a known highest value, are scaled to the full range.
    `read_page` gives `page`; its size and bits must have been checked. Raises `ValueError` for every damage.
    """
    dtype: type[Any] = np.float32 if page.floating else np.uint8 if page.bits <= 8 else np.uint16
    pixels: NDArray[Any] = np.empty((page.height, page.width, page.channels), dtype)
    down, across = _grid(page)
    per_block = 1 if page.planar else page.channels
    for number, (offset, length) in enumerate(zip(page.offsets, page.lengths, strict=True)):
        plane, place = divmod(number, down * across)
        top, left = place // across * page.tile[0], place % across * page.tile[1]
        rows = page.tile[0] if page.is_tiled else min(page.tile[0], page.height - top)
        block = _decode_block(data[offset : offset + length], page, rows, per_block)
        channels = slice(plane, plane + 1) if page.planar else slice(None)
        part = pixels[top : top + rows, left : left + page.tile[1], channels]
        part[...] = block[: part.shape[0], : part.shape[1]]
    if page.photometric == _PALETTE:
        return _coloured(pixels[:, :, 0], page)
    full = _full_range(page, pixels)
    if page.photometric == _WHITE_IS_ZERO:
        pixels = dtype(1 if page.floating else full) - pixels
    if not page.floating:
        whole, rest = divmod(int(np.iinfo(dtype).max), full)
        if rest:
            pixels = np.rint(pixels * (whole + rest / full)).astype(dtype)
        elif whole > 1:
            pixels = pixels * dtype(whole)
    return pixels[:, :, 0] if page.channels == 1 else pixels


def _full_range(page: TiffPage, pixels: NDArray[Any]) -> int:
    full = 2**page.bits - 1
    given = page.max_value
    is_true = page.bits == 16 and given is not None and 255 < given < full and pixels.max() <= given
    return given if given is not None and is_true else full


def _decode_block(data: bytes, page: TiffPage, rows: int, channels: int) -> NDArray[Any]:
    """Return the samples (rows, width, channels) of a strip or tile."""
    width = page.tile[1]
    row_bytes = -(-width * channels * page.bits // 8)
    decoded = _DECODERS[page.compression](data, rows * row_bytes)
    if len(decoded) != rows * row_bytes:
        raise ValueError(
            f"{_DAMAGED}: a strip or tile holds {len(decoded)} bytes, expected {rows * row_bytes}; get it again"
        )
    if page.floating and page.predictor == 3:
        return _undo_floating(decoded, rows, width, channels)
    if page.bits not in (8, 16, 32):
        bits = np.unpackbits(np.frombuffer(decoded, np.uint8).reshape(rows, row_bytes), axis=1)
        samples = bits[:, : width * channels * page.bits].reshape(rows, width, channels, page.bits)
        return samples @ (1 << np.arange(page.bits)[::-1]).astype(np.uint16)
    kind = "u" if page.predictor == 2 or not page.floating else "f"
    order = page.byte_order if page.bits > 8 else "|"
    values = np.frombuffer(decoded, f"{order}{kind}{page.bits // 8}").reshape(rows, width, channels)
    if page.predictor == 2:
        values = np.cumsum(values, axis=1, dtype=values.dtype.newbyteorder("="))
    return values.view(np.float32) if page.floating and kind == "u" else values


def _undo_floating(decoded: bytes, rows: int, width: int, channels: int) -> NDArray[np.float32]:
    """Undo predictor 3: in each row the first bytes of all samples, then the second ones, as differences."""
    differences = np.frombuffer(decoded, np.uint8).reshape(rows, 4 * width, channels)
    planes = np.cumsum(differences, axis=1, dtype=np.uint8).reshape(rows, 4, width * channels)
    samples = np.ascontiguousarray(planes.transpose(0, 2, 1)).view(">f4")
    return samples.reshape(rows, width, channels).astype(np.float32)


def _coloured(numbers: NDArray[Any], page: TiffPage) -> NDArray[np.uint8]:
    size = 2**page.bits
    if page.bits > 8 or len(page.palette) != 3 * size:
        raise ValueError(f"{_DAMAGED}: its palette has {len(page.palette)} values, expected {3 * size}; get it again")
    palette: NDArray[Any] = np.asarray(page.palette, np.uint16).reshape(3, size).T
    if palette.max() > 255:  # 16-bit values, as the standard says; some programs write 8-bit ones
        palette = palette >> 8
    return palette.astype(np.uint8)[numbers]


def _stored(data: bytes, _: int) -> bytes:
    return data


def _inflate(data: bytes, size: int) -> bytes:
    reader = zlib.decompressobj()
    try:
        decoded = reader.decompress(data, size + 1)
        if len(decoded) <= size and not reader.eof:
            decoded += reader.decompress(reader.unconsumed_tail, 1)  # reads the checksum
    except zlib.error as error:
        raise ValueError(f"{_DAMAGED}: a strip or tile cannot be decompressed ({error}); get it again") from error
    if len(decoded) == size and not reader.eof:
        raise ValueError(f"{_DAMAGED}: a strip or tile has no end; get it again")
    return decoded


def _unpack_bits(data: bytes, size: int) -> bytes:
    parts, position, length = [], 0, 0
    while position < len(data) and length < size:
        count = data[position]
        position += 1
        if count < 128:
            part = data[position : position + count + 1]
            position += count + 1
        elif count > 128:
            part = data[position : position + 1] * (257 - count)
            position += 1
        else:
            continue
        parts.append(part)
        length += len(part)
    if length == size and position < len(data) - 1:  # one byte may fill up to an even number
        raise ValueError(f"{_DAMAGED}: {len(data) - position} bytes are left in a strip or tile; get it again")
    return b"".join(parts)


def _decode_lzw(data: bytes, size: int) -> bytes:
    parts: list[bytes] = []
    table = list(_LITERALS)
    previous = b""
    length = 0
    buffer, held, bits = 0, 0, 9
    for byte in data:
        buffer, held = (buffer << 8) | byte, held + 8
        if held < bits:
            continue
        held -= bits
        code = buffer >> held
        buffer &= (1 << held) - 1
        if code == _CLEAR:
            table, bits, previous = list(_LITERALS), 9, b""
            continue
        if code == _END:
            return b"".join(parts)
        if code < len(table):
            part = table[code]
        elif code == len(table) and previous:
            part = previous + previous[:1]
        else:
            raise ValueError(f"{_DAMAGED}: a strip or tile cannot be decompressed (code {code}); get it again")
        parts.append(part)
        length += len(part)
        if length > size:
            break
        if previous:
            table.append(previous + part[:1])
            bits = _LZW_BITS[len(table)] if len(table) < 4096 else 12
        previous = part
    return b"".join(parts)


_LZW_BITS = [9 if size < 511 else 10 if size < 1023 else 11 if size < 2047 else 12 for size in range(4096)]
_DECODERS = {
    _NONE: _stored,
    _LZW: _decode_lzw,
    _DEFLATE: _inflate,
    _OLD_DEFLATE: _inflate,
    _PACKBITS: _unpack_bits,
}
