"""Every kind of image becomes an upright picture that knows how it lies in its file."""

from itertools import product

import cv2
import numpy as np
import pytest

from c2fvl.files.kinds import is_readable_kind, kind_of
from c2fvl.files.read_picture import read_picture

GREY = np.random.default_rng(0).integers(0, 256, (30, 40)).astype(np.uint8)


def encoded(pixels, suffix=".png"):
    return cv2.imencode(suffix, pixels)[1].tobytes()


@pytest.mark.parametrize(("suffix", "kind"), [(".png", "png"), (".tif", "tiff")])
def test_a_grey_image_has_one_channel(tmp_path, suffix, kind):
    path = tmp_path / "image.bin"
    path.write_bytes(encoded(GREY, suffix))
    picture = read_picture(path)
    assert picture.kind == kind
    assert picture.pixels.dtype == np.float32
    np.testing.assert_allclose(picture.pixels, GREY / 255, atol=1e-7)


def test_equal_channels_are_grey_and_others_stay():
    same, other = np.dstack([GREY] * 3), np.dstack([GREY, 255 - GREY, GREY // 2])
    np.testing.assert_allclose(read_picture(encoded(same)).pixels, GREY / 255, atol=1e-7)
    np.testing.assert_allclose(read_picture(encoded(other)).pixels, other[:, :, ::-1] / 255, atol=1e-7)


def test_errors_name_the_image(tmp_path):
    with pytest.raises(ValueError, match=r"^upload: .*not an image"):
        read_picture(b"<html>", name="upload")
    path = tmp_path / "scan"
    path.write_bytes(encoded(GREY)[:100])
    with pytest.raises(ValueError, match=r"scan: .*PNG"):
        read_picture(path)
    with pytest.raises(FileNotFoundError, match="other: the file does not exist"):
        read_picture(tmp_path / "other")
    with pytest.raises(ValueError, match="over the limit of 100"):
        read_picture(encoded(GREY), max_pixels=100)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (encoded(GREY), "png"),
        (encoded(GREY, ".jpg"), "jpeg"),
        (encoded(GREY, ".tif"), "tiff"),
        (bytes(128) + b"DICM", "dicom"),
        (b"II*\0" + bytes(124) + b"DICM", "dicom"),  # both at once: the header of DICOM says more
        (b"\x08\0\x16\0\x1a\0\0\x001.2.840.10008.5.1.4.1.1.1", "dicom"),
        (b"\x02\0\x10\0UI\x14\x001.2.840.10008.1.2.1\0", "dicom"),
        (bytes(344) + b"n+1\0", "nifti"),
        (b"\x08\0\x16\0 a text that begins as DICOM does", None),
        (b"\x1f\x8b\x08\0 no gzip", None),
        (b"", None),
        (b"Image,Description\n", None),
    ],
)
def test_the_kind_comes_from_the_content(tmp_path, head, kind):
    assert kind_of(head) == kind
    path = tmp_path / "image.txt"
    path.write_bytes(head)
    assert is_readable_kind(path) == (kind is not None)


def test_folders_and_missing_files_are_no_images(tmp_path):
    assert not is_readable_kind(tmp_path)
    assert not is_readable_kind(tmp_path / "missing")


def test_an_index_of_dicom_files_is_no_image():
    pytest.importorskip("pydicom")
    from support.dicom import example

    assert not is_readable_kind(example("DICOMDIR"))
    assert is_readable_kind(example("CT_small.dcm"))


@pytest.mark.parametrize(("transposed", "mirrored", "flipped"), list(product((False, True), repeat=3)))
@pytest.mark.parametrize("colour", [False, True])
def test_an_l_stands_upright_however_the_file_lies(transposed, mirrored, flipped, colour):
    pytest.importorskip("pydicom")
    from support.dicom import L_SHAPE, SECONDARY, as_bytes, film

    stored = L_SHAPE[::-1] if flipped else L_SHAPE
    stored = stored[:, ::-1] if mirrored else stored
    stored = np.ascontiguousarray(stored.T if transposed else stored)
    orientation = ["R" if mirrored else "L", "H" if flipped else "F"]
    values = {"PatientOrientation": orientation[::-1] if transposed else orientation, "PixelSpacing": [0.1, 0.2]}
    if colour:
        values |= {"SOPClassUID": SECONDARY, "Modality": "OT", "PhotometricInterpretation": "RGB"}
        values |= {"SamplesPerPixel": 3, "PlanarConfiguration": 0}
        pixels = np.dstack([stored * 200, stored * 20, 1 - stored]).astype(np.uint8)
    else:
        pixels = (stored * 4000).astype(np.uint16)
    picture = read_picture(as_bytes(film(pixels, bits=None if colour else 12, **values)))
    upright = picture.pixels[..., 0] if colour else picture.pixels
    assert np.array_equal(upright > 0.5, L_SHAPE > 0)
    assert (picture.transposed, picture.mirrored, picture.flipped) == (transposed, mirrored, flipped)
    assert picture.orientation_source == "file"
    assert picture.spacing == ((0.2, 0.1) if transposed else (0.1, 0.2))
    assert np.array_equal(picture.to_file(L_SHAPE), stored)
