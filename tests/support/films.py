"""Small synthetic chest films as DICOM, one for each number."""

import datetime

from support.dicom import film

from c2fvl.data.phantom.draw import draw_case


def small_film(number: int, *, image=None, **values):
    """Return film `number` of study 1.2.826.<number>, taken today."""
    image = draw_case(3, number, size=96).image if image is None else image
    elements = {
        "SOPInstanceUID": f"1.2.826.{number}.1.1", "StudyInstanceUID": f"1.2.826.{number}",
        "SeriesInstanceUID": f"1.2.826.{number}.1", "StudyDate": datetime.date.today().strftime("%Y%m%d"),
        "PatientID": f"P{number}", "PatientName": f"Film^{number}",
    } | values  # fmt: skip
    made = film(image if image.ndim == 2 else image[..., 0], **elements)
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    return made
