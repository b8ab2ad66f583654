"""A small CT volume of a chest, as DICOM series and as NIfTI."""

from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset
from support.dicom import film

from c2fvl.config import Config, DataConfig, ModelConfig
from c2fvl.inference.engine import Computed

CT = "1.2.840.10008.5.1.4.1.1.2"
STUDY, FRAME = "1.2.3.1", "1.2.3.2"
SPACING = (2.0, 0.8, 0.7)
"""Between slices, rows and columns, in mm."""
WINDOW = (-285.0, 1530.0)
LESION_HU = (-300, -100)


class Bright:
    """An engine that finds the values of the lesion of `chest`, and remembers what it was given."""

    path, metrics, calibration, ood_detector, batch_size = Path("bright"), {}, None, None, 4

    def __init__(self, size=64, **data):
        data = {"image_size": size, "text": "findings", "ct_window": "-285,1530"} | data
        self.config = Config(preset="tiny", data=DataConfig(**data), model=ModelConfig("filmfirst"))
        self.texts = []

    def compute(self, images, text):
        self.texts += list(text)
        low, high = ((value - WINDOW[0]) / WINDOW[1] + 0.5 for value in LESION_HU)
        return Computed(((images[:, 0] > low) & (images[:, 0] < high)).astype(np.float32))


def chest(num_slices: int = 6, rows: int = 48, columns: int = 56) -> np.ndarray:
    """Return HU (slices from the feet, rows from the front, columns from the patient's right): no side is like another.

    A body with two lungs; a bright lesion lies at the back of the patient's left lung in the upper half of the slices.
    """
    row, column = np.mgrid[:rows, :columns]
    body = ((row / rows - 0.5) / 0.42) ** 2 + ((column / columns - 0.5) / 0.46) ** 2 < 1
    values = np.where(body, 40, -1000).astype(np.int16)
    for center in (0.3, 0.7):
        values[((row / rows - 0.5) / 0.3) ** 2 + ((column / columns - center) / 0.15) ** 2 < 1] = -850
    values = np.repeat(values[None], num_slices, axis=0)
    values[:, 0, columns // 2 :] = 900  # in front, on the left
    values[num_slices // 2 :, rows * 13 // 20 : rows * 15 // 20, columns * 13 // 20 : columns * 15 // 20] = -200
    values[0, -4:, :4] = 400  # at the feet, behind, on the right
    return values


def slice_of(values: np.ndarray, number: int, *, intercept: int = -1024, **changes) -> FileDataset:
    """Return slice `number` of a volume in HU as a dataset; `changes` are further elements, None leaves one out."""
    elements = {
        "SOPClassUID": CT,
        "SOPInstanceUID": f"1.2.3.9.{number + 1}",
        "StudyInstanceUID": STUDY,
        "SeriesInstanceUID": "1.2.3.3",
        "FrameOfReferenceUID": FRAME,
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "InstanceNumber": number + 1,
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "ImagePositionPatient": [-20.0, -15.0, 100 + SPACING[0] * number],
        "PixelSpacing": list(SPACING[1:]),
        "SliceThickness": SPACING[0],
        "RescaleSlope": 1,
        "RescaleIntercept": intercept,
        "PatientOrientation": None,
    } | changes
    return film((values[number].astype(np.int32) - intercept).astype(np.int16), **elements)


def write_series(folder: Path, values: np.ndarray, changes=lambda number: {}) -> Path:
    """Write a volume as a DICOM series, the slices in no order of their names; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(len(values)):
        name = f"{(number * 7) % 13:02d}_{number}.dcm"
        slice_of(values, number, **changes(number)).save_as(folder / name, enforce_file_format=True)
    return folder
