"""The MONAI Label protocol: every call of its client, geometry, what is asked and refused, sessions, guards, load."""

import concurrent.futures
import contextlib
import gzip
import http.client
import io
import itertools
import json
import re
import socket
import time
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("pydicom")

from support.label_maps import parts_of, read_nrrd  # noqa: E402
from support.servers import Gate, film_png, wait_until  # noqa: E402
from support.volumes import Bright, chest  # noqa: E402

from c2fvl.data.phantom.draw import draw_case  # noqa: E402
from c2fvl.inference.predictor import Predictor  # noqa: E402
from c2fvl.serve.networks import ServedModel, ServedModels  # noqa: E402
from c2fvl.serve.problems import ProblemError  # noqa: E402
from c2fvl.serve.sessions import Sessions  # noqa: E402
from c2fvl.serve.settings import Limits, ServerSettings  # noqa: E402

REPORT = "Patchy opacity in the left lower zone."
HU = chest(6, 64, 64)
LESION = (HU == -200).astype(np.uint8)
LPS = np.array([[-0.7, 0, 0, 20], [0, -0.8, 0, 15], [0, 0, 2.0, 100], [0, 0, 0, 1]])


def stored(array, affine):
    """Return an array (i, j, k) as Slicer uploads it: .nii.gz."""
    image = nibabel.Nifti1Image(array, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    return gzip.compress(image.to_bytes(), 1)


def nifti_film(number=0, size=160):
    """Return a synthetic film as 3D Slicer sends one: (W, H, 1), the patient's right at the left."""
    return stored(draw_case(3, number, size=size).image.T[..., None], np.diag([-0.2, -0.3, 1.0, 1.0]))


def volume(values=HU, affine=LPS):
    return stored(values.transpose(2, 1, 0), affine)


@pytest.fixture(scope="module")
def models(engine):
    return ServedModels([ServedModel("small", engine), ServedModel("ct", Bright())])


class Client:
    """What a client of the protocol sends, without the header that the page sends."""

    def __init__(self, server, **headers):
        self.server = server
        self.http = httpx.Client(base_url=server.address, timeout=60, trust_env=False, headers=headers)

    def session(self, image, **query):
        answer = self.http.put("session/", files={"files": ("tmp8f.nii.gz", image)}, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()["session_id"]

    def infer(self, model, image=None, params=None, **query):
        files = {} if image is None else {"file": ("x.nii.gz", image)}
        fields = {"params": (None, params if isinstance(params, str) else json.dumps(params or {}))}
        return self.http.post(f"infer/{model}", params={"image": "Volume", **query}, files={**fields, **files})


@pytest.fixture(scope="module")
def server(start, models):
    with start(models, ServerSettings(port=0, monai_label=True)) as found:
        yield found


@pytest.fixture
def connect():
    """Return a function that makes a client of a server."""
    with contextlib.ExitStack() as stack:

        def make(server, **headers):
            found = Client(server, **headers)
            stack.enter_context(found.http)
            return found

        yield make


@pytest.fixture
def client(server, connect):
    return connect(server)


def refused(answer, status, *words):
    """Check that an answer is an error in these words."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    for word in words:
        assert word in answer.json()["detail"], answer.json()["detail"]


# what the server has


def test_without_the_option_nothing_is_answered(start, models):
    with start(models, ServerSettings(port=0)) as plain:
        for path in ("info/", "session/x", "train/", "auth/", "datastore/"):
            assert plain.client.get(path).status_code == 404, path
        assert plain.client.put("session/", files={"files": b"x"}).status_code == 404
        assert httpx.put(f"{plain.address}session/", files={"files": b"x"}, trust_env=False).status_code == 403


def test_info_has_what_clients_read(client):
    info = client.http.get("info/").json()
    assert info.keys() == {"name", "description", "version", "labels", "models", "trainers", "strategies", "scoring",
                           "train_stats", "datastore"}  # fmt: skip
    assert info["labels"] == ["lesion"]
    assert "not for diagnosis" in info["description"]
    film, ct = info["models"]["small"], info["models"]["ct"]
    assert (film["type"], film["dimension"], ct["dimension"]) == ("segmentation", 2, 3)
    assert film["labels"] == {"lesion": 1}
    assert film["config"]["report"] == ""
    assert film["config"]["orientation"] == ["choose", "patient", "image"], "which way a film lies is asked"
    assert ct["config"]["orientation"] == ["patient", "image"], "a volume says it"
    assert film["config"]["threshold"] == "0.5"
    assert 0 < float(film["config"]["trust"]) <= 1
    for value in (*film["config"].values(), *ct["config"].values()):
        assert isinstance(value, str | list), "3D Slicer would send an emptied number as 0"


def test_a_model_without_reports_offers_none(start, unet_run, connect):
    from c2fvl.checkpoints.trained_model import load_model
    from c2fvl.inference.torch_engine import NetworkEngine

    models = ServedModels([ServedModel("my net", NetworkEngine(load_model(unet_run)))])
    with start(models, ServerSettings(port=0, monai_label=True)) as server:
        client = connect(server)
        assert client.http.get("info/").json()["models"]["my net"]["config"].keys() == {"threshold"}
        refused(client.infer("my+net", nifti_film(), {"report": REPORT}), 422, "reads no report")
        refused(client.infer("my+net", nifti_film(), {"trust": "0.5"}), 422, "has no trust")
        assert client.infer("my+net", nifti_film(), {"report": "", "trust": ""}).status_code == 200


def test_what_is_not_there_is_answered_as_the_protocol_asks(client):
    assert client.http.get("datastore/", params={"output": "all"}).json() == {"objects": {}}
    assert client.http.post("activelearning/random", json={"client_id": "x"}).json() == {}
    refused(client.http.post("activelearning/random", content=b"{"), 400)
    for method, path in (("GET", "train/?check_if_running=true"), ("POST", "train/small"), ("DELETE", "train/")):
        refused(client.http.request(method, path), 404, "No training")
    assert client.http.get("auth/").json() == {"enabled": False, "client_id": "", "realm": ""}
    assert client.http.get("auth/token/valid").status_code == 200
    assert client.http.post("auth/token", data={"username": "x", "password": "y"}).json()["access_token"] is None


@pytest.mark.parametrize(
    ("path", "field"), [("datastore/label?image=x&tag=final", "label"), ("datastore/?image=x", "file"),
                        ("datastore/image?image=x", "file")],
)  # fmt: skip
def test_a_label_that_would_be_lost_is_refused(server, path, field):
    status, problem = sent_whole(server, path, field, 9_000_000)
    assert status == 501
    assert "Save the segmentation in the viewer" in problem["detail"]


def sent_whole(server, path, field, size):
    """Send a file as the stock client does, all of it before it listens; return status and content of the answer."""
    body = (
        f'--b\r\nContent-Disposition: form-data; name="{field}"; filename="x.nii.gz"\r\n\r\n'.encode()
        + bytes(size)
        + b"\r\n--b--\r\n"
    )
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    with contextlib.closing(connection):
        connection.request("PUT", f"/{path}", body, {"Content-Type": "multipart/form-data; boundary=b"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


# films


def test_a_film_comes_back_in_its_own_geometry_with_the_record(client, server, engine):
    image = nifti_film()
    asked = {"report": REPORT, "orientation": "patient", "trust": "0.9", "threshold": "0.4", "client_id": "user-xyz",
             "result_extension": ".nrrd", "result_dtype": "uint8", "restore_label_idx": False}  # fmt: skip
    answer = client.infer("small", params=asked, session_id=client.session(image))
    assert answer.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert "transfer-encoding" not in answer.headers
    params, content, name = parts_of(answer)
    expected = Predictor(engine, trust=0.9, threshold=0.4)(image, REPORT, orientation="patient")
    array, affine, encoding = read_nrrd(content)
    assert np.array_equal(array, expected.mask.T[..., None])
    assert array.any()
    assert np.array_equal(affine, np.diag(np.float32([-0.2, -0.3, 1, 1])))
    assert encoding == "raw"
    assert re.fullmatch(r"c2fvl_[0-9a-f]{16}\.nrrd", name)
    assert params["label_names"] == {"lesion": 1}
    assert params["latencies"]["total"] >= 0
    rest = server.predict(image, report=REPORT, orientation="patient", trust="0.9", threshold="0.4").json()
    assert {key: params[key] for key in rest} == rest, "the record that the other interface answers"
    assert params["report"]["zones"] == ["image_right_lower"], "the patient's left is the right of the image"
    assert params["source"]["warnings"], "that its sides are assumed"
    other, _, again = parts_of(client.infer("small", image, asked | {"orientation": "image"}))
    assert other["report"]["zones"] == ["image_left_lower"]
    assert again != name, "results of clients that share a folder have different names"


def test_the_forms_of_a_result(client):
    session = client.session(nifti_film(1))
    raw = parts_of(client.infer("small", session_id=session, params={"result_compress": False}))[1]
    packed = parts_of(client.infer("small", session_id=session, params={"result_compress": True}))[1]
    (mask, affine, first), (same, same_affine, second) = read_nrrd(raw), read_nrrd(packed)
    assert (first, second) == ("raw", "gzip")
    assert np.array_equal(mask, same)
    assert np.array_equal(affine, same_affine)
    alone = client.infer("small", session_id=session, output="image")
    assert alone.headers["content-type"] == "application/octet-stream"
    assert alone.content == raw
    record = client.infer("small", session_id=session, output="json").json()
    assert record["label_names"] == {"lesion": 1}
    assert record["area"] == np.count_nonzero(mask)
    _, made, name = parts_of(client.infer("small", session_id=session, params={"result_extension": ".nii.gz"}))
    assert name.endswith(".nii.gz")
    found = nibabel.Nifti1Image.from_bytes(gzip.decompress(made))
    assert np.array_equal(np.asarray(found.dataobj), mask)
    assert np.array_equal(found.affine, affine)
    assert int(found.header["qform_code"]) == 1


def test_other_kinds_of_images_are_taken_too(client, engine):
    params, content, _ = parts_of(client.infer("small", film_png(0), {"report": REPORT}))
    assert params["source"]["kind"] == "png"
    assert np.array_equal(read_nrrd(content)[0][..., 0].T, Predictor(engine)(film_png(0), REPORT).mask)


def test_the_side_of_a_film_is_asked_where_a_report_needs_it(client):
    session = client.session(nifti_film())
    for unsaid in ({}, {"orientation": "choose"}, {"orientation": ""}, {"orientation": ["choose", "patient", "image"]}):
        refused(client.infer("small", session_id=session, params={"report": REPORT, **unsaid}), 422, "orientation",
                "patient's right at its left")  # fmt: skip
        assert client.infer("small", session_id=session, params={"report": " ", **unsaid}).status_code == 200


def test_a_report_that_cannot_be_used_is_an_error(client):
    """A viewer shows the mask alone: a report that changes nothing must not pass in silence."""
    odd = {"report": "Total hip replacement.", "orientation": "patient"}
    refused(client.infer("small", nifti_film(), odd), 422, "Nothing of the report")
    refused(client.infer("ct", volume(), odd), 422, "Nothing of the report")
    zones = {"report": "Patchy opacity in the left lower lobe.", "orientation": "patient"}
    refused(client.infer("ct", volume(), zones), 422, "says nothing of that", "'The right lung is clear.'")
    zones["report"] += " The right lung is clear."
    assert client.infer("ct", volume(), zones).status_code == 200


def test_a_picture_in_colours_is_refused_in_words(client):
    """A photograph of a film that 3D Slicer opens has three values in each pixel, and it sends them all."""
    grey = draw_case(3, 0, size=160).image.T[:, :, None, None, None]
    image = stored(np.repeat(grey, 3, axis=4), np.eye(4))
    refused(client.infer("small", image), 422, "several values in each pixel", "Vector to Scalar Volume")
    refused(client.infer("ct", image), 422, "several volumes")


def test_a_long_report_in_other_letters_fits(client):
    report = {"report": "Opacity in the left lower zone. " + "ж" * 3900, "orientation": "patient"}
    assert len(json.dumps(report)) > 20_000
    assert client.infer("small", nifti_film(size=64), report, output="json").status_code == 200


# volumes


@pytest.mark.parametrize("turned", [((0, 1, 2), (1, 1, 1)), ((2, 0, 1), (1, -1, -1)), ((1, 2, 0), (-1, 1, 1))])
def test_a_volume_comes_back_in_its_own_geometry(client, turned):
    axes, signs = turned
    array = HU.transpose(2, 1, 0).transpose(axes)[tuple(slice(None, None, sign) for sign in signs)]
    affine = np.eye(4)
    for new, (old, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[:3, new] = LPS[:3, old] * sign
        affine[:3, 3] += (LPS[:3, old] * (HU.transpose(2, 1, 0).shape[old] - 1)) * (sign < 0)
    affine[:3, 3] += LPS[:3, 3]
    params, content, _ = parts_of(client.infer("ct", session_id=client.session(stored(array, affine))))
    mask, found, _ = read_nrrd(content)
    assert np.array_equal(mask, (array == -200).astype(np.uint8))
    assert np.allclose(found, affine, atol=1e-5)
    assert params["volume_ml_per_side"]["patient_left"] > 0
    assert params["volume_ml_per_side"]["patient_right"] == 0
    assert params["slices"] == 6
    assert params["model"]["path"] == "ct"
    assert any("Experimental" in warning for warning in params["source"]["warnings"])


def test_a_report_on_a_volume_means_the_patient_s_side(client):
    for said, used in (({}, "left"), ({"orientation": "patient"}, "left"), ({"orientation": "image"}, "right")):
        asked = {"report": "Unilateral opacity in the left lower lobe.", **said}
        params = client.infer("ct", volume(), asked, output="json").json()
        assert used in params["report"]["used_for_volume"].lower(), params["report"]


def test_a_volume_of_other_numbers_is_refused_in_words(client):
    values = HU.astype(np.float32)
    values[3, 5, 5] = np.nan
    refused(client.infer("ct", volume(values)), 422, "NaN")
    refused(client.infer("ct", volume()[:900]), 422, "cut short")


# what is refused


def archive():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as packed:
        packed.writestr("slice.dcm", bytes(200))
    return content.getvalue()


NO_IMAGES = {
    "archive": (archive(), "converted to a volume"),
    "NRRD": (b"NRRD0005\ntype: short\n", "File Extension to .nii.gz"),
    "text": (b"http://127.0.0.1:9/x.nii", "no image"),
    "nothing": (b"", "empty"),
}


@pytest.mark.parametrize("name", NO_IMAGES)
def test_a_file_that_is_no_image_makes_no_session(client, server, name):
    content, words = NO_IMAGES[name]
    before = len(server.service.sessions)
    refused(client.http.put("session/", files={"files": ("x.nii.gz", content)}), 422, words)
    assert len(server.service.sessions) == before
    assert client.infer("small", content).status_code in (404, 422)


def test_a_session_takes_one_file(client):
    slices = [("files", (f"{number}.dcm", b"x")) for number in range(3)]
    refused(client.http.put("session/", files=slices), 400, "Too many files", "DICOM series must be converted")
    refused(client.http.put("session/", files={"image": b"x"}), 422, "`files`")
    refused(client.http.put("session/", files={"client_id": (None, "x")}), 422, "no image")
    refused(client.http.put("session/", content=b"x", headers={"Content-Type": "image/png"}), 415, "form-data")
    refused(client.http.put("session/?uncompress=true", files={"files": archive()}), 422, "Archives")
    refused(client.http.put("session/?expiry=soon", files={"files": nifti_film()}), 422, "seconds")


WRONG = [
    ("params", "{", 400, "no JSON object"), ("params", "[1]", 400, "no object"), ("params", "[" * 50_000, 400, "JSON"),
    ("params", {"laterality": "patient"}, 422, "'laterality', which is no option here. Options: report, orientation"),
    ("params", {"Report": "x"}, 422, "no option"), ("params", {"report": 3}, 422, "text"),
    ("params", {"report": "x" * 4001}, 422, "4001 characters"), ("params", {"orientation": "up"}, 422, "orientation"),
    ("params", {"orientation": {}}, 422, "text"), ("params", {"trust": "0,5"}, 422, "between 0 and 1"),
    ("params", {"trust": True}, 422, "text"), ("params", {"threshold": 0}, 422, "between 0 and 1"),
    ("params", {"result_extension": ".seg.nrrd"}, 422, ".nrrd, .nii.gz"), ("output", "dicom_seg", 422, "output"),
    ("params", '{"trust": NaN}', 422, "between 0 and 1"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "value", "status", "words"), WRONG)
def test_a_wrong_request_is_refused_in_words(client, what, value, status, words):
    query = {"output": value} if what == "output" else {}
    refused(client.infer("small", nifti_film(), value if what == "params" else {}, **query), status, words)


def test_an_emptied_option_is_the_default_and_numbers_are_taken(client):
    plain, emptied, number = (
        client.infer("small", nifti_film(), params, output="json").json()
        for params in ({}, {"trust": "", "threshold": "", "report": ""}, {"trust": 0.25, "threshold": 0.5})
    )
    assert (emptied["trust"], emptied["threshold"], emptied["area"]) == (
        plain["trust"], plain["threshold"], plain["area"],
    )  # fmt: skip
    assert number["trust"] == 0.25


def test_names_that_are_not_there(client, server):
    refused(client.infer("other", nifti_film()), 404, "It has: small, ct")
    refused(client.infer("small"), 404, "no images of its own")
    refused(client.infer("small", session_id="0" * 32), 404, "Load the image again")
    refused(client.infer("small", nifti_film(), session_id=client.session(nifti_film())), 422, "not both")
    for method in ("GET", "DELETE"):
        refused(client.http.request(method, "session/none"), 404, "Load the image again")
    assert client.http.post("infer/wsi/small").status_code == 404
    assert client.http.get("session/../../etc/passwd").status_code == 404
    refused(client.infer("small", volume()), 422, "Choose a model for CT: ct")
    refused(client.infer("ct", film_png(0)), 422, "segments CT volumes, and this is PNG")


# sessions


def test_a_session_is_told_used_and_removed(client, server):
    answer = client.http.put("session/?expiry=60", files={"files": nifti_film()}, data={"client_id": "user-xyz"}).json()
    name, info = answer["session_id"], answer["session_info"]
    assert re.fullmatch(r"[0-9a-f]{32}", name)
    assert info.keys() == {"name", "path", "image", "meta", "create_ts", "last_access_ts", "expiry"}
    assert (info["name"], info["path"], info["expiry"]) == (name, "", 60)
    assert abs(info["create_ts"] - time.time()) < 60
    assert client.http.get(f"session/{name}").json() == info
    assert client.http.delete(f"session/{name}").json() == info
    assert client.http.get(f"session/{name}").status_code == 404
    refused(client.infer("small", session_id=name), 404)


def test_sessions_expire_after_their_last_use_and_make_room():
    now = 1000.0
    sessions = Sessions(Limits(sessions=3, session_bytes=100, session_seconds=3600), clock=lambda: now)
    first, short = sessions.add(b"a" * 10), sessions.add(b"b", expiry=60)
    assert sessions.add(b"c", expiry=1e9).expiry == 3600
    now += 61
    sessions.drop_expired()
    assert len(sessions) == 2
    with pytest.raises(ProblemError, match="60 minutes"):
        sessions.find(short.name)
    assert sessions.find(first.name, used=True).last_used == now
    now += 3540  # the third was not used since, the first was
    sessions.drop_expired()
    assert (len(sessions), sessions.num_bytes) == (1, 10)
    others = [sessions.add(b"x" * 10), sessions.add(b"y" * 10)]
    now += 1
    sessions.find(first.name, used=True)
    sessions.add(b"z" * 10)
    assert sessions.find(first.name), "what was used last stays"
    with pytest.raises(ProblemError):
        sessions.find(others[0].name)
    sessions.add(b"w" * 95)
    assert (len(sessions), sessions.num_bytes) == (1, 95)


def test_an_expired_image_is_dropped_while_nobody_asks(start, models, monkeypatch, connect):
    monkeypatch.setattr("c2fvl.serve.service._SWEEP_SECONDS", 0.05)
    limits = Limits(session_seconds=0.2)
    with start(models, ServerSettings(port=0, monai_label=True, limits=limits)) as server:
        connect(server).session(nifti_film())
        assert len(server.service.sessions) == 1
        wait_until(lambda: len(server.service.sessions) == 0)


def test_more_than_the_limits_is_refused_in_words(start, models, connect):
    limits = Limits(volume_bytes=10_000_000, held_bytes=30_000_000)
    with start(models, ServerSettings(port=0, monai_label=True, limits=limits)) as server:
        client = connect(server)
        refused(client.http.put("session/", files={"files": nifti_film(size=64) + bytes(11_000_000)}), 413, "larger")
        refused(client.infer("small", nifti_film(size=64) + bytes(11_000_000)), 413, "larger")
        status, problem = sent_whole(server, "session/", "files", 45_000_000)
        assert (status, problem["detail"]) == (413, "The request is larger than 10 MB."), "and no broken pipe"
        assert client.server.predict(film_png(0, size=64) + bytes(10)).status_code == 200
        assert server.client.post("api/v1/read", content=b" " * 70_000).status_code == 413, "other paths keep theirs"
        assert (len(server.service.sessions), server.service.held.number) == (0, 0)


# guards


def test_a_token_is_asked_for_by_the_protocol_s_own_log_in(start, models, connect):
    token = "a-token-of-some-length"
    with start(models, ServerSettings(port=0, token=token, monai_label=True)) as server:
        client = connect(server)
        assert client.http.get("auth/").json()["enabled"] is True
        for method, path in (("GET", "info/"), ("PUT", "session/"), ("GET", "session/x"), ("POST", "infer/small"),
                             ("GET", "auth/token/valid"), ("PUT", "datastore/label"), ("POST", "train/x")):  # fmt: skip
            assert client.http.request(method, path).status_code == 401, path
        for wrong in ("", "a-token-of-some-lengt", "ÿ"):
            refused(client.http.post("auth/token", data={"username": "a", "password": wrong}), 401, "token of the")
        found = client.http.post(
            "auth/token", data={"username": "any", "password": token, "grant_type": "password"}
        ).json()
        granted = connect(server, Authorization=f"{found['token_type']} {found['access_token']}")
        assert granted.http.get("auth/token/valid").status_code == 200
        assert granted.infer("small", session_id=granted.session(nifti_film()), output="json").status_code == 200
        assert client.http.post("auth/token", content=b"password=" + b"x" * 90_000).status_code == 413
        for odd in (b"a=1&" * 20, b"\xff\xfe"):
            refused(client.http.post("auth/token", content=odd), 400, "username and password")
        refused(client.http.post("auth/token", json={"password": token}), 401)


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
def test_another_page_is_refused(client, origin):
    for method, path in (("PUT", "session/"), ("POST", "infer/small"), ("GET", "info/"), ("DELETE", "session/x")):
        assert client.http.request(method, path, headers={"Origin": origin}).status_code == 403
        assert client.http.request(method, path, headers={"Host": "evil.example"}).status_code == 421
    own = {"Origin": client.server.address.rstrip("/")}
    assert client.http.get("info/", headers=own).status_code == 200
    answer = client.http.get("info/")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert answer.headers["cache-control"] == "no-store"


def test_an_upload_stays_in_memory_and_half_of_one_leaves_nothing(client, server):
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("the open files are listed in /proc")
    before, sessions = open_files(), len(server.service.sessions)
    start = b'--b\r\nContent-Disposition: form-data; name="files"; filename="x.nii.gz"\r\n\r\n'
    head = (
        f"PUT /session/ HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: 60000000\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    ).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head + start + volume() + bytes(40_000_000))
        wait_until(lambda: server.service.held.number >= 40_000_000)
        assert open_files() <= before
    wait_until(lambda: server.service.held.number == 0)
    assert len(server.service.sessions) == sessions


def open_files():
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(str(entry.readlink()))
    return {name for name in found if not name.startswith(("socket:", "pipe:", "anon_inode:"))}


# load


@pytest.fixture
def gated(start, engine):
    """A server whose network for CT waits until its gate is opened."""
    gate = Gate(Bright())
    models = ServedModels([ServedModel("small", engine), ServedModel("ct", gate)])
    with start(models, ServerSettings(port=0, monai_label=True, limits=Limits(queue=3))) as server:
        yield server, gate
        gate.opened.set()


def test_two_clients_at_once_get_each_its_own_result(client):
    shapes = [(6, 64, 64), (5, 56, 60), (7, 48, 50)]
    values = [np.where(np.arange(size[0])[:, None, None] == number, HU.min(), chest(*size)).astype(np.int16)
              for number, size in enumerate(shapes)]  # fmt: skip
    jobs = [("ct", volume(one)) for one in values]
    jobs += [("small", nifti_film(number, size=64 + number)) for number in range(3)]
    sessions = [client.session(image) for _, image in jobs]
    alone = [read_nrrd(parts_of(client.infer(model, image))[1])[0] for model, image in jobs]
    assert len({(mask.shape, mask.sum()) for mask in alone}) == len(jobs), "no result is like another"
    order = list(itertools.islice(itertools.cycle(range(len(jobs))), 12))
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda number: client.infer(jobs[number][0], session_id=sessions[number]), order))
    for number, answer in zip(order, answers, strict=True):
        mask = read_nrrd(parts_of(answer)[1])[0]
        assert mask.shape == alone[number].shape
        assert np.mean(mask != alone[number]) < 1e-3, "a batch changes the last digits"


def test_films_do_not_wait_for_a_volume(gated, connect, monkeypatch):
    server, gate = gated
    own = gate.engine.compute
    monkeypatch.setattr(gate.engine, "compute", lambda *given: (time.sleep(0.15), own(*given))[1])
    gate.opened.set()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(connect(server).infer, "ct", volume(chest(60, 64, 64)), None, output="json")
        assert gate.reached.wait(20)
        for number in range(2):
            assert server.predict(film_png(number, size=64)).status_code == 200
        assert not waiting.done()
        assert waiting.result().json()["slices"] == 60
    assert max(gate.sizes) == 8, "slices are computed in batches"


def test_a_client_that_goes_away_ends_its_volume(gated, connect):
    server, gate = gated
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    body += volume(chest(60, 64, 64)) + b"\r\n--b--\r\n"
    head = (
        f"POST /infer/ct HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    ).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head + body)
        assert gate.reached.wait(20)
    wait_until(lambda: server.service.queue.taken == 0)
    gate.opened.set()
    answer = connect(server).infer("ct", volume(), output="json")
    assert answer.status_code == 200
    assert sum(gate.sizes) < 60, "the rest of the volume is not computed"


def test_a_full_queue_is_503(gated, connect):
    server, gate = gated
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(connect(server).infer, "ct", volume(), None, output="json") for _ in range(3)]
        wait_until(lambda: server.service.queue.taken == 3)
        answer = connect(server).infer("ct", volume())
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        gate.opened.set()
        assert [one.result().status_code for one in waiting] == [200] * 3


def test_a_server_that_stops_does_not_wait_for_a_volume(start, connect):
    gate = Gate(Bright())
    with (
        concurrent.futures.ThreadPoolExecutor(1) as pool,
        start(ServedModels([ServedModel("ct", gate)]), ServerSettings(port=0, monai_label=True)) as server,
    ):
        gone = pool.submit(connect(server).infer, "ct", volume(chest(40, 64, 64)))
        assert gate.reached.wait(20)
        began = time.monotonic()
        server.service.volumes.stop()
        gate.opened.set()
        answer = gone.result()
    assert answer.status_code == 503
    assert time.monotonic() - began < 10


def test_no_word_and_no_name_is_logged(client, caplog):
    secret = "Unmistakable"
    client.infer("small", nifti_film(), {"report": f"{secret} opacity in the left lower zone.", secret: 1})
    client.http.put("session/", files={"files": (f"{secret}.nii.gz", b"x")})
    client.http.get(f"session/{secret}")
    assert secret not in caplog.text
    answer = client.http.put("session/", files={"files": (f"{secret}.nii.gz", nifti_film())})
    assert secret not in answer.text
