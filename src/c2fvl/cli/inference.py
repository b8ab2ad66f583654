"""Commands that run a trained network on images."""

import argparse
import json
import sys
from pathlib import Path

from c2fvl.cli.options import PROGRAM, load_named_model


def run_predict(options: argparse.Namespace) -> int:
    """Run `c2fvl predict`; return its exit status."""
    from c2fvl.inference.predictor import ONNX, Predictor
    from c2fvl.inference.to_folder import collect, predict_to_folder

    for film in options.images:
        if Path(film).suffix == ONNX:
            raise ValueError(f"{film} is an exported network and no film; give it as --model {film}")
    requests = collect(options.images, table=options.csv, report=options.report)
    exported = Path(options.model).suffix == ONNX
    trust = options.trust if exported else None
    if exported and options.text_model is not None:
        raise ValueError("--text-model goes with a model folder; export the model anew for another language model")
    model = options.model if exported else load_named_model(options)
    predictor = Predictor(
        model, device=options.device, threshold=options.threshold, batch_size=options.batch, trust=trust
    )
    if options.report is not None:
        # what cannot be used at all ends it at once
        _, refusal = predictor.understand_or_refuse(options.report, orientation=options.orientation)
        if refusal:
            print(f"{PROGRAM}: the report is not used: {refusal}; masks are those without a report", file=sys.stderr)
    failed = 0
    for record in predict_to_folder(
        predictor, requests, options.out, orientation=options.orientation,
        probability=options.probability, overlay=options.overlay, workers=options.workers,
    ):  # fmt: skip
        failed += "error" in record
        if options.json:
            print(json.dumps(record))
        elif "error" in record:
            print(f"{record['image']}: {record['error']}", file=sys.stderr)
        else:
            pixels = record["height"] * record["width"]
            areas = (f"{100 * area / pixels:.2f} % {name}" for name, area in record["area_per_class"].items())
            sure = record["estimated_dice"]
            said = (
                "" if sure is None else f"; expected Dice {sure:.2f}{'' if record['calibrated'] else ', uncalibrated'}"
            )
            print(f"{Path(options.out) / record['mask']}: {', '.join(areas)} of the picture{said}")
            for remark in (record["reading"] or {}).get("remarks", ()):
                print(f"  {remark}")
            for reason in (record["film"] or {}).get("reasons", ()):
                print(f"{record['image']}: not to be relied on: {reason}", file=sys.stderr)
    if failed:
        print(f"{PROGRAM}: {failed} of {len(requests)} films could not be predicted", file=sys.stderr)
    return 1 if failed else 0


def run_read(options: argparse.Namespace) -> int:
    """Run `c2fvl read`; return its exit status."""
    from c2fvl.inference.predictor import Predictor
    from c2fvl.inference.to_folder import collect

    predictor = Predictor(options.model, device=options.device)
    failed = 0
    for request in collect(options.images):
        try:
            found = predictor.describe(request.image)
        except (OSError, ValueError) as error:
            failed += 1
            print(f"{request.image}: {str(error).removeprefix(f'{request.image}: ')}", file=sys.stderr)
            continue
        reading, ood = found.reading, found.ood
        assert reading is not None
        if options.json:
            record = {"image": str(request.image), "film": None if ood is None else ood.as_dict()}
            print(json.dumps(record | reading.as_dict(options.orientation)))
            continue
        report, *figures = reading.lines(options.orientation)
        print(f"{request.image}: {report}")
        for line in figures:
            print(f"  {line}")
        for reason in () if ood is None else ood.reasons:
            print(f"  not to be relied on: {reason}")
    return 1 if failed else 0


def run_export(options: argparse.Namespace) -> int:
    """Run `c2fvl export`; return its exit status."""
    import dataclasses

    from c2fvl.checkpoints.trained_model import load_model
    from c2fvl.cli.terminal import TerminalProgress
    from c2fvl.inference.export import export

    found = export(
        load_model(options.model), options.out, dtype=options.dtype, opset=options.opset,
        calibration=options.calibration, table=options.table,
        progress=TerminalProgress(),
    )  # fmt: skip
    if options.json:
        print(json.dumps(dataclasses.asdict(found) | {"path": str(found.path)}))
        return 0
    print(f"{found.path}: {found.dtype}, opset {found.opset}, {found.path.stat().st_size / 2**20:.1f} MiB")
    print(f"Largest difference to PyTorch in probability: {found.difference:.1e}")
    if found.dice_before is not None and found.dice_after is not None:
        before, after = 100 * found.dice_before, 100 * found.dice_after
        print(
            f"Dice per image on {found.num_scored} films: {before:.2f} before, {after:.2f} after; {before - after:.2f} "
            "lost"
        )
    return 0
