"""What a server refuses, a test for each risk: other hosts, other pages, sizes, bombs, content, logs, load."""

import base64
import concurrent.futures
import contextlib
import gzip
import hashlib
import io
import json
import os
import re
import socket
import struct
import time
import zipfile
import zlib
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from support.dicom import as_bytes, film
from support.servers import film_png, wait_until

from c2fvl.serve.guards import host_name
from c2fvl.serve.networks import ServedModel, ServedModels
from c2fvl.serve.settings import Limits, ServerSettings

BOUNDARY = b"--b\r\n"


def raw(server, head, *chunks):
    """Send bytes as they are and return the status of the answer."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(head)
        for chunk in chunks:
            connection.sendall(chunk)
        return int(connection.recv(4096).split()[1])


def head(server, path="/api/v1/predict", *, method="POST", host=None, extra=""):
    host = host or f"127.0.0.1:{server.port}"
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nX-C2FVL: 1\r\n{extra}\r\n".encode()


# other hosts


def test_only_this_machine_is_answered_by_default():
    assert ServerSettings().host == "127.0.0.1"
    assert ServerSettings().hosts() == {"localhost", "127.0.0.1", "::1"}


def test_a_token_is_demanded(serve):
    server = serve(token="a-token-of-some-length")
    assert server.client.get("/").status_code == 200, "the page holds no data"
    assert server.client.get("api/v1/health").status_code == 200
    for path in ("info", "models", "metrics", "openapi.json", "examples/0"):
        assert server.client.get(f"api/v1/{path}").status_code == 401, path
    refused = server.predict()
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    for wrong in ("Bearer a-token-of-some-lengt", "Basic a-token-of-some-length", "Bearer", "Bearer ÿ"):
        headers = {"Authorization": wrong.encode("latin-1")}
        assert server.client.get("api/v1/info", headers=headers).status_code == 401, wrong
    right = {"Authorization": "Bearer a-token-of-some-length"}
    assert server.client.get("api/v1/info", headers=right).status_code == 200


# DNS rebinding


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "localhost.evil.example", "[::2]", ""])
def test_another_host_is_refused(server, host):
    assert raw(server, f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()) == 421


def test_the_names_of_this_machine_are_taken(server):
    for host in (f"localhost:{server.port}", f"127.0.0.1:{server.port}", "LOCALHOST", f"[::1]:{server.port}"):
        assert raw(server, head(server, "/api/v1/health", method="GET", host=host)) == 200
    assert host_name("[::1]:80") == "::1"


def test_a_proxy_s_name_is_taken_where_it_is_allowed(serve):
    server = serve(allowed_hosts=("c2fvl.hospital.example",))
    assert server.client.get("api/v1/health", headers={"Host": "c2fvl.hospital.example"}).status_code == 200
    assert server.client.get("api/v1/health", headers={"Host": "hospital.example"}).status_code == 421


# other web pages


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "file://"])
def test_another_page_is_refused(server, origin):
    answer = server.client.post("api/v1/read", json={}, headers={"Origin": origin})
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert server.client.options("api/v1/predict", headers={"Origin": origin}).status_code == 403


def test_its_own_page_is_answered_and_no_other_is_told_so(server):
    answer = server.client.post("api/v1/read", json={}, headers={"Origin": server.address.rstrip("/")})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_post_without_the_header_that_forms_cannot_send_is_refused(server):
    with httpx.Client(base_url=server.address, trust_env=False) as plain:
        for path in ("read", "predict"):
            answer = plain.post(f"api/v1/{path}", data={"report": "x"})
            assert answer.status_code == 403
            assert "X-C2FVL" in answer.json()["detail"]


def test_an_allowed_page_is_answered_exactly(serve):
    server = serve(allowed_origins=("https://viewer.example",))
    origin = {"Origin": "https://viewer.example"}
    preflight = server.client.options("api/v1/predict", headers=origin)
    assert preflight.status_code == 204
    assert "x-c2fvl" in preflight.headers["access-control-allow-headers"]
    answer = server.client.post("api/v1/read", json={}, headers=origin)
    assert answer.headers["access-control-allow-origin"] == "https://viewer.example"
    for other in ("https://viewer.example.evil.example", "http://viewer.example"):
        assert server.client.post("api/v1/read", json={}, headers={"Origin": other}).status_code == 403


# size


def test_a_length_above_the_limit_is_refused_before_the_body(server):
    assert raw(server, head(server, extra="Content-Length: 30000001\r\n")) == 413


def test_a_body_without_a_length_is_counted(serve):
    server = serve(limits=Limits(body_bytes=200_000))
    sent = 0

    def body():
        nonlocal sent
        yield BOUNDARY + b'Content-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
        while sent < 60_000_000:
            sent += 50_000
            yield bytes(50_000)

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    with contextlib.suppress(httpx.WriteError, httpx.ReadError):  # the server has answered and closed
        assert server.client.post("api/v1/predict", content=body(), headers=headers).status_code == 413
    assert sent < 30_000_000, "it is ended early"
    text = server.client.post("api/v1/read", content=b" " * 70_000)
    assert text.status_code == 413
    wait_until(lambda: server.service.held.number == 0)


def test_all_bodies_together_are_limited(serve):
    server = serve(limits=Limits(held_bytes=10_000))
    answer = server.predict()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert server.service.held.number == 0


# forms


def test_forms_are_limited(server):
    film_file = ("x.png", film_png(0))
    two = server.client.post("api/v1/predict", files=[("image", film_file), ("image", film_file)])
    assert two.status_code == 400
    assert server.predict(report="x" * 17_000).status_code == 400
    many = server.predict(**{f"field{number}": "x" for number in range(9)})
    assert many.status_code == 400
    assert server.predict(report="x" * 4001).json()["field"] == "report"
    assert server.predict(other="x").status_code == 422
    assert server.client.post("api/v1/predict", data={"report": "x"}).status_code == 415
    assert server.client.post("api/v1/predict", files={"report": film_file}).status_code == 422
    empty = server.client.post("api/v1/predict", files={"image": ("x", b"")})
    assert (empty.status_code, empty.json()["field"]) == (422, "image")
    bad = server.client.post("api/v1/predict", content=b"x", headers={"Content-Type": "multipart/form-data"})
    assert bad.status_code == 400
    cut = server.client.post(
        "api/v1/predict", content=b"--b\r\nnonsense", headers={"Content-Type": "multipart/form-data; boundary=b"}
    )
    assert cut.status_code in (400, 422)


# patient data on the disk


def test_an_upload_never_touches_the_disk(server):
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("the open files are listed in /proc")
    start = BOUNDARY + b'Content-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
    body = bytes(7_000_000)
    before = deleted_files()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        extra = "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 9000000\r\n"
        connection.sendall(head(server, extra=extra) + start + body)
        wait_until(lambda: server.service.held.number >= 7_000_000)
        assert deleted_files() <= before
    wait_until(lambda: server.service.held.number == 0)


def deleted_files():
    """Return the open files that have no name any more, as temporary files have."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(str(entry.readlink()))
    return {name for name in found if "(deleted)" in name}


# bombs


def png_header(width, height):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def deflated_dicom():
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = bytes(2**24)
    body = b"".join(compressor.compress(zeros) for _ in range(20)) + compressor.flush()
    syntax = b"1.2.840.10008.1.2.1.99\0"[:22]
    meta = struct.pack("<HH2sH", 2, 0x10, b"UI", len(syntax)) + syntax
    return bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(meta)) + meta + body


def nested_dicom(levels):
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    sequence = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF)
    plain = as_bytes(film(np.zeros((8, 8), np.uint8)))
    ends = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return plain[: plain.index(b"\x28\x00\x02\x00")] + (sequence + item) * levels + ends * levels


def huge_nifti():
    header = bytearray(352)
    struct.pack_into("<i8h", header, 0, 348, 2, 30000, 30000, 1, 1, 1, 1, 1)
    struct.pack_into("<i8h", header, 0, 348, 0, 0, 0, 0, 0, 0, 0, 0)
    struct.pack_into("<8h", header, 40, 2, 30000, 30000, 1, 1, 1, 1, 1)
    struct.pack_into("<hh", header, 70, 2, 8)
    header[344:348] = b"n+1\0"
    return gzip.compress(bytes(header) + bytes(2**20))


def zipped():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("film.png", bytes(10_000_000))
    return content.getvalue()


BOMBS = {
    "PNG of 50000 x 50000": lambda: png_header(50_000, 50_000) + bytes(100),
    "deflated DICOM": deflated_dicom,
    "sequences 200 deep": lambda: nested_dicom(200),
    "sequences 20000 deep": lambda: nested_dicom(20_000),
    "DICOM of 60000 x 60000": lambda: as_bytes(film(np.zeros((8, 8), np.uint8), Rows=60_000, Columns=60_000)),
    "NIfTI of 30000 x 30000": huge_nifti,
    "a zip file": zipped,
    "a text": lambda: b"http://127.0.0.1:9/film.png",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_in_words(server, name):
    content = BOMBS[name]()
    assert len(content) < 3_000_000
    before = time.process_time()
    answer = server.predict(content)
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"]
    assert "Traceback" not in answer.text
    assert time.process_time() - before < 5
    assert server.client.get("api/v1/ready").status_code == 200


# hostile pixel streams


def test_compressed_pixels_are_decoded_in_a_process_of_its_own(server):
    pytest.importorskip("pydicom")
    from support.clinical_files import dicom

    content = io.BytesIO()
    dicom("RG1_J2KR.dcm").save_as(content)
    damaged = bytearray(content.getvalue())
    for place in range(len(damaged) // 2, len(damaged), 997):
        damaged[place] ^= 0x5A
    for film_file in (bytes(damaged), content.getvalue()):
        assert server.predict(film_file, wanted="mask").status_code in (200, 422)
    assert any("dicom_worker" in line for line in commands_of_children())
    assert server.client.get("api/v1/ready").status_code == 200


def commands_of_children():
    """Yield the command line of each process that this one has started."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid():
                yield (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()


# content


def test_every_answer_has_the_headers(server):
    answers = [
        server.client.get("/"), server.client.get("api/v1/info"), server.client.get("nothing"), server.predict(b"x"),
        server.predict(wanted="mask"), server.client.get("/", headers={"Host": "evil.example"}),
        server.client.post("api/v1/read", json={}, headers={"Origin": "https://evil.example"}),
    ]  # fmt: skip
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert "set-cookie" not in answer.headers
        assert "server" not in answer.headers
    for path in ("docs", "redoc", "static/index.html", "page/index.html", "../etc/passwd"):
        assert server.client.get(path).status_code == 404


def test_the_policy_has_the_hashes_of_the_page_as_it_is_sent(server):
    answer = server.client.get("/")
    policy = answer.headers["content-security-policy"]
    for element, kind in (("script", "script-src"), ("style", "style-src")):
        (content,) = re.findall(rf"<{element}>(.*?)</{element}>", answer.text, re.S)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}';" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "form-action 'none'" in policy


def test_the_page_asks_for_nothing_and_writes_no_markup(server):
    page = server.client.get("/").text
    assert not re.search(r"(src|href)=\"(?!data:,|#)", page)
    assert "url(" not in page
    assert "@import" not in page
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", page)
    assert " style=" not in page
    assert not re.search(r"<[^>]* on[a-z]+=", page)


# names


def test_names_of_files_are_never_used(server):
    name = '../../etc/"Unmistakable\\.dcm'
    answer = server.client.post("api/v1/predict?as=mask", files={"image": (name, film_png(0), "text/html")})
    assert answer.status_code == 200
    assert "Unmistakable" not in str(answer.headers)
    assert answer.headers["content-type"] == "image/png"
    refused = server.client.post("api/v1/predict", files={"image": (name, b"no image")})
    assert "Unmistakable" not in refused.text


# errors and logs


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 60_000, b'{"report": "\xff"}', b"NaN"])
def test_a_body_that_is_no_json_object_is_400(server, body):
    answer = server.client.post("api/v1/read", content=body)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"


def test_an_error_of_the_program_is_told_without_its_words(server, monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError("Unmistakable report")

    monkeypatch.setattr("c2fvl.serve.app.reading_of", fail)
    answer = server.client.post("api/v1/read", json={"report": "Unmistakable report"})
    assert answer.status_code == 500
    assert answer.json()["title"] == "Internal Server Error"
    wait_until(lambda: "RuntimeError" in caplog.text)
    assert "Unmistakable" not in answer.text + caplog.text


def test_no_report_stays_in_the_server(server):
    model = server.service.models.default
    server.predict(report="Opacity in the left lower zone, possibly Unmistakable edema.")
    assert not model.plain._said, "the shared predictor has read no report"


# load


def gated(gate):
    return ServedModels([ServedModel("small", gate)])


def test_a_full_queue_is_503_and_says_when_to_ask_again(serve, gate):
    server = serve(gated(gate), limits=Limits(queue=3))
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(server.predict) for _ in range(3)]
        wait_until(lambda: server.service.queue.taken == 3)
        refused = server.predict()
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert server.client.get("api/v1/ready").status_code == 503
        assert server.client.get("api/v1/health").status_code == 200
        assert server.client.post("api/v1/read", json={"report": "x"}).status_code == 200, (
            "reports are read all the same"
        )
        gate.opened.set()
        assert [future.result().status_code for future in waiting] == [200] * 3
    assert server.service.queue.taken == 0


def test_a_client_that_goes_away_gives_its_place_back(serve, gate):
    server = serve(gated(gate), limits=Limits(queue=2))
    body = (
        BOUNDARY
        + b'Content-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
        + film_png(0)
        + b"\r\n--b--\r\n"
    )
    extra = f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}\r\n"
    connections = []
    for _ in range(2):
        connections.append(socket.create_connection(("127.0.0.1", server.port)))
        connections[-1].sendall(head(server, extra=extra) + body)
    wait_until(lambda: server.service.queue.taken == 2)
    assert server.predict().status_code == 503
    for connection in connections:
        connection.close()
    wait_until(lambda: server.service.queue.taken == 0)
    gate.opened.set()
    assert server.predict().status_code == 200
    assert server.service.held.number == 0


def test_slow_clients_hold_no_place_and_are_ended(serve, gate):
    server = serve(gated(gate), limits=Limits(queue=1, upload_seconds=2))
    gate.opened.set()
    extra = "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 500\r\n"
    slow = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(5)]
    for connection in slow:
        connection.sendall(head(server, extra=extra) + BOUNDARY)
    assert server.predict().status_code == 200
    for connection in slow:
        assert b" 408 " in connection.recv(200)
        connection.close()


def test_an_answer_that_takes_too_long_is_504(serve, gate):
    server = serve(gated(gate), limits=Limits(answer_seconds=0.3))
    answer = server.predict()
    assert answer.status_code == 504
    assert server.service.queue.taken == 0
    gate.opened.set()
    assert server.predict().status_code in (200, 504)


def test_a_network_that_fails_ends_its_request_and_not_the_server(serve, gate, monkeypatch, caplog):
    server = serve(gated(gate))
    gate.opened.set()
    monkeypatch.setattr(gate, "compute", lambda images, text: np.stack([]))
    assert server.predict().status_code == 500
    monkeypatch.undo()
    assert server.predict().status_code == 200
    assert json.loads(server.client.get("api/v1/ready").text) == {"status": "ready"}


def test_no_image_of_another_request_is_answered(server):
    """The image that comes back is the one that was sent, for requests that run at once."""
    images = [film_png(number, size=64) for number in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        views = list(pool.map(lambda image: server.predict(image, wanted="view").json(), images))
    for image, view in zip(images, views, strict=True):
        found = cv2.imdecode(np.frombuffer(base64.b64decode(view["image"]), np.uint8), cv2.IMREAD_GRAYSCALE)
        assert np.array_equal(found, cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_GRAYSCALE))
