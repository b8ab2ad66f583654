"""Make the first picture of README: `python docs/make_example.py demo/with-report` writes docs/images/phantom.png.

The folder is that of `c2fvl evaluate` on synthetic data; two of its median cases stand side by side.
"""

import sys
from pathlib import Path

import cv2
import numpy as np

from c2fvl.data.pictures import encode_png
from c2fvl.files import storage

PICTURE = Path(__file__).parent / "images" / "phantom.png"
CASES = ("median-3", "median-4")
GAP = 8


def main(folder: Path) -> None:
    """Write the picture of an evaluation's folder."""
    panels = [cv2.imread(str(folder / "pictures" / f"{name}.png")) for name in CASES]
    height = max(panel.shape[0] for panel in panels)
    rows = [np.pad(panel, ((0, height - len(panel)), (0, GAP), (0, 0))) for panel in panels]
    storage.write_bytes(PICTURE, encode_png(np.concatenate(rows, axis=1)[:, :-GAP, ::-1]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
