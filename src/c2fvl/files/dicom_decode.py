"""Decode the pixels of one frame of a DICOM file.

Uncompressed pixels are taken as they lie. Compressed ones are decoded by another process (`dicom_worker.py`), because a
damaged stream can crash or hang a decoder: about one in seventy damaged streams kills python-gdcm. The process is
started at the first compressed file, has limits of memory and time, and is replaced when it dies.
"""

import atexit
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2fvl.files import dicom_worker
from c2fvl.files.dicom_headers import (
    NATIVE_SYNTAXES,
    PixelLayout,
    import_pydicom,
    one_line,
    quiet,
    text,
    uid_name,
    value,
)


@dataclass(frozen=True)
class _Syntax:
    name: str
    plugin: str
    package: str
    loses: bool = False
    """Whether the compression always or usually loses something; a header may say otherwise."""


_JPEG_2000 = "pylibjpeg-openjpeg"
_COMPRESSED = {
    "1.2.840.10008.1.2.5": _Syntax("RLE", "pydicom", "pydicom"),
    "1.2.840.10008.1.2.4.50": _Syntax("JPEG", "pillow", "pillow", loses=True),
    "1.2.840.10008.1.2.4.51": _Syntax("JPEG of 12 bits", "pillow", "pillow", loses=True),
    "1.2.840.10008.1.2.4.57": _Syntax("JPEG Lossless", "gdcm", "python-gdcm"),
    "1.2.840.10008.1.2.4.70": _Syntax("JPEG Lossless", "gdcm", "python-gdcm"),
    "1.2.840.10008.1.2.4.80": _Syntax("JPEG-LS", "pyjpegls", "pyjpegls"),
    "1.2.840.10008.1.2.4.81": _Syntax("JPEG-LS", "pyjpegls", "pyjpegls", loses=True),
    "1.2.840.10008.1.2.4.90": _Syntax("JPEG 2000", "pylibjpeg", _JPEG_2000),
    "1.2.840.10008.1.2.4.91": _Syntax("JPEG 2000", "pylibjpeg", _JPEG_2000, loses=True),
    "1.2.840.10008.1.2.4.201": _Syntax("HTJ2K", "pylibjpeg", _JPEG_2000),
    "1.2.840.10008.1.2.4.202": _Syntax("HTJ2K", "pylibjpeg", _JPEG_2000),
    "1.2.840.10008.1.2.4.203": _Syntax("HTJ2K", "pylibjpeg", _JPEG_2000, loses=True),
}
"""The decoders that proved safest on damaged streams; all others than python-gdcm never crashed."""
_ALWAYS_LOSES = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
_JPEG_12_BIT = "1.2.840.10008.1.2.4.51"
_START_SECONDS = 60
_DECODE_SECONDS = 30
_SECONDS_PER_MEGAPIXEL = 2
_GET_AGAIN = "the file is probably damaged; export or download it again"


@dataclass(frozen=True)
class Decoded:
    """The pixels of one frame."""

    codes: NDArray[Any]
    """Grey: (H, W) uint8 or uint16, the bits as stored, unused ones and the sign included. RGB: (H, W, 3) uint8. With
    a palette: (H, W) as grey."""
    photometric: str
    """What the values mean; YBR is converted to RGB already."""
    warnings: tuple[str, ...] = ()


def is_lossy(dataset: Any, layout: PixelLayout) -> bool:
    """Tell whether the pixels were compressed with loss, now or at any time before."""
    said = text(dataset, "LossyImageCompression")
    if said == "01" or layout.syntax in _ALWAYS_LOSES:
        return True
    syntax = _COMPRESSED.get(layout.syntax)
    return syntax is not None and syntax.loses and said != "00"


def decode_frame(dataset: Any, layout: PixelLayout, frame: int = 0) -> Decoded:
    """Return the pixels of a frame, counted from 0.

    Raises `ValueError` for pixels that are damaged, cut short, or compressed in a way that cannot be decoded.
    """
    pixels = value(dataset, "PixelData")
    if not isinstance(pixels, bytes | bytearray) or not len(pixels):
        raise ValueError("the DICOM file has no pixels (PixelData is empty); export the image itself")
    if layout.syntax in NATIVE_SYNTAXES:
        return _native_frame(dataset, layout, bytes(pixels), frame)
    syntax = _COMPRESSED.get(layout.syntax)
    if syntax is None or (layout.syntax == _JPEG_12_BIT and layout.stored > 8):
        name = syntax.name if syntax else uid_name(layout.syntax)
        raise ValueError(
            f"its pixels are compressed as {name}, for which there is no decoder here; export the image uncompressed "
            "(explicit VR little endian)"
        )
    return _compressed_frame(layout, syntax, bytes(pixels), frame)


def _native_frame(dataset: Any, layout: PixelLayout, pixels: bytes, frame: int) -> Decoded:
    sample_bytes = layout.allocated // 8
    count = layout.rows * layout.columns * layout.samples
    if layout.samples == 3 or (layout.allocated == 8 and NATIVE_SYNTAXES[layout.syntax] == ">"):
        array, photometric = _native_by_pydicom(dataset, layout, pixels, frame)
        return Decoded(array, photometric)
    if len(pixels) < (frame + 1) * count * sample_bytes:
        raise ValueError(
            f"the DICOM file is cut short: {len(pixels)} bytes of pixels, expected "
            f"{layout.frames * count * sample_bytes}; copy or download it again"
        )
    stored = np.frombuffer(
        pixels, f"{NATIVE_SYNTAXES[layout.syntax]}u{sample_bytes}", count, frame * count * sample_bytes
    )
    codes = stored.reshape(layout.rows, layout.columns)
    return Decoded(codes.astype(codes.dtype.newbyteorder("="), copy=False), layout.photometric)


def _native_by_pydicom(dataset: Any, layout: PixelLayout, pixels: bytes, frame: int) -> tuple[NDArray[Any], str]:
    from pydicom.pixels.decoders.base import get_decoder

    try:
        with quiet():
            options = _options(layout) | {"pixel_vr": str(dataset["PixelData"].VR)}
            array, properties = get_decoder(layout.syntax).as_array(pixels, index=frame, **options)
    except Exception as error:
        raise ValueError(f"its pixels cannot be read ({one_line(error)}); {_GET_AGAIN}") from error
    return array, str(properties["photometric_interpretation"])


def _options(layout: PixelLayout) -> dict[str, Any]:
    return {
        "rows": layout.rows,
        "columns": layout.columns,
        "samples_per_pixel": layout.samples,
        "bits_allocated": layout.allocated,
        "bits_stored": layout.stored,
        "pixel_representation": int(layout.signed),
        "photometric_interpretation": layout.photometric,
        "planar_configuration": layout.planar,
        "number_of_frames": layout.frames,
        "pixel_keyword": "PixelData",
    }


def _compressed_frame(layout: PixelLayout, syntax: _Syntax, pixels: bytes, frame: int) -> Decoded:
    pydicom = import_pydicom()
    try:
        with quiet():
            stream = pydicom.encaps.get_frame(pixels, frame, number_of_frames=layout.frames)
    except Exception as error:
        raise ValueError(f"its compressed pixels are not whole ({one_line(error)}); {_GET_AGAIN}") from error
    header = {
        "syntax": layout.syntax,
        "plugin": syntax.plugin,
        "options": {**_options(layout), "number_of_frames": 1},
    }
    seconds = _DECODE_SECONDS + _SECONDS_PER_MEGAPIXEL * layout.rows * layout.columns / 1e6
    answer, content = _ask(header, stream, layout, seconds)
    if "missing" in answer:
        raise ValueError(f"decoding {syntax.name} needs {syntax.package}: pip install 'c2fvl[dicom]'")
    if "error" in answer:
        raise ValueError(f"its pixels, {syntax.name}, cannot be decoded ({one_line(answer['error'])}); {_GET_AGAIN}")
    codes = np.frombuffer(content, np.dtype(answer["dtype"])).reshape(answer["shape"])
    if codes.shape[:2] != (layout.rows, layout.columns) or codes.dtype.itemsize * 8 != layout.allocated:
        raise ValueError(
            f"its pixels are an array {codes.shape} of {codes.dtype}, not {layout.columns} x {layout.rows} of "
            f"{layout.allocated} bits as the header says; {_GET_AGAIN}"
        )
    if codes.dtype.kind == "i":
        codes = codes.view(f"u{codes.dtype.itemsize}")
    remarks = tuple(f"The decoder of {syntax.name} says: {one_line(remark)}." for remark in answer["warnings"])
    return Decoded(codes, answer["photometric"] or layout.photometric, remarks)


class _Worker:
    """The other process, and the pipes to it."""

    def __init__(self) -> None:
        package = str(Path(import_pydicom().__file__).parents[1])
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")  # each takes address space
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(Path(dicom_worker.__file__)), package],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | threads,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        assert self.process.stdin and self.process.stdout
        self.requests, self.answers = self.process.stdin, self.process.stdout
        if "ready" not in self._within(_START_SECONDS, lambda: self._read(0))[0]:
            self.close()
            raise ValueError("the process that decodes DICOM pixels does not start; install 'c2fvl[dicom]' again")

    def ask(
        self, header: dict[str, Any], pixels: bytes, max_bytes: int, seconds: float
    ) -> tuple[dict[str, Any], bytes]:
        """Return the answer to a request; its header is empty if the process died, and says "late" if it was killed."""
        encoded = json.dumps(header).encode()

        def exchange() -> tuple[dict[str, Any], bytes]:
            self.requests.write(dicom_worker.LENGTHS.pack(len(encoded), len(pixels)) + encoded)
            self.requests.write(pixels)
            self.requests.flush()
            return self._read(max_bytes)

        return self._within(seconds, exchange)

    def _within(self, seconds: float, exchange: Any) -> tuple[dict[str, Any], bytes]:
        late = threading.Event()

        def end() -> None:
            late.set()
            self.process.kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            answer: tuple[dict[str, Any], bytes] = exchange()
        except OSError:  # the pipe is closed at the other end
            answer = {}, b""
        finally:
            timer.cancel()
        return ({"late": seconds}, b"") if late.is_set() else answer

    def _read(self, max_bytes: int) -> tuple[dict[str, Any], bytes]:
        lengths = self.answers.read(dicom_worker.LENGTHS.size)
        if len(lengths) < dicom_worker.LENGTHS.size:
            return {}, b""
        header_bytes, content_bytes = dicom_worker.LENGTHS.unpack(lengths)
        if content_bytes > max_bytes:
            return {}, b""
        header, content = self.answers.read(header_bytes), self.answers.read(content_bytes)
        return (json.loads(header), content) if len(content) == content_bytes else ({}, b"")

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.requests, self.answers):
            try:
                pipe.close()
            except OSError:  # what was not sent cannot be sent any more
                continue


class _Decoding:
    """The one worker of this process; threads take turns."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.worker: _Worker | None = None
        self.forgotten: list[_Worker] = []

    def running(self) -> _Worker:
        if self.worker is None or self.worker.process.poll() is not None:
            self.end()
            self.worker = _Worker()
        return self.worker

    def end(self) -> None:
        """End the worker if there is one."""
        worker, self.worker = self.worker, None
        if worker is not None:
            worker.close()

    def after_fork(self) -> None:
        """Begin anew in a forked process. The worker stays that of the parent; nothing may be sent to it."""
        self.lock = threading.Lock()
        if self.worker is not None:
            self.worker.process.returncode = 0  # not ours to wait for
            self.forgotten.append(self.worker)
            self.worker = None


_decoding = _Decoding()
atexit.register(_decoding.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_decoding.after_fork)


def _ask(header: dict[str, Any], stream: bytes, layout: PixelLayout, seconds: float) -> tuple[dict[str, Any], bytes]:
    max_bytes = layout.rows * layout.columns * max(3, layout.samples) * 2
    with _decoding.lock:
        try:
            answer, content = _decoding.running().ask(header, stream, max_bytes, seconds)
        except BaseException:  # Ctrl-C in the middle: the next answer would be this one's
            _decoding.end()
            raise
        if answer and "late" not in answer:
            return answer, content
        _decoding.end()
    if answer:
        raise ValueError(f"its pixels were not decoded within {seconds:.0f} s; {_GET_AGAIN}")
    raise ValueError(f"the decoder broke off on its pixels; {_GET_AGAIN}")
