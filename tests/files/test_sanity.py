"""Grey values are repaired where that is safe, always with a word, and sound films are left alone."""

import subprocess
import sys
import zipfile

import cv2
import numpy as np
import pytest

from c2fvl.files.read_picture import read_picture
from c2fvl.files.sanity import check_grey_values


def drawn_film(size=224):
    """Return a frontal film as far as grey values go, 12 bits: dark lungs, bright heart and abdomen, dark corners."""
    row, column = np.mgrid[:size, :size] / size
    film = 2300 + 900 * np.exp(-(((column - 0.5) / 0.12) ** 2)) + 900 / (1 + np.exp(-(row - 0.75) * 20))
    for center in (0.3, 0.7):
        film -= 1700 * np.exp(-(((column - center) / 0.13) ** 2) - ((row - 0.42) / 0.27) ** 2)
    film -= 1500 * np.clip(np.hypot(column - 0.5, 0.8 * (row - 0.7)) / 0.45 - 1, 0, 1)
    film += np.random.default_rng(0).normal(0, 25, film.shape)
    return np.clip(np.rint(film), 1, 4000)


FILM = drawn_film()


def windowed(low, high):
    first, last = np.percentile(FILM, (low, high))
    return np.clip((FILM - first) / (last - first), 0, 1)


def marked(side):
    values = FILM / 65535
    values[5 : 5 + side, 5 : 5 + side] = 1
    return values


REPAIRED = {
    "12 bits read as 16": FILM / 65535,
    "12 bits read as 16, with a marker": marked(10),
    "12 bits read as 16, with a large marker": marked(40),
    "14 bits read as 16": FILM / 4 * 16 / 65535,
    "12 bits cut to 8": FILM // 256 / 255,
    "little contrast": 0.4 + FILM / 4095 / 8,
    "inverted with little contrast": 1 - FILM / 65535,
}
LOST = {
    "white": np.clip(FILM / 255, 0, 1),
    "narrow window": windowed(25, 75),
    "very narrow window": windowed(45, 55),
    "upper half": np.clip(FILM / 2048 - 1, 0, 1),
    "one grey value": np.full((64, 64), 0.5),
    "black": np.zeros((64, 64)),
}


def checked(pixels):
    return check_grey_values(pixels.astype(np.float32))


def test_a_sound_film_is_left_alone():
    pixels = (FILM / 4095).astype(np.float32)
    found = check_grey_values(pixels)
    assert found.pixels is pixels
    assert (found.window_source, found.warnings) == ("values", ())


@pytest.mark.parametrize("name", REPAIRED)
def test_values_in_a_small_part_of_the_range_are_stretched_and_said(name):
    found = checked(REPAIRED[name])
    assert found.window_source == "percentile"
    assert "so the grey values were stretched between their percentiles 0.5 and 99.5." in found.warnings[0]
    assert found.pixels.dtype == np.float32
    sound = windowed(0.5, 99.5)
    if "inverted" in name:
        sound = 1 - sound
        assert "black and white are exchanged" in found.warnings[1]
    apart = np.abs(found.pixels - sound)
    apart[5:45, 5:45] = 0  # the marker
    assert apart.max() < (0.08 if "cut" in name else 0.01)


@pytest.mark.parametrize("name", LOST)
def test_values_that_are_lost_are_said_and_not_touched(name):
    found = checked(LOST[name])
    assert np.array_equal(found.pixels, LOST[name].astype(np.float32))
    assert found.window_source == "values"
    assert "export it again with a wider window" in found.warnings[0]


def test_exchanged_black_and_white_is_said_of_grey_images_only():
    inverted = 1 - FILM / 4095
    assert "black and white are exchanged" in checked(inverted).warnings[0]
    assert checked(np.dstack([inverted, inverted, inverted * 0.9])).warnings == ()


def test_a_border_does_not_hide_exchanged_black_and_white():
    for value in (0, 1):
        assert "exchanged" in checked(np.pad(1 - FILM / 4095, ((0, 60), (30, 30)), constant_values=value)).warnings[0]
        assert checked(np.pad(FILM / 4095, ((0, 60), (30, 30)), constant_values=value)).warnings == ()


def test_upper_bits_that_are_cut_off_are_said():
    assert "upper bits are cut off" in checked((FILM % 256) / 255).warnings[0]


def test_colour_is_stretched_as_one():
    colours = np.dstack([FILM, FILM * 0.5, FILM * 0.25]) / 65535
    found = checked(colours)
    assert found.window_source == "percentile"
    assert found.pixels[..., 0].mean() > 2 * found.pixels[..., 2].mean()


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 2), (31, 500)])
def test_tiny_images_pass(size):
    found = checked(np.random.default_rng(0).random(size))
    assert found.pixels.shape == size


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_16_bit_file_of_12_bits_is_repaired_and_recorded(suffix):
    picture = read_picture(cv2.imencode(suffix, FILM.astype(np.uint16))[1].tobytes())
    assert picture.window_source == "percentile"
    assert picture.as_record()["window_source"] == "percentile"
    assert "darker than a quarter of the range" in picture.warnings[0]
    np.testing.assert_allclose(picture.pixels, windowed(0.5, 99.5), atol=0.01)


def test_other_images_need_no_pydicom():
    code = "import sys; from c2fvl.files import read_picture; print('pydicom' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.real
@pytest.mark.parametrize(("archive", "maximum"), [("qata-cov19/val.zip", 0.005), ("mosmeddata-plus", 0.02)])
def test_sound_images_raise_no_alarm(real_data, archive, maximum):
    jpegls = pytest.importorskip("jpeg_ls")
    archives = sorted((real_data / archive).glob("*.zip")) or [real_data / archive]
    alarms = []
    for path in archives:
        with zipfile.ZipFile(path) as zipped:
            names = [name for name in zipped.namelist() if name.endswith(".jls")]
            for name in names[::8]:
                pixels = jpegls.decode(np.frombuffer(zipped.read(name), np.uint8)).astype(np.float32) / np.float32(255)
                alarms.append(bool(check_grey_values(pixels).warnings))
    assert len(alarms) > 80
    assert np.mean(alarms) <= maximum


@pytest.mark.real
def test_each_real_film_that_is_inverted_is_said(real_data):
    jpegls = pytest.importorskip("jpeg_ls")
    with zipfile.ZipFile(real_data / "qata-cov19" / "val.zip") as zipped:
        names = [name for name in zipped.namelist() if name.endswith(".jls")][::14]
        films = [jpegls.decode(np.frombuffer(zipped.read(name), np.uint8)) for name in names]
    assert len(films) > 100
    assert all(check_grey_values((255 - film).astype(np.float32) / np.float32(255)).warnings for film in films)
