"""One film, or thousands, → masks in the films' own size."""

import glob
import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from c2fvl import storage
from c2fvl.catalogue import class_names, num_classes
from c2fvl.confidence import expected_dice
from c2fvl.config import Config
from c2fvl.csv_tables import read_csv
from c2fvl.describe import zone_areas
from c2fvl.familiarity import Familiarity, Look
from c2fvl.findings import explain
from c2fvl.images import read_image, write_image, write_labels, write_mask, write_probability
from c2fvl.labels import THRESHOLD, to_labels, to_original
from c2fvl.overlap import ahead
from c2fvl.reading import Computed, FilmReading
from c2fvl.report import MAX_AREAS, Report, parse_report
from c2fvl.temperature import Scaling
from c2fvl.text_encoders import build_text_encoder
from c2fvl.transforms import in_channel_order, resize_image
from c2fvl.visualize import case_picture

if TYPE_CHECKING:
    from c2fvl.checkpoint import TrainedModel

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
FRAMES = ("viewer", "patient")
ONNX = ".onnx"
_DOUBTS = ("uncertain:", "not read:", "contradiction:")
"""Beginnings of the lines of `explain` that a user is told."""


class UnreadableReportError(ValueError):
    """A report of which nothing can be read, with the reason."""


@dataclass(frozen=True)
class Prediction:
    """What the network makes of one film."""

    mask: np.ndarray
    """(H, W) uint8 in {0, 1}, or the class of each pixel, in the film's own size."""
    probability: np.ndarray
    """Of the lesion (H, W), or of three classes and more (C, H, W), float32 in [0, 1]; calibrated if the model is."""
    report: Report | None
    """The report as understood, in the viewer's frame; None where none was given or the network reads none."""
    reading: FilmReading | None = None
    """What the network read off the film, and how far it followed the report; None for one that reads no films."""
    look: Look | None = None
    """Whether the film is such as the network was trained on; None where the model does not know its films."""
    refusal: str = ""
    """Why the report given could not be read; the mask is then the one without a report."""

    @property
    def areas(self) -> dict[str, int]:
        """Return the predicted pixels, of any class, in each zone of the picture, viewer's frame."""
        return zone_areas((self.mask > 0).astype(np.uint8))

    @property
    def expected_dice(self) -> float | None:
        """Return the Dice that the mask can be expected to have by its probabilities; None for several classes."""
        return expected_dice(self.probability, self.mask) if self.probability.ndim == 2 else None


@runtime_checkable
class Engine(Protocol):
    """What computes: a network of PyTorch or of ONNX Runtime, with the settings it was trained by."""

    config: Config
    path: Path
    metrics: dict[str, Any]
    calibration: dict[str, Any] | None
    """The content of `calibration.json`, if there is one."""
    familiarity: Familiarity | None
    """What is usual among the films trained on, if that is known."""
    batch_size: int
    """Films at once that suit it."""

    def compute(self, images: np.ndarray, text: np.ndarray | None) -> Computed:
        """Return what the network makes of images (B, 3, S, S) float32 and their text (B, T, F)."""


@dataclass(frozen=True)
class Prepared:
    """A film and its report as the network takes them."""

    size: tuple[int, int]
    """(H, W) of the film."""
    image: np.ndarray
    """(3, S, S)."""
    text: np.ndarray | None
    """(T, F)."""
    report: Report | None
    look: Look | None = None
    refusal: str = ""
    """Why the report given could not be read."""


class Predictor:
    """A trained network, ready for films of any size.

    `model` is a model folder, a run folder, the name of a trained model such as "default", a loaded model or an
    exported file `.onnx`, which needs no torch. Call it with a film, as a path or as a grey or RGB array (H, W) or
    (H, W, 3), float in [0, 1], uint8 or uint16, and a report as a sentence or a `Report`. `trust`, from 0 (the film
    alone) to 1 (follow the report), is for networks that read the film before the report; None takes the model's own.
    """

    def __init__(
        self,
        model: "str | Path | TrainedModel | Engine",
        *,
        device: str = "cpu",
        threshold: float = THRESHOLD,
        batch_size: int | None = 1,
        trust: float | None = None,
    ) -> None:
        if not 0 < threshold < 1:
            raise ValueError(f"the threshold is {threshold}; expected is a probability between 0 and 1")
        self.engine = _engine(model, device, batch_size)
        self.batch_size = self.engine.batch_size if batch_size is None else batch_size
        self.threshold = threshold
        self.is_calibrated = self.engine.calibration is not None
        self.scaling = Scaling.of(self.engine.calibration)
        self._said: set[str] = set()
        self._speaking = threading.Lock()
        config = self.engine.config
        self.classes = class_names(config.data, num_classes(config.model))
        if len(self.classes) > 1 and threshold != THRESHOLD:
            raise ValueError(
                f"the threshold is {threshold}, but this network tells {len(self.classes)} classes apart, each pixel "
                "going to the most probable; leave the threshold out"
            )
        self.encoder = build_text_encoder(config.data, trust=trust)

    def __call__(
        self, image: str | Path | np.ndarray, report: str | Report | None = None, *, laterality: str = "viewer"
    ) -> Prediction:
        """Return the prediction for one film.

        `laterality` says whose left a report's "left" is: the viewer's (as in the captions of QaTa-COV19) or the
        patient's (as a radiologist writes). Raises `ValueError` for a film or a report that cannot be read.
        """
        prepared = self.prepare(image, report, laterality=laterality)
        return self.finish(prepared, self.run([prepared])[0])

    def describe(self, image: str | Path | np.ndarray) -> Prediction:
        """Return the prediction for one film without a report, with what the network reads off it.

        Raises `ValueError` for a network that reads no films, and for a film that cannot be read.
        """
        found = self(image)
        if found.reading is None:
            name = self.engine.config.model.name
            raise ValueError(f"the network {name} reads no report off a film; filmfirst does")
        return found

    def prepare(
        self, image: str | Path | np.ndarray, report: str | Report | None = None, *, laterality: str = "viewer"
    ) -> Prepared:
        """Return film and report ready for `run`. Raises as a call does."""
        film = _as_film(image)
        understood, refusal = self.understand_or_refuse(report, laterality=laterality)
        config = self.engine.config.data
        resized = resize_image(film, config.image_size, rule=config.resize)
        text = None if self.encoder is None else self.encoder.encode(understood)
        image = in_channel_order(resized, config).transpose(2, 0, 1)
        size = int(film.shape[0]), int(film.shape[1])
        known = self.engine.familiarity
        look = None if known is None else known.look(film)
        return Prepared(size, np.ascontiguousarray(image, np.float32), text, understood, look, refusal)

    def run(self, prepared: Sequence[Prepared]) -> list[Computed]:
        """Return what the network makes of several films at once, on its own grid, not calibrated yet."""
        texts = [one.text for one in prepared if one.text is not None]
        found = self.engine.compute(np.stack([one.image for one in prepared]), np.stack(texts) if texts else None)
        return [found.row(place) for place in range(len(prepared))]

    def finish(self, prepared: Prepared, found: Computed) -> Prediction:
        """Return the prediction in the film's own size, its mask cut from what the network gives."""
        probability = to_original(found.probability, prepared.size)
        mask = to_labels(probability, self.threshold)
        told = None if prepared.text is None else prepared.text[0]
        reading = FilmReading.from_logits(found.logits, told) if found.logits else None
        return Prediction(
            mask, self.scaling.apply(probability), prepared.report, reading, prepared.look, prepared.refusal
        )

    @property
    def reads_films(self) -> bool:
        """Tell whether the network reads films itself, so that a report is a help that can be done without."""
        return self.engine.config.data.text == "findings"

    def understand_or_refuse(
        self, report: str | Report | None, *, laterality: str = "viewer"
    ) -> tuple[Report | None, str]:
        """Return the report as `understand` does, or why nothing of it can be read.

        Only where the network reads films itself; of another such a report is an error.
        """
        try:
            return self.understand(report, laterality=laterality), ""
        except UnreadableReportError as error:
            if not self.reads_films:
                raise
            return None, str(error)

    def understand(self, report: str | Report | None, *, laterality: str = "viewer") -> Report | None:
        """Return the report in the viewer's frame as this network reads it; None for none or a blank one.

        Raises `UnreadableReportError`, a `ValueError`, for a sentence of which the network can read nothing.
        """
        if laterality not in FRAMES:
            raise ValueError(f"the laterality is {laterality!r}; expected is one of {', '.join(FRAMES)}")
        if report is None or (isinstance(report, str) and not report.strip()):
            return None
        if isinstance(report, str):
            report = parse_report(report, frame=laterality)
        elif not isinstance(report, Report):
            raise ValueError(f"the report is {report!r}; expected is a sentence or a Report")
        elif laterality not in (report.frame, "viewer"):
            raise ValueError(f"the Report is in the {report.frame}'s frame but laterality says {laterality}; give one")
        if self.encoder is None:
            self._say_once("this network reads no report; the one given changes nothing")
            return None
        if not self.encoder.reads(report):
            if self.reads_films:
                raise UnreadableReportError(explain(report)[-1].removeprefix("refused: "))
            raise UnreadableReportError(
                f"the report {report.text!r} names no side and no zone that could be read; expected is a sentence such "
                "as 'Bilateral pulmonary infection, two infected areas, upper left lung and lower right lung.'"
            )
        if self.reads_films:
            for line in explain(report):
                if line.startswith(_DOUBTS):
                    self._say_once(f"of the report {report.text!r}, {line}")
            return report.in_frame("viewer")
        by_attributes = self.engine.config.data.text == "attributes"
        if by_attributes and report.number is not None and report.number > MAX_AREAS:
            raise ValueError(f"the report counts {report.number} infected areas; expected are {MAX_AREAS} at most")
        for contradiction in report.contradictions():
            self._say_once(f"the report {report.text!r} contradicts itself: {contradiction}")
        if by_attributes and report.unread:
            self._say_once(f"of the report {report.text!r} this was not understood: {'; '.join(report.unread)}")
        return report.in_frame("viewer")

    def _say_once(self, message: str) -> None:
        with self._speaking:
            if message not in self._said:
                self._said.add(message)
                logger.warning("%s", message)


def _written(stem: str, num_foreground: int = 1) -> tuple[str, ...]:
    """Return the names of all files that a film of this stem may leave in the folder; the record is the last."""
    return f"{stem}.png", *_probabilities(stem, num_foreground), f"{stem}_overlay.png", f"{stem}.json"


def _probabilities(stem: str, num_foreground: int) -> list[str]:
    """Return the file of the lesion's probability, or those of several classes."""
    if num_foreground == 1:
        return [f"{stem}_probability.png"]
    return [f"{stem}_probability_{number}.png" for number in range(1, num_foreground + 1)]


@dataclass(frozen=True)
class Request:
    """One film to predict."""

    image: Path
    report: str | None = None


def collect(inputs: Sequence[str], *, table: Path | str | None = None, report: str | None = None) -> list[Request]:
    """Return what files, folders, globs and a csv table (columns image, report) ask for, in order, each film once.

    Raises `FileNotFoundError` for what is not there, and `ValueError` for two films whose results would overwrite each
    other, and for one film with two reports.
    """
    requests = [Request(path, report) for item in inputs for path in _expand(item)]
    if table is not None:
        requests += list(_from_table(Path(table), report))
    if not requests:
        raise ValueError("there is no film to predict; name files, folders, globs, or a table with --csv")
    films: dict[Path, Request] = {}
    for request in requests:
        other = films.setdefault(request.image.resolve(), request)
        if other.report != request.report:
            raise ValueError(f"{request.image} is asked for with two reports; predict it into two folders")
    requests = list(films.values())
    seen: dict[str, Path] = {}
    for request in requests:
        for name in _written(request.image.stem):
            other_film = seen.setdefault(name, request.image)
            if other_film is request.image:
                continue
            raise ValueError(
                f"{other_film} and {request.image} would both be written as {name}; rename one, or predict them into "
                "two folders"
            )
    return requests


def predict_to_folder(
    predictor: Predictor,
    requests: Iterable[Request],
    out: Path | str,
    *,
    laterality: str = "viewer",
    probability: bool = False,
    overlay: bool = False,
    workers: int = 1,
) -> Iterator[dict[str, Any]]:
    """Predict film after film into `out` and yield the record of each, which is also written as `<stem>.json`.

    While the network computes, `workers` threads read the next films and as many write the last results; only a few
    films are held at a time, however many there are.

    Raises `ValueError`, before anything is written, where a result would replace one of the films. Writes
    `<stem>.png` (0 and 255, or the numbers of several classes, in the film's size), on request
    `<stem>_probability.png` (16 bit, value / 65535; of several classes `<stem>_probability_1.png` and so on) and
    `<stem>_overlay.png`; what an earlier call left of that film is removed first. A film that cannot be read ends
    with a record that holds an "error" and nothing written; the films after it are still predicted.
    """
    out, requests = storage.check_folder(out, what="masks"), list(requests)
    films = {request.image.resolve() for request in requests}
    for request in requests:
        for name in _written(request.image.stem, len(predictor.classes)):
            if (out / name).resolve() in films:
                raise ValueError(f"{out / name} is a film to be predicted and would be replaced; name another folder")

    def prepare(request: Request) -> _Film:
        try:
            pixels = read_image(request.image)
            prepared = predictor.prepare(pixels, request.report, laterality=laterality)
        except (OSError, ValueError) as error:
            return _Film(request, error=str(error).removeprefix(f"{request.image}: "))
        return _Film(request, prepared, pixels if overlay else None)

    def write(film: _Film) -> dict[str, Any]:
        return _write(predictor, film, out, laterality, probability=probability)

    most = predictor.batch_size
    read = ahead(prepare, requests, workers=workers, most=most)
    return ahead(write, _computed(predictor, read), workers=workers, most=most)


@dataclass(frozen=True)
class _Film:
    """A film on its way from its file to its mask."""

    request: Request
    prepared: Prepared | None = None
    pixels: np.ndarray | None = None
    """Where it is to be drawn."""
    found: Computed | None = None
    error: str = ""


def _computed(predictor: Predictor, films: Iterable[_Film]) -> Iterator[_Film]:
    """Yield the films with what is computed of them in batches, in order; those with an error as they are."""
    waiting: list[_Film] = []

    def compute() -> list[_Film]:
        readable = [film.prepared for film in waiting if film.prepared is not None]
        found = iter(predictor.run(readable) if readable else ())
        return [replace(film, found=None if film.error else next(found)) for film in waiting]

    for film in films:
        waiting.append(film)
        if sum(not film.error for film in waiting) == predictor.batch_size:
            yield from compute()
            waiting.clear()
    yield from compute()


def _write(predictor: Predictor, film: _Film, out: Path, laterality: str, *, probability: bool) -> dict[str, Any]:
    """Write what was found of a film and return its record."""
    request, stem = film.request, film.request.image.stem
    if (out / f"{stem}.json").is_file():  # the record goes first and comes last: where it is, all belongs together
        for name in reversed(_written(stem, len(predictor.classes))):
            (out / name).unlink(missing_ok=True)
    if film.prepared is None or film.found is None:
        return {"image": str(request.image), "error": film.error}
    prediction = predictor.finish(film.prepared, film.found)
    several = len(predictor.classes) > 1
    (write_labels if several else write_mask)(out / f"{stem}.png", prediction.mask)
    if probability:
        maps = prediction.probability[1:] if several else [prediction.probability]
        for name, of_class in zip(_probabilities(stem, len(predictor.classes)), maps, strict=True):
            write_probability(out / name, of_class)
    if film.pixels is not None:
        picture = case_picture(film.pixels, prediction.mask, report=prediction.report, classes=predictor.classes)
        write_image(out / f"{stem}_overlay.png", picture)
    record = _record(predictor, request, prediction, laterality)
    storage.write_json(out / f"{stem}.json", record)
    return record


def _record(predictor: Predictor, request: Request, prediction: Prediction, laterality: str) -> dict[str, Any]:
    understood = prediction.report
    said: dict[str, Any] | None = None
    if understood is not None:
        said = {
            "sentence": request.report,
            "laterality": laterality,
            "understood": str(understood),
            "frame": understood.frame,
            "zones": sorted(understood.zones),
            "number": understood.number,
            "not_understood": list(understood.unread),
            "contradictions": list(understood.contradictions()),
        }
        if predictor.reads_films:
            said["explained"] = list(explain(understood.in_frame(laterality)))
    elif prediction.refusal:
        said = {"sentence": request.report, "laterality": laterality, "refused": prediction.refusal}
    height, width = prediction.mask.shape
    sure = prediction.expected_dice
    model = predictor.engine
    return {
        "image": str(request.image),
        "mask": f"{request.image.stem}.png",
        "height": height,
        "width": width,
        "area": int(np.count_nonzero(prediction.mask)),
        "area_fraction": float(np.mean(prediction.mask > 0)),
        "area_per_class": {
            name: int(np.count_nonzero(prediction.mask == number))
            for number, name in enumerate(predictor.classes, start=1)
        },
        "area_per_zone": prediction.areas,
        "area_unit": "pixel",
        "zones_frame": "viewer",
        "threshold": predictor.threshold,
        "expected_dice": None if sure is None else round(sure, 4),  # further digits depend on the size of the batch
        "calibrated": predictor.is_calibrated,
        "report": said,
        "film": None if prediction.look is None else prediction.look.as_dict(),
        "reading": None if prediction.reading is None else prediction.reading.as_dict(laterality),
        "model": {
            "name": model.config.model.name,
            "preset": model.config.preset,
            "path": str(model.path),
            "weights_sha256": model.metrics.get("weights_sha256"),
        },
    }


def _engine(model: "str | Path | TrainedModel | Engine", device: str, batch_size: int | None) -> Engine:
    if isinstance(model, str | Path) and Path(model).suffix == ONNX:
        from c2fvl.onnx_model import OnnxModel

        return OnnxModel(model, device=device)
    if isinstance(model, Engine):
        return model
    from c2fvl.checkpoint import load_model
    from c2fvl.scoring import NetworkEngine

    if isinstance(model, str | Path):
        return NetworkEngine(load_model(model, device=device), device=device, batch_size=batch_size, in_place=True)
    return NetworkEngine(model, device=device, batch_size=batch_size)


def _as_film(image: str | Path | np.ndarray) -> np.ndarray:
    if not isinstance(image, np.ndarray):
        return read_image(image)
    if image.ndim == 2:
        image = np.repeat(image[:, :, None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
            f"the film has the shape {image.shape}; expected is (height, width), or (height, width, 3) RGB"
        )
    if image.dtype in (np.uint8, np.uint16):
        return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
    if image.dtype.kind != "f" or not np.isfinite(image).all() or image.min() < 0 or image.max() > 1:
        raise ValueError("the film must be uint8, uint16, or floating point in [0, 1] without NaN")
    return image.astype(np.float32, copy=False)


def _expand(item: str) -> list[Path]:
    path = Path(item)
    if path.is_dir():
        found = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise FileNotFoundError(f"the folder {path} holds no film ({', '.join(IMAGE_SUFFIXES)})")
        return found
    if path.exists():
        return [path]
    found = sorted(Path(name) for name in glob.glob(item, recursive=True))  # noqa: PTH207 - patterns may be absolute
    if not found:
        raise FileNotFoundError(f"there is no file, folder or match of {item!r}")
    return [entry for entry in found if entry.is_file()]


def _from_table(path: Path, report: str | None) -> Iterator[Request]:
    columns, rows = read_csv(path)
    named = [column for column in ("report", "text") if column in columns]
    if "image" not in columns or len(named) > 1:
        raise ValueError(
            f"{path}: the columns are {', '.join(columns)}; expected are image and, if wanted, report (or text)"
        )
    unused = sorted(set(columns) - {"image", *named})
    if unused:
        logger.warning("%s: the columns %s are not used; known are image and report", path, ", ".join(unused))
    for number, row in rows:
        image = path.parent / row["image"].strip()  # an absolute path stays as it is
        if not image.is_file():
            raise FileNotFoundError(f"{path}, row {number}, column image: there is no file {image}")
        yield Request(image, next((row[column] for column in named if row[column]), report))
