"""A server under many clients, of which some hang, send slowly or go away."""

import sys
from pathlib import Path

from outcome import Outcome, Stage

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from serve_load import put_under_load, server

CLIENTS, IMAGES = 50, 1500
MAX_CPU_MS, MAX_GROWTH = 30, 60 * 2**20


def load_servers(stage: Stage) -> Outcome:
    """Send films from many clients to a server, with a short queue in every second turn, until the time is over."""
    outcome = Outcome("servers")
    for number, _ in stage.rounds():
        queue = (64, 16)[number % 2]
        with server("--queue", str(queue)) as address:
            load = put_under_load(address, clients=CLIENTS, images=IMAGES)
        outcome.tried["requests answered"] += load.statuses[200]
        outcome.tried["requests put off (503)"] += load.statuses[503]
        for failure in load.failed:
            outcome.fail(f"queue {queue}: {failure}")
        if load.statuses[200] != IMAGES:
            outcome.fail(f"queue {queue}: {load.statuses[200]} results of {IMAGES}")
        if load.cpu_ms > MAX_CPU_MS:
            outcome.fail(f"queue {queue}: {load.cpu_ms:.0f} ms of processor time for each request")
        early, late = load.memory
        if late - early > MAX_GROWTH:
            outcome.fail(f"queue {queue}: {(late - early) >> 20} MiB more after {IMAGES} requests")
    return outcome
