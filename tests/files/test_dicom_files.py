"""Real DICOM files of packages: each gives its picture or one sentence with the reason."""

import re

import numpy as np
import pytest

pytest.importorskip("pydicom")

import pydicom
from support.dicom import SECONDARY, as_bytes, example, film
from support.dicom import lookup_table as table

from c2fvl.files.dicom_decode import decode_frame, is_lossy
from c2fvl.files.dicom_headers import parse, read_layout
from c2fvl.files.read_picture import read_picture

NO_FILM = r"the DICOM file is {}.*expected a chest film"
REFUSED = {
    "693_UNCR.dcm": NO_FILM.format(r"CT Image Storage \(CT\)"),
    "bad_sequence.dcm": NO_FILM.format(r"CT Image Storage \(CT\)"),
    "J2K_pixelrep_mismatch.dcm": NO_FILM.format("CT Image Storage"),
    "eCT_Supplemental.dcm": NO_FILM.format("Enhanced CT Image Storage"),
    "CT_small.dcm": NO_FILM.format("CT Image Storage"),
    "MR_small_RLE.dcm": NO_FILM.format("MR Image Storage"),
    "emri_small.dcm": NO_FILM.format("Enhanced MR Image Storage"),
    "JPGLosslessP14SV1_1s_1f_8b.dcm": NO_FILM.format("Ultrasound Image Storage"),
    "examples_palette.dcm": NO_FILM.format("Ultrasound Image Storage"),
    "liver_1frame.dcm": NO_FILM.format(r"Segmentation Storage \(SEG\)"),
    "rtdose.dcm": NO_FILM.format("RT Dose Storage"),
    "test-SR.dcm": NO_FILM.format("Comprehensive SR Storage"),
    "waveform_ecg.dcm": NO_FILM.format("12-lead ECG Waveform Storage"),
    "DICOMDIR": NO_FILM.format("Media Storage Directory Storage"),
    "JPGExtended.dcm": "JPEG of 12 bits, for which there is no decoder here; export the image uncompressed",
    "JPEG-lossy.dcm": "compressed as JPEG of 12 bits",
    "JPEG2000-embedded-sequence-delimiter.dcm": "JPEG 2000, cannot be decoded .*; the file is probably damaged",
    "chrJapMulti.dcm": "has no pixels",
    "chrKoreanMulti.dcm": "has no pixels",
    "77654033/CR1/6154": r"this is a lateral film \(ViewPosition LL\).*--force-view",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_film_is_refused_with_the_reason(name):
    with pytest.raises(ValueError, match=REFUSED[name]) as caught:
        read_picture(path := example(name))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_compressed_film_that_is_cut_short_is_said_to_be_so(tmp_path, caplog):
    content = example("RG1_J2KR.dcm").read_bytes()
    (cut := tmp_path / "cut.dcm").write_bytes(content[: len(content) // 2])
    with pytest.raises(
        ValueError, match=r"cut\.dcm: the DICOM file has no pixels .* or it is cut short; .* copy it again"
    ):
        read_picture(cut)
    assert not caplog.records


def test_nothing_that_pydicom_logs_about_a_header_reaches_a_user(caplog):
    sound = film(np.arange(4096, dtype=np.uint16).reshape(64, 64), SpecificCharacterSet="ISO_IR 100", PatientName="a^b")
    content = as_bytes(sound).replace(b"ISO_IR 100", b"SECRET 100")
    assert b"SECRET 100" in content
    assert read_picture(content).pixels.shape == (64, 64)
    assert not caplog.records


READ = {
    "RG1_UNCR.dcm": ("window", ()),
    "RG3_UNCR.dcm": ("window", ("BodyPartExamined is EXTREMITY",)),
    "77654033/CR2/6247": ("percentile", ("BodyPartExamined is CSPINE", "98 % of the pixels")),
    "vlut_04.dcm": ("voi_lut", ("black",)),
    "mlut_18.dcm": ("modality_lut", ("black",)),
    "image_dfl.dcm": ("bits", ("black",)),
    "SC_rgb.dcm": ("bits", ("in colour",)),
    "SC_rgb_jpeg_dcmtk.dcm": ("bits", ("in colour",)),
    "OT-PAL-8-face.dcm": ("bits", ("in colour",)),
    "JPEG-LL.dcm": ("percentile", ("BodyPartExamined is WHOLE BODY",)),
}


@pytest.mark.parametrize("name", READ)
def test_films_and_captures_are_read(name):
    picture = read_picture(example(name))
    source, words = READ[name]
    assert picture.window_source == source
    assert picture.kind == "dicom"
    assert picture.pixels.dtype == np.float32
    assert 0 <= picture.pixels.min() < picture.pixels.max() <= 1
    for word in words:
        assert any(word in warning for warning in picture.warnings)
    assert words or not picture.warnings
    assert all(warning.endswith(".") for warning in picture.warnings)


@pytest.fixture(scope="module")
def real_film():
    return read_picture(example("RG1_UNCR.dcm"))


def test_the_real_film_is_shown_by_its_window(real_film):
    dataset = pydicom.dcmread(example("RG1_UNCR.dcm"))
    shown = 1 - np.clip((dataset.pixel_array - (15000 - 0.5)) / (30000 - 1) + 0.5, 0, 1)
    np.testing.assert_allclose(real_film.pixels, shown, atol=1e-5)
    assert real_film.orientation_source == "file"
    assert (real_film.spacing, real_film.spacing_source) == (None, "unknown")  # the file says 0 mm
    assert not real_film.lossy


def test_lossless_compression_changes_nothing_and_loss_is_recorded(real_film):
    lossless, lossy = (read_picture(example(f"RG1_{form}.dcm")) for form in ("J2KR", "J2KI"))
    assert np.array_equal(lossless.pixels, real_film.pixels)
    assert not lossless.lossy
    assert lossy.lossy
    assert 0 < np.abs(lossy.pixels - real_film.pixels).mean() < 0.01


def test_a_vendor_form_with_a_table_is_as_the_window(real_film):
    """12-bit pixels, a table of 16 bits for a part of the values: as 40 % of the films of an archive are."""
    stored = pydicom.dcmread(example("RG1_UNCR.dcm")).pixel_array[::4, ::4] >> 3
    ramp = np.rint(np.linspace(0, 65535, 3600)).astype(int)
    dataset = film(stored, bits=12, PhotometricInterpretation="MONOCHROME1", VOILUTSequence=[table(ramp, 16, 101)])
    picture = read_picture(as_bytes(dataset))
    assert picture.window_source == "voi_lut"
    np.testing.assert_allclose(picture.pixels, 1 - np.clip((stored.astype(float) - 101) / 3599, 0, 1), atol=1e-4)


def test_a_mirrored_film_is_turned_and_its_mask_turned_back():
    picture = read_picture(example("RG3_UNCR.dcm"))
    dataset = pydicom.dcmread(example("RG3_UNCR.dcm"))
    shown = 1 - np.clip((dataset.pixel_array - (550 - 0.5)) / (1024 - 1) + 0.5, 0, 1)
    assert picture.mirrored
    np.testing.assert_allclose(picture.pixels, shown[:, ::-1], atol=1e-5)
    np.testing.assert_allclose(picture.to_file(picture.pixels), shown, atol=1e-5)


DECODED = ["693_J2KR.dcm", "bad_sequence.dcm", "JPEG-LL.dcm", "JPGLosslessP14SV1_1s_1f_8b.dcm", "MR_small_RLE.dcm",
           "MR_small_jpeg_ls_lossless.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm", "SC_rgb_jpeg_dcmtk.dcm",
           "SC_rgb_rle.dcm", "J2K_pixelrep_mismatch.dcm", "emri_small_RLE.dcm", "SC_ybr_full_422_uncompressed.dcm",
           "emri_small_big_endian.dcm", "SC_rgb_small_odd_big_endian.dcm"]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", DECODED)
def test_each_compression_is_decoded_as_by_pydicom(name):
    path = example(name)
    dataset = parse(path.read_bytes())
    layout = read_layout(dataset, 10**8)
    frame = layout.frames - 1
    decoded = decode_frame(dataset, layout, frame)
    expected = pydicom.dcmread(path).pixel_array
    expected = expected[frame] if layout.frames > 1 else expected
    bits = 2**layout.stored - 1
    assert np.array_equal(decoded.codes.astype(int) & bits, expected.astype(int) & bits)


@pytest.mark.parametrize(
    ("syntax", "said", "lossy"),
    [
        ("1.2.840.10008.1.2.1", "", False),
        ("1.2.840.10008.1.2.1", "01", True),  # compressed once, and stored without compression
        ("1.2.840.10008.1.2.4.90", "", False),
        ("1.2.840.10008.1.2.4.91", "", True),
        ("1.2.840.10008.1.2.4.91", "00", False),
        ("1.2.840.10008.1.2.4.50", "00", True),
        ("1.2.840.10008.1.2.4.80", "", False),
        ("1.2.840.10008.1.2.4.81", "", True),
    ],
)
def test_loss_is_told_by_the_header_and_the_syntax(syntax, said, lossy):
    dataset = film(np.zeros((4, 4), np.uint16), LossyImageCompression=said)
    dataset.file_meta.TransferSyntaxUID = syntax
    assert is_lossy(dataset, read_layout(dataset, 100)) == lossy


def test_a_frame_must_be_chosen_where_there_are_several():
    pixels = np.random.default_rng(0).integers(0, 4096, (40, 30)).astype(np.uint16)
    dataset = film(np.vstack([pixels, 4095 - pixels]), bits=12, SOPClassUID=f"{SECONDARY}.3")
    dataset.Rows, dataset.NumberOfFrames = 40, 2
    content = as_bytes(dataset)
    with pytest.raises(ValueError, match="holds 2 images, expected one; choose one with --frame, 1 to 2"):
        read_picture(content)
    for number in (0, 3):
        with pytest.raises(ValueError, match=f"there is no frame {number}; the DICOM file holds 2, counted from 1"):
            read_picture(content, frame=number)
    np.testing.assert_allclose(
        read_picture(content, frame=2).pixels, 1 - read_picture(content, frame=1).pixels, atol=1e-6
    )


@pytest.mark.parametrize(
    ("values", "warning"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1.1"}, "for processing"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "for processing"),
        ({"PhotometricInterpretation": None}, "does not say whether low values are black"),
        ({"BodyPartExamined": "HAND"}, "BodyPartExamined is HAND, expected CHEST"),
        ({"PatientOrientation": ["X", "Y"]}, "PatientOrientation is X/Y"),
        ({"RescaleSlope": 0.0, "RescaleIntercept": 5.0}, "slope 0"),
        ({"SeriesDescription": "Chest PA/LAT"}, "make sure that this film is the frontal one"),
    ],
)
def test_what_a_user_must_know_is_a_warning(values, warning):
    pixels = np.random.default_rng(0).integers(0, 4096, (40, 30)).astype(np.uint16)
    picture = read_picture(as_bytes(film(pixels, bits=12, **values)))
    assert any(warning in said for said in picture.warnings), picture.warnings


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"PatientOrientation": ["A", "F"]}, "PatientOrientation A/F"),
        ({"PatientOrientation": ["P", "F"]}, "PatientOrientation P/F"),
        ({"PatientOrientation": ["F", "A"]}, "PatientOrientation F/A"),
        ({"ViewPosition": "LL"}, "ViewPosition LL"),
        ({"ViewPosition": "LARGE LATERAL"}, "ViewPosition LARGE LATERAL"),
        ({"ViewPosition": "AP", "SeriesDescription": "Thorax LAT"}, "SeriesDescription 'THORAX LAT'"),
        ({"SeriesDescription": "Chest, lateral view"}, "lateral|LATERAL"),
    ],
)
def test_a_lateral_film_is_refused_unless_forced(values, reason):
    content = as_bytes(film(np.random.default_rng(0).integers(0, 4096, (40, 30)).astype(np.uint16), bits=12, **values))
    with pytest.raises(ValueError, match=rf"lateral film \({reason}.*frontal"):
        read_picture(content)
    picture = read_picture(content, force_view=True)
    assert any(re.search(reason, warning) for warning in picture.warnings)
    assert (picture.orientation_source, picture.mirrored) == ("assumed", False)


@pytest.mark.parametrize("description", ["Chest PA", "LATE phase", "lateral decubitus", "Thorax AP/lat"])
def test_frontal_words_are_no_lateral_film(description):
    pixels = np.random.default_rng(0).integers(0, 4096, (40, 30)).astype(np.uint16)
    read_picture(as_bytes(film(pixels, bits=12, SeriesDescription=description)))


def test_the_orientation_of_an_animal_is_not_that_of_a_person():
    pixels = np.random.default_rng(0).integers(0, 4096, (40, 30)).astype(np.uint16)
    values = {"PatientOrientation": ["R", "F"], "AnatomicalOrientationType": "QUADRUPED"}
    picture = read_picture(as_bytes(film(pixels, bits=12, **values)))
    assert (picture.orientation_source, picture.mirrored) == ("assumed", False)
    assert any("animal" in warning for warning in picture.warnings)


def test_the_side_of_the_body_says_nothing_of_the_orientation():
    pixels = np.random.default_rng(0).integers(0, 4096, (40, 30)).astype(np.uint16)
    picture = read_picture(as_bytes(film(pixels, bits=12, PatientOrientation=None, Laterality="R")))
    assert (picture.orientation_source, picture.mirrored, picture.warnings) == ("assumed", False, ())


@pytest.mark.parametrize(
    ("values", "spacing", "source"),
    [
        ({}, None, "unknown"),
        ({"PixelSpacing": [0, 0]}, None, "unknown"),
        ({"PixelSpacing": [0.2, 0.1], "PixelSpacingCalibrationType": "GEOMETRY"}, (0.2, 0.1), "calibrated"),
        ({"PixelSpacing": [0.15, 0.15], "ImagerPixelSpacing": [0.16, 0.16]}, (0.15, 0.15), "calibrated"),
        ({"PixelSpacing": [0.16, 0.16], "ImagerPixelSpacing": [0.16, 0.16]}, (0.16, 0.16), "detector"),
        ({"ImagerPixelSpacing": [0.2, 0.2]}, (0.2, 0.2), "detector"),
        (
            {"ImagerPixelSpacing": [0.2, 0.2], "EstimatedRadiographicMagnificationFactor": 1.25},
            (0.16, 0.16),
            "magnification",
        ),
        ({"ImagerPixelSpacing": [0.2, -0.2]}, None, "unknown"),
    ],
)
def test_spacing_says_where_it_comes_from(values, spacing, source):
    pixels = np.random.default_rng(0).integers(0, 4096, (40, 30)).astype(np.uint16)
    picture = read_picture(as_bytes(film(pixels, bits=12, **values)))
    assert picture.spacing_source == source
    assert picture.spacing == (None if spacing is None else pytest.approx(spacing))


def test_the_header_that_is_kept_has_no_pixels_and_only_what_can_be_read():
    dataset = film(np.random.default_rng(0).integers(0, 4096, (40, 30)).astype(np.uint16), bits=12, PatientAge="012Y")
    dataset.add_new(0x00091001, "OB", bytes(2**20 + 2))
    dataset.SeriesNumber = "7"
    content = as_bytes(dataset).replace(b"\x20\x00\x11\x00IS", b"\x20\x00\x11\x00ZZ")
    header = read_picture(content).header
    assert header.PatientAge == "012Y"
    assert header.file_meta.TransferSyntaxUID == dataset.file_meta.TransferSyntaxUID
    for left_out in ("PixelData", "SeriesNumber", 0x00091001):
        assert left_out not in header
