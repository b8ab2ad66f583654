"""CT series: which files are slices, in which order, in which values; what is odd is said."""

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")

from support.dicom import as_bytes, example  # noqa: E402
from support.volumes import CT, SPACING, chest, slice_of, write_series  # noqa: E402

from c2fvl.files.ct_series import read_series, refusal_of  # noqa: E402
from c2fvl.files.volume import AIR  # noqa: E402


def read(folder):
    return read_series(sorted(folder.iterdir()))


def test_slices_are_sorted_from_the_feet_and_keep_their_headers(tmp_path):
    volume = read(write_series(tmp_path, chest()))
    assert volume.values.dtype == np.int16 and np.array_equal(volume.values, chest())
    assert volume.spacing == pytest.approx(SPACING) and volume.warnings == () and volume.skipped == {}
    assert [header.SOPInstanceUID for header in volume.headers] == [f"1.2.3.9.{number}" for number in range(1, 7)]
    assert all("PixelData" not in header for header in volume.headers)


@pytest.mark.parametrize(
    ("cosines", "turn"),
    [
        ([-1, 0, 0, 0, -1, 0], lambda plane: plane[::-1, ::-1]),  # HFP and FFP as scanners store it
        ([-1, 0, 0, 0, 1, 0], lambda plane: plane[:, ::-1]),
        ([1, 0, 0, 0, -1, 0], lambda plane: plane[::-1]),
        ([0, 1, 0, 1, 0, 0], lambda plane: plane.T),
        ([0, -1, 0, 1, 0, 0], lambda plane: plane.T[:, ::-1]),
    ],
)
def test_slices_that_lie_otherwise_are_turned_and_masks_turned_back(tmp_path, cosines, turn):
    stored = np.stack([turn(plane) for plane in chest()])
    spacing = SPACING[1:] if stored.shape[1:] == chest().shape[1:] else SPACING[:0:-1]
    changes = {"ImageOrientationPatient": cosines, "PixelSpacing": list(spacing)}
    volume = read(write_series(tmp_path, stored, lambda number: changes))
    assert np.array_equal(volume.values, chest()) and volume.spacing == pytest.approx(SPACING)
    assert np.array_equal(volume.to_file(volume.values), stored)


def test_each_slice_has_its_own_rescaling_and_padding_becomes_air(tmp_path):
    values = chest()
    padded = np.zeros(values.shape[1:], bool)
    padded[:3] = True
    for number in range(len(values)):
        intercept = (-1024, 0, -500)[number % 3]
        dataset = slice_of(values, number, intercept=intercept, PixelPaddingValue=-2000)
        stored = dataset.pixel_array.copy()
        stored[padded] = -2000
        dataset.PixelData = stored.tobytes()
        dataset.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    volume = read(tmp_path)
    values[:, padded] = AIR
    assert np.array_equal(volume.values, values)


def test_a_slope_that_is_no_whole_number_is_kept(tmp_path):
    stored = chest()
    volume = read(write_series(tmp_path, stored, lambda number: {"RescaleSlope": 0.3}))
    assert volume.values.dtype == np.float32
    assert np.allclose(volume.values, (stored.astype(float) + 1024) * 0.3 - 1024, atol=1e-3)


def other(number, **changes):
    return {"SOPInstanceUID": f"1.2.3.8.{number}", **changes}


LEFT_OUT = {
    "a localizer": (other(1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "a localizer (scout)"),
    "a scout": (other(1, ImageOrientationPatient=[1, 0, 0, 0, 0, -1]), "not axial (ImageOrientationPatient)"),
    "a sagittal plane": (other(1, ImageOrientationPatient=[0, 1, 0, 0, 0, -1]), "not axial (ImageOrientationPatient)"),
    "a flow map": (
        other(1, ImageType=["DERIVED", "PRIMARY", "PERFUSION", "RCBF"]),
        r"a map or a projection, not HU (DERIVED\PRIMARY\PERFUSION\RCBF)",
    ),
    "a projection": (
        other(1, ImageType=["DERIVED", "SECONDARY", "AXIAL", "MIP"]),
        r"a map or a projection, not HU (DERIVED\SECONDARY\AXIAL\MIP)",
    ),
    "a reformat": (other(1, ImageType=["DERIVED", "SECONDARY", "MPR"]), "ImageType MPR, expected AXIAL"),
    "no place": (
        other(1, ImagePositionPatient=None),
        "without its place in the patient (ImagePositionPatient, ImageOrientationPatient)",
    ),
    "cosines that are none": (
        other(1, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]),
        "without its place in the patient (ImagePositionPatient, ImageOrientationPatient)",
    ),
    "another object": (other(1, SOPClassUID="1.2.840.10008.5.1.4.1.1.4"), "no CT image"),
    "a copy": ({}, "a copy of another slice (SOPInstanceUID)"),
    "the same place": (other(1, InstanceNumber=99), "at the place of another slice (several phases?)"),
    "another frame": (
        other(1, FrameOfReferenceUID="1.9"),
        "another size, spacing, frame of reference or plane than most slices",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_is_no_slice_of_the_series_is_left_out_counted_and_said(tmp_path, case):
    changes, reason = LEFT_OUT[case]
    values = chest()
    write_series(tmp_path, values)
    odd = np.where(np.arange(values.size).reshape(values.shape) % 2, 100, -900).astype(np.int16)
    pixels = values if case == "a copy" else odd
    slice_of(pixels, 2, **changes).save_as(tmp_path / "zz.dcm", enforce_file_format=True)
    volume = read(tmp_path)
    assert np.array_equal(volume.values, values)
    assert volume.skipped == {reason: 1} and volume.warnings == (f"Left out: 1 × {reason}.",)


def test_a_damaged_slice_is_named_and_the_others_are_read(tmp_path):
    write_series(tmp_path, chest())
    broken = next(tmp_path.glob("*_2.dcm"))
    broken.write_bytes(broken.read_bytes()[:-100])
    volume = read(tmp_path)
    assert len(volume.values) == 5 and volume.skipped == {"damaged": 1}
    assert any(broken.name in warning and "cut short" in warning for warning in volume.warnings)
    assert any("1 slice(s) are missing in 1 place(s)" in warning for warning in volume.warnings)


def test_a_series_of_damaged_slices_is_given_up(tmp_path):
    write_series(tmp_path, chest(24))
    for path in tmp_path.iterdir():
        if not path.name.endswith("_0.dcm"):
            path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"more than 20 slices cannot be read, the first 00_13.dcm: .*cut short"):
        read(tmp_path)


def test_missing_slices_jitter_and_tilt_are_said(tmp_path):
    folder = write_series(tmp_path / "gap", chest(9))
    for number in (3, 4):
        next(folder.glob(f"*_{number}.dcm")).unlink()
    assert read(folder).warnings == ("About 2 slice(s) are missing in 1 place(s) of the series.",)

    def moved(millimetres):
        return lambda number: {"ImagePositionPatient": [-20, -15, 100 + 2 * number + millimetres * (number == 3)]}

    assert read(write_series(tmp_path / "fine", chest(), moved(0.004))).warnings == ()
    jitter = read(write_series(tmp_path / "jitter", chest(), moved(0.3)))
    assert jitter.warnings == ("The distance of the slices varies from 1.70 to 2.30 mm; millilitres are rough.",)
    angle = np.deg2rad(22)
    tilted = {"ImageOrientationPatient": [1, 0, 0, 0, float(np.cos(angle)), float(-np.sin(angle))]}
    tilt = read(write_series(tmp_path / "tilt", chest(), lambda number: tilted))
    assert tilt.warnings == ("The slices are tilted by 22 degrees (gantry); each was segmented as it is.",)
    assert np.array_equal(tilt.values, chest())


def test_odd_headers_are_said_once(tmp_path):
    odd = {"RescaleIntercept": None, "RescaleType": "HU_MOD", "BodyPartExamined": "HEAD", "PixelSpacing": None}
    volume = read(write_series(tmp_path, chest(), lambda number: odd))
    assert volume.spacing is None and volume.voxel_ml is None
    said = " ".join(volume.warnings)
    for part in ("RescaleIntercept is missing", "RescaleType is HU_MOD", "is HEAD", "no millilitres"):
        assert said.count(part) == 1


def test_two_series_are_not_mixed(tmp_path):
    write_series(tmp_path, chest())
    slice_of(chest(), 0, **other(5, SeriesInstanceUID="1.2.3.4")).save_as(tmp_path / "x.dcm", enforce_file_format=True)
    with pytest.raises(ValueError, match="the files belong to 2 series"):
        read(tmp_path)


def test_a_senseless_rescaling_is_no_slice(tmp_path):
    write_series(tmp_path, chest(), lambda number: {"RescaleSlope": 0} if number == 1 else {})
    assert read(tmp_path).skipped == {"damaged": 1}


def test_without_any_slice_the_reasons_are_said(tmp_path):
    with pytest.raises(ValueError, match="there is no CT slice to segment: no file"):
        read_series([])
    (tmp_path / "x.dcm").write_bytes(as_bytes(slice_of(chest(), 0))[:200])
    with pytest.raises(ValueError, match="there is no CT slice to segment: 1 × without its place"):
        read(tmp_path)
    with pytest.raises(ValueError, match=r"no CT slice to segment: 2 × a localizer \(scout\)"):
        read(example("dicomdirtests/98892001/CT2N/6293").parent)
    with pytest.raises(ValueError, match=r"1 × a map or a projection, not HU \(DERIVED\\PRIMARY\\PERFUSION\\RCBF\)"):
        read_series([example("eCT_Supplemental.dcm")])
    enhanced = slice_of(chest(), 0, SOPClassUID=f"{CT}.1")
    assert refusal_of(enhanced).startswith("an enhanced CT, several slices in one file; export it as single slices")


def test_a_series_larger_than_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("c2fvl.files.ct_series.MAX_BYTES", chest()[:4].nbytes)
    with pytest.raises(ValueError, match="the slices take more than 0 MiB; predict a part"):
        read(write_series(tmp_path, chest()))


def test_series_that_packages_carry():
    tiny = read(example("dicomdirtests/98892001/CT5N/2062").parent)
    assert tiny.values.shape == (5, 16, 16) and tiny.spacing == pytest.approx((2.5, 0.488281, 0.488281))
    assert [header.InstanceNumber for header in tiny.headers] == [10, 9, 8, 7, 6]
    assert read_series([example("CT_small.dcm")]).values.min() == -896
    tilted = read_series([example("J2K_pixelrep_mismatch.dcm")])
    assert any("tilted by 22 degrees" in warning for warning in tilted.warnings)
    plain, compressed = (read_series([example(f"693_{kind}.dcm")]) for kind in ("UNCR", "J2KR"))
    assert np.array_equal(plain.values, compressed.values)
    assert plain.values.min() >= -1024  # the padding, -2000 as stored, would be -3024 HU
    lossless = read_series([example("bad_sequence.dcm")])  # JPEG Lossless, two windows
    assert lossless.values.shape == (1, 512, 512) and lossless.values.min() < -900
    assert np.array_equal(lossless.values[0], reference(example("bad_sequence.dcm")))


def reference(path):
    dataset = pydicom.dcmread(path)
    return dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
