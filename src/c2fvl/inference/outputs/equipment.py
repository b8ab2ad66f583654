"""What every DICOM result says about the program and the model that made it."""

from typing import TYPE_CHECKING, Any

from c2fvl.inference.outputs.result_info import ResultInfo
from c2fvl.inference.outputs.source import DEIDENTIFICATION, new_uid

if TYPE_CHECKING:
    from highdicom.content import AlgorithmIdentificationSequence
    from pydicom import Dataset

SERIES_NUMBERS = {"seg": 900, "sc": 901, "sr": 902, "measurements": 903}


def equipment(about: ResultInfo) -> dict[str, Any]:
    """Return the arguments by which an object of highdicom names its maker, with new UIDs."""
    return {
        "series_instance_uid": new_uid(),
        "sop_instance_uid": new_uid(),
        "instance_number": 1,
        "manufacturer": "c2fvl project",
        "manufacturer_model_name": "c2fvl",
        "software_versions": about.package_version,
        "device_serial_number": about.weights_sha256[:16] or "unknown",
    }


def algorithm_name(about: ResultInfo) -> tuple[str, str]:
    """Return name and version of the model, as every result gives them."""
    version = about.package_version + (f", model {about.model_version}" if about.model_version else "")
    return f"c2fvl {about.model}"[:64], version[:64]


def algorithm(about: ResultInfo) -> "AlgorithmIdentificationSequence":
    """Return name, version and settings of the model as DICOM wants them."""
    from highdicom import AlgorithmIdentificationSequence
    from pydicom.sr.codedict import codes

    name, version = algorithm_name(about)
    return AlgorithmIdentificationSequence(
        name=name,
        version=version,
        family=codes.DCM.ArtificialIntelligence,
        parameters=about.settings,
    )


def copy_lossy_compression(header: "Dataset", made: "Dataset") -> None:
    """Say in a result that its source was compressed with loss, if so, since the standard keeps this for ever."""
    if header.get("LossyImageCompression") == "01":
        for name in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            if name in header:
                setattr(made, name, header[name].value)


def mark_deidentified(made: "Dataset") -> None:
    """Write into a result that the identity of the patient was removed, and how."""
    made.PatientIdentityRemoved = "YES"
    made.DeidentificationMethod = DEIDENTIFICATION
