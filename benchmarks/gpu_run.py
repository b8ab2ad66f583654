"""Stages of training and measuring on a rented GPU: one command, a time limit, results as they come.

    PYTHONPATH=src python -m benchmarks.gpu_run --stages figures,train:c2fvl_qata_paper@480s --minutes 9.5 \
        --data PARTS --out OUT [--work /tmp/gpu_run]

A stage is KIND[:NAME][@SECONDSs][:section.key=value ...]: `figures` measures speed (of one preset: `figures:PRESET`),
`train:PRESET` trains and then scores on val, `crossval:PRESET` trains and scores five folds of train and val together,
`score:MODEL` scores a model folder or a model by its name. Stages without seconds share the time that the others leave.
`{work}` in a setting stands for WORK, where the stage NAME of the results leaves its models in NAME/run or NAME/folds.

DATA is a data set, as a folder of tar shards (`c2fvl shards`) or any other. Each stage runs in a process of its own, so
that its failure is noted and the next one runs. OUT holds `results.json` (everything, after every change), `log.txt`
and the best weights in half precision, as tar files cut into pieces with checksums; together at most 8 files of 16 MiB.
WORK keeps run folders and finished stages: the same command goes on where it was stopped. `docs/gpu.md` says more.
"""

import argparse
import hashlib
import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NEEDED = ("accelerate", "cv2", "jinja2", "numpy", "PIL", "safetensors", "scipy", "torch")
KINDS = ("figures", "train", "crossval", "score")
_SEPARATOR = re.compile(rf",(?=\s*(?:{'|'.join(KINDS)})\b)")
"""A comma before a stage; others belong to a setting."""
PIECE = 16 * 2**20 - 4096
"""Bytes of a piece of weights, at most."""
MAX_PIECES, MAX_BYTES = 5, 60 * 2**20
"""Of all weights in OUT together: with results and log they stay within 8 files and 64 MiB."""
SECONDS_BETWEEN_EXPORTS = 20.0
SHOWN = ("epoch", "train_loss", "val_dice_per_image", "val_dice_per_image_none", "train_seconds", "val_seconds")
"""What the log says of each epoch."""
POLL_SECONDS = 1.0
MIN_SECONDS = 5.0
"""A stage with less time than this is not begun."""
GRACE_SECONDS = 15.0
"""After its time a stage is asked to stop; after so long it is ended."""


@dataclass(frozen=True)
class Stage:
    """One thing to do."""

    spec: str
    kind: str
    name: str
    seconds: float | None
    """None takes an equal part of the time that is left."""
    settings: tuple[str, ...]

    @property
    def key(self) -> str:
        """Return a name for files; the same stage has the same name in the next call."""
        digest = hashlib.sha256(" ".join(self.settings).encode()).hexdigest()[:6]
        name = re.sub(r"[^\w.-]+", "-", Path(self.name).name)
        return "-".join(filter(None, (self.kind, name, digest if self.settings else "")))


def parse_stages(text: str) -> list[Stage]:
    """Return the stages of a list parted by commas; `ValueError` for what is no stage."""
    stages = [_parse_stage(spec) for spec in _SEPARATOR.split(text) if spec.strip()]
    keys = [stage.key for stage in stages]
    if not stages or len(set(keys)) < len(keys):
        raise ValueError(f"--stages {text!r} must name at least one stage, and each one once")
    return stages


def _parse_stage(spec: str) -> Stage:
    head, *settings = re.split(r":(?=\w+\.\w+(?:\.\w+)?=)", spec.strip())
    match = re.fullmatch(r"(?P<kind>\w+)(?::(?P<name>[^@]+))?(?:@(?P<seconds>\d+(?:\.\d+)?)s)?", head)
    if match is None or match["kind"] not in KINDS or not (match["name"] or match["kind"] == "figures"):
        raise ValueError(
            f"{spec!r} is no stage; expected figures, figures:PRESET, train:PRESET, crossval:PRESET or score:MODEL, "
            "then @SECONDSs or :section.key=value if wanted"
        )
    seconds = None if match["seconds"] is None else float(match["seconds"])
    return Stage(spec.strip(), match["kind"], match["name"] or "", seconds, tuple(settings))


def missing_modules(names: tuple[str, ...] = NEEDED) -> list[str]:
    """Return which of the modules that the stages need are not installed."""
    return [name for name in names if importlib.util.find_spec(name) is None]


class Results:
    """What is known so far, in WORK for the next call and in OUT for who waits for it."""

    def __init__(self, out: Path, work: Path, command: list[str]) -> None:
        from c2fvl.files import storage

        self.storage, self.out, self.work = storage, out, work
        for folder in (out, work):
            storage.make_folder(folder)
        kept = work / "results.json"
        self.content: dict[str, Any] = {"stages": {}, "weights": {}}
        if kept.is_file():
            self.content = json.loads(kept.read_text(encoding="utf-8"))
        self.content |= {"command": command, "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        self._lock = threading.Lock()

    def log(self, line: str) -> None:
        """Write a line to the log and to the terminal."""
        line = f"{time.strftime('%H:%M:%S', time.gmtime())} {line.rstrip()}"
        with self._lock, (self.out / "log.txt").open("a", encoding="utf-8") as file:
            print(line, flush=True)
            file.write(line + "\n")

    def stage(self, key: str, **changes: Any) -> None:
        """Note changes of a stage and write all results."""
        self.content["stages"].setdefault(key, {}).update(changes)
        self.write()

    def write(self) -> None:
        """Write all results to both places."""
        for folder in (self.work, self.out):
            self.storage.write_json(folder / "results.json", self.content)

    def export_weights(self, key: str, models: list[Path]) -> None:
        """Write model folders in half precision as pieces of a tar; what does not fit is named with its checksum."""
        from c2fvl.checkpoints.packing import pack

        half = self.work / key / "half"
        if half.exists():
            self.storage.remove_folder(half)
        self.storage.make_folder(half)
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for model in models:
                name = model.parent.name
                pack(model, half / name)
                archive.add(half / name, arcname=key if name == "run" else f"{key}/{name}")
        data = buffer.getvalue()
        pieces = [data[start : start + PIECE] for start in range(0, len(data), PIECE)]
        others = [
            piece["bytes"]
            for name, entry in self.content["weights"].items()
            for piece in entry["files"]
            if name != key and (self.out / piece["file"]).is_file()
        ]
        fits = len(others) + len(pieces) <= MAX_PIECES and sum(others) + len(data) <= MAX_BYTES
        names = [f"weights-{key}.tar.{number}" for number in range(len(pieces) if fits else 0)]
        entry = {
            "bytes": len(data), "sha256": self.storage.checksum(data),
            "files": [
                {"file": name, "bytes": len(piece), "sha256": self.storage.checksum(piece)}
                for name, piece in zip(names, pieces, strict=fits)
            ],
            "kept": "cat the files in their order | tar x" if fits else "too large for OUT; in WORK only",
            "metrics": json.loads((half / models[-1].parent.name / "metrics.json").read_text(encoding="utf-8")),
        }  # fmt: skip
        for name, piece in zip(names, pieces, strict=fits):
            self.storage.write_bytes(self.out / name, piece)
        self.content["weights"][key] = entry
        self.write()


def prepare_data(data: Path, results: Results) -> str:
    """Return the root of the data set, and note in the results what the manifest of shards says of it.

    Raises `ValueError` or `FileNotFoundError` for a shard that is damaged or missing.
    """
    from c2fvl.data.shard_layout import find_shards, read_manifest, verify_shards
    from c2fvl.files import shards

    found = find_shards(data) or []
    for shard in found:
        shards.read_index(shard.path, sha256=shard.index_sha256)
    for problem in verify_shards(found):
        raise ValueError(problem)
    manifest = read_manifest(data)
    if manifest is not None:
        results.content["data"] = {name: value for name, value in manifest.items() if name != "shards"}
    return str(data)


class StageProcess:
    """One stage while it runs; what it finds is copied to the results as it comes."""

    def __init__(self, stage: Stage, data: str, seconds: float, results: Results, device: str) -> None:
        self.stage, self.results = stage, results
        self.folder = results.work / stage.key
        results.storage.make_folder(self.folder)
        self.began, self.exported_at, self.seen = time.monotonic(), -SECONDS_BETWEEN_EXPORTS, ""
        self.exported: tuple[int, ...] = ()
        self.num_epochs = 0
        self.seconds = seconds
        command = [
            sys.executable, "-m", "benchmarks.gpu_stages", stage.kind, stage.name, *stage.settings, "--data", data,
            "--work", str(self.folder), "--until", str(time.time() + seconds), "--device", device,
        ]  # fmt: skip
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        self.tail: list[str] = []
        self.reader = threading.Thread(target=self._read_output, daemon=True)
        self.reader.start()

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.tail = [*self.tail[-29:], line.rstrip()]
                self.results.log(f"[{self.stage.key}] {line}")

    def wait(self) -> str:
        """Return "done", "failed" or "stopped" when the stage has ended or was ended."""
        asked = False
        while self.process.poll() is None:
            time.sleep(POLL_SECONDS)
            self.collect()
            late = time.monotonic() - self.began - self.seconds
            if late > GRACE_SECONDS:
                self.process.kill()
                self.process.wait()
            elif late > 0 and not asked:
                self.process.send_signal(signal.SIGINT)
                asked = True
        self.reader.join()
        self.collect(last=True)
        if self.process.returncode == 0:
            return "done"
        return "stopped" if asked else "failed"

    def collect(self, *, last: bool = False) -> None:
        """Copy what the stage has found to the results, and its best weights if it is time for that."""
        changes = self._found()
        for line in changes.get("history", [])[self.num_epochs :]:
            shown = "  ".join(f"{name} {line[name]:.4g}" for name in SHOWN if name in line)
            self.results.log(f"[{self.stage.key}] {shown}")
            self.num_epochs += 1
        text = json.dumps(changes)
        if text != self.seen:
            self.seen = text
            self.results.stage(self.stage.key, **changes)
        models = models_of(self.folder)
        stamp = tuple(path.stat().st_mtime_ns for model in models for path in sorted(model.glob("*")))
        due = last or time.monotonic() - self.exported_at > SECONDS_BETWEEN_EXPORTS
        if stamp == self.exported or not due:
            return
        try:
            self.results.export_weights(self.stage.key, models)
        except (ValueError, OSError) as error:  # it may be written at this moment
            if last:
                self.results.log(f"the weights of {self.stage.key} cannot be exported: {error}")
        else:
            self.exported, self.exported_at = stamp, time.monotonic()

    def _found(self) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        result, log = self.folder / "result.json", self.folder / "run" / "log.jsonl"
        if result.is_file():
            changes["result"] = json.loads(result.read_text(encoding="utf-8"))
        if log.is_file():
            changes["history"] = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        return changes


def models_of(folder: Path) -> list[Path]:
    """Return the model folders that a stage has trained so far."""
    return sorted((*folder.glob("run/best"), *folder.glob("folds/fold-*/best")))


def run_stages(stages: list[Stage], data: str, until: float, results: Results, device: str) -> bool:
    """Run the stages that are not done yet until the time `until` (monotonic); return whether all are done."""
    for number, stage in enumerate(stages):
        if results.content["stages"].get(stage.key, {}).get("status") == "done":
            results.log(f"{stage.key} is done already")
            if models := models_of(results.work / stage.key):
                results.export_weights(stage.key, models)
            continue
        left = until - GRACE_SECONDS - time.monotonic()
        waiting = stages[number:]
        shared = left - sum(other.seconds or 0 for other in waiting)
        seconds = min(left, stage.seconds or shared / sum(other.seconds is None for other in waiting))
        if seconds < MIN_SECONDS:
            results.stage(stage.key, status="no time left")
            continue
        results.log(f"{stage.key} begins, with {seconds:.0f} s")
        results.stage(stage.key, spec=stage.spec, status="running", budget_seconds=round(seconds, 1))
        running = StageProcess(stage, data, seconds, results, device)
        status = running.wait()
        took = round(time.monotonic() - running.began, 1)
        error = running.tail if status == "failed" else None
        results.stage(stage.key, status=status, seconds=took, error=error)
        results.log(f"{stage.key}: {status} in {took} s")
    return all(results.content["stages"].get(stage.key, {}).get("status") == "done" for stage in stages)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 0 where all stages are done."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--stages", required=True, help="such as figures,train:c2fvl_qata_paper@480s")
    parser.add_argument("--minutes", type=float, required=True, help="of the whole command")
    parser.add_argument("--data", type=Path, required=True, help="a data set: a folder of tar shards, or any other")
    parser.add_argument("--out", type=Path, required=True, help="for results; at most 8 files of 16 MiB")
    parser.add_argument("--work", type=Path, default=Path("/tmp/gpu_run"), help="for data and run folders")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu"))
    options = parser.parse_args(arguments)
    stages = parse_stages(options.stages)
    missing = missing_modules()
    if missing:
        print(f"not installed: {', '.join(missing)}; install them, or put their wheels on PYTHONPATH", file=sys.stderr)
        return 2
    results = Results(options.out, options.work, sys.argv if arguments is None else arguments)
    results.log(f"stages: {', '.join(stage.spec for stage in stages)}")
    try:
        data = prepare_data(options.data, results)
    except (OSError, ValueError) as error:
        results.content["error"] = str(error)
        results.write()
        results.log(f"the data cannot be used: {error}")
        return 1
    done = run_stages(stages, data, began + 60 * options.minutes, results, options.device)
    results.log(f"{'all stages are done' if done else 'not all stages are done'}; results in {options.out}")
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
