"""Counters of a server, as text for Prometheus. They hold numbers, never words of a request. No torch."""

import os
import time
from collections import Counter
from pathlib import Path

from c2fvl.version import __version__

_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
PREDICT = "/api/v1/predict"


class Metrics:
    """What a server has done since it started."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        self._paths = frozenset(paths)
        self._began = time.time()
        self._answers: Counter[tuple[str, int]] = Counter()
        self._slower = Counter[float]()
        self._seconds = 0.0
        self._num_predictions = 0

    def count(self, path: str, status: int, seconds: float) -> None:
        """Count an answer; a status of 0 means that the client had gone."""
        self._answers[path if path in self._paths else "other", status] += 1
        if path == PREDICT and status == 200:
            self._num_predictions += 1
            self._seconds += seconds
            self._slower.update(bucket for bucket in _BUCKETS if seconds <= bucket)

    def text(self, gauges: dict[str, tuple[str, float]]) -> str:
        """Return all metrics; `gauges` has help and value of further ones."""
        lines = _metric("c2fvl_info", "gauge", "The version.", {f'{{version="{__version__}"}}': 1})
        lines += _metric(
            "c2fvl_requests_total", "counter", "Answers by path and status; 0: the client had gone.",
            {f'{{path="{path}",status="{status}"}}': count for (path, status), count in sorted(self._answers.items())},
        )  # fmt: skip
        name = "c2fvl_predict_seconds"
        lines += [f"# HELP {name} From a request to its answer.", f"# TYPE {name} histogram"]
        lines += [f'{name}_bucket{{le="{bucket}"}} {self._slower[bucket]}' for bucket in _BUCKETS]
        lines += [f'{name}_bucket{{le="+Inf"}} {self._num_predictions}', f"{name}_sum {self._seconds:.6f}"]
        lines += [f"{name}_count {self._num_predictions}"]
        for gauge, (meaning, value) in gauges.items():
            lines += _metric(gauge, "counter" if gauge.endswith("_total") else "gauge", meaning, {"": value})
        cpu = round(time.process_time(), 3)
        lines += _metric("process_cpu_seconds_total", "counter", "Processor time.", {"": cpu})
        memory = resident_bytes()
        if memory is not None:
            lines += _metric("process_resident_memory_bytes", "gauge", "Memory.", {"": memory})
        lines += _metric("process_start_time_seconds", "gauge", "When it started.", {"": round(self._began, 3)})
        return "\n".join(lines) + "\n"


def _metric(name: str, kind: str, meaning: str, values: dict[str, float]) -> list[str]:
    lines = [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
    return lines + [f"{name}{labels} {value}" for labels, value in values.items()]


def resident_bytes() -> int | None:
    """Return the memory that this process holds; None where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        return None
