"""The process that decodes compressed pixels of DICOM files for `dicom_decode`. It runs as a script, not as a module.

A damaged stream can crash or hang a decoder, so it does that here. The process imports pydicom and its decoders but
nothing of this package. It reads requests from its standard input until that ends: the length of a JSON header and of
the pixels, the header, the pixels. It answers in the same form.
"""

import json
import os
import signal
import struct
import sys
import warnings
from typing import Any, BinaryIO

LENGTHS = struct.Struct("<IQ")
_MAX_MEMORY = 4 * 2**30
_SPARE_SECONDS = 120
"""Of processor time for each request: the parent ends a hanging process sooner, unless the parent was killed."""


def _set_limits() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    try:
        import resource
    except ImportError:  # Windows
        return
    for limit, maximum in ((resource.RLIMIT_AS, _MAX_MEMORY), (resource.RLIMIT_CORE, 0)):
        try:
            resource.setrlimit(limit, (maximum, maximum))
        except (ValueError, OSError):  # macOS refuses some limits
            continue


def _allow_seconds() -> None:
    try:
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        allowed = int(used.ru_utime + used.ru_stime) + _SPARE_SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (allowed, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    except (ImportError, ValueError, OSError):
        return


def _decode(header: dict[str, Any], pixels: bytes) -> tuple[dict[str, Any], bytes]:
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder

    decoder = get_decoder(header["syntax"])
    plugin = header["plugin"]
    if plugin not in decoder.available_plugins:
        return {"missing": plugin}, b""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        array, properties = decoder.as_array(
            encapsulate([pixels]), index=0, decoding_plugin=plugin, raw=False, **header["options"]
        )
    answer = {
        "shape": array.shape,
        "dtype": array.dtype.newbyteorder("=").str,
        "photometric": str(properties.get("photometric_interpretation", "")),
        "warnings": [str(warning.message) for warning in caught],
    }
    return answer, array.astype(array.dtype.newbyteorder("="), copy=False).tobytes()


def _answer(file: BinaryIO, header: dict[str, Any], content: bytes = b"") -> None:
    encoded = json.dumps(header).encode()
    file.write(LENGTHS.pack(len(encoded), len(content)) + encoded)
    file.write(content)
    file.flush()


def main() -> None:
    """Answer requests until the standard input ends. The argument is the folder in which pydicom is installed."""
    _set_limits()
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # decoders print
    sys.path.append(sys.argv[1])
    import pydicom.pixels

    _answer(answers, {"ready": pydicom.__version__})
    while len(lengths := requests.read(LENGTHS.size)) == LENGTHS.size:
        header_bytes, pixel_bytes = LENGTHS.unpack(lengths)
        header, pixels = json.loads(requests.read(header_bytes)), requests.read(pixel_bytes)
        _allow_seconds()
        try:
            answer = _decode(header, pixels)
        except BaseException as error:  # a panic of a decoder in Rust is no Exception
            answer = {"error": f"{type(error).__name__}: {error}"}, b""
        _answer(answers, *answer)


if __name__ == "__main__":
    main()
