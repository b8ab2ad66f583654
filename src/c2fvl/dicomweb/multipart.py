"""Bodies of the form multipart/related, in which DICOMweb carries whole objects."""

from collections.abc import Sequence
from email.message import Message

DICOM = "application/dicom"
_LINE_END = b"\r\n"
_HEAD_END = b"\r\n\r\n"
_MAX_HEAD = 16384


def encode(objects: Sequence[bytes], boundary: str) -> tuple[str, bytes]:
    """Return content type and body for several DICOM files."""
    mark = boundary.encode("ascii")
    parts = [b"--%s\r\nContent-Type: %s\r\n\r\n%s\r\n" % (mark, DICOM.encode(), one) for one in objects]
    return f'multipart/related; type="{DICOM}"; boundary={boundary}', b"".join(parts) + b"--%s--\r\n" % mark


def decode(content_type: str, body: bytes) -> list[bytes]:
    """Return the parts of a body; a body of type application/dicom is one part.

    Raises `ValueError` for another type, and for a body that is cut short.
    """
    header = Message()
    header["Content-Type"] = content_type
    kind = header.get_content_type()
    if kind == DICOM:
        return [body]
    boundary = header.get_boundary("")
    if kind != "multipart/related" or not boundary:
        raise ValueError(f"the answer is {kind}, expected a DICOM object (multipart/related)")
    mark = b"--" + boundary.encode("latin-1", "replace")
    begin = body.find(mark)
    parts: list[bytes] = []
    while begin >= 0:
        begin += len(mark)
        if body[begin : begin + 2] == b"--":
            return parts
        head_end = body.find(_HEAD_END, begin - len(_LINE_END), begin + _MAX_HEAD)
        end = body.find(_LINE_END + mark, head_end + len(_HEAD_END) - len(_LINE_END)) if head_end >= 0 else -1
        if end >= 0:
            parts.append(body[head_end + len(_HEAD_END) : end])
            end += len(_LINE_END)
        begin = end
    raise ValueError("the answer is cut short")
