"""Random and hostile use: `make stress`, for STRESS_MINUTES (20) from STRESS_SEED (0).

Damaged files go through every public reader, training runs and writers of shards are killed at any moment, thousands
of images are predicted, a server answers many clients, every network runs at its full size, a large CT volume is
predicted within bounds of memory and time, results are opened in OHIF, and actors of Ray are killed. It prints what was
tried and what failed, with the files that failed, and ends with status 1 if anything did.
"""

import logging
import os
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from images import predict_images
from kills import kill_runs
from kinds import all_kinds
from networks import run_networks
from ohif import open_results
from outcome import Outcome, Stage, in_child
from ray_kills import kill_ray
from readers import damage_files
from servers import load_servers
from shard_kills import kill_shard_writers
from support.tiny_runs import TINY
from volumes import predict_volumes

from c2fvl.config import Config
from c2fvl.config_files import load_config

READERS, KILLS, WRITERS, IMAGES, SERVERS, NETWORKS = 0.32, 0.30, 0.02, 0.14, 0.08, 0.14
"""Fractions of the time."""


def prepare(folder: Path) -> tuple[Config, Path]:
    """Write a data set, a trained run, its evaluation and its export; return the settings and the folder."""
    from c2fvl.cli.main import main as c2fvl

    data, run = folder / "data", folder / "run"
    settings = [*TINY, f'data.root="{data}"']
    for call in (
        ["phantom", data, "--num-cases", 40, "--seed", 1, "--size", 64],
        ["train", "debug", *settings, "--run-dir", run],
        ["evaluate", run, data, "--split", "test", "--out", folder / "evaluation"],
        ["export", run, folder / "network.onnx"],
    ):
        assert c2fvl([str(item) for item in call]) == 0, call
    return load_config("debug", settings), run


def main() -> int:
    """Run every stage; return the exit status."""
    minutes, seed = float(os.environ.get("STRESS_MINUTES", "20")), int(os.environ.get("STRESS_SEED", "0"))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    folder = Path(tempfile.mkdtemp(prefix="c2fvl-stress-"))
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    began = time.monotonic()
    prepared, error = in_child(lambda: prepare(folder), seconds=600)  # a process that computed must not be forked
    if error:
        print(error)
        return 1
    config, run = prepared
    kinds = all_kinds(folder / "data", run, folder / "evaluation", folder / "network.onnx")

    def stage(fraction: float) -> Stage:
        return Stage(60 * minutes * fraction, seed, folder)

    outcomes: list[Outcome] = []
    for act in (
        lambda: damage_files(stage(READERS), kinds),
        lambda: kill_runs(stage(KILLS), config),
        lambda: kill_shard_writers(stage(WRITERS), folder / "data"),
        lambda: predict_images(stage(IMAGES), [run, folder / "network.onnx"]),
        lambda: load_servers(stage(SERVERS)),
        lambda: run_networks(stage(NETWORKS)),
        lambda: predict_volumes(stage(0)),
        lambda: open_results(stage(0)),
        lambda: kill_ray(stage(0), folder / "network.onnx", folder / "data"),
    ):
        outcomes.append(act())
        print(f"{outcomes[-1].name}, tried:", flush=True)
        for name, count in sorted(outcomes[-1].tried.items()):
            print(f"  {count:6} {name}")
    failed = [f"{outcome.name}: {failure}" for outcome in outcomes for failure in outcome.failed]
    print("\n".join(["", "Failures:", *failed]) if failed else "")
    spent = (time.monotonic() - began) / 60
    tried = ", ".join(f"{sum(outcome.tried.values())} {outcome.name}" for outcome in outcomes)
    print(f"stress: {tried}; {len(failed)} failed; {spent:.1f} minutes, seed {seed}")
    if not failed:
        shutil.rmtree(folder)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
