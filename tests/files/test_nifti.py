"""NIfTI files: volumes in every orientation, single images, and files that are refused with a sentence."""

import gzip
import itertools

import numpy as np
import pytest

nibabel = pytest.importorskip("nibabel")

from c2fvl.files import nifti  # noqa: E402
from c2fvl.files.kinds import kind_of  # noqa: E402
from c2fvl.files.nifti import is_volume, read_nifti_picture, read_nifti_volume  # noqa: E402
from c2fvl.files.read_picture import read_picture  # noqa: E402

SPACING = (0.7, 0.8, 2.5)
SIZE = (6, 5, 4)
"""Columns to the patient's left, rows to the back, slices to the head: an array of LPS axes."""
CODES = [
    codes
    for names in itertools.permutations(("LR", "PA", "SI"))
    for codes in itertools.product(*names)
]  # fmt: skip


def lps_values():
    return (np.arange(np.prod(SIZE), dtype=np.int16) * 10 - 1000).reshape(SIZE)


def stored_as(codes, values=None):
    """The same volume with its axes in another order and direction; nibabel is the reference."""
    from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

    values = lps_values() if values is None else values
    affine = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])
    affine[:3, 3] = (12, -7, 30)
    change = ornt_transform(axcodes2ornt("LPS"), axcodes2ornt(codes))
    array = nibabel.orientations.apply_orientation(values, change)
    made = nibabel.Nifti1Image(array, affine @ inv_ornt_aff(change, values.shape))
    assert "".join(nibabel.aff2axcodes(made.affine)) == "".join(codes)
    return made


def content(image, name="x.nii"):
    data = image.to_bytes()
    return gzip.compress(data) if name.endswith(".gz") else data


@pytest.mark.parametrize("codes", CODES, ids="".join)
def test_a_volume_is_the_same_in_all_48_orientations(codes):
    image = stored_as(codes)
    volume = read_nifti_volume(content(image))
    expected = lps_values().transpose(2, 1, 0)
    assert volume.values.dtype == np.int16 and np.array_equal(volume.values, expected)
    assert volume.spacing == pytest.approx((2.5, 0.8, 0.7))
    assert np.array_equal(volume.to_file(volume.values), np.asarray(image.dataobj))
    assert volume.warnings == () and volume.orientation_source == "file"


def test_there_are_48_orientations():
    assert len(set(CODES)) == 48


@pytest.mark.parametrize("codes", ["LPS", "RAS", "SAR"])
def test_a_little_oblique_volume_takes_the_nearest_axes_and_says_so(codes):
    image = stored_as(codes)
    turned = nibabel.Nifti1Image(np.asarray(image.dataobj), turn(12) @ image.affine)
    volume = read_nifti_volume(content(turned))
    assert np.array_equal(volume.values, lps_values().transpose(2, 1, 0))
    assert volume.warnings == (nifti.OBLIQUE.format(angle=12),)


@pytest.mark.parametrize("degrees", [25, 45, 65])
def test_a_volume_between_the_axes_is_refused(degrees):
    image = stored_as("LPS")
    turned = nibabel.Nifti1Image(np.asarray(image.dataobj), turn(degrees) @ image.affine)
    with pytest.raises(ValueError, match=r"turned by \d+ degrees against the body.*resample"):
        read_nifti_volume(content(turned))


def turn(degrees):
    angle = np.deg2rad(degrees)
    matrix = np.eye(4)
    matrix[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return matrix


def test_a_header_without_orientation_is_assumed_and_said():
    image = stored_as("LAS")
    image.set_qform(None, code=0)
    image.set_sform(None, code=0)
    volume = read_nifti_volume(content(image))
    assert volume.orientation_source == "assumed" and nifti.ASSUMED in volume.warnings


def test_two_orientations_that_exchange_sides_are_said():
    image = stored_as("LPS")
    image.set_sform(image.affine, code=1)
    image.set_qform(np.diag([-1.0, 1, 1, 1]) @ image.affine, code=1)
    assert nifti.CONTRADICTION in read_nifti_volume(content(image)).warnings
    image.set_qform(image.affine, code=1)
    assert read_nifti_volume(content(image)).warnings == ()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("dtype", ["i2", "i4", "f4", "f8", "u2"])
def test_types_byte_orders_and_versions(tmp_path, dtype, kind, order):
    values = lps_values() + (1000 if dtype == "u2" else 0)
    image = stored_as("LPS", values.astype(dtype))
    header = kind.header_class(endianness=order)
    header.set_data_dtype(np.dtype(order + dtype))
    image = kind(image.dataobj, image.affine, header)
    image.to_filename(tmp_path / "x.nii.gz")
    volume = read_nifti_volume(tmp_path / "x.nii.gz")
    assert is_volume(tmp_path / "x.nii.gz") and kind_of((tmp_path / "x.nii.gz").read_bytes()) == "nifti"
    assert volume.values.dtype.itemsize == int(dtype[1])
    assert np.array_equal(volume.hounsfield(2), values.transpose(2, 1, 0)[2])


def test_slope_and_intercept_are_applied():
    image = stored_as("LPS", (lps_values() + 1000).astype(np.uint16))
    image.header.set_slope_inter(2, -1024)
    volume = read_nifti_volume(content(image))
    assert np.array_equal(volume.hounsfield(0), (lps_values().transpose(2, 1, 0)[0] + 1000.0) * 2 - 1024)


@pytest.mark.parametrize(("dtype", "highest"), [(np.float32, "1"), (np.uint8, "255")])
def test_grey_values_after_a_window_are_recognised_and_said(dtype, highest):
    unit = (lps_values() + 1000.0) / 1190
    values = (unit * (255 if dtype == np.uint8 else 1)).astype(dtype)
    volume = read_nifti_volume(content(stored_as("LPS", values)))
    assert volume.is_windowed and volume.warnings == (nifti.WINDOWED.format(highest=highest),)
    assert np.allclose(volume.shown(1, (-285, 1530)), unit.transpose(2, 1, 0)[1], atol=1 / 255)


def test_a_window_makes_grey_values():
    volume = read_nifti_volume(content(stored_as("RAS")))
    shown = volume.shown(0, (-800, 200))
    expected = np.clip((lps_values().transpose(2, 1, 0)[0] + 900) / 200, 0, 1)
    assert shown.dtype == np.float32 and np.allclose(shown, expected, atol=1e-6)


def test_values_without_air_are_said():
    volume = read_nifti_volume(content(stored_as("LPS", (lps_values() + 1000).astype(np.int16))))
    assert "probably not Hounsfield units" in volume.warnings[0]


def changed(**fields):
    image = stored_as("LPS")
    data = bytearray(image.to_bytes())
    header = image.header.copy()
    for name, value in fields.items():
        header[name] = value
    data[:348] = header.binaryblock
    return bytes(data)


def image_of(values, affine=None):
    return content(nibabel.Nifti1Image(values, np.diag([-1.0, -1, 1, 1]) if affine is None else affine))


RGB = np.zeros(SIZE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
REFUSED = {
    "four axes": (lambda: image_of(np.zeros((4, 4, 4, 3), np.int16)), "several volumes; expected one CT volume"),
    "RGB": (lambda: image_of(RGB), "holds colours; expected one real number per voxel"),
    "complex": (lambda: image_of(np.zeros(SIZE, np.complex64)), "holds complex64 values; expected one real"),
    "no voxel": (lambda: changed(dim=[3, 6, 0, 4, 1, 1, 1, 1]), "holds no voxel"),
    "negative size": (lambda: changed(dim=[3, 6, -5, 4, 1, 1, 1, 1]), "holds no voxel"),
    "no axes": (lambda: changed(dim=[0, 1, 1, 1, 1, 1, 1, 1]), "holds no voxel|is damaged"),
    "cut": (lambda: content(stored_as("LPS"))[:-7], r"cut short: \d+ bytes of voxels, expected 240; copy"),
    "cut in the header": (lambda: content(stored_as("LPS"))[:200], "cut short, 200 bytes"),
    "cut gz": (lambda: content(stored_as("LPS"), ".gz")[:-20], "compressed NIfTI file is cut short"),
    "cut gz at the checksum": (lambda: content(stored_as("LPS"), ".gz")[:-4], "compressed NIfTI file is cut short"),
    "damaged gz": (lambda: content(stored_as("LPS"), ".gz")[:-8] + bytes(8), "compressed NIfTI file is damaged"),
    "type": (lambda: changed(datatype=999), "header is damaged"),
    "bits": (lambda: changed(datatype=1, bitpix=1), "header is damaged|expected one real number"),
    "offset": (lambda: changed(vox_offset=4), "voxels begin at byte 4"),
    "far offset": (lambda: changed(vox_offset=1e9), "voxels begin at byte 1000000000"),
    "endless offset": (lambda: changed(vox_offset=np.inf), "header is damaged"),
    "flat": (lambda: changed(srow_x=[0, 0, 0, 0]), "without size or place"),
    "nowhere": (lambda: changed(srow_x=[np.nan, 0, 0, 0]), "without size or place"),
    "double axis": (lambda: changed(srow_x=[-1, -1, 0, 0], srow_y=[0, 1e-5, 0, 0]), "run the same way"),
    "a pair": (lambda: changed(magic=b"ni1"), "header of a pair"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_one_sentence(case):
    make, reason = REFUSED[case]
    with pytest.raises(ValueError, match=reason) as caught:
        read_nifti_volume(make())
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_named_by_their_slice(value):
    values = lps_values().astype(np.float32)
    values[2, 2, 2] = value
    volume = read_nifti_volume(content(stored_as("LPS", values)))
    with pytest.raises(ValueError, match="slice 3 holds values that are not finite"):
        volume.hounsfield(2)


def test_a_bomb_is_refused_before_it_inflates():
    import tracemalloc

    header = nibabel.Nifti1Header()
    header.set_data_shape((30000, 30000, 100))
    header.set_data_dtype(np.int16)
    header["vox_offset"] = 352
    bomb = gzip.compress(header.binaryblock + bytes(4 + 2**25))
    small = nibabel.Nifti1Header()
    small.set_data_shape(SIZE)
    small.set_data_dtype(np.int16)
    small["vox_offset"], small["pixdim"][1:4] = 352, 1
    long = gzip.compress(small.binaryblock + bytes(4 + 2**25))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"over the limit of 1024 MiB, so it was not read"):
        read_nifti_volume(bomb)
    read_nifti_volume(long)  # what follows the voxels is not inflated
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 1), (7, 5, 1, 1)])
def test_a_single_image_is_a_picture(tmp_path, shape):
    values = np.arange(35, dtype=np.uint8).reshape(shape) * 7
    nibabel.Nifti1Image(values, np.diag([-0.5, -0.25, 1, 1])).to_filename(tmp_path / "film.nii.gz")
    picture = read_picture(tmp_path / "film.nii.gz")
    assert np.allclose(picture.pixels, values.reshape(7, 5).T / 255)
    assert (picture.kind, picture.orientation_source, picture.spacing) == ("nifti", "assumed", (0.25, 0.5))
    assert "does not say how the image lies" in picture.all_warnings[-1]
    assert not is_volume(tmp_path / "film.nii.gz")


def test_values_of_a_single_image_without_a_known_range_are_stretched():
    values = np.linspace(-300, 4000, 10000).reshape(100, 100).astype(np.int16)
    picture = read_nifti_picture(image_of(values))
    assert picture.window_source == "percentile" and picture.warnings == (nifti.STRETCHED,)
    assert picture.pixels.min() == 0 and picture.pixels.max() == 1 and abs(picture.pixels.mean() - 0.5) < 0.01


def test_a_volume_is_no_picture(tmp_path):
    stored_as("LPS").to_filename(tmp_path / "ct.nii")
    with pytest.raises(ValueError, match=r"ct.nii: the NIfTI file is a volume of the shape \(6, 5, 4\)"):
        read_picture(tmp_path / "ct.nii")
    with pytest.raises(ValueError, match="over the limit of 10 pixels"):
        read_nifti_picture(image_of(np.zeros((5, 5), np.uint8)), max_pixels=10)
