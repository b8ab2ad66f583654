"""Images of every kind are read and written, and every kind of broken file is refused in words."""

import io
import os
import struct
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from c2fvl.files import images
from c2fvl.files.images import (
    read_image,
    read_mask,
    read_pixels,
    read_pixels_and_remarks,
    remarks_on_range,
    write_image,
    write_mask,
    write_probability,
)
from c2fvl.files.tiff import read_page

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
        with pytest.raises(ValueError, match=r"cut\.bin: .*(again|JPEG, TIFF)"):
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
        ("page.png", b"<html>not found</html>", r"page\.png: .*not an image.*<html>.*give a PNG, JPEG, TIFF"),
        (
            "film.dcm",
            bytes(128) + b"DICM" + bytes(50),
            r"this is a DICOM file, and a data set holds PNG, JPEG or TIFF; export",
        ),
        (
            "scan.nii",
            struct.pack("<i", 348) + bytes(340) + b"n+1\x00",
            r"this is a NIfTI file, and a data set holds PNG, JPEG or TIFF; export",
        ),
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


def test_images_that_use_a_small_part_of_the_range_are_said_once(tmp_path, caplog):
    dark = np.arange(64, dtype=np.uint16).reshape(8, 8) * 60
    cv2.imwrite(str(tmp_path / "dark.png"), dark)
    for _ in range(2):
        read_image(tmp_path / "dark.png")
    assert caplog.text.count("looks black to a network") == 1
    cv2.imwrite(str(tmp_path / "right.png"), dark * 16)
    read_image(tmp_path / "right.png")
    assert caplog.text.count("looks black") == 1
    film = np.arange(10_000, dtype=np.uint16).reshape(100, 100) % 4096
    film[0, 0] = 65535  # a marker
    cv2.imwrite(str(tmp_path / "marker.png"), film)
    read_image(tmp_path / "marker.png")
    cv2.imwrite(str(tmp_path / "cut.png"), (film % 4096 >> 8).astype(np.uint8))
    read_image(tmp_path / "cut.png")
    assert [record.message.split(": ")[0] for record in caplog.records[1:]] == [
        str(tmp_path / "marker.png"),
        str(tmp_path / "cut.png"),
    ]
    assert read_pixels_and_remarks(tmp_path / "marker.png")[1] == remarks_on_range(film)
    assert "16-bit" in remarks_on_range(film)[0]


def tiff(strips, tags, *, order="<"):
    """Return a TIFF of these strips; `tags` replaces or adds tags of unsigned 16-bit values."""
    count, start = len(strips), 8
    offsets = [start + sum(map(len, strips[:place])) for place in range(count)]
    entries = {273: (4, offsets), 279: (4, [len(strip) for strip in strips])}
    entries |= {tag: (3, values if isinstance(values, list) else [values]) for tag, values in tags.items()}
    body = b"".join(strips)
    directory = start + len(body) + len(body) % 2
    place = directory + 2 + 12 * len(entries) + 4
    table, further = struct.pack(order + "H", len(entries)), b""
    for tag, (kind, values) in sorted(entries.items()):
        data = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        field = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack(order + "I", place + len(further))
        further += data if len(data) > 4 else b""
        table += struct.pack(order + "HHI", tag, kind, len(values)) + field
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", directory)
    return head + body + bytes(len(body) % 2) + table + bytes(4) + further


def grey_tags(pixels, bits, **further):
    numbers = {"compression": 259, "photometric": 262, "orientation": 274, "highest": 281, "format": 339, "fill": 266}
    return {257: len(pixels), 256: len(pixels[0]), 258: bits, 259: 1, 262: 1, 277: 1, 278: len(pixels)} | {
        numbers[name]: value for name, value in further.items()
    }


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (7, "JPEG"), (4, "CCITT Group 4"), (33003, "JPEG 2000"), (34712, "JPEG 2000"), (50002, "JPEG XL"),
        (22610, "JPEG XR"), (34887, "LERC"), (34925, "LZMA"), (34926, "Zstandard"), (34927, "WebP"), (34933, "PNG"),
        (999, "number 999"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_in_a_compression_that_is_not_read_is_refused_by_its_name(tmp_path, number, name, bits):
    path = put(tmp_path, "film.tif", tiff([bytes(500)], grey_tags(GREY, bits, compression=number)))
    for read in (read_image, read_mask):
        with pytest.raises(ValueError, match=rf"film\.tif: .*compression {name}, which is not supported; save it"):
            read(path)


COMPRESSIONS = ["raw", "tiff_lzw", "packbits", "tiff_adobe_deflate", "tiff_deflate"]
SMOOTH = cv2.resize(COLOUR, (90, 70), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("predictor", [1, 2])
@pytest.mark.parametrize(
    "pixels",
    [
        SMOOTH,
        SMOOTH[:, :, 0],
        SMOOTH[:, :, 0].astype(np.uint16) * 257,
        SMOOTH[:, :, 0] > 128,
        (SMOOTH[:, :, 0] / 255).astype(np.float32),
    ],
    ids=["colour", "grey", "16 bit", "one bit", "float"],
)
def test_every_tiff_is_read_exactly(tmp_path, compression, predictor, pixels):
    has_predictor = predictor == 2 and compression in ("tiff_lzw", "tiff_adobe_deflate", "tiff_deflate")
    if predictor == 2 and (pixels.dtype == bool or not has_predictor):
        return
    options = {"tiffinfo": {317: 2}} if has_predictor else {}
    data = encoded(Image.fromarray(pixels), "TIFF", compression=compression, **options)
    expected = pixels * np.uint8(255) if pixels.dtype == bool else pixels
    read = read_pixels(put(tmp_path, "film.tif", data))
    assert read.dtype == expected.dtype
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("flag", [1, 5, 8, 32773])
@pytest.mark.parametrize("predictor", [1, 2, 3])
def test_tiff_of_opencv(tmp_path, flag, predictor):
    pixels = (SMOOTH / 255).astype(np.float32) if predictor == 3 else SMOOTH.astype(np.uint16) * 200
    options = [cv2.IMWRITE_TIFF_COMPRESSION, flag, cv2.IMWRITE_TIFF_PREDICTOR, predictor]
    data = cv2.imencode(".tif", pixels[:, :, ::-1], options)[1].tobytes()
    np.testing.assert_array_equal(read_pixels(put(tmp_path, "film.tif", data)), pixels)


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_in_planes_and_tiles(tmp_path, order):
    stored = COLOUR_16.astype(order + "u2")
    tags = grey_tags(GREY, [16, 16, 16], photometric=2) | {277: 3, 284: 2, 278: 5}
    strips = [stored[top : top + 5, :, plane].tobytes() for plane in range(3) for top in (0, 5, 10)]
    np.testing.assert_array_equal(read_pixels(put(tmp_path, "planes.tif", tiff(strips, tags, order=order))), COLOUR_16)
    padded = np.pad(COLOUR_16, ((0, 4), (0, 12), (0, 0)), constant_values=9).astype(order + "u2")
    tiles = [padded[:, left : left + 16].tobytes() for left in (0, 16)]
    tags = grey_tags(GREY, [16, 16, 16], photometric=2) | {277: 3, 322: 16, 323: 16}
    data = tiff(tiles, tags, order=order)
    (place,) = struct.unpack_from(order + "I", data, 4)
    table = bytearray(data)
    for entry in range(place + 2, place + 2 + 12 * (len(tags) + 2), 12):
        (tag,) = struct.unpack_from(order + "H", table, entry)
        struct.pack_into(order + "H", table, entry, {273: 324, 279: 325, 278: 32997}.get(tag, tag))
    np.testing.assert_array_equal(read_pixels(put(tmp_path, "tiles.tif", bytes(table))), COLOUR_16)


@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize(
    ("stored", "bits", "form", "expected"),
    [
        (255 - GREY, 8, 1, GREY),
        (65535 - GREY_16, 16, 1, GREY_16),
        (np.float32(1) - GREY.astype(np.float32) / 256, 32, 3, GREY.astype(np.float32) / 256),
    ],
    ids=["8 bit", "16 bit", "float"],
)
def test_white_is_zero_is_inverted(tmp_path, compression, stored, bits, form, expected):
    strip = stored.tobytes() if compression == 1 else zlib.compress(stored.tobytes())
    tags = grey_tags(GREY, bits, photometric=0, format=form, compression=compression)
    np.testing.assert_array_equal(read_pixels(put(tmp_path, "film.tif", tiff([strip], tags))), expected)
    lesion = np.zeros((12, 20), stored.dtype)
    lesion[3:6, 4:9] = 1 if form == 3 else np.iinfo(stored.dtype).max
    strip = (lesion.max() - lesion).tobytes()
    strip = strip if compression == 1 else zlib.compress(strip)
    np.testing.assert_array_equal(read_mask(put(tmp_path, "mask.tif", tiff([strip], tags))), LESION)


def test_a_known_range_of_a_tiff_is_scaled(tmp_path, caplog):
    film = (np.arange(240, dtype=np.uint16) * 17).reshape(12, 20)
    full = np.rint(film / 4095 * 65535)
    data = tiff([film.tobytes()], grey_tags(film, 16, highest=4095))
    np.testing.assert_array_equal(read_pixels(put(tmp_path, "highest.tif", data)), full)
    packed = np.packbits((film[:, :, None] >> np.arange(12)[::-1] & 1).astype(np.uint8).reshape(12, -1), axis=1)
    data = tiff([packed.tobytes()], grey_tags(film, 12))
    np.testing.assert_array_equal(read_pixels(put(tmp_path, "packed.tif", data)), full)
    data = tiff([film.tobytes()], grey_tags(film, 16, highest=4000))  # false: a value is 4063
    np.testing.assert_array_equal(read_pixels(put(tmp_path, "false.tif", data)), film)
    assert not caplog.records


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate", "raw"])
@pytest.mark.parametrize("pixels", [SMOOTH, SMOOTH[:, :, 0]], ids=["colour", "grey"])
def test_a_damaged_strip_is_an_error(tmp_path, compression, pixels):
    whole = encoded(Image.fromarray(pixels), "TIFF", compression=compression)
    page = read_page(whole)
    start, end = page.offsets[0], page.offsets[-1] + page.lengths[-1]
    kept = whole[:start] + whole[start : (start + end) // 2] + bytes(end - (start + end) // 2) + whole[end:]
    path = tmp_path / "film.tif"
    if compression != "raw":
        with pytest.raises(ValueError, match=r"film\.tif: the TIFF file is damaged: .*get it again"):
            read_image(put(tmp_path, "film.tif", kept))
    num_accepted = 0
    for bit in range(0, 8 * (end - start), 8 * (end - start) // 100):
        damaged = bytearray(whole)
        damaged[start + bit // 8] ^= 1 << bit % 8
        put(tmp_path, "film.tif", bytes(damaged))
        try:
            read_image(path)
            num_accepted += 1
        except ValueError:
            pass
    # only Deflate has a checksum; in the others a damage that keeps the length of the strip cannot be known
    assert num_accepted <= {"tiff_adobe_deflate": 0, "tiff_lzw": 60, "packbits": 101, "raw": 101}[compression]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", [2, 3, 6])
def test_an_orientation_tag_is_not_applied_and_is_named(tmp_path, caplog, kind, orientation):
    picture = cv2.resize(GREY, (80, 48), interpolation=cv2.INTER_NEAREST)
    plain = encoded(Image.fromarray(picture), kind)
    exif = Image.Exif()
    exif[0x0112] = orientation
    tagged = encoded(Image.fromarray(picture), kind, exif=exif)
    path = put(tmp_path, "film", tagged)
    expected = read_pixels(put(tmp_path, "plain", plain))
    np.testing.assert_array_equal(read_pixels(path), expected)
    read_image(tmp_path / "plain")
    assert not caplog.records
    read_image(path)
    read_image(path)
    assert [record.message for record in caplog.records] == [f"{path}: {read_pixels_and_remarks(path)[1][0]}"]
    assert f"the orientation tag of this {kind} file ({orientation}, 1 is upright)" in caplog.text


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 3}, {"subsampling": 0}])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_cut_jpeg_with_an_end_mark_is_refused(tmp_path, options, channels):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    pixels = cv2.GaussianBlur(noise, (0, 0), 1)
    whole = encoded(Image.fromarray(pixels if channels == 3 else pixels[:, :, 0]), "JPEG", **options)
    assert read_pixels(put(tmp_path, "whole.jpg", whole)).shape[:2] == (60, 80)
    for cut in np.linspace(700, len(whole) - 20, 25).astype(int):
        data = whole[:cut].removesuffix(b"\xff") + b"\xff\xd9"
        with pytest.raises(ValueError, match=r"cut\.jpg: the JPEG file .*again"):
            read_image(put(tmp_path, "cut.jpg", data))


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    whole = encoded(Image.fromarray(GREY), "JPEG", progressive=True)
    place = whole.rindex(b"\xff\xda")
    bomb = whole[:place] + whole[place:-2] * 101 + whole[-2:]
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("the image was decoded"))
    with pytest.raises(ValueError, match="more than 100 scans"):
        read_image(put(tmp_path, "bomb.jpg", bomb))


def test_devices_and_pipes_are_refused(tmp_path):
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("zero.png", "pipe.png"):
        with pytest.raises(ValueError, match=rf"{name}: this is a device or a pipe"):
            read_image(tmp_path / name)


def test_a_file_longer_than_its_size_says_is_not_read_whole(tmp_path, monkeypatch):
    path = put(tmp_path, "film.png", bytes(100))
    monkeypatch.setattr(images, "_SPARE_BYTES", 0)
    with pytest.raises(ValueError, match="100 bytes are more than"):
        read_image(path, max_pixels=1)


def test_masks_that_would_become_empty_are_refused(tmp_path):
    path = put(tmp_path, "mask.png", encoded(Image.fromarray(LESION), "PNG"))
    with pytest.raises(ValueError, match=r"no lesion would be left; .*data\.mask=lesion"):
        read_mask(path, "above_half")
    numbers = LESION.copy()
    numbers[0] = 2
    path = put(tmp_path, "classes.png", encoded(Image.fromarray(numbers), "PNG"))
    with pytest.raises(ValueError, match=r"not binary.*data\.mask=labels"):
        read_mask(path)
    with pytest.raises(ValueError, match=r"no lesion would be left; .*data\.mask=labels"):
        read_mask(path, "above_half")
    np.testing.assert_array_equal(read_mask(path, "labels"), numbers)
    empty = put(tmp_path, "empty.png", encoded(Image.fromarray(LESION * 0), "PNG"))
    assert not read_mask(empty, "above_half").any()


CASES = Path(__file__).parents[3] / "shared" / "cases"


@pytest.mark.real
@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not beside the checkout")
def test_sound_and_damaged_cases():
    film, mask = read_pixels(CASES / "film.png"), read_mask(CASES / "mask.png")
    for name in ("film_minwhite_8.tif", "film_minwhite_16.tif", "film_minwhite_f32.tif"):
        np.testing.assert_allclose(read_image(CASES / name)[:, :, 0], film / 255, atol=1e-6)
    np.testing.assert_array_equal(read_mask(CASES / "mask_minwhite_16.tif"), mask)
    upright = read_pixels(CASES / "upright.png")
    for name, stored in (("orient2.tif", upright[:, ::-1]), ("orient3.tif", upright[::-1, ::-1])):
        np.testing.assert_array_equal(read_pixels(CASES / name), stored)
    refused = ["jpeg2000", "jpegxl", "jpegxr", "png", "lerc", "lzma", "zstd", "zlib_strip_damaged"]
    files = [CASES / f"{what}_{kind}.tif" for what in ("film", "mask") for kind in refused]
    files += [*(CASES / "damaged").glob("*_one_bit.tif"), *(CASES / "damaged").glob("*_half_zero.tif")]
    for path in files:
        if path.exists():
            with pytest.raises(ValueError, match=r"which is not supported|the TIFF file is damaged"):
                (read_mask if path.name.startswith("mask") else read_image)(path)
    for name in ("film_12in16.png", "film_12in16_marker.png", "film_12shift8.png"):
        assert "looks black" in read_pixels_and_remarks(CASES / name)[1][0]
    with pytest.raises(ValueError, match="no lesion would be left"):
        read_mask(CASES / "mask_01.png", "above_half")
