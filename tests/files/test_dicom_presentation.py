"""Grey values of DICOM films against a reference in plain NumPy, and against highdicom."""

import io
from itertools import product

import numpy as np
import pytest

pytest.importorskip("pydicom")

from support.dicom import as_bytes, example, film, lookup_table

from c2fvl.files.read_picture import read_picture

ENCODINGS = {
    "8 bits": (np.uint8, 8),
    "10 bits": (np.uint16, 10),
    "12 bits": (np.uint16, 12),
    "15 bits": (np.uint16, 15),
    "16 bits": (np.uint16, 16),
    "12 bits, unused bits set": (np.uint16, 12),
    "12 bits, signed": (np.int16, 12),
}
WINDOWS = (
    "window",
    "several windows",
    "table of 8",
    "table of 12",
    "table of 16",
    "modality table",
    "none",
    "rescaled",
)
SENSELESS = ("width 0", "width negative", "empty", "words", "short table", "table over its range")
SHAPES = (None, "IDENTITY", "INVERSE")


def stored_pixels(encoding: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the stored bits, the values that they mean, and the number of bits."""
    dtype, bits = ENCODINGS[encoding]
    low = -(2 ** (bits - 1)) if dtype == np.int16 else 0
    values = np.random.default_rng(3).integers(low, low + 2**bits, (20, 30))
    values[0, :2] = low, low + 2**bits - 1
    stored = values.astype(dtype)
    if "unused" in encoding:
        stored |= np.random.default_rng(4).integers(0, 16, stored.shape).astype(np.uint16) << 12
    return stored, values, bits


def gamma_table(count: int, bits: int) -> np.ndarray:
    return np.rint((2**bits - 1) * (np.arange(count) / (count - 1)) ** 0.7).astype(int)


def elements_and_reference(window: str, values: np.ndarray, bits: int) -> tuple[dict, np.ndarray]:
    """Return the elements of a way to be shown, and the expected grey values (MONOCHROME2), pixel by pixel."""
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if values.min() < 0 else (0, 2**bits - 1)
    center, width = float(round(low + 0.48 * (high - low))), float(high - low)
    windowed = np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)
    by_percentile = np.percentile(values, (0.5, 99.5))
    stretched = np.clip((values - by_percentile[0]) / (by_percentile[1] - by_percentile[0]), 0, 1)
    count = 2**bits
    if window == "window":
        return {"WindowCenter": center, "WindowWidth": width}, windowed
    if window == "several windows":
        return {"WindowCenter": [center, 1.0], "WindowWidth": [width, 5.0]}, windowed
    if window.startswith("table of"):
        depth = int(window.removeprefix("table of "))
        entries = gamma_table(count, depth)
        expected = np.array([entries[min(max(value - low, 0), count - 1)] for value in values.ravel()])
        return {"VOILUTSequence": [lookup_table(entries, depth, low)]}, expected.reshape(values.shape) / (2**depth - 1)
    if window == "modality table":
        entries = gamma_table(count, 14)
        expected = entries[np.clip(values - low, 0, count - 1)] / (2**14 - 1)
        return {"ModalityLUTSequence": [lookup_table(entries, 14, low)]}, expected
    if window == "none":
        return {}, (values - low) / (high - low)
    if window == "rescaled":
        rescaled = {"RescaleSlope": 2.5, "RescaleIntercept": -300.0, "RescaleType": "US"}
        center, width = 2.5 * center - 300, 2.5 * width
        shown = np.clip((values * 2.5 - 300 - (center - 0.5)) / (width - 1) + 0.5, 0, 1)
        return rescaled | {"WindowCenter": center, "WindowWidth": width}, shown
    wrong = {
        "width 0": {"WindowCenter": center, "WindowWidth": 0.0},
        "width negative": {"WindowCenter": center, "WindowWidth": -5.0},
        "empty": {"WindowCenter": "", "WindowWidth": ""},
        "words": {"WindowCenter": "12345678", "WindowWidth": "87654321"},
        "short table": {"VOILUTSequence": [lookup_table(gamma_table(count, 12), 12)]},
        "table over its range": {"VOILUTSequence": [lookup_table(gamma_table(count, 16), 12)]},
    }[window]
    if window == "short table":
        wrong["VOILUTSequence"][0].LUTData = bytes(20)
    return wrong, stretched


def source_of(window: str) -> str:
    for word, source in (("table of ", "voi_lut"), ("modality", "modality_lut"), ("none", "bits")):
        if window.startswith(word):
            return source
    return "percentile" if window in SENSELESS else "window"


@pytest.mark.filterwarnings("ignore:::pydicom")
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("window", [*WINDOWS, *SENSELESS])
def test_grey_values_follow_the_standard(window, encoding):
    stored, values, bits = stored_pixels(encoding)
    elements, expected = elements_and_reference(window, values, bits)
    for photometric, shape in product(("MONOCHROME1", "MONOCHROME2"), SHAPES):
        dataset = film(stored, bits=bits, PhotometricInterpretation=photometric, PresentationLUTShape=shape, **elements)
        picture = read_picture(as_bytes(dataset).replace(b"12345678", b"wide    ").replace(b"87654321", b"1,0     "))
        shown = 1 - expected if photometric == "MONOCHROME1" else expected
        np.testing.assert_allclose(picture.pixels, shown, atol=1e-5, err_msg=f"{photometric} {shape}")
        assert picture.window_source == source_of(window)
        contradicts = shape is not None and (shape == "INVERSE") != (photometric == "MONOCHROME1")
        assert any("contradicts itself" in warning for warning in picture.warnings) == contradicts
        assert any("senseless" in warning for warning in picture.warnings) == (window in SENSELESS)


@pytest.mark.parametrize("encoding", [encoding for encoding in ENCODINGS if "unused" not in encoding])
@pytest.mark.parametrize("window", ["window", "several windows", "table of 8", "table of 16", "rescaled"])
def test_highdicom_agrees(window, encoding):
    """highdicom reads tables of 8 and 16 bits only, and with a slope its LINEAR windows are off by a grey value."""
    highdicom = pytest.importorskip("highdicom")
    stored, values, bits = stored_pixels(encoding)
    elements, _ = elements_and_reference(window, values, bits)
    if window == "table of 8":
        entries = gamma_table(min(2**bits, 65000), 8).astype(np.uint8)
        elements["VOILUTSequence"][0].LUTDescriptor = [len(entries), min(0, int(values.min())), 8]
        elements["VOILUTSequence"][0].LUTData = entries.tobytes()
    if window == "table of 16" and bits == 16:
        elements["VOILUTSequence"][0].LUTDescriptor = [65000, 0, 16]
        elements["VOILUTSequence"][0].LUTData = gamma_table(65000, 16).astype("<u2").tobytes()
    if window == "rescaled":
        elements["VOILUTFunction"] = "LINEAR_EXACT"
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        content = as_bytes(film(stored, bits=bits, PhotometricInterpretation=photometric, **elements))
        shown = highdicom.imread(io.BytesIO(content)).get_frame(1, apply_voi_transform=None, voi_output_range=(0, 1))
        np.testing.assert_allclose(read_picture(content).pixels, shown, atol=1e-5)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_functions_of_windows(function):
    highdicom = pytest.importorskip("highdicom")
    stored, _, bits = stored_pixels("12 bits")
    content = as_bytes(film(stored, bits=bits, WindowCenter=2030.0, WindowWidth=4030.0, VOILUTFunction=function))
    shown = highdicom.imread(io.BytesIO(content)).get_frame(1, apply_voi_transform=None, voi_output_range=(0, 1))
    np.testing.assert_allclose(read_picture(content).pixels, shown, atol=1e-5)


def test_a_table_comes_before_a_window():
    stored, values, bits = stored_pixels("12 bits")
    table, expected = elements_and_reference("table of 12", values, bits)
    window, _ = elements_and_reference("window", values, bits)
    picture = read_picture(as_bytes(film(stored, bits=bits, **table, **window)))
    np.testing.assert_allclose(picture.pixels, expected, atol=1e-5)
    assert picture.window_source == "voi_lut"


def test_a_table_that_is_too_large_is_not_passed_over_for_the_window():
    stored, values, bits = stored_pixels("12 bits")
    dataset = film(stored, bits=bits, WindowCenter=100.0, WindowWidth=50.0)
    dataset.VOILUTSequence = [lookup_table(gamma_table(2**12, 12), 12)]
    dataset.VOILUTSequence[0].LUTExplanation = "A"
    dataset.VOILUTSequence[0].add_new(0x00091001, "OB", bytes(2**20))
    picture = read_picture(as_bytes(dataset))
    assert picture.window_source == "percentile"
    assert any("VOILUTSequence" in warning for warning in picture.warnings)
    by_percentile = np.percentile(values, (0.5, 99.5))
    shown = np.clip((values - by_percentile[0]) / (by_percentile[1] - by_percentile[0]), 0, 1)
    np.testing.assert_allclose(picture.pixels, shown, atol=1e-5)


@pytest.mark.parametrize("name", ["RG1_UNCR.dcm", "RG3_UNCR.dcm"])
def test_highdicom_agrees_on_real_films(name):
    highdicom = pytest.importorskip("highdicom")
    shown = highdicom.imread(example(name)).get_frame(1, apply_voi_transform=None, voi_output_range=(0, 1))
    picture = read_picture(example(name))
    np.testing.assert_allclose(picture.to_file(picture.pixels), shown, atol=1e-5)


@pytest.mark.parametrize("entries_as", ["bytes", "words", "single bytes"])
def test_entries_of_a_table_in_each_form(entries_as):
    entries = gamma_table(256, 8)
    item = lookup_table(entries, 8)
    if entries_as == "words":
        item.add_new("LUTData", "US", entries.tolist())
    elif entries_as == "single bytes":
        item.add_new("LUTData", "OW", entries.astype(np.uint8).tobytes())
    stored, values, _ = stored_pixels("8 bits")
    picture = read_picture(as_bytes(film(stored, VOILUTSequence=[item])))
    np.testing.assert_allclose(picture.pixels, entries[values] / 255, atol=1e-6)


def test_bits_that_lie_at_the_top_are_shifted():
    _, values, bits = stored_pixels("12 bits")
    dataset = film((values << 4).astype(np.uint16), bits=bits, HighBit=15)
    np.testing.assert_allclose(read_picture(as_bytes(dataset)).pixels, values / 4095, atol=1e-6)


@pytest.mark.parametrize(("last", "hidden"), [(None, [-2000]), (-1990, [-2000, -1995, -1990])])
def test_padding_is_found_by_the_stored_value_and_is_black(last, hidden):
    stored = np.random.default_rng(1).integers(0, 1000, (20, 30)).astype(np.int16)
    stored[:2] = hidden[0]
    stored[2, : len(hidden)] = hidden
    dataset = film(stored, PhotometricInterpretation="MONOCHROME1", RescaleSlope=1, RescaleIntercept=-1024)
    dataset.WindowCenter, dataset.WindowWidth, dataset.RescaleType = -524.0, 1000.0, "US"
    dataset.add_new("PixelPaddingValue", "SS", -2000)
    if last is not None:
        dataset.add_new("PixelPaddingRangeLimit", "SS", last)
    pixels = read_picture(as_bytes(dataset)).pixels
    assert (pixels[np.isin(stored, hidden)] == 0).all()
    seen = ~np.isin(stored, hidden)
    np.testing.assert_allclose(pixels[seen], 1 - np.clip((stored[seen] - 500 + 0.5) / 999 + 0.5, 0, 1), atol=1e-5)


def test_padding_does_not_count_for_the_percentiles():
    stored = np.random.default_rng(1).integers(1000, 3000, (40, 40)).astype(np.uint16)
    stored[:8] = 4095
    picture = read_picture(as_bytes(film(stored, bits=12, WindowCenter=5, WindowWidth=0, PixelPaddingValue=4095)))
    low, high = np.percentile(stored[8:], (0.5, 99.5))
    np.testing.assert_allclose(picture.pixels[8:], np.clip((stored[8:] - low) / (high - low), 0, 1), atol=1e-5)


@pytest.mark.parametrize(
    ("shutter", "inside"),
    [
        (
            {"ShutterShape": "RECTANGULAR", "ShutterLeftVerticalEdge": 3, "ShutterRightVerticalEdge": 20}
            | {"ShutterUpperHorizontalEdge": 5, "ShutterLowerHorizontalEdge": 18},
            lambda row, column: (row >= 4) & (row <= 17) & (column >= 2) & (column <= 19),
        ),
        (
            {"ShutterShape": "CIRCULAR", "CenterOfCircularShutter": [11, 16], "RadiusOfCircularShutter": 6},
            lambda row, column: (row - 10) ** 2 + (column - 15) ** 2 < 36,
        ),
        (
            {"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": [2, 2, 2, 22, 17, 22, 17, 2]},
            lambda row, column: (row >= 1) & (row <= 16) & (column >= 1) & (column <= 21),
        ),
    ],
)
def test_what_the_shutter_hides_is_black(shutter, inside):
    stored = np.random.default_rng(1).integers(500, 3500, (22, 30)).astype(np.uint16)
    pixels = read_picture(as_bytes(film(stored, bits=12, PhotometricInterpretation="MONOCHROME1", **shutter))).pixels
    seen = inside(*np.mgrid[:22, :30])
    assert np.count_nonzero((pixels > 0) != seen) <= (24 if shutter["ShutterShape"] == "CIRCULAR" else 0)
    both = seen & (pixels > 0)
    np.testing.assert_allclose(pixels[both], 1 - stored[both] / 4095, atol=1e-5)
