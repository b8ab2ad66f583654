"""Images of every kind are read and written, and every kind of broken file is refused in words."""

import io
import struct
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from c2fvl.files.images import (
    read_image,
    read_mask,
    read_pixels,
    write_image,
    write_mask,
    write_probability,
)

GREY = (np.arange(12 * 20) % 256).astype(np.uint8).reshape(12, 20)
COLOUR = np.dstack([GREY, GREY[::-1], GREY[:, ::-1]])
GREY_16 = GREY.astype(np.uint16) * 200 + 7
COLOUR_16 = np.dstack([GREY_16, GREY_16[::-1], GREY_16[:, ::-1]])


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def put(folder, name, data):
    path = folder / name
    path.write_bytes(data)
    return path


def png_chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of_size(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + pixels + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize(
    ("image", "expected", "full"),
    [
        pytest.param(Image.fromarray(GREY), GREY, 255, id="grey"),
        pytest.param(Image.fromarray(COLOUR), COLOUR, 255, id="colour"),
        pytest.param(Image.fromarray(GREY_16), GREY_16, 65535, id="grey 16 bit"),
        pytest.param(Image.fromarray(GREY).convert("LA"), GREY, 255, id="grey with alpha"),
        pytest.param(Image.fromarray(COLOUR).convert("RGBA"), COLOUR, 255, id="colour with alpha"),
        pytest.param(Image.fromarray(GREY > 100), (GREY > 100) * 255, 255, id="one bit"),
        pytest.param(Image.fromarray(COLOUR).quantize(16), None, 255, id="palette"),
    ],
)
def test_lossless_images_are_read_exactly(tmp_path, kind, image, expected, full):
    path = put(tmp_path, "image.bin", encoded(image, kind))
    if expected is None:
        expected = np.asarray(image.convert("RGB"))
    if expected.ndim == 2:
        expected = np.dstack([expected] * 3)
    read = read_image(path)
    assert read.dtype == np.float32
    assert read.shape == (12, 20, 3)
    np.testing.assert_allclose(read, expected / full, atol=1e-7)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_colour_of_16_bit(tmp_path, suffix):
    data = cv2.imencode(suffix, COLOUR_16[:, :, ::-1])[1].tobytes()
    np.testing.assert_allclose(read_image(put(tmp_path, "image", data)), COLOUR_16 / 65535, atol=1e-7)


def test_jpeg_is_close(tmp_path):
    smooth = cv2.resize(np.array([[0, 100], [50, 250]], np.uint8), (64, 48), interpolation=cv2.INTER_LINEAR)
    path = put(tmp_path, "film.jpg", encoded(Image.fromarray(smooth), "JPEG", quality=95))
    np.testing.assert_allclose(read_image(path)[:, :, 0], smooth / 255, atol=0.02)


def test_content_counts_not_the_ending(tmp_path):
    path = put(tmp_path, "film.jpg", encoded(Image.fromarray(GREY), "PNG"))
    np.testing.assert_array_equal(read_pixels(path), GREY)


def test_rotation_in_exif_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    path = put(tmp_path, "film.jpg", encoded(Image.fromarray(GREY), "JPEG", exif=exif))
    assert read_image(path).shape == (12, 20, 3)


def test_floating_tiff_in_range_and_out(tmp_path):
    values = np.linspace(0, 1, 240, dtype=np.float32).reshape(12, 20)
    good = put(tmp_path, "good.tif", encoded(Image.fromarray(values), "TIFF"))
    np.testing.assert_array_equal(read_image(good)[:, :, 1], values)
    holed = values.copy()
    holed[3, 4] = np.nan
    with pytest.raises(ValueError, match=r"holed\.tif: .*NaN.*fill them"):
        read_image(put(tmp_path, "holed.tif", encoded(Image.fromarray(holed), "TIFF")))
    with pytest.raises(ValueError, match=r"from 0 to 1000; scale them"):
        read_image(put(tmp_path, "wide.tif", encoded(Image.fromarray(values * 1000), "TIFF")))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_a_file_cut_anywhere_is_refused(tmp_path, kind):
    whole = encoded(Image.fromarray(COLOUR), kind)
    for length in sorted({*range(0, len(whole), max(1, len(whole) // 60)), len(whole) - 1}):
        with pytest.raises(ValueError, match=r"cut\.bin: .*(again|JPEG or TIFF)"):
            read_image(put(tmp_path, "cut.bin", whole[:length]))


def test_a_damaged_png_is_refused(tmp_path):
    data = bytearray(encoded(Image.fromarray(COLOUR), "PNG"))
    data[len(data) // 2] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        read_image(put(tmp_path, "film.png", bytes(data)))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("veil.tif", encoded(Image.fromarray(np.dstack([COLOUR, GREY])), "TIFF"), "transparency that varies; save it"),
        ("empty.png", b"", r"empty\.png: the file is empty.*again"),
        ("page.png", b"<html>not found</html>", r"page\.png: .*not an image.*<html>.*give a PNG, JPEG or TIFF"),
        ("film.dcm", bytes(128) + b"DICM" + bytes(50), r"DICOM files are not read yet; export"),
        ("scan.nii", struct.pack("<i", 348) + bytes(340) + b"n+1\x00", r"NIfTI files are not read yet; export"),
        ("noise.png", bytes(range(200)), "not an image"),
        ("sized.png", png_of_size(0, 5), r"0 x 5 pixels; the file is damaged"),
        ("pages.tif", None, r"pages\.tif: .*several pages; save the page"),
        ("print.jpg", encoded(Image.fromarray(COLOUR).convert("CMYK"), "JPEG"), "CMYK.*save it as grey or RGB"),
        ("print.tif", encoded(Image.fromarray(COLOUR).convert("CMYK"), "TIFF"), "CMYK.*save it as grey or RGB"),
        ("wide.tif", encoded(Image.fromarray(GREY.astype(np.int32)), "TIFF"), "save it (as|with) unsigned 8 or 16"),
    ],
)
def test_what_is_no_image_is_refused_in_words(tmp_path, name, data, message):
    if data is None:
        page = Image.fromarray(GREY)
        data = encoded(page, "TIFF", save_all=True, append_images=[page])
    path = put(tmp_path, name, data)
    for read in (read_image, read_mask):
        with pytest.raises(ValueError, match=message):
            read(path)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png.*check the name"):
        read_image(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match="a folder, expected an image"):
        read_image(tmp_path)


def test_the_pixel_limit_holds_before_anything_is_decoded(tmp_path, monkeypatch):
    path = put(tmp_path, "bomb.png", png_of_size(60_000, 60_000))
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("the image was decoded"))
    for read in (read_image, read_mask, read_pixels):
        with pytest.raises(ValueError, match=r"bomb\.png: 60000 x 60000 pixels are over the limit of 100000000"):
            read(path)


def test_the_pixel_limit_is_an_argument(tmp_path):
    path = put(tmp_path, "film.png", encoded(Image.fromarray(GREY), "PNG"))
    assert read_image(path, max_pixels=240).shape == (12, 20, 3)
    with pytest.raises(ValueError, match="over the limit of 239"):
        read_image(path, max_pixels=239)


def test_a_header_that_promises_other_pixels_is_refused(tmp_path):
    with pytest.raises(ValueError, match="damaged"):  # a thousand zero bytes are no 300 x 300 pixels
        read_image(put(tmp_path, "film.png", png_of_size(300, 300)))


LESION = np.zeros((12, 20), np.uint8)
LESION[3:6, 4:9] = 1


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(LESION, id="0 and 1"),
        pytest.param(LESION * 255, id="0 and 255"),
        pytest.param(LESION * 7, id="0 and 7"),
        pytest.param(LESION.astype(np.uint16) * 65535, id="16 bit"),
        pytest.param(np.dstack([LESION * 255] * 3), id="equal colour channels"),
        pytest.param(LESION.astype(bool), id="one bit"),
    ],
)
def test_binary_masks_in_every_dress(tmp_path, stored):
    mask = read_mask(put(tmp_path, "mask.png", encoded(Image.fromarray(stored), "PNG")))
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, LESION)


@pytest.mark.parametrize("value", [0, 255])
def test_masks_of_one_value(tmp_path, value):
    path = put(tmp_path, "mask.png", encoded(Image.fromarray(np.full((4, 5), value, np.uint8)), "PNG"))
    np.testing.assert_array_equal(read_mask(path), np.full((4, 5), value > 0))


def test_a_mask_with_more_values_is_refused_and_can_be_repaired(tmp_path):
    path = put(tmp_path, "mask.jpg", encoded(Image.fromarray(LESION * 255), "JPEG", quality=90))
    with pytest.raises(ValueError, match=r"mask\.jpg: the mask is not binary: .*\(0, 1, .*data\.mask=above_half"):
        read_mask(path)
    np.testing.assert_array_equal(read_mask(path, "above_half"), LESION)
    labels = put(tmp_path, "labels.png", encoded(Image.fromarray(LESION + 1), "PNG"))
    with pytest.raises(ValueError, match=r"2 values \(1, 2\), expected 0 and one other"):
        read_mask(labels)


def test_a_coloured_mask_is_refused(tmp_path):
    stored = np.dstack([LESION * 255, LESION * 0, LESION * 0])
    with pytest.raises(ValueError, match=r"colour image whose channels differ.*grey PNG"):
        read_mask(put(tmp_path, "mask.png", encoded(Image.fromarray(stored), "PNG")))


def test_written_files_come_back(tmp_path):
    write_mask(tmp_path / "mask.png", LESION.astype(bool))
    assert sorted(np.unique(np.asarray(Image.open(tmp_path / "mask.png")))) == [0, 255]
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), LESION)
    write_image(tmp_path / "film.png", COLOUR)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "film.png")), COLOUR)
    probability = np.linspace(0, 1, 240).reshape(12, 20)
    write_probability(tmp_path / "probability.png", probability)
    np.testing.assert_allclose(read_image(tmp_path / "probability.png")[:, :, 0], probability, atol=0.51 / 65535)


@pytest.mark.parametrize(
    ("write", "value", "message"),
    [
        (write_mask, LESION * 255, "0 and 1"),
        (write_mask, LESION[None], "shape"),
        (write_image, COLOUR / 255, "uint8"),
        (write_probability, np.full((2, 2), np.nan), "in \\[0, 1\\]"),
        (write_probability, np.full((2, 2), 1.01), "in \\[0, 1\\]"),
    ],
)
def test_wrong_arrays_are_not_written(tmp_path, write, value, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "out.png", value)
    with pytest.raises(ValueError, match=r"end the name in \.png"):
        write_mask(tmp_path / "out.jpg", LESION)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real
def test_real_nuclei_are_read(tmp_path):
    folder = Path(__file__).parents[3] / "shared" / "data" / "monuseg"
    archives = sorted(folder.glob("*.zip"))
    if not archives:
        pytest.skip("the real data are not beside the checkout")
    with zipfile.ZipFile(archives[0]) as zipped:
        member = next(name for name in zipped.namelist() if "labelcol" in name and name.endswith(".png"))
        path = put(tmp_path, "mask.png", zipped.read(member))
    mask = read_mask(path)
    assert mask.shape == (500, 500)
    assert 0.02 < mask.mean() < 0.8


def test_twelve_bits_in_sixteen_are_said_once(tmp_path, caplog):
    dark = np.arange(64, dtype=np.uint16).reshape(8, 8) * 60
    cv2.imwrite(str(tmp_path / "dark.png"), dark)
    for _ in range(2):
        read_image(tmp_path / "dark.png")
    assert caplog.text.count("looks black to a network") == 1
    cv2.imwrite(str(tmp_path / "right.png"), dark * 16)
    read_image(tmp_path / "right.png")
    assert caplog.text.count("looks black") == 1
