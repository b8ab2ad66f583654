"""Archives, real and made up, and the network of the package."""

import pytest

pytest.importorskip("requests", reason="the extra dicomweb is not installed")
pytest.importorskip("highdicom", reason="the extra dicom is not installed")

from support.fake_archive import fake_archive
from support.orthanc import running_orthanc

from c2fvl.dicomweb.archive import Archive
from c2fvl.dicomweb.connection import Connection
from c2fvl.inference.predictor import Predictor


@pytest.fixture
def orthanc(tmp_path):
    """A running Orthanc without images; the test is skipped where there is none."""
    with running_orthanc(tmp_path / "orthanc") as found:
        yield found


@pytest.fixture
def fake():
    """A made up archive."""
    with fake_archive() as found:
        yield found


@pytest.fixture
def archive(fake):
    """The client of the made up archive, which waits at most half a second."""
    return Archive(Connection(fake.url, timeout=0.5))


@pytest.fixture(scope="package")
def predictor():
    """The model of the package."""
    return Predictor("default")
