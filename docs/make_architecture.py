"""Draw the packages and their imports: `python docs/make_architecture.py` writes docs/images/architecture.svg.

A package stands above every package that it imports. An arrow leads from a package to one that it imports; arrows that
follow from others are left out. A test fails while the picture is out of date.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from c2fvl.files import storage

SOURCE = Path(__file__).parents[1] / "src" / "c2fvl"
PICTURE = Path(__file__).parent / "images" / "architecture.svg"
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 250, 58, 40, 44, 12
TITLES = {
    "cli": "the commands",
    "cluster": "many machines",
    "serve": "the page and the REST server",
    "dicomweb": "images in an archive",
    "evaluation": "trained networks on data sets",
    "training": "settings → a trained network",
    "inference": "a trained network on images",
    "checkpoints": "trained weights as files",
    "models": "the networks",
    "data": "cases on disk → batches",
    "metrics": "arrays → numbers",
    "reports": "what a report says",
    "files": "images and tables",
}


def imports() -> dict[str, set[str]]:
    """Return package → packages that it imports, anywhere in its modules."""
    found: dict[str, set[str]] = {name: set() for name in TITLES}
    for name in TITLES:
        for path in sorted((SOURCE / name).rglob("*.py")):
            found[name].update(other for other in _imported(path) if other in TITLES and other != name)
    return found


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("c2fvl"):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("c2fvl.")]
        else:
            continue
        yield from (name.split(".")[1] for name in names)


def levels(arrows: dict[str, set[str]]) -> dict[str, int]:
    """Return the height of each package: 0 without imports, else one more than the highest that it imports."""
    found: dict[str, int] = {}

    def level(name: str, above: tuple[str, ...] = ()) -> int:
        if name in above:
            sys.exit(f"the packages import each other in a circle: {' → '.join((*above, name))}")
        if name not in found:
            found[name] = 1 + max((level(other, (*above, name)) for other in arrows[name]), default=-1)
        return found[name]

    for name in arrows:
        level(name)
    return found


def reduced(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the arrows without those that follow from two or more others."""

    def reach(name: str) -> set[str]:
        return arrows[name].union(*(reach(other) for other in arrows[name]))

    return {
        name: {other for other in below if not any(other in reach(between) for between in below)}
        for name, below in arrows.items()
    }


def picture() -> str:
    """Return the picture as SVG."""
    arrows = imports()
    heights = levels(arrows)
    rows = [
        sorted(name for name in heights if heights[name] == level) for level in range(max(heights.values()), -1, -1)
    ]
    widest = max(map(len, rows))
    full = widest * WIDTH + (widest - 1) * GAP_X
    boxes = {}
    for number, row in enumerate(rows):
        left = MARGIN + (full - len(row) * WIDTH - (len(row) - 1) * GAP_X) / 2
        for index, name in enumerate(row):
            boxes[name] = (left + index * (WIDTH + GAP_X), MARGIN + number * (HEIGHT + GAP_Y))
    width, height = full + 2 * MARGIN, 2 * MARGIN + len(rows) * HEIGHT + (len(rows) - 1) * GAP_Y
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#456"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for name, below in reduced(arrows).items():
        x, y = boxes[name]
        for other in sorted(below):
            to_x, to_y = boxes[other]
            if to_y - y > HEIGHT + GAP_Y and to_x != x:  # past a row: out at the side, so that no box is crossed
                path = f"M{x if to_x < x else x + WIDTH:.0f} {y + HEIGHT / 2:.0f} H{to_x + WIDTH / 2:.0f} V{to_y}"
            else:
                start, end = x + WIDTH / 2 + (to_x - x) / 8, to_x + WIDTH / 2 - (to_x - x) / 8
                path = f"M{start:.0f} {y + HEIGHT} L{end:.0f} {to_y}"
            lines.append(f'<path d="{path}" fill="none" stroke="#456" marker-end="url(#head)"/>')
    for name, (x, y) in boxes.items():
        middle = x + WIDTH / 2
        lines += [
            f'<rect x="{x:.0f}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#eef3f8" stroke="#456"/>',
            f'<text x="{middle:.0f}" y="{y + 25}" text-anchor="middle" font-weight="bold" font-size="17">{name}</text>',
            f'<text x="{middle:.0f}" y="{y + 45}" text-anchor="middle" font-size="14">{TITLES[name]}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    storage.write_text(PICTURE, picture())
