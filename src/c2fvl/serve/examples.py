"""The synthetic examples of the page as PNG. No torch."""

import functools

from c2fvl.data.phantom.examples import example
from c2fvl.serve.answers import png


@functools.cache
def example_image(number: int) -> bytes:
    """Return an example as PNG; `number` counts from 0."""
    return png(example(number).case.image)
