"""The anatomy of synthetic chest films without lesions: body, lungs, heart, bones and vessels, and the exposure.

Everything is drawn in body coordinates: x from -1 to 1 across the image with the spine at 0, y from -1 at the top to 1.
Opacities add up as in a patient: 0 is air, about 1 the densest parts. Images are in standard orientation, so the apex
of the heart points to the right of the image. Sizes and positions were set by eye.
"""

import cv2
import numpy as np


class Canvas:
    """Body coordinates of a slightly rotated, shifted and scaled patient, in which outlines are drawn."""

    def __init__(self, size: int, random: np.random.Generator) -> None:
        self.size = size
        angle = np.deg2rad(np.clip(random.normal(0, 1.2), -2.5, 2.5))
        scale = random.uniform(0.93, 1.03) * size / 2
        self.matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        self.centre = size * (0.5 + random.uniform((-0.012, -0.02), (0.012, 0.03)))
        pixels = np.stack(np.meshgrid(np.arange(size), np.arange(size))) + 0.5
        x, y = np.einsum("ij,jhw->ihw", np.linalg.inv(self.matrix), pixels - self.centre[:, None, None])
        self.x, self.y = x.astype(np.float32), y.astype(np.float32)

    def fill(self, outlines: list[np.ndarray]) -> np.ndarray:
        """Fill closed outlines (N, 2) of body coordinates, overlaps once: (H, W) float32 from 0 to 1."""
        filled = np.zeros((self.size, self.size), np.uint8)
        for outline in outlines:
            pixels = outline @ self.matrix.T + self.centre - 0.5
            cv2.fillPoly(filled, [np.rint(pixels * 256).astype(np.int32)], 255, cv2.LINE_AA, shift=8)
        return filled.astype(np.float32) / 255

    def blur(self, image: np.ndarray, sigma: float) -> np.ndarray:
        """Blur with a Gaussian of the standard deviation `sigma`, in body units."""
        return cv2.GaussianBlur(image, (0, 0), max(sigma * self.size / 2, 0.3))


def draw_clouds(random: np.random.Generator, cells: int, size: int) -> np.ndarray:
    """Draw smooth noise (size, size) float32 of about unit standard deviation, with `cells` cells across the image."""
    coarse = random.standard_normal((cells, cells)).astype(np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def _rounded(points: np.ndarray) -> np.ndarray:
    """Round a closed outline by cutting its corners three times; a doubled point stays a corner."""
    for _ in range(3):
        following = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], 1).reshape(-1, 2)
    return points


def _band(line: np.ndarray, width: float | np.ndarray) -> np.ndarray:
    """Return the outline of a band of `width` (one or N values) around a line (N, 2)."""
    along = np.empty_like(line)
    along[1:-1] = line[2:] - line[:-2]
    along[0], along[-1] = line[1] - line[0], line[-1] - line[-2]
    half = along[:, ::-1] * (-0.5, 0.5) * (width / np.hypot(along[:, 0], along[:, 1]))[:, None]
    return np.concatenate([line + half, (line - half)[::-1]])


def draw_lung_outline(random: np.random.Generator, side: int) -> np.ndarray:
    """Draw one lung as an outline; `side` is -1 at the left of the image and 1 at the right, beside the heart."""
    wall = [(0.17, -0.72), (0.30, -0.84), (0.46, -0.76), (0.60, -0.50), (0.70, -0.15), (0.75, 0.18), (0.78, 0.52)]
    if side < 0:
        base = [(0.79, 0.60), (0.64, 0.42), (0.44, 0.36), (0.26, 0.40), (0.15, 0.50)]
        hilum = [(0.20, 0.34), (0.23, 0.14), (0.15, -0.06), (0.17, -0.22), (0.12, -0.45)]
    else:
        base = [(0.79, 0.64), (0.68, 0.47), (0.57, 0.43), (0.50, 0.47), (0.46, 0.53)]
        hilum = [(0.47, 0.36), (0.41, 0.14), (0.26, -0.05), (0.19, -0.15), (0.21, -0.30), (0.20, -0.38), (0.13, -0.50)]
    outline = np.array([*wall, *base, *hilum])
    outline += random.uniform(-0.018, 0.018, outline.shape)
    outline[len(wall) : len(wall) + len(base), 1] += random.uniform(-0.08, 0.08)  # the height of the diaphragm
    outline[:, 0] = 0.12 + (outline[:, 0] - 0.12) * random.uniform(0.88, 1.04)
    outline[:, 1] *= random.uniform(0.94, 1.04)
    return _rounded(np.insert(outline, len(wall), outline[len(wall)], axis=0) * (side, 1))


def draw_anatomy(canvas: Canvas, random: np.random.Generator, outlines: list[np.ndarray]) -> np.ndarray:
    """Draw a chest without lesions: opacity (H, W) float32, 0 in air and about 1 in the densest parts."""
    lungs = canvas.blur(canvas.fill(outlines), 0.016)
    body = _draw_body(canvas, random)
    opacity = body * (0.66 + 0.03 * draw_clouds(random, 5, canvas.size))
    opacity -= lungs * (0.42 + 0.05 * canvas.y + 0.012 * draw_clouds(random, 9, canvas.size))
    opacity += _draw_abdomen(canvas, random, lungs)
    opacity += _draw_mediastinum(canvas, random)
    opacity += _draw_vessels(canvas, random) * (0.25 + 0.75 * lungs)
    opacity += _draw_ribs(canvas, random) * np.minimum(body, 0.5 + 0.5 * lungs)
    opacity += _draw_shoulders(canvas, random) * body
    return opacity


def _draw_body(canvas: Canvas, random: np.random.Generator) -> np.ndarray:
    waist, shoulder = random.uniform(0.90, 1.12), random.uniform(-0.80, -0.68)
    half = [(0.26, -1.6), (0.27, -1.0), (0.55, shoulder - 0.14), (0.9, shoulder), (1.3, shoulder + 0.18), (1.5, 0.0)]
    half += [(1.5, 0.6), (waist + 0.08, 0.1), (waist, -0.15), (waist - 0.02, 0.3), (waist, 0.8), (waist + 0.05, 1.6)]
    outline = np.array(half + [(-x, y) for x, y in reversed(half)])
    return canvas.blur(canvas.fill([_rounded(outline)]), 0.03)


def _draw_abdomen(canvas: Canvas, random: np.random.Generator, lungs: np.ndarray) -> np.ndarray:
    """Draw the abdomen, brighter than the chest wall, with gas in the stomach of some patients."""
    below = (canvas.y > 0.3) & (np.abs(canvas.x) < 0.82)
    opacity = 0.12 * canvas.blur(below.astype(np.float32), 0.07) * (1 - lungs)
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    radii = random.uniform((0.05, 0.03), (0.14, 0.07))
    bubble = random.uniform((0.42, 0.66), (0.56, 0.76)) + radii * np.stack([np.cos(angles), np.sin(angles)], 1)
    return opacity - random.choice([0.0, 0.14]) * canvas.blur(canvas.fill([bubble]), 0.02) * (1 - lungs)


def _draw_mediastinum(canvas: Canvas, random: np.random.Generator) -> np.ndarray:
    """Draw spine, great vessels, trachea and heart."""
    size = random.uniform(0.92, 1.1)
    heart = [(-0.05, -0.2), (0.13, -0.16), (0.28, -0.02), (0.43, 0.2), (0.46, 0.44), (0.2, 0.56), (-0.1, 0.55)]
    heart += [(-0.23, 0.38), (-0.24, 0.14), (-0.14, -0.08)]
    vessels = [(-0.09, -1.1), (-0.13, -0.6), (-0.14, -0.3), (-0.14, 0.7), (0.14, 0.7), (0.15, -0.1)]
    vessels += [(0.14, -0.24), (0.19, -0.30), (0.18, -0.40), (0.12, -0.46), (0.1, -0.7), (0.09, -1.1)]
    opacity = 0.07 * canvas.blur(canvas.fill([_rounded(np.array(heart) * (size, 1))]), 0.025)
    opacity += 0.09 * canvas.blur(canvas.fill([_rounded(np.array(vessels))]), 0.03)

    rows = np.linspace(-1.1, 1.1, 40)
    spine = canvas.fill([_band(np.stack([0 * rows, rows], 1), 0.15)])
    discs = np.cos((canvas.y + random.uniform(0, 1)) * (2 * np.pi / random.uniform(0.13, 0.15)))
    opacity += 0.045 * canvas.blur(spine * (1 + 0.5 * discs), 0.012)
    trachea = [np.array([(0.01, -1.2), (0.0, -0.7), (-0.01, -0.36)])]
    trachea += [np.array([(-0.01, -0.37), (side * 0.06, -0.29), (side * 0.13, -0.2)]) for side in (-1, 1)]
    airways = canvas.fill([_band(line, width) for line, width in zip(trachea, (0.085, 0.05, 0.05), strict=True)])
    return opacity - 0.10 * canvas.blur(airways, 0.012)


def _draw_vessels(canvas: Canvas, random: np.random.Generator) -> np.ndarray:
    """Draw the vessels that branch from the hila and taper."""
    trunks, branches = [], []
    steps = np.linspace(0, 1, 9)[:, None]
    for side in (-1, 1):
        root = np.array([side * 0.19, -0.06 if side < 0 else -0.11])
        for angle in np.sort(random.uniform(-1.4, 1.45, 9)):
            start, heading = root, angle
            length, width = random.uniform(0.14, 0.26), random.uniform(0.026, 0.036)
            for bend in random.uniform(-0.35, 0.35, 3):  # each segment bends, tapers, and has a side branch
                for turn, fraction in ((bend, 1.0), (bend - 0.9 * np.sign(bend), 0.7)):
                    direction = heading + turn * steps
                    line = start + fraction * length / 8 * np.cumsum(
                        np.hstack([side * np.cos(direction), np.sin(direction)]), 0
                    )
                    branches.append(_band(line, np.linspace(fraction * width, fraction * width * 0.55, 9)))
                    if fraction == 1:
                        following = line[-1]
                start, heading, width, length = following, heading + bend, width * 0.6, length * 0.8
        trunks.append(
            _rounded(root + np.array([(0.0, -0.1), (side * 0.08, -0.03), (side * 0.05, 0.14), (-side * 0.05, 0.1)]))
        )
    return 0.06 * canvas.blur(canvas.fill(trunks), 0.03) + 0.075 * canvas.blur(canvas.fill(branches), 0.007)


def _draw_ribs(canvas: Canvas, random: np.random.Generator) -> np.ndarray:
    """Draw the posterior ribs, from the spine outwards, and the fainter anterior ribs, from the side inwards."""
    spacing, slope = random.uniform(0.148, 0.166), random.uniform(0.18, 0.3)
    posterior, posterior_inner, anterior = [], [], []
    steps = np.linspace(0, 1, 24)
    for side in (-1, 1):
        for number in range(10):
            top = -0.86 + number * spacing + random.uniform(-0.008, 0.008)
            reach = 0.46 + 0.36 * np.sin(np.pi / 2 * min((number + 1) / 6, 1))
            rise = 0.045 + 0.008 * number
            x = 0.07 + (reach - 0.07) * np.sin(steps * np.pi / 2)
            y = top - rise * np.sin(np.pi * steps**0.8) + (slope + 0.02 * number) * steps**2.2
            line, width = np.stack([side * x, y], 1), random.uniform(0.046, 0.056)
            posterior.append(_band(line, width))
            posterior_inner.append(_band(line, width * 0.45))
        for number in range(1, 8):
            start = -0.74 + number * spacing * 1.04 + random.uniform(-0.01, 0.01)
            reach = 0.44 + 0.36 * np.sin(np.pi / 2 * min((number + 1) / 6, 1))
            x = reach - (reach - 0.24 - 0.02 * number) * steps**1.3
            y = start + (0.16 + 0.022 * number) * np.sin(steps * np.pi / 2) ** 1.5
            anterior.append(_band(np.stack([side * x, y], 1), 0.06 - 0.012 * steps))
    ribs = 0.10 * canvas.fill(posterior) - 0.045 * canvas.fill(posterior_inner)
    return canvas.blur(ribs, 0.006) + 0.045 * canvas.blur(canvas.fill(anterior), 0.012)


def _draw_shoulders(canvas: Canvas, random: np.random.Generator) -> np.ndarray:
    """Draw clavicles, scapulae and humeral heads."""
    collar, blades = [], []
    lift = random.uniform(-0.04, 0.04)
    for side in (-1, 1):
        tilt = random.uniform(-0.03, 0.03)
        line = np.array([(0.08, -0.60), (0.2, -0.62), (0.36, -0.68), (0.52, -0.74), (0.68, -0.76), (0.86, -0.74)])
        line[:, 1] += lift + tilt * line[:, 0]
        collar.append(_band(line * (side, 1), np.array([0.085, 0.06, 0.05, 0.05, 0.055, 0.06])))
        blade = np.array([(0.72, -0.62), (0.92, -0.60), (0.88, -0.3), (0.74, 0.04), (0.68, -0.1), (0.66, -0.4)])
        blades.append(_rounded(blade * (side, 1)))
        angles = np.linspace(0, 2 * np.pi, 24)
        blades.append(np.stack([side * 1.0 + 0.1 * np.cos(angles), -0.56 + lift + 0.12 * np.sin(angles)], 1))
    return 0.12 * canvas.blur(canvas.fill(collar), 0.009) + 0.07 * canvas.blur(canvas.fill(blades), 0.015)


def expose(canvas: Canvas, random: np.random.Generator, opacity: np.ndarray) -> np.ndarray:
    """Return opacity as grey values (H, W) uint8: tone curve, exposure, blur and grain."""
    opacity = canvas.blur(np.clip(opacity, 0, 1.3), random.uniform(0.004, 0.009))
    tone = (opacity / 0.95) ** random.uniform(0.9, 1.25)
    image = random.uniform(0.0, 0.06) + random.uniform(0.8, 0.98) * tone
    image *= 1 + random.uniform(-0.05, 0.05) * canvas.x + random.uniform(-0.05, 0.05) * canvas.y
    grain = random.standard_normal(image.shape, dtype=np.float32)
    image += random.uniform(0.008, 0.02) * (0.6 * grain + canvas.blur(grain, 0.008))
    return np.clip(255 * image, 0, 255).round().astype(np.uint8)
