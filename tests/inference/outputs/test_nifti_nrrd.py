"""NIfTI and NRRD: each pixel where the input has it, read by other programs and by a reader written here."""

import gzip
import itertools

import numpy as np
import pytest
from support.clinical_files import dicom, read_nrrd

from c2fvl.inference.outputs.nifti_nrrd import grid_of_film, grid_of_nifti, grid_of_series, nifti, nrrd

nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")
SERIES = [f"dicomdirtests/98892001/CT5N/{name}" for name in ("2062", "2392", "2693", "3023", "3353")]


def noise(shape, seed=0):
    return (np.random.default_rng(seed).random(shape) < 0.3).astype(np.uint8)


def read_nifti(data):
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(data))


@pytest.mark.parametrize("compress", [True, False])
def test_a_film_has_its_pixels_and_the_spacing_of_viewers(compress):
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    source = dicom("RG3_UNCR.dcm")
    source.ImagerPixelSpacing, source.PixelSpacing = [0.2, 0.3], [0.13, 0.15]
    mask = noise((source.Rows, source.Columns + 3))
    grid = grid_of_film(mask.shape, source)
    image = read_nifti(nifti(mask, grid))
    assert (mask == np.asanyarray(image.dataobj)[..., 0].T).all()
    assert image.get_data_dtype() == np.uint8
    assert np.allclose(image.affine, np.diag([-0.3, -0.2, 1, 1]))
    assert np.allclose(image.get_qform(), image.get_sform())
    assert int(image.header["qform_code"]) == int(image.header["sform_code"]) == 1
    assert image.header.get_xyzt_units()[0] == "mm"
    array, matrix, fields = read_nrrd(nrrd(mask, grid, compress=compress))
    assert fields["encoding"] == ("gzip" if compress else "raw")
    assert (mask == array[..., 0].T).all()
    assert np.allclose(matrix, np.diag([0.3, 0.2, 1, 1]))


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("RG1_UNCR.dcm", {}, (1, 1)),
        ("RG3_UNCR.dcm", {"PixelSpacing": [0.5, 0.5]}, (1, 1)),
        ("chrFrenMulti.dcm", {"PixelSpacing": [0.5, 0.4], "ImagerPixelSpacing": [2, 2]}, (0.5, 0.4)),
        ("chrFrenMulti.dcm", {"NominalScannedPixelSpacing": [0.5, 0.4]}, (0.5, 0.4)),
    ],
)
def test_the_spacing_is_that_of_viewers(name, changes, expected):
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    source = dicom(name)
    for key, value in changes.items():
        setattr(source, key, value)
    grid = grid_of_film((8, 6), source)
    assert np.allclose(np.diag(grid.affine)[:2], [-expected[1], -expected[0]])
    assert grid.has_spacing == (expected != (1, 1))
    units = read_nifti(nifti(noise((8, 6)), grid)).header.get_xyzt_units()[0]
    assert units == ("mm" if grid.has_spacing else "unknown")


def test_a_png_needs_no_source():
    mask = noise((7, 5))
    grid = grid_of_film(mask.shape)
    assert (mask == np.asanyarray(read_nifti(nifti(mask, grid)).dataobj)[..., 0].T).all()
    assert np.allclose(read_nrrd(nrrd(mask, grid))[1], np.eye(4))


def orientations():
    return [
        nibabel.orientations.ornt2axcodes(np.array(list(zip(axes, flips, strict=True))))
        for axes in itertools.permutations(range(3))
        for flips in itertools.product((1, -1), repeat=3)
    ]


@pytest.mark.parametrize("codes", orientations(), ids="".join)
def test_a_volume_keeps_its_grid_in_all_48_orientations(codes):
    ornt = nibabel.orientations.axcodes2ornt(codes)
    affine = np.diag([0.8, 0.7, 2.5, 1.0]) @ nibabel.orientations.inv_ornt_aff(ornt, (4, 5, 6))
    given = nibabel.Nifti1Image.from_bytes(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), affine).to_bytes())
    mask = noise(given.shape)
    image = read_nifti(nifti(mask, grid_of_nifti(given)))
    assert nibabel.aff2axcodes(image.affine) == nibabel.aff2axcodes(given.affine)
    assert (image.affine == given.affine).all()
    assert (np.asanyarray(image.dataobj) == mask).all()
    array, matrix, _ = read_nrrd(nrrd(mask, grid_of_nifti(given)))
    assert (array == mask).all()
    assert np.allclose(np.diag([-1, -1, 1, 1]) @ matrix, given.affine)


@pytest.mark.parametrize(("qform", "sform"), [(0, 2), (1, 0), (1, 1), (2, 4), (0, 0)])
def test_codes_and_shape_of_the_input_stay_and_its_texts_do_not(qform, sform):
    affine = np.array([[0.0, -0.7, 0, 3], [0.8, 0, 0, -4], [0, 0, 2.5, 9], [0, 0, 0, 1]])
    given = nibabel.Nifti1Image(np.zeros((4, 5, 6, 1), np.int32), affine)
    given.set_qform(affine, code=qform)
    given.set_sform(affine, code=sform)
    given.header["descrip"], given.header["aux_file"], given.header["intent_name"] = b"SECRET", b"SECRET", b"SECRET"
    given.header["db_name"] = b"SECRET"
    given.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"SECRET"))
    given.header.set_xyzt_units("mm", "sec")
    given = nibabel.Nifti1Image.from_bytes(given.to_bytes())
    mask = noise(given.shape)
    data = nifti(mask, grid_of_nifti(given))
    image = read_nifti(data)
    assert image.shape == given.shape
    assert (np.asanyarray(image.dataobj) == mask).all()
    for name in ("qform_code", "sform_code", "xyzt_units"):
        assert image.header[name] == given.header[name], name
    for name in ("pixdim", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d"):
        assert np.array_equal(image.header[name], given.header[name]), name
    assert np.array_equal(image.affine, given.affine)
    assert b"SECRET" not in gzip.decompress(data)


def test_an_image_of_one_slice_takes_a_mask_of_two_axes():
    given = nibabel.Nifti1Image(np.zeros((9, 7, 1), np.uint8), np.diag([-0.2, -0.3, 1, 1]))
    mask = noise((9, 7))
    image = read_nifti(nifti(mask, grid_of_nifti(given)))
    assert image.shape == (9, 7, 1)
    assert (np.asanyarray(image.dataobj)[..., 0] == mask).all()
    assert (read_nrrd(nrrd(mask, grid_of_nifti(given)))[0][..., 0] == mask).all()


def series():
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    sources = [dicom(name) for name in SERIES]
    start = [float(value) for value in sources[0].ImagePositionPatient]
    for place, source in enumerate(sources):
        source.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        source.ImagePositionPatient = [start[0], start[1], start[2] + 2.5 * place]
        source.PixelSpacing = [0.5, 0.75]
    return sources


def place_of(source, row, column):
    """Return where DICOM says that a pixel lies, in LPS."""
    right, down = (np.array(source.ImageOrientationPatient[part], float) for part in (slice(3), slice(3, 6)))
    rows, columns = (float(value) for value in source.PixelSpacing)
    return np.array(source.ImagePositionPatient, float) + right * columns * column + down * rows * row


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (3, 0, 4, 2, 1)])
@pytest.mark.parametrize("cosines", [(1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, -1, 0), (1, 0, 0, 0, -1, 0)])
def test_each_pixel_of_a_series_lies_where_dicom_says(order, cosines):
    sources = [series()[place] for place in order]
    for source in sources:
        source.ImageOrientationPatient = list(cosines)
    mask = np.zeros((5, sources[0].Rows, sources[0].Columns), np.uint8)
    mask[1, 3, 7] = mask[4, 9, 2] = 1
    expected = sorted(tuple(place_of(sources[n], row, column)) for n, row, column in ((1, 3, 7), (4, 9, 2)))
    grid = grid_of_series(sources)
    image = read_nifti(nifti(mask, grid))
    found = [image.affine @ [*voxel, 1] for voxel in np.argwhere(np.asanyarray(image.dataobj))]
    assert np.allclose(sorted((-x, -y, z) for x, y, z, _ in found), expected, atol=1e-4)
    array, matrix, _ = read_nrrd(nrrd(mask, grid))
    assert np.allclose(sorted(tuple((matrix @ [*voxel, 1])[:3]) for voxel in np.argwhere(array)), expected)


def lifted(sources):
    x, y, z = sources[2].ImagePositionPatient
    sources[2].ImagePositionPatient = [x, y, float(z) + 0.4]


def stacked(sources):
    for source in sources:
        source.ImagePositionPatient = list(sources[0].ImagePositionPatient)


def tilted(sources):
    for source in sources:
        source.ImageOrientationPatient = [1, 0, 0, 0, 0.927, -0.375]


def turned(sources):
    sources[1].ImageOrientationPatient = [0, 1, 0, -1, 0, 0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda sources: sources.pop(2), "or one is missing"),
        (lifted, "0.40 mm beside its even place"),
        (stacked, "at the same place"),
        (tilted, "tilted by 22"),
        (turned, "not parallel"),
    ],
)
def test_slices_that_no_grid_holds_are_refused(change, reason):
    sources = series()
    change(sources)
    with pytest.raises(ValueError, match=reason):
        grid_of_series(sources)


def test_a_film_is_no_series():
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    with pytest.raises(ValueError, match="no place in space"):
        grid_of_series([dicom("RG1_UNCR.dcm")])


@pytest.mark.parametrize("write", [nifti, nrrd])
@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.zeros((6, 8), np.uint8), "does not fit"),
        (np.zeros((2, 8, 6), np.uint8), "does not fit"),
        (np.zeros((8, 6), np.float32), "unsigned integers"),
        (np.full((8, 6), 256, np.uint16), "up to 255"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(write, mask, reason):
    with pytest.raises(ValueError, match=reason):
        write(mask, grid_of_film((8, 6)))


def test_a_nrrd_has_no_fourth_axis():
    given = nibabel.Nifti1Image(np.zeros((4, 5, 6, 2), np.uint8), np.eye(4))
    with pytest.raises(ValueError, match="three axes"):
        nrrd(noise(given.shape), grid_of_nifti(given))


def check_by_simpleitk(mask, grid, folder, expected):
    """Let SimpleITK read both formats; `expected` has the pixels, spacing, origin and direction."""
    simpleitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    for name, data in (("mask.nii.gz", nifti(mask, grid)), ("mask.nrrd", nrrd(mask, grid))):
        (folder / name).write_bytes(data)
        image = simpleitk.ReadImage(str(folder / name))
        pixels, *place = expected
        assert (simpleitk.GetArrayFromImage(image) == pixels).all()
        for found, wanted in zip((image.GetSpacing(), image.GetOrigin(), image.GetDirection()), place, strict=True):
            assert np.allclose(found, wanted)


def test_simpleitk_reads_a_series_at_its_place(tmp_path):
    mask = np.stack([noise((16, 16), seed) for seed in range(5)])
    origin = [float(value) for value in series()[0].ImagePositionPatient]
    check_by_simpleitk(mask, grid_of_series(series()), tmp_path, (mask, (0.75, 0.5, 2.5), origin, np.eye(3).ravel()))


@pytest.mark.parametrize("spacing", [[0.2, 0.3], None])
def test_simpleitk_reads_the_mask_of_a_film_where_it_reads_the_film(spacing, tmp_path):
    simpleitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    source = dicom("RG3_UNCR.dcm")
    source.PixelSpacing = [0.13, 0.15]
    if spacing:
        source.ImagerPixelSpacing = spacing
    source.save_as(tmp_path / "film.dcm")
    film = simpleitk.ReadImage(str(tmp_path / "film.dcm"))
    mask = noise((source.Rows, source.Columns))
    place = (film.GetSpacing(), film.GetOrigin(), film.GetDirection())
    check_by_simpleitk(mask, grid_of_film(mask.shape, source), tmp_path, (mask, *place))
