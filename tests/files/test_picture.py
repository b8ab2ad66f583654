"""A picture is turned back exactly as it was turned."""

from itertools import product

import numpy as np
import pytest

from c2fvl.files.picture import Picture


@pytest.mark.parametrize(("transposed", "mirrored", "flipped"), list(product((False, True), repeat=3)))
@pytest.mark.parametrize("channels", [(), (2,)])
def test_a_map_lies_in_the_file_as_the_image_does(transposed, mirrored, flipped, channels):
    stored = np.arange(np.prod((*channels, 3, 5))).reshape(*channels, 3, 5)
    upright = np.swapaxes(stored, -1, -2) if transposed else stored
    upright = upright[..., ::-1] if mirrored else upright
    upright = upright[..., ::-1, :] if flipped else upright
    picture = Picture(np.zeros(upright.shape[-2:], np.float32), "dicom", transposed, mirrored, flipped)
    assert np.array_equal(picture.from_file(stored), upright)
    assert np.array_equal(picture.to_file(upright), stored)
