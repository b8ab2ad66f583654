"""Three synthetic chest films with reports, for who has no image at hand. No torch."""

import functools

from c2fvl.data.phantom.draw import draw_case
from c2fvl.serve.answers import png

_SEED, _SIZE = 7, 512
EXAMPLES = (
    (0, "Airspace opacity in the left upper and left middle zone. The right lung is clear."),
    (8, "Bilateral opacities in the middle and lower zones. No pleural effusion."),
    (3, "Patchy consolidation in the right lower zone. The left lung is clear."),
)
"""The number of each case of the synthetic data set, and a report in words; left is the patient's."""


@functools.cache
def example_image(number: int) -> bytes:
    """Return an example as PNG; `number` counts from 0."""
    return png(draw_case(_SEED, EXAMPLES[number][0], size=_SIZE).image)
