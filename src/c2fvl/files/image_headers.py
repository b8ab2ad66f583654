"""Read the header of an image file before it is decoded: kind, size, bits, and whether the file is complete.

The kind comes from the first bytes, never from the ending of the name. A PNG of 852 kB can decode to 1.76 GB, so the
size must be known before a decoder sees the file. Decoders also paint the missing part of a truncated JPEG grey without
an error, so completeness is checked here as well.
"""

import io
import struct
import zlib
from dataclasses import dataclass

from PIL import TiffImagePlugin

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
_JPEG_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended and progressive: what the decoder reads
_JPEG_OTHER_FRAMES = {0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7}
_TIFF_SIGNATURES = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_TIFF_PHOTOMETRICS = {0, 1, 2, 3, 6}  # white is zero, black is zero, RGB, palette, YCbCr
_TIFF_UNSIGNED, _TIFF_FLOAT = 1, 3
_NOT_YET = {
    "dicom": "DICOM files are not read yet; export the image as PNG",
    "nifti": "NIfTI files are not read yet; export the slices as PNG",
}


@dataclass(frozen=True)
class Header:
    """What a file says about its image.

    `height` and `width` are in pixels as stored (a rotation noted in EXIF is not applied). `channels` counts
    transparency, and three for a palette. `bits` is per channel. `floating` marks floating-point TIFF.
    """

    kind: str
    height: int
    width: int
    channels: int
    bits: int
    floating: bool = False


def read_header(data: bytes) -> Header:
    """Read the header of the image file `data` and check that the file is complete.

    Raises `ValueError` that says what is wrong and what to do, without the file's name; the caller adds it.
    """
    kind = _kind(data)
    if kind in _NOT_YET:
        raise ValueError(_NOT_YET[kind])
    try:
        header = _READERS[kind](data)
    except (struct.error, IndexError) as error:
        raise ValueError(f"the {kind.upper()} file is cut short; copy or download it again") from error
    if header.height < 1 or header.width < 1:
        raise ValueError(
            f"the {kind.upper()} header says {header.width} x {header.height} pixels; the file is damaged, get it again"
        )
    return header


def _kind(data: bytes) -> str:
    if not data:
        raise ValueError("the file is empty (0 bytes); copy or download it again")
    if data.startswith(_PNG_SIGNATURE):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(_TIFF_SIGNATURES):
        return "tiff"
    if data[128:132] == b"DICM":
        return "dicom"
    if data[344:348] in (b"n+1\x00", b"ni1\x00") or data[4:10] == b"n+2\x00\r\n":
        return "nifti"
    raise ValueError(
        f"the file is not an image that can be read (its first bytes are {data[:8]!r}); give a PNG, JPEG or TIFF file"
    )


def _read_png(data: bytes) -> Header:
    """Walk the chunks: the first must be IHDR, every checksum must hold, the last is IEND."""
    position = len(_PNG_SIGNATURE)
    header = None
    while True:
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        (checksum,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(data[position + 4 : end]) != checksum:
            raise ValueError(f"the PNG file is damaged (wrong checksum of chunk {name!r}); copy or download it again")
        if header is None:
            if name != b"IHDR" or length != 13:
                raise ValueError("the PNG file does not begin with its header; the file is damaged, get it again")
            width, height, bits, colour = struct.unpack_from(">IIBB", data, position + 8)
            if colour not in _PNG_CHANNELS:
                raise ValueError(f"the PNG header has the unknown colour type {colour}; the file is damaged")
            header = Header("png", height, width, _PNG_CHANNELS[colour], 8 if colour == 3 else bits)
        if name == b"IEND":
            return header
        position = end + 4


def _read_jpeg(data: bytes) -> Header:
    """Walk the segments up to the scan, then look for the end marker after it."""
    position = 2
    header = None
    while True:
        if data[position] != 0xFF:
            raise ValueError("the JPEG file is damaged (a segment does not begin where it should); get it again")
        marker = data[position + 1]
        if marker == 0xFF:  # padding before a marker
            position += 1
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        if marker in _JPEG_OTHER_FRAMES:
            raise ValueError("the file is a lossless or otherwise rare kind of JPEG; save it as PNG")
        if marker in _JPEG_FRAMES:
            bits, height, width, channels = struct.unpack_from(">BHHB", data, position + 4)
            if channels not in (1, 3):
                raise ValueError(f"the JPEG file has {channels} colour channels (CMYK?); save it as grey or RGB")
            header = Header("jpeg", height, width, channels, bits)
        position += 2 + length
        if marker == 0xDA:
            break
    if header is None:
        raise ValueError("the JPEG file gives no image size before its pixels; the file is damaged, get it again")
    if data.find(b"\xff\xd9", position) < 0:  # inside the pixels 0xFF is always followed by 0x00 or a restart marker
        raise ValueError("the JPEG file is cut short (it has no end marker); copy or download it again")
    return header


def _read_tiff(data: bytes) -> Header:
    """Read the tags of the one page and check that its strips or tiles lie inside the file."""
    large = data[2:4] in (b"+\x00", b"\x00+")
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if large else 8])
        stream = io.BytesIO(data)
        stream.seek(tags.next)
        tags.load(stream)
        width, height = int(tags[256]), int(tags[257])
        samples = tuple(tags.get(258, (1,)))
        channels = int(tags.get(277, 1))
        photometric = int(tags[262])
        formats = {int(entry) for entry in tags.get(339, (_TIFF_UNSIGNED,))}
        offsets = tags[273] if 273 in tags else tags[324]
        lengths = tags[279] if 279 in tags else tags[325]
        ends = [int(offset) + int(length) for offset, length in zip(offsets, lengths, strict=True)]
    except Exception as error:  # on damaged tags Pillow raises all kinds of exceptions
        raise ValueError(f"the TIFF file is damaged or cut short ({error}); copy or download it again") from error
    if tags.next:
        raise ValueError("the TIFF file holds several pages; save the page you need as a separate file")
    if not ends or max(ends) > len(data):
        raise ValueError("the TIFF file is cut short (its pixels lie beyond its end); copy or download it again")
    if photometric not in _TIFF_PHOTOMETRICS:
        raise ValueError(f"the TIFF file uses colour space {photometric} (CMYK, Lab?); save it as grey or RGB")
    if len(set(samples)) != 1 or formats not in ({_TIFF_UNSIGNED}, {_TIFF_FLOAT}):
        raise ValueError("the TIFF file holds signed or mixed samples; save it as unsigned 8 or 16 bit")
    if photometric == 3:
        channels = 3
    return Header("tiff", height, width, channels, int(samples[0]), floating=formats == {_TIFF_FLOAT})


_READERS = {"png": _read_png, "jpeg": _read_jpeg, "tiff": _read_tiff}
