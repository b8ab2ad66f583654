"""The kinds of files that c2fvl reads: some whole files of each, how they are damaged, and how they are read."""

import contextlib
import gzip
import io
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mutations import BINARY, TEXT, Mutation, mutate, mutate_archive, mutate_safetensors
from PIL import Image

from c2fvl.checkpoints.foreign import read_checkpoint
from c2fvl.checkpoints.trained_model import load_model
from c2fvl.config_files import load_config
from c2fvl.data.cases import Case
from c2fvl.data.check.check import check
from c2fvl.data.scan import find_splits, inspect, scan
from c2fvl.data.shard_layout import json_of
from c2fvl.data.shard_writer import ShardCase, write_shards
from c2fvl.evaluation.compare.compare import compare
from c2fvl.files import storage
from c2fvl.files.images import read_image, read_mask, read_spacing
from c2fvl.files.read_picture import read_picture
from c2fvl.files.read_volume import read_volume
from c2fvl.files.tables import read_cells, read_csv
from c2fvl.inference.onnx_engine import OnnxModel
from c2fvl.inference.predictor import Predictor
from c2fvl.reports.caption_tables import read_table
from c2fvl.reports.report import parse_report
from c2fvl.training.resume_state import load_state

SENTENCES = (
    b"Bilateral pulmonary infection, two infected areas, upper left lung and middle lower right lung.",
    b"Unilateral pulmonary infection, one infected area, lower left lung.",
    b"Patchy opacities in the right upper and the left lower zone, no effusion; small nodule at the left base.",
)


@dataclass(frozen=True)
class Kind:
    """One kind of file, as a stage asks for it."""

    name: str
    samples: list[bytes]
    file: str
    """Name of the file that is written, or below `folder`, where the reader takes a folder."""
    read: Callable[[Path], Any]
    change: Mutation
    folder: Path | None = None
    """What else lies in the folder; the reader is given the folder itself."""


def _plain(change: tuple[Mutation, ...]) -> Mutation:
    return lambda data, draw: mutate(data, draw, change)


def _every(*readers: Callable[[Path], Any]) -> Callable[[Path], None]:
    """Return a reader that asks all of these, each of which may refuse; it refuses what the first one does."""
    first, *others = readers

    def read(path: Path) -> None:
        for reader in others:
            with contextlib.suppress(ValueError, OSError):
                reader(path)
        first(path)

    return read


def images() -> dict[str, list[bytes]]:
    """Return small images by the ending of their format."""
    generator = np.random.default_rng(0)
    grey = generator.integers(0, 256, (21, 34), np.uint8)
    colour = generator.integers(0, 256, (21, 34, 3), np.uint8)
    deep = generator.integers(0, 65536, (21, 34), np.uint16)
    mask = (grey > 127).astype(np.uint8) * 255
    found: dict[str, list[bytes]] = {"png": [], "jpg": [], "tif": []}
    for picture in (grey, colour, deep, mask):
        found["png"].append(cv2.imencode(".png", picture)[1].tobytes())
        found["tif"].append(cv2.imencode(".tif", picture)[1].tobytes())
    for picture in (grey, colour):
        found["jpg"].append(cv2.imencode(".jpg", picture)[1].tobytes())
    for mode in ("P", "1", "LA", "RGBA", "I;16"):
        stream = io.BytesIO()
        source = Image.fromarray(deep) if mode == "I;16" else Image.fromarray(colour).convert(mode)
        source.save(stream, "PNG", dpi=(300, 300))
        found["png"].append(stream.getvalue())
    for compression in ("tiff_lzw", "tiff_deflate", "packbits", "group4"):
        stream = io.BytesIO()
        Image.fromarray(mask).convert("1" if compression == "group4" else "L").save(
            stream, "TIFF", compression=compression, dpi=(72, 72)
        )
        found["tif"].append(stream.getvalue())
    stream = io.BytesIO()
    Image.fromarray(colour).convert("CMYK").save(stream, "JPEG", progressive=True)
    found["jpg"].append(stream.getvalue())
    return found


def _checkpoint() -> bytes:
    base = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    state = {"matrix": base, "view": base[1:3, ::2], "half": base.half(), "count": torch.tensor(7)}
    stream = io.BytesIO()
    torch.save({"epoch": 17, "state_dict": state, "optimizer": {"state": {0: {"step": 3}}}}, stream)
    return stream.getvalue()


def all_kinds(root: Path, run: Path, evaluation: Path, exported: Path) -> list[Kind]:
    """Return every kind; `root` is a data set, `run` a trained run, the others what was made of it."""
    pictures = images()
    masks = (read_mask, lambda path: read_mask(path, "above_half"))
    labels = (lambda path: read_mask(path, "labels"), lambda path: read_mask(path, "above_half"))
    image_readers = _every(read_image, read_spacing, *masks, *labels)
    xlsx = (root / "Test_Folder" / "Test_text.xlsx").read_bytes()
    table = (root / "Test_Folder" / "Test_films.csv").read_bytes()
    films = dicom_films()
    best, last = run / "best", max((run / "last").iterdir())
    found = [Kind(ending, pictures[ending], f"a.{ending}", image_readers, _plain(BINARY)) for ending in pictures]
    found += [Kind(name, [film], "a.dcm", read_picture, _pixels_or_header(film)) for name, film in films.items()]
    found += [
        Kind(name, volumes, "a.nii", _every(_volume, read_picture), _plain(BINARY))
        for name, volumes in nifti_files().items()
    ]
    found += [Kind("ct slice", [ct], "a.dcm", _volume, _pixels_or_header(ct)) for ct in ct_slices()]
    found += [
        Kind("xlsx", [xlsx], "a.xlsx", _every(read_cells, read_table), mutate_archive),
        Kind("csv", [table], "a.csv", _every(read_csv, read_cells, read_table), _plain(TEXT)),
        Kind("data set", [table], "Test_films.csv", _inspected, _plain(TEXT), root / "Test_Folder"),
        Kind("settings", [(run / "config.toml").read_bytes()], "a.toml", load_config, _plain(TEXT)),
        Kind("report", list(SENTENCES), "a.txt", _understood, _plain(TEXT)),
        Kind("official checkpoint", [_checkpoint()], "a.pth", read_checkpoint, mutate_archive),
        Kind("onnx", [exported.read_bytes()], "a.onnx", OnnxModel, _plain(BINARY)),
    ]
    found += shard_files(run.parent / "shards")
    unlisted = run.parent / "unlisted"  # without a manifest, which refuses every change before the content is read
    shutil.copytree(best, unlisted, ignore=shutil.ignore_patterns("manifest.json"))
    for name, folder in (("model", best), ("model without manifest", unlisted)):
        for file in sorted(folder.iterdir()):
            change = mutate_safetensors if file.suffix == ".safetensors" else _plain(TEXT)
            found.append(Kind(f"{name}: {file.name}", [file.read_bytes()], file.name, _load, change, folder))
    for file in sorted(last.iterdir()):
        change = mutate_safetensors if file.suffix == ".safetensors" else _plain(TEXT)
        name = f"last/{last.name}/{file.name}"
        found.append(Kind(f"state: {file.name}", [file.read_bytes()], name, _resume, change, run))
    for name in ("summary.json", "cases.csv"):
        content = (evaluation / name).read_bytes()
        found.append(Kind(f"evaluation: {name}", [content], name, _compared, _plain(TEXT), evaluation))
    return found


def shard_files(folder: Path) -> list[Kind]:
    """Return the three files that a data set in shards is made of, and a tar without the other two."""
    picture, mask = (cv2.imencode(".png", np.full((8, 8), 255, np.uint8))[1].tobytes() for _ in range(2))
    for name, data in (("a.png", picture), ("mask_a.png", mask)):
        storage.write_bytes(folder / name, data)
    report = parse_report(SENTENCES[1].decode())
    case = Case("a", folder / "a.png", folder / "mask_a.png", report, "p1", (("scanner", "AB"),))
    write_shards([ShardCase("train", case.image, case.mask, json_of(case, "train"))], folder / "out")
    files = {path.name: path.read_bytes() for path in (folder / "out").iterdir()}
    tar = files["train-000000.tar"]
    found = [Kind("shard", [tar], "a.tar", _read_shards, _plain(BINARY))]
    for name, data in files.items():
        change = _plain(BINARY if name.endswith(".tar") else TEXT)
        found.append(Kind(f"shards: {name}", [data], name, _read_shards, change, folder / "out"))
    storage.write_bytes(folder / "unlisted" / "train-000000.tar", tar)
    index = "train-000000.index.json"
    found.append(
        Kind("shard index", [files[index]], index, lambda path: _read_shards(path / "*.tar"), _plain(TEXT),
             folder / "unlisted")
    )  # fmt: skip
    return found


def _read_shards(root: Path) -> None:
    """Read every case; also with `check`, which must say in words what it finds."""
    check(root)
    for split in find_splits(root):
        for case in scan(root, split):
            read_image(case.image)
            if case.mask is not None:
                read_mask(case.mask)


def dicom_films() -> dict[str, bytes]:
    """Return a small film in each compression that can be written here, and others; none without pydicom."""
    try:
        from pydicom.data import get_testdata_file
        from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless
        from support.dicom import as_bytes, film
    except ImportError:
        return {}
    pixels = np.random.default_rng(0).integers(0, 4096, (64, 48)).astype(np.uint16)
    found = {"dicom": as_bytes(film(pixels, bits=12, WindowCenter=2048, WindowWidth=4096, PixelSpacing=[0.1, 0.1]))}
    for syntax in (JPEG2000Lossless, JPEGLSLossless, RLELossless):
        dataset = film(pixels, bits=12)
        dataset.compress(syntax)
        found[f"dicom {syntax.name}"] = as_bytes(dataset)
    for name in ("JPEG-LL.dcm", "SC_rgb_jpeg_dcmtk.dcm"):
        path = get_testdata_file(name, download=False)
        if path is not None:
            found[f"dicom {name}"] = Path(path).read_bytes()
    return found


def nifti_files() -> dict[str, list[bytes]]:
    """Return small volumes and an image as NIfTI, plain and compressed; none without nibabel."""
    try:
        import nibabel
    except ImportError:
        return {}
    values = np.random.default_rng(0).integers(-1000, 400, (12, 10, 8)).astype(np.int16)
    affine = np.diag([-0.7, -0.8, 2.0, 1.0])
    made = [kind(values, affine).to_bytes() for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image)]
    made += [nibabel.Nifti1Image(shaped, affine).to_bytes() for shaped in (values[..., 0], values.astype(np.float32))]
    return {"nifti": made, "nifti gz": [gzip.compress(data) for data in made]}


def ct_slices() -> list[bytes]:
    """Return a CT slice; none without pydicom."""
    try:
        from support.dicom import as_bytes
        from support.volumes import chest, slice_of
    except ImportError:
        return []
    return [as_bytes(slice_of(chest(), 3))]


def _volume(path: Path) -> None:
    volume = read_volume(path)
    for number in range(len(volume.values)):
        volume.shown(number, (-285.0, 1530.0))
    volume.to_file(np.zeros(volume.values.shape, np.uint8))


def _pixels_or_header(film: bytes) -> Mutation:
    """Return a mutation of the header or of the pixels, so that each is damaged with the other whole."""
    begin = film.rindex(b"\xe0\x7f\x10\x00")

    def change(data: bytes, draw: random.Random) -> bytes:
        if draw.random() < 0.5:
            return mutate(data[:begin], draw, BINARY) + data[begin:]
        return data[:begin] + mutate(data[begin:], draw, BINARY)

    return change


def _understood(path: Path) -> None:
    parse_report(path.read_bytes().decode("utf-8", "replace"))


def _inspected(folder: Path) -> None:
    inspect(folder / "Test_films.csv", "all")


def _load(folder: Path) -> None:
    load_model(folder)
    Predictor(folder)


def _resume(folder: Path) -> None:
    for older in (folder / "last").iterdir():
        if older.name != max(entry.name for entry in (folder / "last").iterdir()):
            shutil.rmtree(older)
    load_state(folder / "last")


def _compared(folder: Path) -> None:
    compare([folder], speed=False)
