"""Small DICOM films made for tests, and the example files that packages carry."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, generate_uid

DIGITAL, COMPUTED, SECONDARY = (
    "1.2.840.10008.5.1.4.1.1.1.1",
    "1.2.840.10008.5.1.4.1.1.1",
    "1.2.840.10008.5.1.4.1.1.7",
)
L_SHAPE = np.zeros((24, 32))
L_SHAPE[4:20, 6:9] = 1
L_SHAPE[17:20, 6:22] = 1
"""An "L" on its feet: any turn or mirroring shows."""


def film(pixels: np.ndarray, *, syntax: str = ExplicitVRLittleEndian, bits: int | None = None, **values) -> FileDataset:
    """Return a chest film with the stored pixels, 8 or 16 bit; `values` are further elements, None leaves one out."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = values.get("SOPClassUID", COMPUTED)
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset("film.dcm", {}, file_meta=meta, preamble=bytes(128))
    allocated = pixels.dtype.itemsize * 8
    bits = bits or allocated
    elements = {
        "SOPClassUID": COMPUTED,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "Modality": "CR",
        "BodyPartExamined": "CHEST",
        "PatientName": "",
        "PatientID": "",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": allocated,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PatientOrientation": ["L", "F"],
    } | values
    for keyword, value in elements.items():
        if value is not None:
            setattr(dataset, keyword, value)
    stored = pixels.astype(pixels.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<"))
    dataset.add_new("PixelData", "OB" if allocated == 8 else "OW", stored.tobytes() + b"\0" * (stored.nbytes % 2))
    return dataset


def lookup_table(entries: np.ndarray, bits: int, first: int = 0) -> Dataset:
    """Return the item of a VOI or modality table."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 65536, first, bits])
    item.ModalityLUTType = "US"
    item.add_new("LUTData", "OW", np.asarray(entries, "<u2").tobytes())
    return item


def as_bytes(dataset: Dataset, **how) -> bytes:
    """Return the content of the file."""
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True, **how)
    return file.getvalue()


def example(name: str) -> Path:
    """Return the path of a file that pydicom or pydicom-data carries; the test is skipped without it."""
    charset = Path(pydicom.data.__file__).parent / "charset_files" / name
    found = charset if charset.is_file() else pydicom.data.get_testdata_file(name, download=False)
    if found is None:
        pytest.skip(f"{name} is in the package pydicom-data, which is not installed")
    return Path(found)
