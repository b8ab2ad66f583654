"""What was downloaded, a folder or a zip archive: its files, and which image goes with which mask."""

import os
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath

from c2fvl.data.file_names import SUFFIXES, split_name
from c2fvl.data.folder_layout import PAIRING_RULES
from c2fvl.data.prepare.published_sets import IMAGE_FOLDERS, MASK_FOLDERS, PublishedSet
from c2fvl.files import storage
from c2fvl.files.archive import Archive, Member, open_archive
from c2fvl.messages import LinesError, listed

_SYSTEM_FILES = {"thumbs.db", "desktop.ini"}
_OTHER_ARCHIVES = (".tar", ".gz", ".tgz", ".bz2", ".xz", ".rar", ".7z")
_SHOWN = 5


@dataclass(frozen=True)
class SourceFile:
    """One file of a download."""

    name: PurePosixPath
    """Inside the download."""
    size: int
    source: Path | Member

    @property
    def stem(self) -> str:
        """Return the file name without its ending."""
        return split_name(self.name.name)[0]

    @property
    def suffix(self) -> str:
        """Return the ending in lower case; empty for a file that is no image by its name."""
        return split_name(self.name.name)[1]


@dataclass(frozen=True)
class Download:
    """A folder or an archive, open for reading."""

    path: Path
    files: tuple[SourceFile, ...]
    archive: Archive | None

    def to_disk(self, file: SourceFile, target: Path) -> Path:
        """Return where a file lies on the disk; one of an archive is unpacked to `target` first."""
        if isinstance(file.source, Path):
            return file.source
        assert self.archive is not None
        storage.write_bytes(target, self.archive.read(file.source), durable=False)
        return target


@dataclass(frozen=True)
class Pair:
    """An image of the download with its mask."""

    image: SourceFile
    mask: SourceFile | None
    subset: str
    """The folder above, such as "Train Set", as it is written; "" where there is none."""
    splits: tuple[str, ...]
    """Those that it may be in."""


@contextmanager
def open_download(path: Path) -> Iterator[Download]:
    """List the files of a folder or a zip archive; files of the system (`__MACOSX`, `.DS_Store`, …) are passed over.

    Raises `FileNotFoundError`, or `ValueError` as `open_archive` and for a file of another kind.
    """
    if path.is_dir():
        yield Download(path, tuple(_files_of_folder(path)), None)
    elif not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such folder or archive; check the name")
    elif not zipfile.is_zipfile(path) and path.suffix.lower() != ".zip":
        what = (
            "archives of this kind are not read" if path.suffix.lower() in _OTHER_ARCHIVES else "it is no zip archive"
        )
        raise ValueError(f"{path}: {what}; unpack it, and give the folder")
    else:
        with open_archive(path) as archive:
            found = [SourceFile(member.name, member.size, member) for member in archive.members]
            yield Download(path, tuple(file for file in found if _is_of_user(file.name)), archive)


def _files_of_folder(root: Path) -> Iterator[SourceFile]:
    seen: set[Path] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        if Path(folder).resolve() in seen:  # a link back to a folder above
            folders.clear()
            continue
        seen.add(Path(folder).resolve())
        folders.sort()
        for name in sorted(names):
            path = Path(folder) / name
            inside = PurePosixPath(path.relative_to(root).as_posix())
            if _is_of_user(inside) and path.is_file():
                yield SourceFile(inside, path.stat().st_size, path)


def _is_of_user(name: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
    return not hidden and name.name.lower() not in _SYSTEM_FILES


def find_pairs(download: Download, published: PublishedSet) -> tuple[list[Pair], list[str]]:
    """Return the images with their masks, in the order of the listing, and in words which images are left over.

    Raises `ValueError`: no folder of the expected form, two of them, files that are not named as those of this data
    set, two files of one name, an image without mask or a mask without image. Only a test set may have no masks.
    """
    folders = _image_folders(download, published)
    images = [image for images, _ in folders.values() for image in images]
    if images and not any(re.match(published.names, image.stem, re.IGNORECASE) for image in images):
        raise ValueError(
            f"{download.path}: no image is named as in {published.title}, the first is {images[0].name}; choose the "
            "data set that this is, or list your own images in a csv"
        )
    bases = sorted({base for base, _ in folders})
    if not bases:
        raise ValueError(_nothing_found(download, published))
    if len(bases) > 1:
        raise ValueError(
            f"{download.path} holds {published.title} in {len(bases)} places: {listed([*map(str, bases)], _SHOWN)}; "
            "unpack it if it is an archive, and give one of them"
        )
    problems: list[str] = []
    pairs: list[Pair] = []
    for split, count in Counter(split for _, subset in folders for split in _splits_of(published, subset)).items():
        if count > 1:
            shown = sorted(subset for _, subset in folders if split in _splits_of(published, subset))
            raise ValueError(f"{download.path}: the images of {split} can be in {' and in '.join(shown)}; keep one")
    for (_, subset), (of_subset, masks) in sorted(folders.items()):
        found, wrong = _pairs_of(subset, _splits_of(published, subset), of_subset, masks)
        pairs += found
        problems += wrong
    if problems:
        rest = len(problems) - 20
        raise LinesError(
            f"{download.path} is not complete: {len(problems)} problems. Download it again, or mend them",
            *(f"- {problem}" for problem in problems[:20]), *([f"- and {rest} more"] if rest > 0 else []),
        )  # fmt: skip
    return pairs, _left_over(download, pairs)


def _image_folders(
    download: Download, published: PublishedSet
) -> dict[tuple[PurePosixPath, str], tuple[list[SourceFile], list[SourceFile]]]:
    """Return the images and masks of each (folder that holds the subsets, subset) that has images."""
    found: dict[tuple[PurePosixPath, str], tuple[list[SourceFile], list[SourceFile]]] = defaultdict(lambda: ([], []))
    for file in download.files:
        parts = _without_repeats(file.name.parts[:-1])
        kind = _plain(parts[-1]) if parts else ""
        if not file.suffix or kind not in IMAGE_FOLDERS | MASK_FOLDERS:
            continue
        above = parts[-2] if len(parts) > 1 else ""
        if above and _plain(above) in published.subsets:
            place = PurePosixPath(*parts[:-2]), above
        elif "" in published.subsets:
            place = PurePosixPath(*parts[:-1]), ""
        else:
            continue
        found[place][kind in MASK_FOLDERS].append(file)
    return {place: files for place, files in found.items() if files[0] and (files[1] or place[1])}


def _without_repeats(parts: tuple[str, ...]) -> list[str]:
    """Return the folders of a path; `frames/frames`, as some programs unpack, counts once."""
    return [next(group) for _, group in groupby(parts, key=_plain)]


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).lower()


def _splits_of(published: PublishedSet, subset: str) -> tuple[str, ...]:
    return published.subsets[_plain(subset)]


def _pairs_of(
    subset: str, splits: tuple[str, ...], images: list[SourceFile], masks: list[SourceFile]
) -> tuple[list[Pair], list[str]]:
    """Match the images and masks of one subset by the naming rule that fits most; return the faults in words too."""
    problems: list[str] = []
    image_of = _by_stem(images, problems)
    mask_of = _by_stem(masks, problems)
    by_rule = {
        rule: {key: mask_of[rule_of(key)] for key in image_of if rule_of(key) in mask_of}
        for rule, rule_of in PAIRING_RULES.items()
    }
    rule, second = sorted(by_rule, key=lambda name: -len(by_rule[name]))[:2]
    matched = by_rule[rule]
    if matched and len(matched) == len(by_rule[second]):
        problems.append(
            f"{masks[0].name.parent}: its masks can be named {rule} and {second}, both fit {len(matched)} images"
        )
    if not masks and splits == ("test",):
        return [Pair(image, None, subset, splits) for image in image_of.values()], problems
    problems += [
        f"{image.name} has no mask {PAIRING_RULES[rule](image.stem)}"
        for key, image in image_of.items()
        if key not in matched
    ]
    used = {id(mask) for mask in matched.values()}
    problems += [f"{mask.name} has no image" for mask in mask_of.values() if id(mask) not in used]
    pairs = [Pair(image, matched[key], subset, splits) for key, image in image_of.items() if key in matched]
    return pairs, problems


def _by_stem(files: list[SourceFile], problems: list[str]) -> dict[str, SourceFile]:
    """Return name without ending → file; upper and lower case do not matter."""
    found: dict[str, SourceFile] = {}
    for file in files:
        first = found.setdefault(file.stem.casefold(), file)
        if first is not file:
            problems.append(f"{file.name} and {first.name} have the same name; keep one")
    return found


def _left_over(download: Download, pairs: list[Pair]) -> list[str]:
    used = {id(file) for pair in pairs for file in (pair.image, pair.mask)}
    folders = Counter(str(file.name.parent) for file in download.files if file.suffix and id(file) not in used)
    return [f"{count} images in {folder}" for folder, count in sorted(folders.items())]


def _nothing_found(download: Download, published: PublishedSet) -> str:
    top = sorted({file.name.parts[0] for file in download.files})
    inner = [file for file in download.files if file.name.suffix.lower() == ".zip"]
    hint = "give this archive" if inner and download.archive is None else "check what it is"
    if _plain(download.path.resolve().name) in published.subsets:
        hint = "give the folder above it"
    if any(file.name.suffix.lower() == ".xml" for file in download.files):
        hint = "outlines in xml files must be drawn as masks first"
    return (
        f"{download.path} does not look like {published.title}: expected {published.layout} ({', '.join(SUFFIXES)}); "
        f"found {listed(top, _SHOWN)}; {hint}"
    )


def aliases(pairs: list[Pair]) -> Mapping[str, Pair | None]:
    """Return name in lower case without ending → pair, by image and by mask; None where a name could mean two."""
    found: dict[str, Pair | None] = {}
    for pair in pairs:
        mask = f"mask_{pair.image.stem}" if pair.mask is None else pair.mask.stem
        for name in dict.fromkeys((pair.image.stem.casefold(), mask.casefold())):
            found[name] = None if name in found else pair
    return found


@contextmanager
def shown_as(names: Mapping[Path, Path]) -> Iterator[None]:
    """Name files in errors as the user knows them: each path of `names` becomes its other path, in this order."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        for inside, known in names.items():
            text = text.replace(str(inside), str(known))
        if text == str(error):
            raise
        raise LinesError(*text.split("\n")) from error
