"""Commands that run a trained network on images: predict, read."""

import argparse
import json
import os
import re
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

from c2fvl.checkpoints.folders import ALIAS
from c2fvl.cli.on_ray import add_engine, check_engine, choice_of, predicted_on_ray
from c2fvl.cli.options import (
    MODEL,
    PROGRAM,
    Commands,
    add_batch_size,
    add_choice,
    add_device,
    add_json,
    add_number,
    add_orientation,
    add_precision,
    add_text_model,
    add_trust,
    threads_of,
    whole_number,
)
from c2fvl.cli.output import say, say_lines
from c2fvl.progress import SILENT


def add(commands: Commands) -> None:
    """Add the commands of this module."""
    commands.add("predict", run_predict, "Segment images; masks are saved at the original size.", _predict_options)
    commands.add("read", run_read, "Print the findings that a model predicts from images.", _read_options)


def add_model(sub: argparse.ArgumentParser) -> None:
    """Add the option that names the model."""
    sub.add_argument(
        "--model",
        default=ALIAS,
        metavar="NAME|FOLDER|FILE.onnx",
        help=f"{MODEL}, or an exported .onnx file (default: the model that is included in the package)",
    )


def _predict_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "images", nargs="*", metavar="FILE", help="images (PNG, JPEG, TIFF, DICOM, NIfTI), folders or glob patterns"
    )
    sub.add_argument("--recursive", action="store_true", help="also take the images in the folders of a folder")
    add_settings(sub)
    sub.add_argument(
        "--csv",
        metavar="TABLE",
        help="table with the columns image, report and orientation; paths are relative to the table",
    )
    sub.add_argument(
        "--frame", type=whole_number(1), metavar="N", help="image of a DICOM file that holds several, counted from 1"
    )
    add_outputs(sub)
    sub.add_argument(
        "--skip-existing",
        action="store_true",
        help="leave out images that this model has predicted into the folder with the same report and settings",
    )
    sub.add_argument("--deidentify", action="store_true", help="leave patient and study blank in DICOM results")
    add_engine(sub, "images are predicted; ray also writes predictions.parquet, with all records")


def add_settings(sub: argparse.ArgumentParser) -> None:
    """Add the model, the report, and how the images are segmented."""
    from c2fvl.inference.masks import THRESHOLD

    add_model(sub)
    sub.add_argument("--report", help="report that is used with every image, as a sentence")
    add_orientation(sub, "in the report", default=None)
    add_text_model(sub)
    add_trust(sub)
    sub.add_argument(
        "--force-view",
        action="store_true",
        help="also segment lateral films, and films with a model for CT; both are refused otherwise",
    )
    sub._negative_number_matcher = re.compile(r"-\d[\d.,]*$")  # else -600,1500 would be taken for an option
    sub.add_argument(
        "--window",
        metavar="CENTER,WIDTH",
        help="window in HU for CT volumes (default: that of the model); with it any model segments them",
    )
    sub.add_argument(
        "--threshold",
        type=float,
        default=THRESHOLD,
        help="a pixel is lesion from this probability on (default: %(default)s)",
    )
    add_device(sub)
    add_precision(sub)
    add_batch_size(sub)
    add_number(sub, "--workers", 1, "threads that read images, and as many that write masks")
    add_json(sub, "one line per image")


def add_outputs(sub: argparse.ArgumentParser) -> None:
    """Add what is written, and where."""
    from c2fvl.inference.save import OUTPUTS

    sub.add_argument(
        "-o",
        "--out",
        default="predictions",
        metavar="DIR",
        help="folder for masks and records; of a folder with --recursive, its tree is kept (default: %(default)s)",
    )
    sub.add_argument(
        "--output-type",
        metavar="TYPES",
        help=f"what to write, joined by commas: {', '.join(OUTPUTS)}; the record is always written (default: png; of a "
        "CT volume nifti or seg, and png writes one for each slice)",
    )
    sub.add_argument(
        "--keep-text", action="store_true", help="write the report that was given into the DICOM report (sr)"
    )
    add_choice(
        sub,
        "--seg-geometry",
        ("none", "synthetic"),
        "none",
        "synthetic gives the DICOM segmentation of a film a place in space, for programs that need one",
    )
    sub.add_argument("--probability", action="store_true", help="also save the probability map as a 16-bit PNG")
    sub.add_argument("--overlay", action="store_true", help="also save the image with the mask drawn on it")


def predictor_of(options: argparse.Namespace, **arguments: Any) -> Any:
    """Return the `Predictor` of the model that the options name."""
    from c2fvl.inference.open_engine import open_engine
    from c2fvl.inference.predictor import Predictor

    engine = open_engine(
        options.model, device=options.device, batch_size=arguments.get("batch_size", 1), threads=threads_of(options),
        precision=options.precision, text_model=options.text_model,
    )  # fmt: skip
    return Predictor(engine, trust=options.trust, **arguments)


def run_predict(options: argparse.Namespace) -> int:
    """Run `c2fvl predict`; return its exit status."""
    from c2fvl.cli.terminal import TerminalProgress
    from c2fvl.inference.ct_window import parse_window
    from c2fvl.inference.open_engine import ONNX
    from c2fvl.inference.output_folder import written_by_this_run
    from c2fvl.inference.outputs.endings import ClinicalOptions
    from c2fvl.inference.requests import collect
    from c2fvl.inference.series_requests import is_volume
    from c2fvl.inference.summary_table import SummaryTable

    check_engine(options)
    for image in options.images:
        if Path(image).suffix == ONNX:
            raise ValueError(f"{image} is an exported model, not an image; give it as --model {image}")
    check_report(options.report)
    settings: dict[str, Any] = {
        "orientation": options.orientation,
        "outputs": outputs_of(options),
        "window": None if options.window is None else parse_window(options.window),
        "skip_existing": options.skip_existing,
        "workers": options.workers,
        "clinical": ClinicalOptions(options.keep_text, options.seg_geometry, options.deidentify),
    }
    requests = collect(
        options.images, table=options.csv, report=options.report, recursive=options.recursive, results=options.out
    )
    predictor = _predictor(options)
    if options.report is not None:  # a report that cannot be used at all ends the command here
        refusal = predictor.understand_or_refuse(options.report, orientation=options.orientation).refusal
        if refusal:
            say(f"{PROGRAM}: the report is not used: {refusal}", error=True)
    is_single, on_ray = len(requests) == 1, options.engine == "ray"
    is_quiet = options.json or (is_single and not is_volume(requests[0]))
    table = SummaryTable(Path(options.out))
    with (
        written_by_this_run(options.out, with_workers=on_ray),
        TerminalProgress("Segmenting", quiet=is_quiet) as progress,
    ):
        predict = predicted_on_ray if on_ray else _predicted_here
        with closing(predict(options, predictor, requests, settings, progress)) as records:
            for done, (place, record) in enumerate(records, start=1):
                table.add(record, place)
                say_record(record, options)
                if not is_single:
                    progress.advance(done, len(requests))
        table.write()
    for line in table.lines(num_reports=sum(bool(one.report and one.report.strip()) for one in requests)):
        say(f"{PROGRAM}: {line}", error=True)
    return 1 if table.num_failed else 0


def _predictor(options: argparse.Namespace) -> Any:
    """Return the predictor of `c2fvl predict`; with Ray that of this process, which reads reports and names files."""
    if options.engine == "ray":
        return choice_of(options).predictor(device="cpu", threads=1, precision="auto")
    return predictor_of(
        options,
        threshold=options.threshold,
        batch_size=options.batch_size,
        force_view=options.force_view,
        frame=options.frame,
    )


def _predicted_here(
    options: argparse.Namespace, predictor: Any, requests: list[Any], settings: dict[str, Any], progress: Any
) -> Generator[tuple[int, dict[str, Any]]]:
    """Yield the place and the record of each image, predicted by this process."""
    from c2fvl.inference.to_folder import predict_to_folder

    own = progress if len(requests) == 1 else SILENT
    yield from enumerate(predict_to_folder(predictor, requests, options.out, progress=own, **settings))


def outputs_of(options: argparse.Namespace) -> tuple[str, ...] | None:
    """Return the outputs that the options name; None for none, so that they suit each image."""
    from c2fvl.inference.save import check_outputs

    flagged = [name for name in ("probability", "overlay") if getattr(options, name)]
    if options.output_type is None:
        return check_outputs(["png", *flagged]) if flagged else None
    return check_outputs([*filter(None, options.output_type.split(",")), "json", *flagged])


def say_record(record: dict[str, Any], options: argparse.Namespace) -> None:
    """Print one image's record, or what was found in it in words."""
    if options.json:
        say_lines(json.dumps(record))
    else:
        _print_record(record, Path(options.out))
    refusal = (record.get("report") or {}).get("refused")
    if refusal and record["report"]["sentence"] != options.report:  # that one was said at the beginning
        say(f"{record['image']}: the report is not used: {refusal}", error=True)


def check_report(report: str | None) -> None:
    """Raise `ValueError` for a report that is empty or the name of a file."""
    if report is None:
        return
    if not report.strip():
        raise ValueError("--report is empty; give a sentence, or leave it out to predict without a report")
    if os.path.isfile(report):  # noqa: PTH113 - of a long sentence, Path.is_file raises
        raise ValueError(
            f'--report must be a sentence, and {report} is a file; give its content: --report "$(cat {report})"'
        )


def _print_record(record: dict[str, Any], out: Path) -> None:
    """Print what was found in one image; errors and warnings go to the error stream."""
    from c2fvl.inference.summary_table import warnings_of

    if "error" in record:
        say(f"{record['image']}: {record['error']}", error=True)
        return
    if "skipped" in record:
        say(f"{record['image']}: already predicted, left as it is")
        return
    if "slices" in record:
        _print_volume(record, out)
        return
    pixels = record["height"] * record["width"]
    areas = ", ".join(f"{name}: {100 * area / pixels:.1f} %" for name, area in record["area_per_class"].items())
    warnings = [f"do not rely on this result: {reason}" for reason in (record["ood"] or {}).get("reasons", ())]
    estimate = ""
    if record["estimated_dice"] is not None and not warnings:
        uncalibrated = "" if record["calibrated"] else " (not calibrated)"
        estimate = f" Estimated Dice: {record['estimated_dice']:.2f}{uncalibrated}."
    overlay = next((name for name in record["files"] if name.endswith("_overlay.png")), None)
    drawn = "" if overlay is None else f" Overlay: {out / overlay}"
    say(f"{out / record['files'][0]}: {areas[0].upper()}{areas[1:]} of the image.{estimate}{drawn}")
    given = record["report"] or {}
    if "understood" in given:
        trust = ""
        if record["trust"] is not None:
            trust = f"; trust {record['trust']:g} (0: image alone, 1: report followed)"
        say(f"  report read: {_read_of(given)}{trust}")
    for remark in (record["predicted_findings"] or {}).get("remarks", ()):
        say(f"  {remark}")
    for warning in (*warnings_of(record), *warnings):
        say(f"{record['image']}: {warning}", error=True)


def _read_of(given: dict[str, Any]) -> str:
    """Return in words what was read of a report, and whose left its left is."""
    explained = given.get("explained") or [given["understood"].rstrip(".")]
    orientation, *lines = explained
    kept = [line for line in lines if line.startswith(("named: ", "free: ", "side: ", "number: ", "uncertain: "))]
    return "; ".join([*kept, orientation.removeprefix("orientation: ")] if kept else [orientation])


def _print_volume(record: dict[str, Any], out: Path) -> None:
    """Print what was found in a CT volume."""
    sizes = [f"{100 * record['voxels_fraction']:.2f} % of the volume"]
    if record["volume_ml"] is not None:
        sides = record["volume_ml_per_side"]
        each = ", ".join(f"patient's {side}: {sides[f'patient_{side}']:.1f} ml" for side in ("right", "left"))
        sizes = [f"{record['volume_ml']:.1f} ml ({each})"]
    count, largest = record["slices_with_lesion"], record["largest_slice"]
    where = f" Largest in slice {largest['number']} from the feet." if largest else ""
    say(f"{out / record['files'][0]}: lesion: {sizes[0]}, in {count} of {record['slices']} slices.{where}")
    for warning in record["source"]["warnings"]:
        say(f"{record['image']}: {warning}", error=True)


def _read_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("images", nargs="+", metavar="FILE", help="images, folders or glob patterns")
    add_model(sub)
    add_orientation(sub, "in the output")
    add_device(sub)
    add_json(sub, "one line per image")
    sub.set_defaults(text_model=None, trust=None, precision="auto")


def run_read(options: argparse.Namespace) -> int:
    """Run `c2fvl read`; return its exit status."""
    from c2fvl.inference.requests import collect
    from c2fvl.inference.series_requests import is_volume

    predictor = predictor_of(options)
    failed = 0
    for request in collect(options.images):
        try:
            if is_volume(request):
                raise ValueError("this is a CT volume; `c2fvl predict` segments it, read takes single images")
            found = predictor.describe(request.image)
        except (OSError, ValueError) as error:
            failed += 1
            say(f"{request.image}: {str(error).removeprefix(f'{request.image}: ')}", error=True)
            continue
        reading, ood = found.findings, found.ood
        if options.json:
            record = {"image": str(request.image), "ood": None if ood is None else ood.as_dict()}
            say_lines(json.dumps(record | reading.as_dict(options.orientation)))
            continue
        report, *lines = reading.lines(options.orientation)
        say(f"{request.image}: {report}")
        for line in lines:
            say(f"  {line}")
        for reason in () if ood is None else ood.reasons:
            say(f"  do not rely on this result: {reason}")
    return 1 if failed else 0
