"""What `predict` and `evaluate` do with --engine ray."""

import argparse
import importlib.util
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

from c2fvl.cli.options import add_choice, load_named_model, part_of, whole_number


def add_engine(sub: argparse.ArgumentParser, what: str) -> None:
    """Add the options of where the work runs: in this process, or on Ray."""
    add_choice(sub, "--engine", ("process", "ray"), "process", f"where {what}: in this process or on actors of Ray")
    sub.add_argument(
        "--address",
        metavar="auto|HOST:PORT",
        help="with --engine ray: the cluster to use (default: this machine alone, started and ended by the command)",
    )
    sub.add_argument(
        "--actors",
        type=whole_number(1),
        help="with --engine ray: number of actors, each with --threads cores or a GPU (default: as many as fit)",
    )


def check_engine(options: argparse.Namespace) -> None:
    """Raise `ValueError` for options of Ray without it, and `ModuleNotFoundError` where Ray is not installed."""
    if options.engine == "ray":
        for package in ("ray", "pyarrow"):
            if importlib.util.find_spec(package) is None:
                raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    elif options.address is not None or options.actors is not None:
        raise ValueError("--address and --actors are for --engine ray; add it, or leave them out")


def choice_of(options: argparse.Namespace) -> Any:
    """Return the model that the options of `predict` name, as actors take it."""
    from c2fvl.cluster.predict import ModelChoice

    return ModelChoice(
        options.model, options.threshold, options.device, options.batch_size, options.precision, options.text_model,
        options.trust, options.force_view, options.frame,
    )  # fmt: skip


def predicted_on_ray(
    options: argparse.Namespace, predictor: Any, requests: list[Any], settings: dict[str, Any], progress: Any
) -> Generator[tuple[int, dict[str, Any]]]:
    """Yield the place and the record of each image, predicted by actors of Ray, and write `predictions.parquet`."""
    from c2fvl.cluster.predict import FolderOptions, predict_on_ray
    from c2fvl.cluster.records_file import records_file
    from c2fvl.inference.to_folder import check_request_names

    out = Path(options.out)
    check_request_names(requests, out, predictor.model.classes)
    found = predict_on_ray(
        choice_of(options), requests, FolderOptions(out, **settings), address=options.address, actors=options.actors,
        threads=options.threads, weights=predictor.model.weights_sha256,
        extensions=tuple(options.allow_code), progress=progress,
    )  # fmt: skip
    with closing(found), records_file(out) as records:
        for place, record in found:
            records.add(place, record)
            yield place, record


def evaluated_on_ray(options: argparse.Namespace, progress: Any, scoring: dict[str, Any]) -> Any:
    """Return the evaluation by the arguments `scoring`, with the cases scored by actors of Ray."""
    from c2fvl.cluster.evaluate import ModelAndScores, ScoringOnRay
    from c2fvl.cluster.session import room, session
    from c2fvl.evaluation.evaluate import evaluate
    from c2fvl.inference.compute import Compute

    model = load_named_model(options, device="cpu")
    with session(options.address) as ray:
        found = room(
            ray, device=options.device, threads=options.threads, actors=options.actors,
            extensions=tuple(options.allow_code), progress=progress,
        )  # fmt: skip
        compute = Compute(found[0].device, options.batch_size, precision=options.precision)
        chosen = ModelAndScores(
            options.model, model.metrics.get("weights_sha256"), compute, scoring["tolerances"], options.text_model,
            options.trust,
        )  # fmt: skip
        on_ray = ScoringOnRay(ray, model, chosen, found, progress=progress)
        return evaluate(model, part_of(options), on_ray.compute, scoring=on_ray, **scoring)
