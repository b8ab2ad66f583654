"""A Ray session: of this machine alone, or of a cluster that runs already. No torch."""

import contextlib
import dataclasses
import functools
import logging
import os
import re
import secrets
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from c2fvl.cluster import probe
from c2fvl.cluster.place import Place
from c2fvl.cluster.sizing import Pool, pool_of
from c2fvl.files import storage
from c2fvl.messages import first_line
from c2fvl.progress import SILENT, Progress
from c2fvl.version import __version__

logger = logging.getLogger(__name__)

LOOPBACK = {"127.0.0.1", "::1"}
_OBJECT_STORE = 200 * 2**20
"""Bytes; only paths and records pass through it, and more of them go to the disk."""
_MAX_SOCKET_FOLDER = 40
"""Names of Unix sockets are limited to 107 bytes, and Ray adds up to 65 to the name of its folder."""
_SECONDS_TO_CONNECT, _SECONDS_TO_ANSWER, _SECONDS_FOR_CORES = 10, 120, 60
_START_ONE = "`ray start --head` starts a cluster; leave --address out to use this machine alone"


@contextlib.contextmanager
def session(address: str | None = None) -> Iterator[Any]:
    """Yield the module `ray`, connected to the cluster at `address` ("auto" or HOST:PORT), or to this machine alone.

    A session of this machine listens on the loopback interface only, answers processes of this run only, has no
    dashboard, sends no usage statistics, and ends with this context. Raises `ValueError` for an address where no
    cluster answers, and `ModuleNotFoundError` without Ray.
    """
    check_address(address)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # nothing starts a second session after this one
    for name, value in (
        ("RAY_BACKEND_LOG_LEVEL", "fatal"),
        ("RAY_DATA_LOG_LEVEL", "CRITICAL"),
        ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"),  # an actor without a GPU sees those that it saw before
    ):
        os.environ.setdefault(name, value)
    import ray

    _quiet(ray)
    with contextlib.ExitStack() as stack:
        folder = None if address else stack.enter_context(storage.scratch_folder(_folder_of_sockets()))
        stack.callback(ray.shutdown)
        printed: list[str] = []
        try:
            with _own_signals(), _silent_start(printed):
                if folder is not None:
                    stack.enter_context(_token_of_this_run())
                    _start_here(ray, folder)
                else:
                    _connect(ray, str(address))
        except ValueError as error:
            if address is not None and any("Unauthenticated" in line or "AuthToken" in line for line in printed):
                raise ValueError(
                    f"--address {address}: the cluster asks for a token; set RAY_AUTH_MODE=token in the environment, "
                    "with the token of the cluster in RAY_AUTH_TOKEN or ~/.ray/auth_token"
                ) from error
            raise
        yield ray


def check_address(address: str | None) -> None:
    """Raise `ValueError` for an address that is none, or where nothing answers."""
    if address is None or address == "auto":
        return
    if address.startswith("ray://"):
        raise ValueError(
            f"--address {address}: Ray Client is not supported; give HOST:PORT of the head node and run the command on "
            "a machine of the cluster"
        )
    match = re.fullmatch(r"\[?(?P<host>[\w.:-]+?)\]?:(?P<port>\d{1,5})", address)
    if not match or not 0 < int(match["port"]) < 2**16:
        raise ValueError(f"--address must be auto or HOST:PORT, got {address}")
    try:
        socket.create_connection((match["host"], int(match["port"])), _SECONDS_TO_CONNECT).close()
    except OSError as error:
        raise ValueError(f"--address {address}: nothing answers there ({error}); {_START_ONE}") from error


def _start_here(ray: Any, folder: Path) -> None:
    from ray._private import ray_constants

    # Ray listens on all interfaces unless it takes this machine for one that cannot be in a cluster.
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        ray.init(
            address="local", num_cpus=_cores(), include_dashboard=False, object_store_memory=_OBJECT_STORE,
            log_to_driver=False, logging_level=logging.CRITICAL, _temp_dir=str(folder),
        )  # fmt: skip
    except (RuntimeError, OSError, ValueError) as error:
        raise ValueError(f"Ray does not start on this machine: {error}") from error
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
    addresses = {node["NodeManagerAddress"] for node in ray.nodes()}
    if not addresses <= LOOPBACK:
        raise ValueError(
            f"this version of Ray ({ray.__version__}) listens on {', '.join(sorted(addresses))} and not on the "
            "loopback interface alone; install the version that `pip install 'c2fvl[ray]'` takes"
        )


def _connect(ray: Any, address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    except (ConnectionError, RuntimeError, OSError, ValueError) as error:
        raise ValueError(
            f"--address {address}: no cluster of Ray can be used there ({first_line(error)}); {_START_ONE}"
        ) from error


def check_nodes(ray: Any, token: Path | None = None) -> None:
    """Raise `ValueError` for a machine of the cluster without this version of the package, or that sees no `token`.

    `token` is a path in a folder that every machine must share.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.cloudpickle.register_pickle_by_value(probe)
    look = ray.remote(num_cpus=0, max_retries=1)(probe.look_at)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    for node in nodes:
        where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        name = node["NodeManagerHostname"]
        try:
            found = ray.get(
                look.options(scheduling_strategy=where).remote("" if token is None else str(token)),
                timeout=_SECONDS_TO_ANSWER,
            )
        except ray.exceptions.RayError as error:
            raise ValueError(f"the machine {name} of the cluster does not answer ({type(error).__name__})") from error
        check_answer(found)


def check_answer(found: dict[str, str]) -> None:
    """Raise `ValueError` for the answer of a machine that cannot do the work."""
    host, install = found["host"], f"install c2fvl {__version__} there, for {found['python']}"
    if not found["version"]:
        raise ValueError(f"the machine {host} of the cluster has no c2fvl ({found['error']}); {install}")
    if found["version"] != __version__:
        raise ValueError(f"the machine {host} of the cluster has c2fvl {found['version']}; {install}")
    if not found["seen"]:
        raise ValueError(
            f"the machine {host} of the cluster does not see the output folder of this machine; give a folder on a "
            "disk that all machines share"
        )


def room(
    ray: Any,
    *,
    device: str = "auto",
    threads: int | None = None,
    actors: int | None = None,
    extensions: tuple[str, ...] = (),
    token: Path | None = None,
    progress: Progress = SILENT,
) -> tuple[Place, Pool]:
    """Return where the actors work and how many there are.

    "auto" is cuda where the cluster has a GPU, else cpu. `threads` and `actors` as in `pool_of`, `token` as in
    `check_nodes`. Waits a minute for cores that other work uses. Raises `ValueError` where there is no room.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device {device} cannot be used with --engine ray; give auto, cpu or cuda")
    if len(ray.nodes()) > 1 or ray.nodes()[0]["NodeManagerAddress"] not in LOOPBACK:
        check_nodes(ray, token)
    if device == "auto":
        device = "cuda" if ray.cluster_resources().get("GPU", 0) else "cpu"
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    pool = pool_of(nodes, cpus=threads, gpu=device == "cuda", actors=actors)
    pool = _free(ray, pool, progress)
    progress.stage(f"Ray {ray.__version__}: {pool.words}")
    return Place(device, pool.cpus, extensions=extensions), pool


def _free(ray: Any, pool: Pool, progress: Progress) -> Pool:
    """Return the part of a pool that other work leaves room for, once that is one actor at least."""
    began, is_said = time.monotonic(), False
    while True:
        free = ray.available_resources()
        count = int(free.get("CPU", 0)) // pool.cpus
        count = min(count, int(free.get("GPU", 0)) // pool.gpus) if pool.gpus else count
        if count >= 1:
            return dataclasses.replace(pool, actors=min(pool.actors, count))
        if time.monotonic() - began > _SECONDS_FOR_CORES:
            raise ValueError(
                f"other work uses all of the cluster: an actor needs {pool.cpus} free cores"
                f"{' and a GPU' if pool.gpus else ''}; try again when that work has ended"
            )
        if not is_said:
            progress.stage("Waiting for free cores of the cluster")
        is_said = True
        time.sleep(_SECONDS_FOR_CORES / 12)


def _quiet(ray: Any) -> None:
    """Send what Ray prints of its workers to the log."""
    worker = ray._private.worker
    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = _log_lines


def _log_lines(batch: Any, *_: Any, **__: Any) -> None:
    for line in batch.get("lines", ()):
        logger.info("Ray: %s", line)


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handlers of this program, which Ray replaces when it starts."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # outside the main thread nothing was replaced
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)


@contextlib.contextmanager
def _token_of_this_run() -> Iterator[None]:
    """Let only processes of this run use its session, by a token that is written nowhere."""
    if any(name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        yield
        return
    os.environ["RAY_AUTH_TOKEN"] = _token()  # Ray itself then sets the mode
    try:
        yield
    finally:
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            os.environ.pop(name, None)


@functools.cache
def _token() -> str:
    return secrets.token_hex(32)  # Ray reads it once in a process


@contextlib.contextmanager
def _silent_start(printed: list[str]) -> Iterator[None]:
    """Send what the libraries of Ray print to the error stream to the log and to `printed`."""
    sys.stderr.flush()
    kept, (reading, writing) = os.dup(2), os.pipe()
    os.set_blocking(writing, False)
    os.dup2(writing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(writing)
        os.set_blocking(reading, False)
        with contextlib.suppress(BlockingIOError):
            printed.extend(os.read(reading, 2**16).decode(errors="replace").splitlines())
        for line in printed:
            logger.info("Ray: %s", line)
        os.close(reading)


def _folder_of_sockets() -> Path:
    folder = Path(tempfile.gettempdir())
    return folder if len(os.fsencode(folder)) <= _MAX_SOCKET_FOLDER - len("/.c2fvl-partial-") - 16 else Path("/tmp")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
