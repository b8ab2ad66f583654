"""The commands against a real archive, Orthanc of Debian; the stock client dicomweb-client is the second opinion."""

import io
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pydicom
import pytest
from support.clinical_files import dicom
from support.dicom import as_bytes
from support.films import small_film
from support.orthanc import PASSWORD, USER, running_orthanc
from support.volumes import chest, slice_of

from c2fvl.cli.main import main
from c2fvl.dicomweb.archive import Archive, FoundSeries
from c2fvl.dicomweb.connection import ArchiveError, Connection, Credentials, ObjectError
from c2fvl.files.images import read_mask

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of pydicom, on real headers


def put(orthanc, *datasets):
    """Store datasets as another program does, by the stock client."""
    client = pytest.importorskip("dicomweb_client", reason="dicomweb-client is not installed").DICOMwebClient(
        orthanc.url
    )
    answer = client.store_instances(datasets)
    assert len(answer.FailedSOPSequence) == 0  # it is there, and empty
    return client


def small_lesion():
    """Return a small film in which the model finds a lesion."""
    return small_film(0)


def only_object(archive, study, modality):
    (series,) = (one for one in archive.series(study) if one.modality == modality)
    (found,) = archive.objects(series)
    return found


@pytest.mark.parametrize("name", ["RG1_J2KR.dcm", "JPEG-LL.dcm"])
def test_objects_come_back_as_they_are_stored(orthanc, name):
    """Search, retrieve and store: every byte of the pixels in the stored transfer syntax, and nothing doubled."""
    source = dicom(name)
    study, uid = str(source.StudyInstanceUID), str(source.SOPInstanceUID)
    archive = Archive(Connection(orthanc.url))
    for _ in range(2):  # the second time it is kept silently
        archive.store(study, {uid: as_bytes(source)})
    found = only_object(archive, study, source.Modality)
    assert (found.uid, found.sop_class) == (uid, source.SOPClassUID)
    fetched = archive.fetch(found)
    read = pydicom.dcmread(io.BytesIO(fetched.data))
    assert read.file_meta.TransferSyntaxUID == source.file_meta.TransferSyntaxUID
    assert read.PixelData == source.PixelData and len(list(read)) == len(list(source))
    assert archive.has_object(study, uid) and not archive.has_object(study, "1.2.3")
    assert archive.has_study(study) and not archive.has_study("1.2.3")
    if source.get("StudyDate"):
        date = str(source.StudyDate)
        (one,) = archive.studies(modality=source.Modality, since=date)
        assert (one.uid, one.count) == (study, 1)
        assert archive.studies(modality=source.Modality, since=str(int(date) + 1)) == []
        assert archive.studies(modality="MR", since=date) == []
    with pytest.raises(ObjectError, match="status 400"):
        archive.store(study, {"1.2.3": b"junk"})
    with pytest.raises(ObjectError, match="status 400"):
        archive.store(study, {"1.2.3": as_bytes(source)[:400]})
    with pytest.raises(ArchiveError, match="does not answer as a DICOMweb service"):
        Archive(Connection(orthanc.url.replace("/dicom-web", ""))).has_study("1.2.3")


def real_film():
    """Return a film in JPEG 2000, which Orthanc itself cannot decode."""
    return dicom("RG1_J2KR.dcm")


_EQUAL = "test_results_are_found_in_the_archive_with_equal_pixels"


@pytest.mark.parametrize("film", [small_lesion, pytest.param(real_film, marks=pytest.mark.slow(like=_EQUAL))])
def test_results_are_found_in_the_archive_with_equal_pixels(orthanc, tmp_path, monkeypatch, film):
    monkeypatch.chdir(tmp_path)
    film = film()
    client = put(orthanc, film)
    study = str(film.StudyInstanceUID)
    command = ["dicomweb", "predict", orthanc.url, "--study", study]
    assert main([*command, "--out", "read-only"]) == 0
    assert client.search_for_series(study, search_filters={"Modality": "SEG"}) == []
    assert main([*command, "--store"]) == 0
    for _ in range(2):  # the second time, nothing is added
        stored = {}
        for modality, end in (("SEG", "seg"), ("OT", "sc")):
            (series,) = client.search_for_series(study, search_filters={"Modality": modality})
            (made,) = client.retrieve_series(study, series["0020000E"]["Value"][0])
            local = pydicom.dcmread(f"predictions/{film.SOPInstanceUID}_{end}.dcm")
            assert made.SOPInstanceUID == local.SOPInstanceUID and (made.pixel_array == local.pixel_array).all()
            assert (made.StudyInstanceUID, made.PatientID) == (study, film.PatientID)
            stored[end] = made
        mask = read_mask(f"predictions/{film.SOPInstanceUID}.png")
        assert mask.any() and (stored["seg"].pixel_array == mask).all()
        assert stored["sc"].PhotometricInterpretation == "RGB"  # small ones are magnified by a whole number
        assert not any(
            of_film % size for of_film, size in zip(stored["sc"].pixel_array.shape, mask.shape, strict=False)
        )
        assert main([*command, "--store"]) == 0


def test_a_ct_series_is_segmented_and_stored(orthanc, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    slices = [slice_of(chest(6), number) for number in range(6)]
    client = put(orthanc, *slices[::-1])
    command = ["dicomweb", "predict", orthanc.url, "--study", "1.2.3.1", "--model", "ct_small", "--store"]
    assert main([*command, "--output-type", "seg,png", "--window", "-285,1530"]) == 0
    (series,) = client.search_for_series("1.2.3.1", search_filters={"Modality": "SEG"})
    (seg,) = client.retrieve_series("1.2.3.1", series["0020000E"]["Value"][0])
    frames = np.atleast_3d(seg.pixel_array).reshape(-1, 48, 56)
    of_slice = {
        str(item.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID): frame
        for item, frame in zip(seg.PerFrameFunctionalGroupsSequence, frames, strict=True)
    }
    for number in range(6):  # frames without lesion may be left out
        mask = read_mask(f"predictions/1.2.3.3_slices/{number + 1:04d}.png")
        assert (of_slice.get(f"1.2.3.9.{number + 1}", np.zeros((48, 56))) == mask).all()


def test_a_password_is_demanded_and_taken_from_a_file(tmp_path):
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    (tmp_path / "wrong").write_text("not it\n")
    with running_orthanc(tmp_path / "orthanc", auth=True) as orthanc:
        assert (
            Archive(Connection(orthanc.url, Credentials(None, USER, tmp_path / "password"))).has_study("1.2") is False
        )
        for credentials, said in (
            (Credentials(), "wants a password or a token"),
            (Credentials(None, USER, tmp_path / "wrong"), "refuses the password or token"),
            (Credentials(tmp_path / "password"), "refuses the password or token"),
        ):
            with pytest.raises(ArchiveError, match=said):
                Archive(Connection(orthanc.url, credentials)).has_study("1.2")


def results(archive, number):
    modalities = [one.modality for one in archive.series(f"1.2.826.{number}")]
    return modalities.count("SEG"), modalities.count("OT")


def test_a_watch_stores_once_also_when_the_archive_was_away(orthanc, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    archive = Archive(Connection(orthanc.url))
    put(
        orthanc,
        small_film(0),
        small_film(1, Modality="DX"),
        small_film(2, ViewPosition="LL"),
        small_film(3, StudyDate="20200101"),
    )
    watch = ["dicomweb", "watch", orthanc.url, "--once", "--store-ood"]
    assert main(watch) == 1  # one is set aside
    said = capsys.readouterr()
    assert said.out.count("stored seg and sc") == 2 and "set aside: " in said.err and "lateral" in said.err
    assert [results(archive, number) for number in range(4)] == [(1, 1), (1, 1), (0, 0), (0, 0)]
    orthanc.stop(signal.SIGKILL)
    assert main(watch) == 2
    assert "connection refused" in capsys.readouterr().err
    orthanc.start()
    assert main(watch) == 0
    assert main([*watch, "--state", "another"]) == 1
    assert capsys.readouterr().out.count("has the results already") == 2
    assert [results(archive, number) for number in range(4)] == [(1, 1), (1, 1), (0, 0), (0, 0)]
    assert main([*watch, "--since", "2019-12-31"]) == 0
    assert results(archive, 3) == (1, 1)


@pytest.mark.slow(like="test_a_watch_stores_once_also_when_the_archive_was_away")
def test_fifty_films_a_watch_that_is_killed_and_an_archive_that_goes_away(orthanc, tmp_path):
    """Exactly one pair of results for each film that can be segmented, none for the others."""
    states = {number: {} for number in range(50)}
    for number in range(0, 50, 10):
        states[number] = {"ViewPosition": "LL"}
        states[number + 1] = {"BodyPartExamined": "HAND"}
        states[number + 2] = {"Modality": "DX"}
        states[number + 3] = {"PhotometricInterpretation": "MONOCHROME1"}
        states[number + 4] = {"BodyPartExamined": None}
        states[number + 5] = {"NumberOfFrames": 1, "PatientOrientation": None}
    client = put(orthanc, *(small_film(number, **values) for number, values in states.items()))
    archive = Archive(Connection(orthanc.url))
    good = [number for number in states if number % 10 > 1]

    def start():
        return subprocess.Popen(
            [sys.executable, "-m", "c2fvl", "dicomweb", "watch", orthanc.url, "--every", "1", "--store-ood",
             "--state", str(tmp_path / "state"), "--threads", "1"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def stored():
        return len(client.search_for_series(search_filters={"Modality": "OT"}))

    def until(is_so, seconds=120):
        end = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < end, "it did not happen"
            time.sleep(0.02)

    for count in (3, 9):
        watch = start()
        until(lambda count=count: stored() >= count)
        watch.kill()
        watch.communicate()
    watch = start()
    until(lambda: stored() >= 15)
    orthanc.stop(signal.SIGKILL)
    time.sleep(2.5)
    orthanc.start()
    until(lambda: stored() >= len(good))
    time.sleep(2)
    watch.terminate()
    said, _ = watch.communicate(timeout=60)
    assert watch.returncode == 143
    assert said.count("waiting for it") == said.count("answers again") == 1, said
    assert {number: results(archive, number) for number in states} == {
        number: (1, 1) if number in good else (0, 0) for number in states
    }
    films = {}
    for path in (tmp_path / "state" / "studies").iterdir():
        films |= json.loads(path.read_text())["films"]
    kinds = [one["status"] for one in films.values()]
    assert [kinds.count(kind) for kind in ("done", "failed", "skipped")] == [40, 5, 5]
    assert archive.objects(FoundSeries("1.2.826.2", "1.2.826.2.1"))
