"""How a server bears many clients: answers, processor time for each request, memory, and clients that behave badly.

    python benchmarks/serve_load.py [--clients 50] [--images 5000] [--threads 1]

The server is a process of its own with the model of the package. Beside the clients, which send synthetic films of
224 × 224 with and without a report, some connections are idle, some send slowly, and some clients go away before their
answer. Times depend on what else runs: the load of the machine is printed with them.
"""

import argparse
import contextlib
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx

from c2fvl.data.phantom.draw import draw_case
from c2fvl.serve.answers import png

SIDE, NUM_FILMS, NUM_BAD = 224, 40, 8
SETTLED = 500
"""After so many images a server has made what it keeps."""
REPORTS = ("", "Opacity in the left lower zone.", "Bilateral patchy opacities. The right upper zone is clear.")


@dataclass
class Load:
    """What many clients saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    """Of the answers that were a result."""
    failed: list[str] = field(default_factory=list)
    cpu_ms: float = 0.0
    """Processor time of the server for each result."""
    memory: tuple[int, int] = (0, 0)
    """Bytes that the server held after the first images, `SETTLED` or half of them, and at the end."""
    images_per_batch: float = 0.0
    wall: float = 0.0


@contextlib.contextmanager
def server(*options: str, threads: int = 1) -> Iterator[str]:
    """Run a server in a process of its own within this context; gives its address."""
    command = [sys.executable, "-m", "c2fvl", "serve", "--port", "0", "--no-browser", "--threads", str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        found = re.search(r"http://\S+/", process.stdout.readline())
        if found is None:
            raise RuntimeError("the server did not start")
        yield found[0]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        process.stdout.close()


def metrics(address: str) -> dict[str, float]:
    """Return the counters of a server."""
    text = httpx.get(f"{address}api/v1/metrics", timeout=60, trust_env=False).text
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def put_under_load(address: str, *, clients: int, images: int) -> Load:
    """Send films from many clients at once, while others behave badly; return what was seen."""
    films = [png(draw_case(11, number, size=SIDE).image) for number in range(NUM_FILMS)]
    load, numbers, lock = Load(), iter(range(images)), threading.Lock()
    over = threading.Event()
    _send(address, films[0], "", load)  # warm
    load.statuses.clear()
    load.seconds.clear()
    before, began = metrics(address), time.monotonic()
    early: list[float] = []

    def work() -> None:
        with httpx.Client(headers={"X-C2FVL": "1"}, timeout=120, trust_env=False) as client:
            while True:
                with lock:
                    number = next(numbers, None)
                    if number is not None and number == min(SETTLED, images // 2):
                        early.append(metrics(address)["process_resident_memory_bytes"])
                if number is None:
                    return
                _send(address, films[number % NUM_FILMS], REPORTS[number % len(REPORTS)], load, client)

    bad = [threading.Thread(target=misbehave, args=(address, films[0], over)) for misbehave in (_be_slow, _vanish)]
    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in (*bad, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    load.wall = time.monotonic() - began
    after = metrics(address)
    over.set()
    for thread in bad:
        thread.join()
    results = after["c2fvl_images_total"] - before["c2fvl_images_total"]
    load.cpu_ms = 1000 * (after["process_cpu_seconds_total"] - before["process_cpu_seconds_total"]) / results
    load.images_per_batch = results / (after["c2fvl_batches_total"] - before["c2fvl_batches_total"])
    load.memory = (int(early[0]) if early else 0, int(after["process_resident_memory_bytes"]))
    _check_end(address, load)
    return load


def _send(address: str, film: bytes, report: str, load: Load, client: httpx.Client | None = None) -> None:
    """Send one film until it is answered; 503 is answered by waiting."""
    post = (client or httpx).post
    while True:
        began = time.monotonic()
        try:
            answer = post(
                f"{address}api/v1/predict", files={"image": film}, data={"report": report, "orientation": "patient"},
                headers={"X-C2FVL": "1"}, timeout=120,
            )  # fmt: skip
        except httpx.HTTPError as error:
            load.failed.append(f"{type(error).__name__}: {error}")
            return
        load.statuses[answer.status_code] += 1
        if answer.status_code == 503:
            time.sleep(float(answer.headers["Retry-After"]) * 0.1)
            continue
        if answer.status_code != 200:
            load.failed.append(f"{answer.status_code}: {answer.text[:200]}")
        elif (answer.json()["report"] or {}).get("sentence", "") != report:
            load.failed.append("the answer is that of another request")
        load.seconds.append(time.monotonic() - began)
        return


def _connection(address: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(address.rstrip("/").rpartition(":")[2])), timeout=60)


def _request(address: str, film: bytes) -> bytes:
    body = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n' + film + b"\r\n--b--\r\n"
    host = address.removeprefix("http://").rstrip("/")
    head = f"POST /api/v1/predict HTTP/1.1\r\nHost: {host}\r\nX-C2FVL: 1\r\nContent-Length: {len(body)}\r\n"
    return (head + "Content-Type: multipart/form-data; boundary=b\r\n\r\n").encode() + body


def _be_slow(address: str, film: bytes, over: threading.Event) -> None:
    """Hold connections that say nothing, and others that send a byte at a time."""
    request = _request(address, film)
    idle = [_connection(address) for _ in range(NUM_BAD)]
    slow = [_connection(address) for _ in range(NUM_BAD)]
    for connection in slow:
        connection.sendall(request[:400])
    place = 400
    while not over.wait(0.25):
        for connection in slow:
            with contextlib.suppress(OSError):  # the server has ended it
                connection.sendall(request[place : place + 1])
        place += 1
    for connection in (*idle, *slow):
        connection.close()


def _vanish(address: str, film: bytes, over: threading.Event) -> None:
    """Send whole requests, and parts of some, and go away."""
    request, turn = _request(address, film), 0
    while not over.wait(0.1):
        with contextlib.suppress(OSError), _connection(address) as connection:
            connection.sendall(request if turn % 2 else request[: len(request) // 2])
        turn += 1


def _check_end(address: str, load: Load) -> None:
    """Wait until nothing is held any more; say what is."""
    end = time.monotonic() + 60
    names = ("c2fvl_queue_taken", "c2fvl_held_bytes")
    while any(metrics(address)[name] for name in names):
        if time.monotonic() > end:
            load.failed.append("places or bodies are still held after all clients have gone")
            return
        time.sleep(0.1)


def main() -> int:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    before = os.getloadavg()[0]
    with server(threads=options.threads) as address:
        alone = put_under_load(address, clients=1, images=max(20, options.images // 20))
        load = put_under_load(address, clients=options.clients, images=options.images)
    print(f"Load of the machine before and after: {before:.1f}, {os.getloadavg()[0]:.1f}; {os.cpu_count()} cores\n")
    print("| clients | results | 503 | errors | CPU, ms each | images a batch | p95 / p50 | memory, end / first 500 |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for clients, found in ((1, alone), (options.clients, load)):
        p50, p95 = (statistics.quantiles(found.seconds, n=20)[at] for at in (9, 18))
        print(
            f"| {clients} | {found.statuses[200]} | {found.statuses[503]} | {len(found.failed)} | {found.cpu_ms:.1f} | "
            f"{found.images_per_batch:.1f} | {p95 / p50:.2f} ({p95:.2f} s) | {found.memory[1] / found.memory[0]:.2f} |"
        )
    for failure in (*alone.failed, *load.failed)[:10]:
        print(failure)
    return 1 if alone.failed or load.failed else 0


if __name__ == "__main__":
    sys.exit(main())
