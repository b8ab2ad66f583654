"""Which kind of image a file holds, by its first bytes and never by the ending of its name."""

import re
import stat
import zlib
from pathlib import Path

HEAD_BYTES = 4096
"""As many bytes of a file as `kind_of` needs."""
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TIFF_SIGNATURES = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_NIFTI_HEADER_BYTES = 352
_UID_ELEMENT = re.compile(rb"(?:\x02\x00[\x02\x10]\x00|\x08\x00\x16\x00).{4}1\.2\.840\.10008\.", re.DOTALL)
"""What every DICOM image has: the class of the object, or the transfer syntax."""
_CT_CLASS = re.compile(
    rb"(?:[\x02\x08]\x00[\x02\x16]\x00|\x00\x08\x00\x16).{4}1\.2\.840\.10008\.5\.1\.4\.1\.1\.2(?:\.[12])?(?![.0-9])",
    re.DOTALL,
)
"""CT image and enhanced CT images, in little or big endian."""
_DICOM_FOLDER = re.compile(rb"\x02\x00\x02\x00.{4}1\.2\.840\.10008\.1\.3\.10", re.DOTALL)


def kind_of(head: bytes) -> str | None:
    """Return "png", "jpeg", "tiff", "dicom" or "nifti" for the first `HEAD_BYTES` of a file; None for anything else.

    A NIfTI file may be compressed with gzip. A DICOM file may lack the 128 bytes in front of its header.
    """
    if head[128:132] == b"DICM":  # first, since what lies before may look like a TIFF of the same pixels
        return "dicom"
    if head.startswith(_PNG_SIGNATURE):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith(_TIFF_SIGNATURES):
        return "tiff"
    if _is_nifti(head) or (head.startswith(b"\x1f\x8b") and _is_nifti(_inflated(head))):
        return "nifti"
    if head[:1] in (b"\x02", b"\x08") and head[1:2] == b"\x00" and _UID_ELEMENT.search(head[:HEAD_BYTES]):
        return "dicom"
    return None


def is_readable_kind(path: Path | str) -> bool:
    """Tell whether a file holds an image of a known kind; False for folders, pipes and files that cannot be opened.

    An index of DICOM files (DICOMDIR) holds no image.
    """
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            return False
        with Path(path).open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return False
    return kind_of(head) is not None and not _DICOM_FOLDER.search(head)


def is_ct(head: bytes) -> bool:
    """Tell whether the first `HEAD_BYTES` of a DICOM file are those of a CT image."""
    return kind_of(head) == "dicom" and _CT_CLASS.search(head) is not None


def _is_nifti(head: bytes) -> bool:
    return head[344:348] in (b"n+1\x00", b"ni1\x00") or head[4:10] == b"n+2\x00\r\n"


def _inflated(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, _NIFTI_HEADER_BYTES)
    except zlib.error:
        return b""
