"""DICOM files that come with packages, and the validator of DICOM files."""

import gzip
import shutil
import subprocess
import warnings

import numpy as np
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


_NRRD_TYPES = {"uint8": np.uint8, "unsigned char": np.uint8, "short": np.int16, "unsigned short": np.uint16}


def read_nrrd(data):
    """Return array (i, j, k), matrix (4, 4) to LPS and the fields of a NRRD file."""
    head, _, body = data.partition(b"\n\n")
    magic, *lines = head.decode("ascii").splitlines()
    assert magic in ("NRRD0004", "NRRD0005")
    fields = dict(line.split(": ", 1) for line in lines if not line.startswith("#"))
    assert fields["space"] == "left-posterior-superior"
    assert fields.get("endian", "little") == "little"
    body = gzip.decompress(body) if fields["encoding"] == "gzip" else body
    vectors = [vector.strip("()").split(",") for vector in fields["space directions"].split()]
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(vectors, float).T
    matrix[:3, 3] = [float(value) for value in fields["space origin"].strip("()").split(",")]
    sizes = [int(size) for size in fields["sizes"].split()]
    return np.frombuffer(body, _NRRD_TYPES[fields["type"]]).reshape(sizes, order="F"), matrix, fields
