"""A CT volume of 300 slices of 512 × 512, as NIfTI and as a DICOM series, within bounds of memory and time."""

import json
import resource
import shutil
from pathlib import Path

import numpy as np
from outcome import Outcome, Stage, in_child, peak

NUM_SLICES, SIDE = 300, 512
MAX_PEAK, MAX_PROCESSOR_SECONDS = 1.5 * 2**30, 60.0


def predict_volumes(stage: Stage) -> Outcome:
    """Predict one volume in both forms, each in a process of its own."""
    outcome = Outcome("volumes")
    folder = stage.folder / "volumes"
    sources, error = in_child(lambda: _write(folder), seconds=600)
    if error:
        outcome.fail(error)
        return outcome
    for source in sources or ():
        result, error = in_child(lambda source=source: _predict(source, folder / "out"), seconds=1200)
        if error:
            outcome.fail(f"{source.name}: {error}")
            continue
        most, seconds, fault = result
        outcome.tried[f"{source.name}: {most / 2**20:.0f} MiB, {seconds:.0f} s of processor time"] += 1
        if fault:
            outcome.fail(f"{source.name}: {fault}")
        if most > MAX_PEAK:
            outcome.fail(f"{source.name}: {most / 2**20:.0f} MiB, at most {MAX_PEAK / 2**20:.0f} are allowed")
        if seconds > MAX_PROCESSOR_SECONDS:
            outcome.fail(f"{source.name}: {seconds:.0f} s of processor time, at most {MAX_PROCESSOR_SECONDS:.0f}")
    if not outcome.failed:
        shutil.rmtree(folder)
    return outcome


def _write(folder: Path) -> list[Path]:
    """Write a noisy chest; return its files, nothing where the packages are not installed."""
    try:
        import nibabel
        from support.volumes import chest, write_series
    except ImportError:
        return []
    values = chest(NUM_SLICES, SIDE, SIDE)
    values += np.random.default_rng(0).integers(-40, 40, values.shape, np.int16)
    folder.mkdir(parents=True)
    nibabel.Nifti1Image(values.transpose(2, 1, 0), np.diag([-0.8, -0.7, 2, 1])).to_filename(folder / "ct.nii.gz")
    return [folder / "ct.nii.gz", write_series(folder / "series", values)]


def _predict(source: Path, out: Path) -> tuple[int, float, str]:
    """Return the peak of memory, the processor time, and what is wrong with the result."""
    from c2fvl.cli.main import main

    status = main(["predict", str(source), "--model", "ct_small", "--out", str(out), "--threads", "1"])
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = used.ru_utime + used.ru_stime
    if status:
        return peak(), seconds, f"status {status}"
    record = json.loads(next(out.glob(f"{source.name.partition('.')[0]}*.json")).read_text(encoding="utf-8"))
    size = (record["slices"], record["height"], record["width"])
    return peak(), seconds, "" if size == (NUM_SLICES, SIDE, SIDE) else f"the record says {size}"
