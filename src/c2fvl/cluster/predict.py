"""Images → masks and records on a cluster: each actor predicts into the same folder as one process would. No torch."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from c2fvl.cluster.execute import execution
from c2fvl.cluster.once import each_once
from c2fvl.cluster.place import Place
from c2fvl.cluster.session import room, session
from c2fvl.files.partial import share
from c2fvl.files.storage import check_folder, scratch_folder
from c2fvl.inference.open_engine import open_engine
from c2fvl.inference.outputs.endings import ClinicalOptions
from c2fvl.inference.predictor import Predictor
from c2fvl.inference.requests import Request
from c2fvl.inference.to_folder import predict_to_folder
from c2fvl.progress import SILENT, Progress


@dataclass(frozen=True)
class ModelChoice:
    """The model of the actors and how it computes, as `open_engine` and `Predictor` take it."""

    model: str
    threshold: float
    device: str = "auto"
    batch_size: int | None = 1
    precision: str = "auto"
    text_model: str | None = None
    trust: float | None = None
    force_view: bool = False
    frame: int | None = None

    def predictor(self, *, device: str, threads: int | None, precision: str | None = None) -> Predictor:
        """Return the predictor on a device, in the precision of the choice unless another is given."""
        engine = open_engine(
            self.model, device=device, batch_size=self.batch_size, threads=threads,
            precision=precision or self.precision, text_model=self.text_model,
        )  # fmt: skip
        return Predictor(
            engine, threshold=self.threshold, batch_size=self.batch_size, trust=self.trust,
            force_view=self.force_view, frame=self.frame,
        )  # fmt: skip


@dataclass(frozen=True)
class FolderOptions:
    """How results are written, as `predict_to_folder` takes it."""

    out: Path
    orientation: str | None = None
    outputs: tuple[str, ...] | None = None
    window: tuple[float, float] | None = None
    skip_existing: bool = False
    clinical: ClinicalOptions = ClinicalOptions()
    workers: int = 1


class FolderWorker:
    """What an actor does: predict images into the folder."""

    def __init__(self, place: Place, choice: ModelChoice, options: FolderOptions, weights: str | None) -> None:
        place.enter()
        self.options = options
        self._held = share(options.out)  # until this process ends, so that no other run begins before
        self.predictor = choice.predictor(device=place.device, threads=place.threads)
        if self.predictor.model.weights_sha256 != weights:
            raise ValueError(
                f"the model {choice.model} has other weights on the machine {place.machine()} than here; copy the "
                "same model folder to every machine, or to a disk that all share"
            )

    def __call__(self, requests: Sequence[Request]) -> Iterator[dict[str, Any]]:
        """Yield the answer for each image: its record, or why it could not be written."""
        options, done = self.options, 0
        try:
            check_folder(options.out, what="masks")
        except ValueError as error:
            yield from [{"trouble": str(error), "is_unwritten": True}] * len(requests)
            return
        try:
            records = predict_to_folder(
                self.predictor, requests, options.out, orientation=options.orientation, outputs=options.outputs,
                window=options.window, skip_existing=options.skip_existing, clinical=options.clinical,
                workers=options.workers,
            )  # fmt: skip
            for record in records:
                done += 1
                yield {"value": record}
        except OSError as error:  # an image that cannot be read has a record; this is the disk of the results
            yield from [{"trouble": str(error), "is_unwritten": True}] * (len(requests) - done)


def predict_on_ray(
    choice: ModelChoice,
    requests: Sequence[Request],
    options: FolderOptions,
    *,
    address: str | None = None,
    actors: int | None = None,
    threads: int | None = None,
    weights: str | None = None,
    extensions: tuple[str, ...] = (),
    progress: Progress = SILENT,
) -> Generator[tuple[int, dict[str, Any]]]:
    """Predict images into a folder as `predict_to_folder` does, on the actors of a Ray cluster.

    Yields the place of each request and its record, each exactly once, in the order in which they are ready. An actor
    has `threads` cores, or a GPU, and each machine must see the images and the folder under the same paths. An image
    whose process ended several times, or that met an error of the program, has a record with an "error". `weights` is
    the checksum of the weights that each actor must have.

    Raises `ValueError` for a cluster without room, without this package or without the folder, and
    `ClusterFailedError`, an `OSError`, where results cannot be written or the cluster fails.
    """
    with scratch_folder(options.out) as token, session(address) as ray:
        place, pool = room(
            ray, device=choice.device, threads=threads, actors=actors, extensions=extensions, token=token,
            progress=progress,
        )  # fmt: skip
        block = 1 if any(map(_is_large, requests)) else pool.block(len(requests), choice.batch_size or 1)
        arguments = (place, choice, options, weights)
        execute = execution(ray, requests, FolderWorker, arguments, pool)
        answered = each_once(execute, len(requests), block=block, errors=(ray.exceptions.RayError,))
        with closing(answered) as answers:  # before the session ends
            for answer in answers:
                request = requests[answer.index]
                yield answer.index, answer.value or {"image": request.shown, "error": answer.trouble}


def _is_large(request: Request) -> bool:
    return bool(request.slices) or request.image.name.lower().endswith((".nii", ".nii.gz"))
