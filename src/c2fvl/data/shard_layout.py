"""A data set in tar shards, as `c2fvl shards` writes them: WebDataset's layout, with an index.

A folder of shards holds `train-000000.tar`, `train-000000.index.json`, … and `manifest.json`. A case is neighbours in
a tar: `KEY.image.png` (or `.jpg`, `.dcm`, …), `KEY.mask.png` and `KEY.json` with its id, split, group and report. Cases
are listed from the indexes; images and masks are read from the tars where they are needed (`files/shards.py`).
"""

import glob
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

from c2fvl.data.cases import SPLITS, Case, Scan
from c2fvl.data.file_names import Modality
from c2fvl.data.problems import Problem
from c2fvl.files import shards, storage
from c2fvl.files.parsing import parse_json
from c2fvl.reports.report import Report, default_orientation, parse_report
from c2fvl.reports.zones import read_orientation

FORMAT = "c2fvl-shards-1"
_AGAIN = "run `c2fvl shards` again with the same options to complete it"
_BRACES = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Shard:
    """One shard that is to be read, with what the manifest says of it."""

    path: Path
    split: str | None = None
    index_sha256: str | None = None
    sha256: str | None = None
    table: str | None = None
    """The caption table that the reports are from, as `--table` gave it."""


def find_shards(root: Path | str) -> list[Shard] | None:
    """Return the shards that a root names, in their order; None for a root of another layout.

    A root is a folder that `c2fvl shards` wrote, a tar file, or a pattern such as `OUT/{train,val}-*.tar`. Raises
    `FileNotFoundError` where a pattern matches nothing, and `ValueError` for a folder that is not complete.
    """
    root = Path(root)
    if root.is_dir():
        if any((root / f"{split.capitalize()}_Folder").is_dir() for split in SPLITS):
            return None
        return list(_named(root).values()) or None
    if not root.name.endswith(shards.ENDING):
        return None
    found: dict[Path, Shard] = {}
    for pattern in _expanded(str(root)):
        paths = [Path(pattern)] if Path(pattern).is_file() else [Path(name) for name in sorted(glob.glob(pattern))]  # noqa: PTH207
        folders = dict.fromkeys([Path(pattern).parent, *(path.parent for path in paths)])
        named = {shard.path: shard for folder in folders for shard in _named(folder).values()}
        wanted = [path for path in named if fnmatchcase(path.name, Path(pattern).name)]
        if not paths and not wanted:
            raise FileNotFoundError(f"{pattern}: no shard has this name; check the name")
        for path in [*wanted, *paths]:
            found.setdefault(path, named.get(path, Shard(path)))
    return list(found.values())


def _expanded(pattern: str) -> list[str]:
    """Return the patterns that one with braces stands for: a{b,c} is ab and ac."""
    braces = _BRACES.search(pattern)
    if braces is None or Path(pattern).exists():
        return [pattern]
    return [
        whole
        for choice in braces[1].split(",")
        for whole in _expanded(pattern[: braces.start()] + choice + pattern[braces.end() :])
    ]


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a folder of shards, complete or not; None if there is none of shards.

    Raises `ValueError` for one that cannot be read.
    """
    path = folder / storage.MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = parse_json(path.read_bytes())
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            return None
        for shard in manifest["shards"]:
            name = str(shard["file"])
            if Path(name).name != name or not name.endswith(shards.ENDING):
                raise ValueError(f"it names {name!r}, which is no shard in its folder")
            if not {"split", "sha256", "index_sha256"} <= set(shard):
                raise ValueError(f"it does not say the split and checksums of {name}")
        if not isinstance(manifest["settings"], dict):
            raise ValueError("its settings are none")
        return {"complete": False, **manifest}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as the manifest of shards ({error}); copy it again") from error


def _named(folder: Path) -> dict[str, Shard]:
    """Return name → shard of those that the manifest of a folder names; none without a manifest of shards."""
    manifest = read_manifest(folder)
    if manifest is None:
        return {}
    if not manifest["complete"]:
        raise ValueError(f"{folder}: writing the shards was interrupted; {_AGAIN}")
    table = manifest["settings"].get("table")
    return {
        str(entry["file"]): Shard(
            folder / str(entry["file"]), str(entry["split"]), str(entry["index_sha256"]), str(entry["sha256"]), table
        )
        for entry in manifest["shards"]
    }


def splits_of_shards(found: Iterable[Shard]) -> tuple[str, ...]:
    """Return the splits in the shards, in the order train, val, test; ("all",) where no case has one of these."""
    found = list(found)
    named = {shard.split for shard in found if shard.split is not None}
    for shard in found:
        if shard.split is None:
            named |= {str(case.get("split", "all")) for case in shards.read_index(shard.path)["cases"]}
    return tuple(split for split in SPLITS if split in named) or ("all",)


def inspect_shards(root: Path, found: Iterable[Shard], split: str, table: str | Path | None) -> Scan:
    """Return what is found of one split in the shards; "all" takes every case.

    Raises `ValueError` where other captions are asked for than those that are in the shards.
    """
    problems: list[Problem] = []
    cases: dict[str, Case] = {}
    splits: set[str] = set()
    for shard in found:
        if table is not None and str(table) != shard.table:
            held = f"those of {shard.table}" if shard.table else "those of the data set's own tables"
            raise ValueError(
                f"{root}: the captions of {table} are asked for, but the shards hold {held}; leave out the table, or "
                "write shards with `c2fvl shards --table`"
            )
        if shard.split is not None:
            splits.add(shard.split)
            if split not in ("all", shard.split):
                continue
        try:
            rows = shards.read_index(shard.path, sha256=shard.index_sha256)["cases"]
        except (OSError, ValueError) as error:
            problems.append(Problem.from_error("shard", shard.path, error))
            continue
        for row in rows:
            try:
                splits.add(str(row.get("split", "all")))
                if split not in ("all", row.get("split", "all")):
                    continue
                case = case_of(row, shard.path)
            except (ValueError, KeyError, TypeError) as error:
                what = f"a case cannot be read from its JSON ({error!r})"
                problems.append(Problem("case", str(shard.path), what, "write the shard again"))
                continue
            other = cases.setdefault(case.id, case)
            if other is not case:
                what = f"the case {case.id} is in {other.image.parent.name} already"
                problems.append(Problem("duplicate case", str(case.image), what, "keep one of the two"))
    if not cases and not problems:
        what = f"no case is of split {split}; the shards hold {', '.join(sorted(splits)) or 'no case'}"
        problems.append(Problem("empty split", str(root), what, "name another split, or the shards that hold it"))
    _note_gaps(root, list(cases.values()), problems)
    ordered = tuple(cases[name] for name in sorted(cases))
    return Scan(root, split, "shards", "KEY.mask", None, ordered, tuple(problems))


def verify_shards(found: Iterable[Shard]) -> list[Problem]:
    """Return as problems the shards whose bytes do not fit their checksum; one without a checksum passes."""
    problems = []
    for shard in found:
        try:
            expected = shard.sha256 or shards.read_index(shard.path)["sha256"]
            sha256 = None if expected is None else shards.checksum_of_file(shard.path)
        except (OSError, ValueError):  # said where the cases are listed
            continue
        if sha256 != expected:
            what = f"the SHA-256 is {sha256}, expected {expected}"
            problems.append(Problem("checksum", str(shard.path), what, "copy the shard again"))
    return problems


def _note_gaps(root: Path, cases: list[Case], problems: list[Problem]) -> None:
    """Warn if some cases, but not all, have no mask."""
    missing = [case.id for case in cases if case.mask is None]
    if missing and len(missing) < len(cases):
        what = f"{len(missing)} of {len(cases)} cases have no mask, {missing[0]} the first"
        problems.append(Problem("missing mask", str(root), what, "write shards of cases that have masks", "warning"))


def json_of(case: Case, split: str) -> dict[str, Any]:
    """Return what the JSON of a case holds; `case_of` makes an equal case of it."""
    report = case.report
    return {
        "id": case.id, "split": split, "group": case.group, "modality": case.modality, "columns": dict(case.columns),
        "report": None if report is None else report.text or str(report), "orientation": "image",
        "findings": None if report is None else {
            "side": report.side, "number": report.number, "zones": sorted(report.zones), "text": report.text,
            "unread": list(report.unread),
        },
    }  # fmt: skip


def case_of(row: Mapping[str, Any], shard: Path) -> Case:
    """Return the case of an index's row; `ValueError`, `KeyError` or `TypeError` where that cannot be read."""
    name = row["id"]
    if not isinstance(name, str) or not name or Path(name).name != name or name.startswith("."):
        raise ValueError(f"the id {name!r} is no file name")
    modality, columns, group = row.get("modality", "film"), row.get("columns") or {}, row.get("group")
    if modality not in ("film", "ct"):
        raise ValueError(f"the modality of {name} is {modality!r}, expected film or ct")
    if not isinstance(columns, dict):
        raise ValueError(f"the columns of {name} are {columns!r}, expected names and cells")
    mask = row.get("mask")
    return Case(
        name,
        shard / str(row["image"]["name"]),
        None if mask is None else shard / str(mask["name"]),
        _report_of(row),
        None if group is None else str(group),
        tuple((str(column), str(cell)) for column, cell in columns.items()),
        cast(Modality, modality),
    )


def _report_of(row: Mapping[str, Any]) -> Report | None:
    """Return the report in the orientation "image": of its findings where they are given, else of its words."""
    findings, text = row.get("findings"), str(row.get("report") or "").strip()
    if findings is not None:
        return Report(
            findings["side"], findings["number"], frozenset(findings["zones"]), "image", str(findings["text"]),
            tuple(map(str, findings["unread"])),
        )  # fmt: skip
    if not text:
        return None
    given = row.get("orientation")
    orientation = default_orientation(text) if given is None else read_orientation(str(given))
    return parse_report(text, orientation=orientation).in_orientation("image")
