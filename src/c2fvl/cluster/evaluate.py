"""The scores of cases on a cluster, for the same summary and page as one process writes."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch

from c2fvl.checkpoints.trained_model import TrainedModel, load_model
from c2fvl.cluster.execute import execution
from c2fvl.cluster.once import LOST, each_once
from c2fvl.cluster.place import Place
from c2fvl.cluster.sizing import Pool
from c2fvl.config import DataConfig
from c2fvl.data.cases import Case
from c2fvl.data.dataset import CaseDataset
from c2fvl.evaluation.scored_case import ScoredCase, ScoringHere, Spacing
from c2fvl.inference.compute import Compute
from c2fvl.inference.precision import suited_precision
from c2fvl.progress import SILENT, Progress

_MAX_BATCH = 32
"""Of a GPU, where none is given; blocks of whole batches have the batches of one process."""


@dataclass(frozen=True)
class ModelAndScores:
    """The model of the actors, and how its predictions are scored."""

    model: str
    weights: str | None
    """Checksum of the weights that each actor must have."""
    compute: Compute
    tolerances: tuple[float, ...]
    text_model: str | None = None
    trust: float | None = None

    def load(self, device: str) -> TrainedModel:
        """Return the model on a device."""
        model = load_model(self.model, device=device)
        if model.metrics.get("weights_sha256") != self.weights:
            raise ValueError(f"the model {self.model} has other weights on {Place.machine()} than here")
        if self.text_model is not None:
            model = model.with_text_model(self.text_model)
        return model if self.trust is None else model.with_trust(self.trust)


class ScoreWorker:
    """What an actor does: score cases."""

    def __init__(self, place: Place, chosen: ModelAndScores, config: DataConfig, num_classes: int) -> None:
        place.enter()
        torch.set_num_threads(place.threads)
        self._config, self._num_classes = config, num_classes
        self._scoring = ScoringHere(chosen.load(place.device), chosen.compute, tolerances=chosen.tolerances)

    def __call__(self, items: Sequence[tuple[Case, Spacing]]) -> Iterator[dict[str, Any]]:
        """Yield the answer for each case: what it scored, or why it has no score."""
        done = 0
        try:
            images = CaseDataset([case for case, _ in items], self._config, num_classes=self._num_classes)
            for scored in self._scoring(images, [spacing for _, spacing in items]):
                done += 1
                yield {"value": scored}
        except (ValueError, OSError) as error:
            yield from [{"trouble": str(error)}] * (len(items) - done)


class ScoringOnRay:
    """A `Scoring` on the actors of a Ray cluster. Raises `ValueError` for a case that has no score."""

    def __init__(
        self,
        ray: Any,
        model: TrainedModel,
        chosen: ModelAndScores,
        room: tuple[Place, Pool],
        *,
        progress: Progress = SILENT,
    ) -> None:
        place, pool = room
        precision = suited_precision(model.config.model.name, model.network, place.device, chosen.compute.precision)
        self.compute = Compute(place.device, chosen.compute.batch_size, precision=precision)
        self._ray, self._chosen, self._place, self._pool, self._progress = ray, chosen, place, pool, progress
        torch.set_num_threads(place.threads)  # the summary says how many

    def __call__(self, images: CaseDataset, spacings: Sequence[Spacing]) -> Iterator[ScoredCase]:
        """Yield what each case scored, in the order of the data set, once all are done."""
        arguments = (self._place, self._chosen, images.config, images.num_classes)
        items = list(zip(images.cases, spacings, strict=True))
        execute = execution(self._ray, items, ScoreWorker, arguments, self._pool)
        batch_size = self.compute.batch_size or (_MAX_BATCH if self._place.device == "cuda" else 1)
        block = self._pool.block(len(items), batch_size)
        scored: dict[int, ScoredCase] = {}
        answered = each_once(execute, len(items), block=block, errors=(self._ray.exceptions.RayError,))
        with closing(answered) as answers:
            for answer in answers:
                if answer.trouble:
                    named = f"{images.cases[answer.index].id}: " if answer.trouble == LOST else ""
                    raise ValueError(f"{named}{answer.trouble}")
                scored[answer.index] = answer.value
                self._progress.advance(len(scored), len(items))
        yield from (scored[index] for index in range(len(items)))
