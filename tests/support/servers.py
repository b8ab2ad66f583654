"""A running server of a test, and what is sent to it."""

import threading
import time
from dataclasses import dataclass
from typing import Any

from c2fvl.data.phantom.draw import draw_case
from c2fvl.serve.answers import png


@dataclass(frozen=True)
class Running:
    """A server, a client that has its address, and what its routes share."""

    address: str
    client: Any
    service: Any
    routes: Any = ()

    @property
    def port(self) -> int:
        return int(self.address.rstrip("/").rpartition(":")[2])

    def predict(self, image=None, *, wanted="json", **fields):
        """Post an image."""
        content = film_png(0) if image is None else image
        return self.client.post(f"api/v1/predict?as={wanted}", files={"image": content}, data=fields)


class Gate:
    """An engine that computes when its gate is open."""

    def __init__(self, engine):
        for name in ("config", "path", "metrics", "calibration", "ood_detector", "batch_size"):
            setattr(self, name, getattr(engine, name))
        self.engine = engine
        self.opened, self.reached = threading.Event(), threading.Event()
        self.sizes = []

    def compute(self, images, text):
        self.reached.set()
        assert self.opened.wait(60)
        self.sizes.append(len(images))
        return self.engine.compute(images, text)


def film_png(number, *, size=160):
    """Return a synthetic film as PNG."""
    return png(draw_case(3, number, size=size).image)


def wait_until(is_so, seconds=20):
    """Wait for something that another thread does."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)
