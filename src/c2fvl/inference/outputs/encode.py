"""A DICOM result as the bytes of its file."""

import io
from typing import TYPE_CHECKING

from c2fvl.inference.outputs.source import tolerant

if TYPE_CHECKING:
    from pydicom import Dataset


@tolerant
def dicom_bytes(made: "Dataset") -> bytes:
    """Return the content of a DICOM file, for `c2fvl.files.storage.write_bytes` or an archive."""
    content = io.BytesIO()
    made.save_as(content, enforce_file_format=True)
    return content.getvalue()
