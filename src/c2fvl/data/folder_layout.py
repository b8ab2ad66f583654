"""The folder layout of C2FVL and LViT: `ROOT/{Train,Val,Test}_Folder/{img,labelcol}` and caption tables.

The captions are in `Train_Folder/Train_text.xlsx` (or `.csv`) and so on, or in one `Train_Val_text.xlsx` for two
splits. Masks are matched to images by the one naming rule that fits most files of a folder; captions by the name of the
mask or of the image, whichever fits more rows.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from c2fvl.data.cases import SPLITS, Case, Scan
from c2fvl.data.file_names import NOT_YET_SUFFIXES, SUFFIXES, group_from_name, modality_from_name, split_name
from c2fvl.data.problems import Problem
from c2fvl.files.shards import ENDING
from c2fvl.files.tables import read_csv
from c2fvl.messages import listed
from c2fvl.reports.caption_tables import read_table
from c2fvl.reports.report import Report

_KNOWN_ROOTS = ("QaTa-COV19", "QaTa-COVID", "QaTa-Covid19", "Covid19", "MosMedData+", "MosMedDataPlus", "MoNuSeg")

_TABLE_SUFFIXES = (".xlsx", ".csv", ".xls", ".xlsm", ".ods", ".tsv", ".numbers")
_CAPTION_WORDS = ("text", "caption", "report", "attribute", "description")

PAIRING_RULES: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {
        "mask_NAME": lambda name: f"mask_{name}",
        "NAME": lambda name: name,
        "NAME_mask": lambda name: f"{name}_mask",
    }
)
"""The name of a mask, without its ending, from that of its image."""


@dataclass
class _Folder:
    """The folder of one split while it is read."""

    root: Path
    split: str
    images: dict[str, Path] = field(default_factory=dict)
    """By name without ending, as are the masks."""
    masks: dict[str, Path] = field(default_factory=dict)
    pairing: str = "none"
    pairs: dict[str, str] = field(default_factory=dict)
    """Image name → mask name."""
    problems: list[Problem] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return _split_folder(self.root, self.split)

    def add(self, kind: str, where: Path | str, what: str, remedy: str, severity: str = "error") -> None:
        self.problems.append(Problem(kind, str(where), what, remedy, severity))


def inspect_folders(root: Path, split: str, table: str | Path | None) -> Scan:
    """Return what is found of one split of the folder `root`; `table` as in `scan`.

    Raises `FileNotFoundError` if the split's folder, its `img` or the given table is missing.
    """
    if split == "all":
        raise ValueError(f"{root}: the split all is for a csv; choose one of {', '.join(splits_of_folders(root))}")
    folder = _Folder(root, split)
    image_folder, mask_folder = folder.path / "img", folder.path / "labelcol"
    if not folder.path.is_dir():
        raise FileNotFoundError(_missing_folder(root, split))
    if not image_folder.is_dir():
        raise FileNotFoundError(
            f"{folder.path}: there is no folder img; expected img with the images, labelcol with masks"
        )
    folder.images = _list_images(folder, image_folder)
    if not folder.images:
        folder.add("empty folder", image_folder, "holds no image", "put the images there")
    if mask_folder.is_dir():
        folder.masks = _list_images(folder, mask_folder)
        _match_masks(folder, image_folder, mask_folder)
    elif split != "test":
        folder.add("missing mask", folder.path, "has no folder labelcol", "put the masks there; only test may lack it")
    table_path = _find_table(folder, table)
    reports = _read_captions(folder, table_path) if table_path else {}
    groups = _read_groups(folder)
    cases = []
    for name, image in sorted(folder.images.items()):
        mask, modality = folder.masks.get(folder.pairs.get(name, "")), modality_from_name(image.name)
        cases.append(Case(name, image, mask, reports.get(name), groups.get(name), modality=modality))
    return Scan(root, split, "folders", folder.pairing, table_path, tuple(cases), tuple(folder.problems))


def splits_of_folders(root: Path) -> tuple[str, ...]:
    """Return the splits with a folder in `root`, in the order train, val, test.

    Raises `FileNotFoundError` if there is none; the message names the subfolder that holds them, if there is one.
    """
    splits = tuple(split for split in SPLITS if _split_folder(root, split).is_dir())
    if not splits:
        raise FileNotFoundError(_missing_folder(root, "train"))
    return splits


def _split_folder(root: Path, split: str) -> Path:
    return root / f"{split.capitalize()}_Folder"


def _missing_folder(root: Path, split: str) -> str:
    wanted = _split_folder(root, split).name
    if not root.is_dir():
        return f"{root}: neither a folder nor a csv file exists there; check the name"
    for name in _KNOWN_ROOTS:
        if (root / name / wanted).is_dir():
            return f"{root}: there is no {wanted} here, but in {root / name}; give that folder"
    if any(root.glob(f"*{ENDING}")):
        return f"{root}: there is no {wanted} and no manifest of shards; for the tar shards here give {root}/*{ENDING}"
    there = sorted(entry.name for entry in root.iterdir() if entry.is_dir())[:10]
    found = f"found the folders {there}" if there else "found no folder"
    return f"{root}: there is no {wanted}; expected {wanted}/img (images) and {wanted}/labelcol (masks), {found}"


def _list_images(folder: _Folder, directory: Path) -> dict[str, Path]:
    """Return the images in `directory` by name without ending; other files, unless hidden, are problems."""
    inside = directory.resolve()
    images: dict[str, Path] = {}
    with os.scandir(directory) as entries:
        listing = sorted((entry.name, entry.is_symlink(), entry.is_dir()) for entry in entries)
    for name, is_link, is_folder in listing:
        path = directory / name
        stem, suffix = split_name(name)
        if name.startswith(".") or name == "Thumbs.db":
            continue
        if is_link and not path.resolve().is_relative_to(inside):
            what = f"is a link to {path.resolve()}, outside its folder"
            folder.add("outside", path, what, "copy the file, or link the folder as a whole")
        elif is_folder:
            folder.add("file kind", path, "is a folder and is ignored", "move it elsewhere", "warning")
        elif suffix in NOT_YET_SUFFIXES:
            folder.add("file kind", path, f"{suffix} is not read yet", "export it as PNG")
        elif suffix not in SUFFIXES:
            what = "is no PNG, JPEG or TIFF by its name and is ignored"
            folder.add("file kind", path, what, "move it elsewhere", "warning")
        elif stem in images:
            what = f"has the same name as {images[stem].name} except for the ending"
            folder.add("duplicate file", path, what, "keep one of the two")
        else:
            images[stem] = path
    return images


def _match_masks(folder: _Folder, image_folder: Path, mask_folder: Path) -> None:
    """Match masks to images by the rule that fits most of them; files without counterpart are problems."""
    images, masks = folder.images, folder.masks
    if not masks:
        folder.add("empty folder", mask_folder, "holds no image", "put the masks there")
    if not masks or not images:
        return
    pairs_by = {
        rule: {name: mask_of(name) for name in images if mask_of(name) in masks}
        for rule, mask_of in PAIRING_RULES.items()
    }
    maximum = max(len(pairs) for pairs in pairs_by.values())
    best = [rule for rule, pairs in pairs_by.items() if len(pairs) == maximum]
    if maximum == 0 or len(best) > 1:
        fits = (
            "no rule matches any mask" if maximum == 0 else f"the rules {' and '.join(best)} match {maximum} files each"
        )
        what = f"{fits} (one image is {min(images)}, one mask {min(masks)})"
        remedy = f"name all masks by one of {', '.join(PAIRING_RULES)}, NAME being the image's"
        folder.add("pairing", mask_folder, what, remedy)
        return
    folder.pairing, folder.pairs = best[0], pairs_by[best[0]]
    for name in sorted(set(images) - set(folder.pairs)):
        what = f"has no mask: there is no {PAIRING_RULES[best[0]](name)} in {mask_folder}"
        folder.add("missing mask", images[name], what, "add the mask or remove the image")
    for name in sorted(set(masks) - set(folder.pairs.values())):
        what = f"has no image in {image_folder} (masks are named {best[0]} here)"
        folder.add("missing image", masks[name], what, "add the image or remove the mask")


def _find_table(folder: _Folder, table: str | Path | None) -> Path | None:
    if table is not None:
        name = Path(str(table).replace("{split}", folder.split.capitalize()))
        candidates = [name] if name.parent != Path() else [folder.path / name, folder.root / name]
        for path in candidates:
            if path.is_file():
                return path
        there = sorted(path.name for path in folder.path.iterdir() if path.suffix.lower() in (".xlsx", ".csv"))
        wanted = " or ".join(map(str, candidates))
        raise FileNotFoundError(f"{wanted}: the caption table does not exist; {folder.path} holds {there}")
    names = [f"{folder.split}_text"] + (["train_val_text"] if folder.split != "test" else [])
    files = {directory: _table_files(directory) for directory in (folder.path, folder.root)}
    for stem in names:
        for directory, beside in files.items():
            tables = [path for path in beside if path.stem.lower() == stem and path.suffix.lower() in (".xlsx", ".csv")]
            if len(tables) > 1:
                what = f"{' and '.join(table.name for table in tables[::-1])} are both there"
                folder.add("table", directory, what, "remove one, or choose one by its name")
                return None
            if tables:
                return tables[0]
    similar = [path for beside in files.values() for path in beside if _may_be_captions_of(path, folder.split)]
    if similar:
        wanted = f"{folder.split.capitalize()}_text.xlsx"
        what = f"there is no {wanted}, but {listed([path.name for path in similar], 5)}, which may hold the captions"
        folder.add(
            "table", similar[0].parent, what, f"rename it to {wanted} (or .csv), choose it with --table, or move it"
        )
    return None


def _table_files(directory: Path) -> list[Path]:
    entries = sorted(directory.iterdir()) if directory.is_dir() else []
    return [
        path
        for path in entries
        if path.suffix.lower() in _TABLE_SUFFIXES and not path.name.startswith((".", "~$")) and path.is_file()
    ]


def _may_be_captions_of(path: Path, split: str) -> bool:
    """Tell whether a table has a name of captions, and not the name of another split."""
    words = re.findall("[a-z]+", path.stem.lower())
    named = set(SPLITS) & set(words)
    return any(word.startswith(_CAPTION_WORDS) for word in words) and (not named or split in named)


def _read_captions(folder: _Folder, table: Path) -> dict[str, Report | None]:
    """Return image name → report; rows name the mask or the image, whichever fits more of them."""
    try:
        rows = read_table(table)
    except ValueError as error:
        for message in getattr(error, "messages", [str(error)]):
            folder.problems.append(Problem.from_error("table", table, ValueError(message)))
        return {}
    by_image = {name: name for name in folder.images}
    by_mask = {mask: name for name, mask in folder.pairs.items()}
    if not folder.masks:  # the published tables name the masks even so
        by_mask = {f"mask_{name}": name for name in folder.images}
    keys = [split_name(row.name)[0] for row in rows]
    image_of = max((by_mask, by_image), key=lambda mapping: sum(key in mapping for key in keys))
    # a table of several splits may name files of the others, a split's own table may not
    elsewhere = set() if table.parent == folder.path else _names_elsewhere(folder)
    reports: dict[str, Report | None] = {}
    first_row: dict[str, int] = {}
    for row, key in zip(rows, keys, strict=True):
        where = f"{table}, row {row.row}"
        image = image_of.get(key)
        if "/" in row.name or "\\" in row.name or row.name in (".", ".."):
            what = f"the name {row.name!r} points outside the folder of the images"
            folder.add("outside", where, what, "give the bare file name")
        elif image is None:
            if key not in elsewhere:
                what = f"a caption for {row.name!r}, which is not among the files of {folder.split}"
                folder.add("caption without file", where, what, "add the file or remove the row")
        elif image in first_row:
            what = f"{row.name!r} was named in row {first_row[image]} already"
            folder.add("duplicate row", where, what, "keep one of the two rows")
        else:
            first_row[image] = row.row
            reports[image] = row.report
            if row.report is None:
                what = f"the caption of {row.name!r} is empty"
                folder.add("empty caption", where, what, "it counts as an image without report", "warning")
    for name in sorted(set(folder.images) - set(reports)):
        folder.add(
            "file without caption", folder.images[name], f"has no row in {table}", "add a row or remove the file"
        )
    return reports


def _names_elsewhere(folder: _Folder) -> set[str]:
    """Return the names of images and masks, without ending, in the other splits."""
    names: set[str] = set()
    for split in SPLITS:
        for name in ("img", "labelcol"):
            directory = _split_folder(folder.root, split) / name
            if split != folder.split and directory.is_dir():
                names.update(split_name(path.name)[0] for path in directory.iterdir())
    return names | {f"mask_{name}" for name in names}


def _read_groups(folder: _Folder) -> dict[str, str | None]:
    """Return image name → group, from a table `patients.csv` if there is one, else from the names."""
    names = (f"{folder.split.capitalize()}_patients.csv", "patients.csv")
    paths = [directory / name for directory in (folder.path, folder.root) for name in names]
    tables = [path for path in paths if path.is_file()]
    if not tables:
        return {name: group_from_name(name) for name in folder.images}
    table = tables[0]
    try:
        columns, rows = read_csv(table)
        if not {"file", "patient"} <= set(columns):
            raise ValueError(f"{table}: expected the columns file and patient, found {', '.join(columns)}")
    except ValueError as error:
        folder.problems.append(Problem.from_error("table", table, error))
        return {}
    patients = {split_name(row["file"].strip())[0]: row["patient"].strip() or None for _, row in rows}
    groups = {name: patients.get(name) or patients.get(folder.pairs.get(name, "")) for name in folder.images}
    without = sorted(name for name, group in groups.items() if group is None)
    if without:
        what = f"names no patient for {len(without)} images, {without[0]} the first"
        folder.add("group", table, what, "add the rows; until then these patients count as unknown", "warning")
    return groups
