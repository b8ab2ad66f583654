"""Read the header of an image file before it is decoded: kind, size, bits, and whether the file is complete.

The kind comes from the first bytes, never from the ending of the name. A PNG of 852 kB can decode to 1.76 GB, so the
size must be known before a decoder sees the file. Decoders also paint the missing part of a truncated JPEG grey without
an error, so completeness is checked here as well.
"""

import struct
import zlib
from dataclasses import dataclass, replace

from PIL import Image

from c2fvl.files.kinds import HEAD_BYTES, kind_of
from c2fvl.files.tiff import TiffPage, read_page

_PNG_SIGNATURE_BYTES = 8
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
_JPEG_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended and progressive: what the decoder reads
_JPEG_OTHER_FRAMES = {0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7}
_JPEG_PROGRESSIVE, _JPEG_END, _JPEG_SCAN, _JPEG_APP1 = 0xC2, 0xD9, 0xDA, 0xE1
_MAX_JPEG_SCANS = 100
"""A file of half a megabyte with 500 scans takes half a minute to decode; programs write about ten."""
_ORIENTATION_TAG = 0x0112
_NOT_HERE = {
    "dicom": "this is a DICOM file, and a data set holds PNG, JPEG or TIFF; export the image as PNG",
    "nifti": "this is a NIfTI file, and a data set holds PNG, JPEG or TIFF; export the slices as PNG",
}


@dataclass(frozen=True)
class Header:
    """What a file says about its image.

    `height` and `width` are in pixels as stored. `channels` counts transparency, and three for a palette. `bits` is per
    channel. `floating` marks floating-point TIFF. `orientation` is that of EXIF and TIFF: 1 is upright; it is not
    applied. `page` holds the tags of a TIFF, `jpeg_end` the place of the end marker of a JPEG.
    """

    kind: str
    height: int
    width: int
    channels: int
    bits: int
    floating: bool = False
    orientation: int = 1
    page: TiffPage | None = None
    jpeg_end: int = 0


def read_header(data: bytes) -> Header:
    """Read the header of the image file `data` and check that the file is complete.

    Raises `ValueError` that says what is wrong and what to do, without the file's name; the caller adds it.
    """
    kind = _kind(data)
    if kind in _NOT_HERE:
        raise ValueError(_NOT_HERE[kind])
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
    kind = kind_of(data[:HEAD_BYTES])
    if data.startswith(b"PK\x03\x04"):
        raise ValueError("this is a zip archive; unpack it, and give the folder with its images")
    if kind is None:
        raise ValueError(
            f"the file is not an image that can be read (its first bytes are {data[:8]!r}); give a PNG, JPEG, "
            "TIFF, DICOM or NIfTI file (a DICOM file without its header is not known as one)"
        )
    return kind


def _read_png(data: bytes) -> Header:
    """Walk the chunks: the first must be IHDR, every checksum must hold, the last is IEND."""
    position = _PNG_SIGNATURE_BYTES
    header = None
    orientation = 1
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
        if name == b"eXIf":
            orientation = _exif_orientation(data[position + 8 : end])
        if name == b"IEND":
            return replace(header, orientation=orientation)
        position = end + 4


def _read_jpeg(data: bytes) -> Header:
    """Walk the segments to the end marker: the size, and whether the scans hold every coefficient of every channel."""
    position = 2
    header = None
    orientation = 1
    scans = _Scans()
    while True:
        if data[position] != 0xFF:
            raise ValueError("the JPEG file is damaged (a segment does not begin where it should); get it again")
        marker = data[position + 1]
        if marker == 0xFF:  # padding before a marker
            position += 1
            continue
        if marker == _JPEG_END:
            break
        (length,) = struct.unpack_from(">H", data, position + 2)
        if marker in _JPEG_OTHER_FRAMES:
            raise ValueError("the file is a lossless or otherwise rare kind of JPEG; save it as PNG")
        if marker in _JPEG_FRAMES:
            bits, height, width, channels = struct.unpack_from(">BHHB", data, position + 4)
            if channels not in (1, 3):
                raise ValueError(f"the JPEG file has {channels} colour channels (CMYK?); save it as grey or RGB")
            header = Header("jpeg", height, width, channels, bits)
            scans.begin(data[position + 10 : position + 2 + length], progressive=marker == _JPEG_PROGRESSIVE)
        if marker == _JPEG_APP1 and data[position + 4 : position + 10] == b"Exif\0\0":
            orientation = _exif_orientation(data[position + 10 : position + 2 + length])
        position += 2 + length
        if marker == _JPEG_SCAN:
            scans.add(data[position - length : position])
            position = _end_of_scan(data, position)
    if header is None or not scans.number:
        raise ValueError("the JPEG file gives no image size before its pixels; the file is damaged, get it again")
    if not scans.are_complete:
        raise ValueError("the JPEG file is cut short (some of its scans are missing); copy or download it again")
    return replace(header, orientation=orientation, jpeg_end=position)


def _end_of_scan(data: bytes, position: int) -> int:
    """Return the place of the next marker: inside pixels 0xFF is always followed by 0x00 or a restart marker."""
    while True:
        position = data.find(b"\xff", position)
        if position < 0 or position + 1 >= len(data):
            raise ValueError("the JPEG file is cut short (it has no end marker); copy or download it again")
        if data[position + 1] != 0x00 and not 0xD0 <= data[position + 1] <= 0xD7:
            return position
        position += 2


class _Scans:
    """Which coefficients of which channel the scans of a JPEG have given so far, and to which bit."""

    def __init__(self) -> None:
        self.number = 0
        self._missing_bits: dict[int, list[int]] = {}
        self._progressive = False

    def begin(self, channels: bytes, *, progressive: bool) -> None:
        """Take the channels of a frame header, three bytes each."""
        self._missing_bits = {channels[place]: [1] * 64 for place in range(0, len(channels), 3)}
        self._progressive = progressive

    def add(self, scan: bytes) -> None:
        """Take the header of a scan."""
        self.number += 1
        if self.number > _MAX_JPEG_SCANS:
            raise ValueError(f"the JPEG file has more than {_MAX_JPEG_SCANS} scans; save it again, or as PNG")
        number = scan[2]
        first, last, bits = struct.unpack_from("3B", scan, 3 + 2 * number)
        if not self._progressive:
            first, last, bits = 0, 63, 0
        for place in range(number):
            missing = self._missing_bits.get(scan[3 + 2 * place], [])
            for coefficient in range(first, min(last + 1, len(missing))):
                missing[coefficient] = bits & 0xF

    @property
    def are_complete(self) -> bool:
        """Whether nothing is missing."""
        return not any(any(missing) for missing in self._missing_bits.values())


def _read_tiff(data: bytes) -> Header:
    page = read_page(data)
    channels = 3 if page.palette else page.channels
    return Header("tiff", page.height, page.width, channels, page.bits, page.floating, page.orientation, page)


def _exif_orientation(block: bytes) -> int:
    """Return the orientation that EXIF data note, 1 if there is none that can be read."""
    try:
        exif = Image.Exif()
        exif.load(block)
        return int(exif.get(_ORIENTATION_TAG, 1))
    except Exception:  # on damaged tags Pillow raises all kinds of exceptions
        return 1


_READERS = {"png": _read_png, "jpeg": _read_jpeg, "tiff": _read_tiff}
