"""DICOM files that come with packages, and the validator of DICOM files."""

import shutil
import subprocess
import warnings

import pytest


def dicom(name):
    """Return a test file of pydicom or pydicom-data; the test is skipped where the package is not installed."""
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")
    from pydicom.data import get_charset_files, get_testdata_file

    paths = get_charset_files(name) if name.startswith("chr") else [get_testdata_file(name, download=False)]
    if not paths or paths[0] is None:
        pytest.skip(f"{name} is not there; it comes with pydicom-data")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(paths[0])


def written(dataset, path):
    """Write a dataset and return it as it is read back."""
    import pydicom

    dataset.save_as(path, enforce_file_format=True)
    return pydicom.dcmread(path)


def validation_errors(path):
    """Return the errors that dciodvfy finds in a file; the test is skipped where it is not installed."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed; it comes with dicom3tools")
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    assert done.stderr.strip(), "dciodvfy says nothing, not even what kind of file it is"
    return [line for line in done.stderr.splitlines() if line.startswith("Error")]


SECRETS = {
    "PatientComments": "SECRET comment", "AdditionalPatientHistory": "SECRET history", "OtherPatientIDs": "SECRET-1",
    "OtherPatientNames": "SECRET^Name", "PatientAddress": "SECRET street", "ImageComments": "SECRET image",
    "StudyDescription": "SECRET study", "SeriesDescription": "SECRET series", "Occupation": "SECRET work",
    "RequestingPhysician": "SECRET^Doctor", "InstitutionName": "SECRET clinic", "StationName": "SECRET",
    "MilitaryRank": "SECRET", "ReasonForStudy": "SECRET reason", "MedicalAlerts": "SECRET alert",
    "PatientTelephoneNumbers": "SECRET 1", "PerformedProcedureStepDescription": "SECRET step",
    "ProtocolName": "SECRET protocol",
}  # fmt: skip


def with_secrets(source):
    """Return the source with free text about the patient in many of its fields, and in a private one."""
    for name, value in SECRETS.items():
        setattr(source, name, value)
    block = source.private_block(0x0099, "SECRET maker", create=True)
    block.add_new(1, "LO", "SECRET private")
    return source
