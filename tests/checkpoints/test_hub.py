"""Models from and to the Hugging Face hub, against a stand-in for it on this machine."""

import base64
import http.server
import json
import shutil
import threading
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch
from safetensors.torch import load, save

from c2fvl.checkpoints import folders as model_folders
from c2fvl.checkpoints import hub
from c2fvl.checkpoints.folders import SHIPPED
from c2fvl.checkpoints.hub import pull, push
from c2fvl.checkpoints.model_files import write_files
from c2fvl.checkpoints.packing import pack
from c2fvl.checkpoints.trained_model import load_model
from c2fvl.cli.main import main
from c2fvl.evaluation.pages.model_card import write_card
from c2fvl.files import storage
from c2fvl.files.storage import checksum

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_stand_in"


class StandIn(http.server.BaseHTTPRequestHandler):
    """The few answers of the hub that fetching files and a commit of small files need."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._get(body=False)

    def do_GET(self):
        self._get(body=True)

    def _get(self, *, body):
        state, path = self.server.state, unquote(self.path.partition("?")[0])
        state["asked"].append(path)
        if state["status"] != 200:
            return self._answer(state["status"], b"{}", body=body, **state["headers"])
        owner_name = "owner/name"
        if path in (f"/api/models/{owner_name}", f"/api/models/{owner_name}/revision/main"):
            siblings = [{"rfilename": name, "size": len(data)} for name, data in state["files"].items()]
            found = {"id": owner_name, "sha": COMMIT, "private": state["private"], "siblings": siblings}
            return self._answer(200, json.dumps(found).encode(), body=body)
        name = path.removeprefix(f"/{owner_name}/resolve/{COMMIT}/")
        if name in state["files"]:
            data = state["files"][name]
            return self._answer(200, data, body=body, ETag=f'"{checksum(data)}"', **{"X-Repo-Commit": COMMIT})
        error = "RevisionNotFound" if "/revision/" in path else "RepoNotFound"
        return self._answer(404, b"{}", body=body, **{"X-Error-Code": error})

    def do_POST(self):
        state, path = self.server.state, self.path.partition("?")[0]
        content = self.rfile.read(int(self.headers["Content-Length"])) if "Content-Length" in self.headers else b""
        if not content and self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        state["tokens"].add(self.headers.get("Authorization"))
        if state["status"] != 200:
            return self._answer(state["status"], b"{}", **state["headers"])
        if path == "/api/repos/create":
            state["created"].append(json.loads(content))
            answer = {"url": f"{state['url']}/owner/name"}
        elif path == "/api/validate-yaml":
            answer = {"errors": [], "warnings": []}
        elif path == "/api/models/owner/name/preupload/main":
            files = json.loads(content)["files"]
            answer = {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
        elif path == "/api/models/owner/name/commit/main":
            state["commits"].append([json.loads(line) for line in content.splitlines()])
            answer = {"commitUrl": f"{state['url']}/owner/name/commit/{COMMIT}", "commitOid": COMMIT, "success": True}
        else:
            return self._answer(404, b"{}")
        return self._answer(200, json.dumps(answer).encode())

    def _answer(self, status, data, *, body=True, **headers):
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """The state of a hub with the empty repository owner/name; the client talks to it and to nobody else."""
    import huggingface_hub

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    server.daemon_threads = True
    url = f"http://127.0.0.1:{server.server_port}"
    server.state = {
        "url": url, "files": {}, "private": False, "status": 200, "headers": {},
        "asked": [], "created": [], "commits": [], "tokens": set(),
    }  # fmt: skip
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    files = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", url + files)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_STORED_TOKENS_PATH", str(tmp_path / "tokens"))
    yield server.state
    huggingface_hub.close_session()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def packed(tiny_run, tmp_path_factory):
    """A packed model with all that may belong to one."""
    folder = tmp_path_factory.mktemp("hub")
    shutil.copytree(tiny_run / "best", folder / "model")
    metrics = json.loads((folder / "model" / "metrics.json").read_text())
    fitted = {"temperature": 1.5, "offset": 0, "weights_sha256": metrics["weights_sha256"], "fitted_on": {}}
    write_card(folder / "model")
    written = {
        "calibration.json": storage.json_bytes(fitted),
        "trust.json": storage.json_bytes({"weights_sha256": metrics["weights_sha256"]}),
        "ood.safetensors": (SHIPPED / "small" / "ood.safetensors").read_bytes(),
    }
    write_files(folder / "model", written)
    return pack(folder / "model", folder / "packed").folder


@pytest.fixture
def repository(stand_in, packed):
    """The stand-in with the packed model in its repository, beside what nobody should fetch."""
    stand_in["files"] = {name: (packed / name).read_bytes() for name in hub.FILES}
    stand_in["files"] |= {"pytorch_model.bin": b"\x80\x04.", "model.py": b"raise SystemExit", ".gitattributes": b""}
    return stand_in


def change(repository, folder, **changed):
    """Change files of the model in a repository, and its manifest with them; None removes a file."""
    files = {name.replace("_", "."): content for name, content in changed.items()}
    for name in hub.FILES:
        if name != "manifest.json" and name in repository["files"] and files.get(name, b"") is not None:
            write_files(folder, {name: files.get(name, repository["files"][name])})
    repository["files"] |= {name: data for name, data in files.items() if data is not None}
    repository["files"]["manifest.json"] = (folder / "manifest.json").read_bytes()
    for name, data in files.items():
        if data is None:
            del repository["files"][name]


def test_a_pulled_model_is_found_by_its_name(repository, packed, capsys):
    assert main(["pull", "owner/name", "--revision", "main"]) == 0
    assert "--model owner/name" in capsys.readouterr().out
    model = load_model("owner/name")
    assert {file.name for file in model.path.iterdir()} == {*hub.FILES, "pulled.json"}
    assert all(
        (model.path / name).read_bytes() == (packed / name).read_bytes()
        for name in set(hub.FILES) - {"manifest.json"}  # whose entries may be in another order
    )
    told = json.loads((model.path / "pulled.json").read_text())
    assert told == {"repository": "owner/name", "revision": COMMIT, "endpoint": repository["url"]}
    assert model.scaling.temperature == 1.5
    assert not any("pytorch_model" in path or path.endswith(".py") for path in repository["asked"])


def test_settings_that_reach_out_are_emptied(repository, tmp_path):
    text = repository["files"]["config.toml"].decode()
    for name, value in (("text_fetch = false", "text_fetch = true"), ('text_cache = ""', 'text_cache = "/tmp/x"')):
        assert name in text
        text = text.replace(name, value)
    change(repository, tmp_path, config_toml=text.encode())
    config = load_model(pull("owner/name")).config
    assert config == model_folders.portable(config)


@pytest.mark.parametrize(
    ("file", "alter", "message"),
    [
        ("model.safetensors", lambda data: data[:-1] + b"\x01", "does not match the checksum"),
        ("metrics.json", lambda data: b"[", "metrics.json is damaged"),
        ("config.toml", lambda data: b"[data", "not valid TOML"),
        ("config.toml", lambda data: data.replace(b'name = "c2fvl"', b'name = "c2fv"'), "did you mean c2fvl"),
        ("calibration.json", lambda data: data.replace(b'sha256": "', b'sha256": "0'), "fitted to other weights"),
        ("model.safetensors", None, "lacks model.safetensors"),
        ("metrics.json", None, "lacks metrics.json"),
        ("manifest.json", None, "lacks manifest.json"),
        ("README.md", lambda data: b"x" * (2**22 + 1), "at most 4,194,304 are downloaded"),
    ],
)
@pytest.mark.parametrize("is_listed", [False, True])
def test_what_is_not_whole_is_not_kept(repository, packed, tmp_path, file, alter, message, is_listed):
    first = pull("owner/name")
    data = repository["files"].pop(file)
    if alter is not None:
        assert alter(data) != data
        repository["files"][file] = alter(data)
        if is_listed:
            change(repository, tmp_path / "listed")
        elif "4,194,304" not in message:
            message = "does not match its checksum in manifest"
    with pytest.raises(ValueError, match=message) as caught:
        pull("owner/name")
    assert "c2fvl-pull" not in str(caught.value)
    assert load_model(first).metrics["weights_sha256"] == checksum((packed / "model.safetensors").read_bytes())
    assert [entry.name for entry in first.parent.iterdir()] == ["name"]


@pytest.mark.parametrize("fault", ["not finite", "of another size", "of a stranger"])
def test_a_model_that_predicts_nothing_does_not_replace_a_good_one(repository, packed, tmp_path, fault):
    first = pull("owner/name")
    before = {file.name: file.read_bytes() for file in first.iterdir()}
    if fault == "of a stranger":
        text = repository["files"]["config.toml"].replace(b"base_width = 8", b"base_width = 8192")
        change(repository, tmp_path / "new", config_toml=text)
        message = "not kept: .*does not fit its settings"
    elif fault == "of another size":
        text = (
            repository["files"]["config.toml"]
            .replace(b"[data]", b"[data]\nimage_size = 33")
            .replace(b"\nimage_size = 32", b"", 1)
        )
        change(repository, tmp_path / "new", config_toml=text)
        message = "not kept: it cannot predict an image of its size, 33 × 33"
    else:
        weights = load(repository["files"]["model.safetensors"])
        name = next(name for name in sorted(weights) if name.endswith("weight"))
        weights[name].view(-1)[0] = torch.nan
        data = save(weights)
        metrics = storage.json_bytes({"weights_sha256": checksum(data)})
        change(
            repository, tmp_path / "new", model_safetensors=data, metrics_json=metrics, calibration_json=None,
            trust_json=None,
        )  # fmt: skip
        message = "not kept: .*not finite"
    with pytest.raises(ValueError, match=message):
        pull("owner/name")
    assert {file.name: file.read_bytes() for file in first.iterdir()} == before


def test_weights_that_are_no_safetensors_are_refused(repository, tmp_path):
    data = repository["files"]["model.safetensors"] = b"\x80\x04."
    metrics = json.dumps({"weights_sha256": checksum(data)}).encode()
    change(repository, tmp_path / "new", metrics_json=metrics, calibration_json=None, trust_json=None)
    with pytest.raises(ValueError, match=r"not a whole safetensors file"):
        pull("owner/name")
    assert all(model.source != "cache" for model in model_folders.named_models())


def test_a_newer_model_replaces_the_older(repository, tmp_path):
    folder = pull("owner/name")
    assert (folder / "calibration.json").is_file()
    change(repository, tmp_path / "new", calibration_json=None)
    assert pull("owner/name") == folder
    assert load_model("owner/name").calibration is None
    assert [entry.name for entry in folder.parent.iterdir()] == ["name"]


def test_pulling_says_what_stands_in_the_way(repository, monkeypatch, capsys):
    import huggingface_hub

    def said(*call):
        assert main(["pull", *call]) == 2
        error = capsys.readouterr().err
        assert "Traceback" not in error and error.count("\n") == 1
        return error

    assert "names no repository" in said("../name")
    assert "the repository does not exist, or it is private" in said("owner/other")
    assert "no revision 'v9'" in said("owner/name", "--revision", "v9")
    for status, headers, message in (
        (401, {}, "HF_TOKEN"),
        (403, {"X-Error-Code": "GatedRepo"}, "accept its conditions"),
        (500, {}, "answered 500"),
    ):
        repository["status"], repository["headers"] = status, headers
        assert message in said("owner/name")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "check the connection" in said("owner/name")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    assert "HF_HUB_OFFLINE is set" in said("owner/name")
    assert all(model.source != "cache" for model in model_folders.named_models())


def test_a_model_is_pushed_as_one_commit(stand_in, packed, monkeypatch, capsys):
    stand_in["files"] = {".gitattributes": b"", "notes.txt": b"", "calibration.json": b""}
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert main(["push", str(packed), "owner/name"]) == 0
    assert capsys.readouterr().out.strip() == f"{stand_in['url']}/owner/name/commit/{COMMIT}"
    ((header, *operations),) = stand_in["commits"]
    assert "debug" in header["value"]["summary"]
    assert all(operation["key"] == "file" for operation in operations)
    sent = {operation["value"]["path"]: base64.b64decode(operation["value"]["content"]) for operation in operations}
    assert sent == {name: (packed / name).read_bytes() for name in hub.FILES}
    assert stand_in["tokens"] == {f"Bearer {TOKEN}"}
    stand_in["files"] = sent
    assert load_model(pull("owner/name")).metrics == load_model(packed).metrics


def test_files_that_a_model_no_longer_has_go_with_the_push(stand_in, packed, tmp_path):
    files = {name: (packed / name).read_bytes() for name in hub.FILES}
    write_files(
        tmp_path / "model", {name: files[name] for name in files.keys() - {"calibration.json", "manifest.json"}}
    )
    stand_in["files"] = {"calibration.json": b"", "notes.txt": b""}
    push(tmp_path / "model", "owner/name", token=TOKEN)
    ((_, *operations),) = stand_in["commits"]
    deleted = [operation["value"]["path"] for operation in operations if operation["key"] == "deletedFile"]
    assert deleted == ["calibration.json"]


def test_a_private_push_never_goes_to_a_public_repository(stand_in, packed):
    with pytest.raises(ValueError, match="public, so nothing was pushed"):
        push(packed, "owner/name", private=True, token=TOKEN)
    assert not stand_in["commits"]
    stand_in["private"] = True
    push(packed, "owner/name", private=True, token=TOKEN)
    assert len(stand_in["commits"]) == 1
    assert stand_in["created"][-1]["visibility"] == "private"


def test_pushing_says_what_stands_in_the_way(stand_in, packed, tiny_run, tmp_path, monkeypatch, capsys):
    def said(folder: Path, repository="owner/name"):
        assert main(["push", str(folder), repository]) == 2
        error = capsys.readouterr().err
        assert "Traceback" not in error and error.count("\n") == 1
        return error

    shutil.copytree(packed, tmp_path / "bare", ignore=shutil.ignore_patterns("README.md"))
    assert "names no repository" in said(packed, "name")
    assert "no model folder" in said(tmp_path)
    assert "`c2fvl pack`" in said(tiny_run)
    assert "no model card" in said(tmp_path / "bare")
    assert "no token" in said(packed)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for status, message in ((401, "token"), (403, "no right"), (503, "answered 503")):
        stand_in["status"] = status
        assert message in said(packed)
    assert not stand_in["commits"]
