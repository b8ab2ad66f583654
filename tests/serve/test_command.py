"""The command `c2fvl serve` in a process of its own: address, stop, logs, errors in one line; and the example."""

import os
import re
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from support.dicom import as_bytes, film
from support.servers import film_png

from c2fvl.cli.main import main, parser

CLIENT = Path(__file__).parents[2] / "examples" / "client.py"
SECRET = "Unmistakable"


def line_of(process, seconds=120):
    """Return the next line that a process prints."""
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    assert ready, "the server says nothing"
    return process.stdout.readline()


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    errors = (folder / "errors.txt").open("w+")
    started = subprocess.Popen(
        [sys.executable, "-m", "c2fvl", "serve", "--port", "0", "--no-browser", "--threads", "1", "--verbose"],
        stdout=subprocess.PIPE, stderr=errors, text=True, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    started.errors, started.folder = errors, folder
    yield started
    started.kill()
    started.wait()
    started.stdout.close()
    errors.close()


def test_it_prints_its_address_answers_keeps_no_words_and_stops(process, monkeypatch, tmp_path, capsys):
    said = line_of(process)
    address = re.search(r"http://127\.0\.0\.1:\d+/", said)[0]
    assert "Research use, not for diagnosis" in said
    image = tmp_path / f"{SECRET}.png"
    image.write_bytes(film_png(0))
    monkeypatch.chdir(tmp_path)
    report = f"Opacity in the left lower zone of {SECRET}, possibly edema."
    runpy.run_path(str(CLIENT))["main"](str(image), report, f"{address}api/v1/")
    assert re.search(r"Lesion: \d+\.\d % of the image\.", capsys.readouterr().out)
    assert cv2.imread("mask.png", cv2.IMREAD_UNCHANGED).shape == (160, 160)
    with httpx.Client(base_url=address, headers={"X-C2FVL": "1"}, trust_env=False) as client:
        client.post(f"api/v1/predict?as={SECRET}", files={"image": (f"{SECRET}.png", b"no image")})
        client.post("api/v1/predict", files={"image": (f"{SECRET}.png", b"no image")}, data={"report": report})
        for wanted in ("json", "seg", "sr"):
            client.post(f"api/v1/predict?as={wanted}", files={"image": film_with_wrong_values()})
        client.post("api/v1/read", content=f'{{"report": "{SECRET}'.encode())
        assert client.get(f"/{SECRET}?{SECRET}").status_code == 404
        keeping = client.get("api/v1/health")  # an open connection does not hold up the end
        assert keeping.status_code == 200
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
        assert time.monotonic() - began < 15
    rest = process.stdout.read()
    process.errors.seek(0)
    errors = process.errors.read()
    assert SECRET not in said + rest + errors, "no report, no file name and no path is printed or logged"
    assert "Traceback" not in errors
    assert errors.strip().endswith("c2fvl: stopped by SIGTERM")
    assert sorted(path.name for path in process.folder.iterdir()) == ["errors.txt"], "nothing is written"


def film_with_wrong_values():
    """Return a DICOM film with values that break their rules; pydicom warns of these and quotes them."""
    pytest.importorskip("pydicom")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return as_bytes(film(np.full((64, 64), 90, np.uint8), PatientName=f"{SECRET}^A", PatientID=f"{SECRET}\\1",
                             PatientBirthDate=SECRET, StudyDate=SECRET, AccessionNumber=9 * SECRET))  # fmt: skip


def refused(capsys, *words):
    """Return the one line with which the command ends."""
    status = main(["serve", "--no-browser", *words])
    lines = capsys.readouterr().err.splitlines()
    assert (status, len(lines)) == (2, 1), lines
    return lines[0]


def test_a_taken_port_is_one_line(capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        assert "the port is taken. Give another one with --port" in refused(capsys, "--port", port)


def test_wrong_options_are_one_line(capsys, tmp_path):
    assert "--port must be between" in refused(capsys, "--port", "70000")
    assert "is no address of this machine" in refused(capsys, "--host", "no.such.host.invalid", "--port", "0")
    assert "both" in refused(capsys, "--tls-cert", "x.pem")
    pem = tmp_path / "x.pem"
    pem.write_text("no certificate")
    assert "PEM files" in refused(capsys, "--tls-cert", str(pem), "--tls-key", str(pem))
    token = tmp_path / "token"
    token.write_text("short\n")
    assert "at least 16" in refused(capsys, "--token-file", str(token))
    assert "No such file" in refused(capsys, "--token-file", str(tmp_path / "none"))


def test_a_model_that_cannot_be_loaded_is_one_line(capsys, tmp_path):
    assert "did you mean small" in refused(capsys, "--model", "smal", "--port", "0")
    (tmp_path / "model").mkdir()
    assert "model.safetensors" in refused(capsys, "--model", str(tmp_path / "model"), "--port", "0")


def test_missing_packages_are_one_line(capsys, monkeypatch):
    import importlib.util

    own = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "uvicorn" else own(name, *more)
    )
    assert "pip install 'c2fvl[serve]'" in refused(capsys)


def test_a_server_for_others_makes_a_token_and_takes_none_on_the_command_line(monkeypatch, capsys):
    from c2fvl.serve import run as serve_run

    given = {}
    monkeypatch.setattr("c2fvl.cli.serve._models", lambda options: ["model"])
    monkeypatch.setattr("c2fvl.serve.networks.ServedModels", lambda models: models)
    monkeypatch.setattr("c2fvl.serve.app.build_app", lambda models, settings: given.setdefault("settings", settings))
    monkeypatch.setattr(serve_run, "run", lambda *them, started, **others: started())
    assert main(["serve", "--host", "0.0.0.0", "--port", "0", "--no-browser"]) == 0
    said = capsys.readouterr()
    token = given["settings"].token
    assert len(token) >= 40
    assert said.out.count(token) == 1
    assert "unencrypted" in said.err
    options = {name for action in _serve_parser()._actions for name in action.option_strings}
    assert "--token-file" in options
    assert "--token" not in options, "a command line is seen by every user of the machine"


@pytest.mark.parametrize("words", [(), ("--monai-label",)])
def test_the_address_for_3d_slicer_is_said_where_it_is_answered(monkeypatch, capsys, words):
    from c2fvl.serve import run as serve_run

    given = {}
    monkeypatch.setattr("c2fvl.cli.serve._models", lambda options: ["model"])
    monkeypatch.setattr("c2fvl.serve.networks.ServedModels", lambda models: models)
    monkeypatch.setattr("c2fvl.serve.app.build_app", lambda models, settings: given.setdefault("settings", settings))
    monkeypatch.setattr(serve_run, "run", lambda *them, started, **others: started())
    assert main(["serve", "--port", "0", "--no-browser", *words]) == 0
    assert given["settings"].monai_label == bool(words)
    said = re.findall(r"extension of 3D Slicer: (\S+)$", capsys.readouterr().out, re.M)
    assert len(said) == len(words)
    assert all(re.fullmatch(r"http://127\.0\.0\.1:\d+", address) for address in said)


def _serve_parser():
    from c2fvl.cli.main import command_parsers

    return command_parsers(parser("serve"))["serve"]


def test_https(serve, tmp_path):
    from c2fvl.serve.run import Certificate

    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True,
    )  # fmt: skip
    with pytest.raises(ValueError, match="PEM files"):
        Certificate(key, certificate).check()
    found = Certificate(certificate, key)
    found.check()
    server = serve(certificate=found)
    assert server.address.startswith("https://")
    assert server.predict().status_code == 200
    own = {"Origin": server.address.rstrip("/")}
    assert server.client.post("api/v1/read", json={}, headers=own).status_code == 200
