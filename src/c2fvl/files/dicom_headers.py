"""Read the header of a DICOM file that may be damaged or hostile, and hand out its values guarded.

A file is parsed within limits: the number of reads (so that a header of a million elements ends), the size of a
deflated file after inflating, and the size of tables. A value that cannot be read is None, never an exception. pydicom
is imported when the first DICOM file is met.
"""

import contextlib
import io
import itertools
import logging
import math
import threading
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from c2fvl.messages import printable

_MAX_READS = 400_000
"""Each element takes two or three; a multi-frame header has some ten thousand elements, a film a few hundred."""
_MAX_INFLATED = 2**28
_MAX_ELEMENT_BYTES = 2**20
"""Of an unparsed element, such as a sequence of tables; a table has at most 65536 entries of two bytes."""
_PIXEL_TAGS = {0x7FE00008, 0x7FE00009, 0x7FE00010}
"""Pixels as floats, as doubles and as whole numbers."""
NATIVE_SYNTAXES = {
    "1.2.840.10008.1.2": "<",
    "1.2.840.10008.1.2.1": "<",
    "1.2.840.10008.1.2.1.99": "<",
    "1.2.840.10008.1.2.2": ">",
}
"""Transfer syntaxes without compression of the pixels, and their order of bytes."""
_DEFAULT_SYNTAX = "1.2.840.10008.1.2.1"  # explicit, little endian
_BIG_ENDIAN_SYNTAX = "1.2.840.10008.1.2.2"
_MAX_VALUES, _MAX_LETTERS = 1000, 80
"""Of an element that is a text or numbers; a polygonal shutter has the most values."""
_quiet_lock = threading.RLock()


@dataclass(frozen=True)
class PixelLayout:
    """How the pixels of a DICOM file are stored."""

    rows: int
    columns: int
    samples: int
    allocated: int
    """Bits that each sample takes, 8 or 16."""
    stored: int
    """Bits of a sample that count; `high_bit` is the highest of them."""
    high_bit: int
    signed: bool
    photometric: str
    planar: int
    frames: int
    syntax: str
    """UID of the transfer syntax."""

    @property
    def shift(self) -> int:
        """Return the number of unused bits below those that count; decoders of compressed pixels leave none."""
        return self.high_bit + 1 - self.stored if self.syntax in NATIVE_SYNTAXES else 0


class _LimitError(Exception):
    """The header is larger than any image needs."""


class _DeflatedError(Exception):
    """pydicom is about to inflate the rest of the file at once."""


class _CountedReads(io.BytesIO):
    """The content of a file; it can be read in a limited number of pieces, and never all at once."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._left = _MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            raise _DeflatedError
        self._left -= 1
        if self._left < 0:
            raise _LimitError(f"its header has more than about {_MAX_READS // 3} elements")
        return super().read(size)


def import_pydicom() -> Any:
    """Return the package pydicom, or raise a `ValueError` that says how to install it."""
    try:
        import pydicom
    except ModuleNotFoundError as error:
        raise ValueError(f"reading DICOM needs {error.name}: pip install 'c2fvl[dicom]'") from error
    except Exception as error:  # a broken installation, or a module of the working folder that hides another
        raise ValueError(
            f"pydicom cannot be imported ({error}); start in another folder, in case a name in this one "
            "hides a Python module, or install pydicom again"
        ) from error
    return pydicom


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop what pydicom and highdicom warn of and log, which real files raise on their syntax.

    What a user must know is checked apart. The messages may quote the header, and a patient's name must not be shown.
    """
    with _quiet_lock, warnings.catch_warnings():  # filters and levels belong to all threads, and are put back in order
        warnings.simplefilter("ignore")
        levels = {logger: logger.level for logger in map(logging.getLogger, ("pydicom", "highdicom"))}
        try:
            for logger in levels:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in levels.items():
                logger.setLevel(level)


def parse(data: bytes) -> Any:
    """Return the content of a DICOM file as a `pydicom.Dataset`.

    Raises `ValueError` for a file that is damaged or over the limits of this module.
    """
    pydicom = import_pydicom()
    try:
        with quiet():
            return _parse(pydicom, data)
    except RecursionError:
        reason = "its sequences are nested too deeply"
    except MemoryError:
        reason = "it takes more memory than there is"
    except Exception as error:  # pydicom raises all kinds of exceptions on damaged files
        reason = str(error) or type(error).__name__
    raise ValueError(f"the DICOM file cannot be read: {one_line(reason)}; export or download it again")


def _parse(pydicom: Any, data: bytes) -> Any:
    content = _CountedReads(data)
    try:
        return pydicom.dcmread(content, force=True)
    except _DeflatedError:
        begin = content.tell()
    inflating = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflating.decompress(data[begin:], _MAX_INFLATED)
    if inflating.unconsumed_tail:
        raise _LimitError(f"it is compressed as a whole and inflates to more than {_MAX_INFLATED >> 20} MiB")
    dataset = pydicom.filereader.read_dataset(_CountedReads(inflated), False, True)
    dataset.file_meta = pydicom.dcmread(_CountedReads(data[:begin]), force=True).file_meta
    return dataset


def value(dataset: Any, keyword: str) -> Any:
    """Return the value of an element, or None if it is missing, empty or cannot be read."""
    try:
        with quiet():
            found = dataset.get(keyword)
    except Exception:  # pydicom converts a value when it is asked for, and fails in all kinds of ways
        return None
    return None if found is None or (isinstance(found, str) and not found.strip()) else found


def has_value(dataset: Any, keyword: str) -> bool:
    """Tell whether an element is there and not missing its content, readable or not."""
    try:
        return keyword in dataset
    except Exception:
        return False


def text(dataset: Any, keyword: str) -> str:
    """Return the text of an element in capitals, several values joined by a backslash; empty if there is none."""
    return "\\".join(texts(dataset, keyword)[:6])


def texts(dataset: Any, keyword: str) -> tuple[str, ...]:
    """Return the values of an element as texts in capitals, short and without control characters."""
    found = value(dataset, keyword)
    items = () if found is None else (found,) if isinstance(found, str | bytes | int | float) else found
    try:
        return tuple(_readable(item) for item in itertools.islice(items, _MAX_VALUES))
    except TypeError:
        return (_readable(found),)


def _readable(item: object) -> str:
    return "".join(letter for letter in str(item)[:_MAX_LETTERS] if letter.isprintable()).strip().upper()


def numbers(dataset: Any, keyword: str) -> tuple[float, ...]:
    """Return the values of an element as finite numbers; empty if any of them is none."""
    try:
        found = tuple(float(item) for item in texts(dataset, keyword))
    except ValueError:
        return ()
    return found if all(math.isfinite(number) for number in found) else ()


def whole(dataset: Any, keyword: str, default: int = 0) -> int:
    """Return the value of an element as a whole number, or `default`."""
    found = numbers(dataset, keyword)
    return int(found[0]) if found else default


def has_items(dataset: Any, keyword: str) -> bool:
    """Tell whether a sequence is there and not empty, readable or not."""
    try:
        return bool(len(dataset.get_item(keyword).value))
    except Exception:  # none, or one whose value is nothing
        return False


def first_item(dataset: Any, keyword: str) -> Any:
    """Return the first item of a sequence as a dataset; None if it is missing, empty, too large or cannot be read."""
    try:
        unparsed = getattr(dataset.get_item(keyword), "value", None)
    except Exception:
        return None
    if isinstance(unparsed, bytes) and len(unparsed) > _MAX_ELEMENT_BYTES:
        return None
    found = value(dataset, keyword)
    try:
        return found[0] if found else None
    except Exception:
        return None


def header_of(dataset: Any) -> Any:
    """Return a dataset without its pixels, its very large elements, and those that cannot be read."""
    header = import_pydicom().Dataset()
    with quiet():
        for tag in list(dataset.keys()):
            try:
                unparsed = dataset.get_item(tag).value
                if tag not in _PIXEL_TAGS and not (isinstance(unparsed, bytes) and len(unparsed) > _MAX_ELEMENT_BYTES):
                    header[tag] = dataset[tag]
            except Exception:  # an unknown form or a senseless value
                continue
    header.file_meta = getattr(dataset, "file_meta", None)
    return header


def read_layout(dataset: Any, max_pixels: int) -> PixelLayout:
    """Return how the pixels are stored.

    Raises `ValueError` for a file without pixels, with more than `max_pixels`, or with a form that is not supported.
    """
    if has_value(dataset, "FloatPixelData") or has_value(dataset, "DoubleFloatPixelData"):
        raise ValueError("the DICOM file holds floating-point pixels; export it with 8 to 16 bits")
    if not has_value(dataset, "PixelData"):
        raise ValueError(
            "the DICOM file has no pixels (no PixelData): it is no image, or it is cut short; export the image itself, "
            "or copy it again"
        )
    rows, columns = whole(dataset, "Rows"), whole(dataset, "Columns")
    if rows < 1 or columns < 1:
        raise ValueError(f"the DICOM header says {columns} x {rows} pixels; the file is damaged, get it again")
    if rows * columns > max_pixels:
        raise ValueError(
            f"{columns} x {rows} pixels are over the limit of {max_pixels}, so the file was not decoded; make the "
            "image smaller"
        )
    samples, allocated = whole(dataset, "SamplesPerPixel", 1), whole(dataset, "BitsAllocated")
    stored = whole(dataset, "BitsStored", allocated)
    if allocated not in (8, 16) or samples not in (1, 3) or (samples == 3 and allocated != 8):
        raise ValueError(
            f"the DICOM file holds {samples} samples of {allocated} bits per pixel, expected 1 of 8 or 16 bits, or 3 "
            "of 8 bits; export it so"
        )
    high_bit = whole(dataset, "HighBit", stored - 1)
    if not 2 <= stored <= allocated or not stored - 1 <= high_bit < allocated:
        raise ValueError(
            f"the DICOM header says {stored} bits stored in {allocated} with {high_bit} as the highest; the header is "
            "wrong, export the image again"
        )
    return PixelLayout(
        rows,
        columns,
        samples,
        allocated,
        stored,
        high_bit,
        signed=whole(dataset, "PixelRepresentation") == 1,
        photometric=text(dataset, "PhotometricInterpretation"),
        planar=whole(dataset, "PlanarConfiguration"),
        frames=max(1, whole(dataset, "NumberOfFrames", 1)),
        syntax=transfer_syntax(dataset),
    )


def transfer_syntax(dataset: Any) -> str:
    """Return the UID of the transfer syntax; of a file without one, that in which its header is written."""
    found = str(value(getattr(dataset, "file_meta", None) or {}, "TransferSyntaxUID") or "").strip()
    if found:
        return found
    return _BIG_ENDIAN_SYNTAX if getattr(dataset, "original_encoding", (None, None))[1] is False else _DEFAULT_SYNTAX


def uid_name(uid: str) -> str:
    """Return the name that the standard gives to a class or a transfer syntax, or the UID of an unknown one."""
    with quiet():
        return one_line(import_pydicom().uid.UID(uid).name)


def one_line(reason: object) -> str:
    """Return the message of another library as a part of a sentence."""
    return " ".join(printable(str(reason)[:1000]).split())[:200].rstrip(".") or type(reason).__name__
