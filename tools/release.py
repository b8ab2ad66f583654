"""Make the files of a release in `dist/`: wheel, changes, a list of what an install brings (SBOM), and checksums.

    python tools/release.py [--tag v0.2.0]

The wheel is installed into a fresh environment, which is then described in CycloneDX by `cyclonedx-bom`; both need the
package index. Nothing is uploaded. The version of the package, of CITATION.cff and of the tag must be the same, and
CHANGELOG.md must have a section of it.
"""

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

PROJECT = Path(__file__).parents[1]
OUT = PROJECT / "dist"


def main() -> None:
    """Check the version, then make the files."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tag", help="tag of the release; it must be v and the version")
    options = parser.parse_args()
    version = checked_version(options.tag)
    changes = changes_of(version)
    OUT.mkdir(exist_ok=True)
    for old in OUT.iterdir():
        old.unlink()
    _run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", OUT, PROJECT)
    (wheel,) = OUT.glob("*.whl")
    (OUT / "CHANGES.md").write_text(changes, encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="c2fvl-release-") as place:
        write_sbom(wheel, Path(place), OUT / "sbom.cdx.json")
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in sorted(OUT.iterdir())]
    (OUT / "SHA256SUMS").write_text("".join(lines), encoding="ascii")
    for file in sorted(OUT.iterdir()):
        print(f"{file.relative_to(PROJECT)}: {file.stat().st_size:,} bytes")


def checked_version(tag: str | None) -> str:
    """Return the version of the package; the program ends where another place says another one."""
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    found = {
        "src/c2fvl/version.py": r'__version__ = "(.+)"',
        "CITATION.cff": r"^version: (.+)$",
        "src/c2fvl/models/citations.bib": r"version = \{(.+)\}",
    }
    for file, pattern in found.items():
        (other,) = re.findall(pattern, (PROJECT / file).read_text(encoding="utf-8"), re.M)
        if other != version:
            sys.exit(f"{file} has the version {other}, pyproject.toml {version}; make them the same")
    if tag is not None and tag != f"v{version}":
        sys.exit(f"the tag is {tag}, the version {version}; expected the tag v{version}")
    return str(version)


def changes_of(version: str) -> str:
    """Return the section of a version in CHANGELOG.md; the program ends where there is none."""
    text = (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.split(r"^(?=## )", text, flags=re.M)[1:]
    for section in sections:
        if re.match(rf"## {re.escape(version)}\b", section):
            return section
    sys.exit(f"CHANGELOG.md has no section '## {version}'; write what changed")


def write_sbom(wheel: Path, place: Path, out: Path) -> None:
    """Write what an install of the wheel brings, with licences, as CycloneDX JSON."""
    product, tool = place / "product", place / "tool"
    for folder in (product, tool):
        venv.create(folder, with_pip=True)
    version = wheel.name.split("-")[1]  # by name, so that the path of this machine is nowhere
    pip = product / "bin" / "pip"
    _run(pip, "install", "-q", "--only-binary", ":all:", "--find-links", wheel.parent, f"c2fvl=={version}")
    _run(pip, "uninstall", "-q", "-y", "pip", "setuptools")
    _run(tool / "bin" / "pip", "install", "-q", "--only-binary", ":all:", "cyclonedx-bom")
    _run(tool / "bin" / "cyclonedx-py", "environment", "--output-reproducible", "-o", out, product / "bin" / "python")


def _run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True)


if __name__ == "__main__":
    main()
