"""Synthetic data: chest films with lesions, exact masks and reports, made from a seed.

Images of one group share the anatomy, like films of one patient.

Some shadows are lesions, others are decoys. Positions, shapes and contrasts of all shadows are drawn first, and only
then which of them are lesions. So the image alone does not tell lesions from decoys: a network needs the report, which
names the zones of the lesions; no decoy is in a zone of a lesion.

The mask of a lesion is where its opacity is above half of its peak, inside the lung. The report counts the 8-connected
lesions of the mask. A zone is a third of the rows of its lung; it is named if it holds at least a tenth of one lesion.
Left is the left of the image (orientation `image`); the heart is on the right of the image.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from c2fvl.data.phantom.anatomy import Canvas, draw_anatomy, draw_clouds, draw_lung_outline, expose
from c2fvl.files import storage
from c2fvl.files.images import write_image, write_mask
from c2fvl.files.tables import write_cells
from c2fvl.reports.caption_tables import write_table
from c2fvl.reports.report import SIDES, Report
from c2fvl.reports.zones import ZONES, hands_of

MIN_CASES, MIN_SIZE = 6, 32
MASK_THRESHOLD = 0.5  # of a shadow, whose peak is 1
ZONE_FRACTION = 0.1  # a zone is named if it holds this fraction of one lesion
EMPTY_FRACTION = 0.05  # of the images have no lesion; half of these have decoys
CONTESTED_FRACTION = 0.9  # of the images with shadows in several sites have decoys beside lesions
MAX_SHADOWS = 6
_GROUPS = ((0, 1), (0, 2), (1, 1), (2, 1))  # of four images in a row: the group and the run in it


@dataclass(frozen=True)
class PhantomCase:
    """One synthetic case; the arrays are (H, W) uint8."""

    name: str  # file name without its ending
    image: np.ndarray  # grey values
    mask: np.ndarray  # 1 on lesions
    decoys: np.ndarray  # 1 on shadows that look like lesions, but are none
    lungs: np.ndarray  # 1 on the lung at the left of the image, 2 on the other
    report: Report  # orientation "image"
    group: str


def draw_case(seed: int, index: int, *, size: int = 224) -> PhantomCase:
    """Draw case number `index` (from 0) of the data set `seed`, `size` pixels high and wide.

    The case depends on the three arguments alone. Raises `ValueError` for a negative seed or index, or a size below 32.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed {seed} and index {index} must not be negative; take 0 or more")
    if size < MIN_SIZE:
        raise ValueError(f"size {size} is too small to draw a chest in; take {MIN_SIZE} pixels or more")
    group, run = _group_of(index)
    patient = np.random.default_rng([seed, 0, group])
    random = np.random.default_rng([seed, 1, index])

    canvas = Canvas(size, random)
    outlines = [draw_lung_outline(patient, side) for side in (-1, 1)]
    lungs = np.zeros((size, size), np.uint8)
    for number, outline in enumerate(outlines, start=1):
        lungs[canvas.fill([outline]) > 0.5] = number
    opacity = draw_anatomy(canvas, patient, outlines)

    lesions = np.zeros((size, size), bool)
    decoys = np.zeros((size, size), bool)
    sites = _draw_sites(random)
    shadows = [_draw_shadows(random, lungs, zones, num_shadows) for zones, num_shadows in sites]
    for (mask, shadow), is_lesion in zip(shadows, _draw_lesions(random, len(sites)), strict=True):
        opacity += shadow
        (lesions if is_lesion else decoys)[mask] = True

    mask = lesions.astype(np.uint8)
    return PhantomCase(
        name=f"sub-S{group:05d}_run-{run}",
        image=expose(canvas, random, opacity),
        mask=mask,
        decoys=decoys.astype(np.uint8),
        lungs=lungs,
        report=_report(mask, lungs),
        group=f"sub-S{group:05d}",
    )


def write_phantom(
    out: Path | str,
    *,
    num_cases: int = 160,
    seed: int = 0,
    size: int = 224,
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
) -> dict[str, int]:
    """Write `num_cases` cases to the folder `out` and return the number of each split.

    The layout is `out/{Train,Val,Test}_Folder` with `img/NAME.png`, `labelcol/mask_NAME.png` (0 and 255) and the
    reports three times: `{Split}_text.xlsx` (sentences), `{Split}_attributes.xlsx` (C2FVL's eight numbers), and
    `{Split}_films.csv`, a csv data set of images, masks, reports and groups. `fractions` are those of train, val and
    test; no group is in two splits and no split is empty. The data set is built in a hidden folder beside `out` and
    renamed when it is complete, so an interruption leaves no incomplete one.

    Raises `ValueError` for fewer than 6 cases, a size below 32 or wrong fractions, and `FileExistsError` if `out`
    exists and is not empty.
    """
    if num_cases < MIN_CASES:
        raise ValueError(f"num_cases {num_cases} is too few for three splits; take {MIN_CASES} or more")
    if size < MIN_SIZE:
        raise ValueError(f"size {size} is too small to draw a chest in; take {MIN_SIZE} pixels or more")
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"fractions {fractions} must be three positive numbers for train, val and test with the sum 1")
    counts = {}
    with storage.new_folder(out) as building:
        for split, indices in _split(num_cases, fractions).items():
            _write_split(building / f"{split}_Folder", split, [(seed, index, size) for index in indices])
            counts[split.lower()] = len(indices)
    return counts


def _write_split(folder: Path, split: str, cases: list[tuple[int, int, int]]) -> None:
    rows, listed = [], [["image", "mask", "report", "group"]]
    for seed, index, size in cases:
        case = draw_case(seed, index, size=size)
        write_image(folder / "img" / f"{case.name}.png", case.image)
        write_mask(folder / "labelcol" / f"mask_{case.name}.png", case.mask)
        rows.append((f"mask_{case.name}.png", case.report))
        listed.append([f"img/{case.name}.png", f"labelcol/mask_{case.name}.png", str(case.report), case.group])
    write_table(folder / f"{split}_text.xlsx", rows, form="lvit")
    write_table(folder / f"{split}_attributes.xlsx", rows, form="c2fvl")
    write_cells(folder / f"{split}_films.csv", listed)


def _group_of(index: int) -> tuple[int, int]:
    """Return the group of a case and its number in the group: of three groups, the first has two cases."""
    group, run = _GROUPS[index % 4]
    return 3 * (index // 4) + group, run


def _split(num_cases: int, fractions: tuple[float, float, float]) -> dict[str, range]:
    """Return three ranges of cases that end with a group, as close to the fractions as possible; none is empty."""
    starts = [index for index in range(num_cases) if _group_of(index)[1] == 1]
    val = min(starts[1:-1], key=lambda start: abs(start - fractions[0] * num_cases))
    later = [start for start in starts if start > val]
    test = min(later, key=lambda start: abs(start - (fractions[0] + fractions[1]) * num_cases))
    return {"Train": range(val), "Val": range(val, test), "Test": range(test, num_cases)}


def _draw_sites(random: np.random.Generator) -> list[tuple[list[int], int]]:
    """Draw the sites of shadows: of each its one or two zones (indices of `ZONES`) and its number of shadows."""
    if random.random() < EMPTY_FRACTION / 2:
        return []
    zones = sorted(random.permutation(len(ZONES))[: random.choice([1, 2, 3, 4, 5], p=[0.08, 0.27, 0.3, 0.23, 0.12])])
    sites: list[list[int]] = []
    for zone in zones:
        below = sites and len(sites[-1]) == 1 and sites[-1][0] == zone - 1 and zone != 3  # 3: the other lung
        if below and random.random() < 0.3:
            sites[-1].append(zone)
        else:
            sites.append([zone])
    extra = random.random(len(sites)) < 0.35
    extra &= np.cumsum(extra) + len(sites) <= MAX_SHADOWS
    return [(zones, 1 + int(more)) for zones, more in zip(sites, extra, strict=True)]


def _draw_lesions(random: np.random.Generator, num_sites: int) -> np.ndarray:
    """Draw which sites hold lesions, whatever was drawn there; the others hold decoys."""
    if random.random() < EMPTY_FRACTION / 2:
        return np.zeros(num_sites, bool)
    chosen = np.ones(num_sites, bool)
    if num_sites > 1 and random.random() < CONTESTED_FRACTION:
        while chosen.all() or not chosen.any():
            chosen = random.random(num_sites) < 0.5
    return chosen


def _draw_shadows(
    random: np.random.Generator, lungs: np.ndarray, zones: list[int], num_shadows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the shadows of one site: the mask (H, W) bool and the opacity (H, W) float32 to add."""
    lung = lungs == 1 + zones[0] // 3
    soft_lung = cv2.GaussianBlur(lung.astype(np.float32), (0, 0), 0.008 * len(lung))  # as the lungs are drawn
    bounds = _zone_bounds(lung)
    first, last = bounds[zones[0] % 3], bounds[zones[-1] % 3 + 1]
    field, opacity = np.zeros(lung.shape, np.float32), np.zeros(lung.shape, np.float32)
    texture = 1 + 0.12 * draw_clouds(random, 28, len(lung)) + 0.1 * draw_clouds(random, 11, len(lung))
    for _ in range(num_shadows):
        shadow = _draw_shadow(random, lung, first, last)
        field = np.maximum(field, shadow)
        opacity = np.maximum(opacity, random.uniform(0.16, 0.36) * shadow)
    return (field > MASK_THRESHOLD) & lung, opacity * texture * soft_lung


def _draw_shadow(random: np.random.Generator, lung: np.ndarray, first: int, last: int) -> np.ndarray:
    """Draw one soft, irregular shadow, (H, W) from 0 to 1, whose core is inside the rows from `first` up to `last`.

    A small gap to these rows separates the shadows of neighbouring zones. A draw that is too small inside the lung, or
    in several pieces, is repeated.
    """
    size = len(lung)
    gap = max(1.0, 0.012 * size)
    smallest = max(6.0, 10 * (size / 224) ** 2)
    reach = (last - first) / 2 - gap
    rows, columns = np.nonzero(lung[first:last])
    waves = np.arange(1, 8, dtype=np.float32)
    shadow = np.zeros(lung.shape, np.float32)
    for _ in range(30):
        height = reach * random.uniform(0.08, 1.0) ** random.choice([0.35, 1.0])
        height = max(height, min(reach, 0.009 * size, 2.0))
        width = height * random.uniform(0.7, 1.7)
        centre = random.integers(len(rows))
        row = np.clip(first + rows[centre] + 0.5, first + gap + height, last - gap - height)
        column = columns[centre] + 0.5
        window = (_window(row, 2 * height, size), _window(column, 2 * width, size))  # outside of it, almost 0
        y = (np.arange(window[0].start, window[0].stop, dtype=np.float32)[:, None] + 0.5 - row) / height
        x = (np.arange(window[1].start, window[1].stop, dtype=np.float32) + 0.5 - column) / width
        angle = np.arctan2(y, x).astype(np.float32)
        edge = np.ones_like(angle)  # its distance from the centre; the waves only reduce it
        for wave, strength in zip(waves, random.dirichlet(6 / waves) * random.uniform(0.2, 0.55), strict=True):
            edge -= np.float32(strength / 2) * (1 + np.cos(wave * angle + np.float32(random.uniform(0, 2 * np.pi))))
        softness = random.uniform(0.04, 0.14)
        piece = 1 / (1 + np.exp(np.minimum((np.hypot(x, y) - edge) / np.float32(softness), 30)))
        core = ((piece > MASK_THRESHOLD) & lung[window]).astype(np.uint8)
        num_labels, _, statistics, _ = cv2.connectedComponentsWithStats(core, connectivity=4)
        if num_labels == 2 and statistics[1, cv2.CC_STAT_AREA] >= smallest:
            shadow[window] = piece
            break
    return shadow


def _window(centre: float, reach: float, size: int) -> slice:
    return slice(max(int(centre - reach), 0), min(int(centre + reach) + 1, size))


def _zone_bounds(lung: np.ndarray) -> list[int]:
    """Return the first row of the upper, middle and lower third of one lung, and the row after its last one."""
    rows = np.flatnonzero(lung.any(axis=1))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    return [top, top + round((bottom - top) / 3), top + round((bottom - top) * 2 / 3), bottom]


def _report(mask: np.ndarray, lungs: np.ndarray) -> Report:
    """Return the report of the mask."""
    num_labels, labels = cv2.connectedComponents(mask, connectivity=8)
    zones = set()
    for number in (1, 2):
        lung = lungs == number
        bounds = _zone_bounds(lung)
        for label in range(1, num_labels):
            lesion = labels == label
            for third in range(3):
                inside = np.count_nonzero((lesion & lung)[bounds[third] : bounds[third + 1]])
                if inside and inside >= ZONE_FRACTION * np.count_nonzero(lesion):
                    zones.add(ZONES[3 * (number - 1) + third])
    side = SIDES[len(hands_of(zones))]
    return Report(side=side, number=num_labels - 1, zones=frozenset(zones), orientation="image")
