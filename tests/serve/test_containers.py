"""Containerfile and compose.yaml: what they run, run here without an engine."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("requests", reason="the extra dicomweb is not installed")

import yaml
from support.dicom import as_bytes
from support.films import small_film
from support.orthanc import PASSWORD, USER, running_orthanc

from c2fvl.cli.main import parser
from c2fvl.dicomweb.archive import Archive
from c2fvl.dicomweb.connection import Connection, Credentials

PROJECT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((PROJECT / "compose.yaml").read_text(encoding="utf-8"))
CONTAINERFILE = (PROJECT / "Containerfile").read_text(encoding="utf-8")


def command_of_image():
    return json.loads(re.findall(r"^CMD (\[.*\])$", CONTAINERFILE, re.M)[0])


def commands():
    found = {name: service["command"] for name, service in COMPOSE["services"].items() if "command" in service}
    return found | {"image": command_of_image()}


@pytest.mark.parametrize("name", commands())
def test_every_command_is_one_of_the_program(name):
    command = commands()[name]
    options = parser(command[0]).parse_args(command)
    assert callable(options.run)


def test_ports_are_those_of_this_machine_alone():
    for service in COMPOSE["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_secrets_are_files_and_no_password_is_written_down():
    for name, service in COMPOSE["services"].items():
        for secret in service.get("secrets", ()):
            assert secret in COMPOSE["secrets"], name
            assert f"/run/secrets/{secret}" in service["command"]
    assert set(COMPOSE["secrets"]) == {"archive_password", "page_token"}
    ignored = (PROJECT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {"/secrets/", "/dist/"} <= set(ignored)


def test_the_image_is_small_and_needs_no_rights():
    assert "USER 10001" in CONTAINERFILE
    assert CONTAINERFILE.index("USER 10001") < CONTAINERFILE.index("ENTRYPOINT")
    assert re.findall(r"^FROM (\S+)$", CONTAINERFILE, re.M) == ["python:3.12-slim"]
    (extras,) = re.findall(r"\$\{wheel\}\[([a-z,]+)\]", CONTAINERFILE)
    assert "train" not in extras.split(",")
    assert not re.search(r"apt-get|gcc|COPY \. ", CONTAINERFILE)
    for service in ("watch", "page"):
        assert COMPOSE["services"][service]["read_only"] is True
        assert COMPOSE["services"][service]["cap_drop"] == ["ALL"]


def test_hadolint_finds_nothing():
    linter = Path(sys.executable).with_name("hadolint")
    if not linter.is_file():
        pytest.skip("hadolint is not installed")
    done = subprocess.run(
        [linter, "--failure-threshold", "warning", PROJECT / "Containerfile"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.slow(like="test_every_command_is_one_of_the_program")
def test_the_watch_of_compose_sends_results_to_an_archive_with_a_password(tmp_path):
    password = tmp_path / "password.txt"
    password.write_text(f"{PASSWORD}\n")
    film = small_film(0)
    study = str(film.StudyInstanceUID)
    with running_orthanc(tmp_path / "orthanc", auth=True) as orthanc:
        archive = Archive(Connection(orthanc.url, Credentials(user=USER, password_file=password)))
        archive.store(study, {str(film.SOPInstanceUID): as_bytes(film)})
        replaced = {
            "http://archive:8042/dicom-web": orthanc.url,
            "/run/secrets/archive_password": str(password),
            "/var/lib/c2fvl/watch": str(tmp_path / "state"),
        }
        command = [replaced.get(word, word) for word in COMPOSE["services"]["watch"]["command"]]
        assert USER in command
        done = subprocess.run(
            [sys.executable, "-m", "c2fvl", *command, "--once", "--since", "2000-01-01", "--store-ood"],
            capture_output=True, text=True, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert PASSWORD not in done.stdout + done.stderr
        assert {series.modality for series in archive.series(study)} == {str(film.Modality), "OT", "SEG"}
