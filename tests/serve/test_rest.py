"""The REST interface: every address, every form of an answer, and that each request gets its own result."""

import base64
import concurrent.futures
import gzip
import io
import json

import cv2
import numpy as np
import pytest
from support.dicom import as_bytes, film
from support.servers import Gate, film_png, wait_until

from c2fvl.data.phantom.draw import draw_case
from c2fvl.inference.predictor import Predictor
from c2fvl.serve.networks import ServedModel, ServedModels
from c2fvl.serve.settings import Limits

REPORT = "Patchy opacity in the left lower zone."


def decoded(content):
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.fixture(scope="module")
def dicom_film():
    pytest.importorskip("pydicom")
    image = draw_case(3, 1, size=160).image
    return as_bytes(film(image, PatientOrientation=["L", "F"], PatientName="Secret^Name"))


def test_the_record_is_that_of_predict(server, engine):
    expected = Predictor(engine, trust=0.9)(film_png(0), REPORT, orientation="patient").to_dict()
    answer = server.predict(report=REPORT, orientation="patient", trust="0.9")
    assert answer.status_code == 200
    found = answer.json()
    assert found.keys() == expected.keys()
    assert found["model"].pop("path") == "small", "the place on this machine is not told"
    expected["model"].pop("path")
    assert found == json.loads(json.dumps(expected))
    assert found["report"]["zones"] == ["image_right_lower"], "the patient's left is the right of the image"


def test_the_mask_the_probability_and_the_threshold(server, engine):
    expected = Predictor(engine, threshold=0.3)(film_png(0))
    mask = server.predict(wanted="mask", threshold="0.3")
    assert mask.headers["content-disposition"] == 'attachment; filename="mask.png"'
    assert np.array_equal(decoded(mask.content), expected.mask * 255)
    probability = decoded(server.predict(wanted="probability").content)
    assert probability.dtype == np.uint16
    assert np.abs(probability / 65535 - expected.probability).max() < 1e-4
    overlay = decoded(server.predict(wanted="overlay").content)
    assert overlay.ndim == 3
    assert overlay.shape[1] > overlay.shape[0], "the image, and beside it the image with the mask"


def test_the_view_has_the_mask_of_the_files(server, engine):
    expected = Predictor(engine)(film_png(0), REPORT)
    view = server.predict(wanted="view", report=REPORT).json()
    mask = decoded(base64.b64decode(view["mask"]))
    assert np.array_equal(mask, expected.upright_mask)
    raw = decoded(base64.b64decode(view["probability"])) / 255
    differing = np.mean((raw >= view["record"]["threshold"]) != mask)
    assert differing < 0.002, "the preview of a threshold is the mask but for the last of 8 bits"
    assert view["findings"]["orientation"] == "patient"
    assert {name.partition("_")[0] for name in view["findings"]["zones"]} == {"patient"}


def test_a_large_image_is_shown_smaller_and_saved_whole(server):
    image = cv2.imencode(".png", cv2.resize(draw_case(3, 0, size=160).image, (1300, 1500)))[1].tobytes()
    view = server.predict(image, wanted="view").json()
    assert (view["width"], view["height"]) == (887, 1024)
    assert decoded(base64.b64decode(view["image"])).shape[:2] == (1024, 887)
    assert decoded(server.predict(image, wanted="mask").content).shape == (1500, 1300)


def test_clinical_files_of_a_dicom_film(server, dicom_film):
    pytest.importorskip("highdicom")
    import pydicom

    for wanted, kind in (("seg", "1.2.840.10008.5.1.4.1.1.66.4"), ("sc", "1.2.840.10008.5.1.4.1.1.7")):
        answer = server.predict(dicom_film, wanted=wanted)
        assert answer.status_code == 200, answer.text
        made = pydicom.dcmread(io.BytesIO(answer.content))
        assert made.SOPClassUID == kind
        assert answer.headers["content-disposition"] == f'attachment; filename="result_{wanted}.dcm"'
    nifti = server.predict(dicom_film, wanted="nifti")
    assert len(gzip.decompress(nifti.content)) == 352 + 160 * 160
    record = server.predict(dicom_film).json()
    assert record["source"]["kind"] == "dicom"
    assert record["source"]["orientation_source"] == "file"
    assert "Secret" not in json.dumps(record)


def test_a_mirrored_film_is_shown_upright_and_saved_as_it_lies(server):
    pytest.importorskip("pydicom")
    image = draw_case(3, 2, size=160).image
    plain = server.predict(as_bytes(film(image)), wanted="view").json()
    mirrored = as_bytes(film(np.ascontiguousarray(image[:, ::-1]), PatientOrientation=["R", "F"]))
    view = server.predict(mirrored, wanted="view").json()
    assert view["record"]["source"]["mirrored"]
    assert view["mask"] == plain["mask"]
    assert view["image"] == plain["image"]
    stored = decoded(server.predict(mirrored, wanted="mask").content) // 255
    assert np.array_equal(stored[:, ::-1], decoded(base64.b64decode(view["mask"])))


def test_seg_of_a_png_is_refused_in_words(server):
    answer = server.predict(wanted="seg")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert "DICOM files only" in answer.json()["detail"]
    assert "--" not in answer.json()["detail"], "no option of the command line"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"trust": "2"}, "trust"), ({"trust": "nan"}, "trust"), ({"trust": "x"}, "trust"),
        ({"threshold": "0"}, "threshold"), ({"threshold": "1"}, "threshold"), ({"orientation": "up"}, "orientation"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(server, fields, field):
    answer = server.predict(**fields)
    assert answer.status_code == 422
    problem = answer.json()
    assert (problem["status"], problem["field"]) == (422, field)
    assert problem["title"]


def test_read_answers_with_the_fields_of_the_record(server):
    text = "Opacity in the left lower zone. Possibly edema in the right upper zone. Heart size normal."
    found = server.client.post("api/v1/read", json={"report": text, "orientation": "patient"}).json()
    record = server.predict(report=text, orientation="patient").json()["report"]
    for name in ("sentence", "orientation_given", "zones", "number", "not_understood", "uncertain", "contradictions",
                 "explained", "orientation", "free_zones", "understood"):  # fmt: skip
        assert found[name] == record[name], name
    assert found["refused"] is None
    other = server.client.post("api/v1/read", json={"report": text, "orientation": "image"}).json()
    assert found["zones"] == ["image_right_lower"]
    assert other["zones"] == ["image_left_lower"]


def test_read_refuses_in_words(server):
    found = server.client.post("api/v1/read", json={"report": "Total hip replacement."}).json()
    assert found["refused"]
    nothing = server.client.post("api/v1/read", json={}).json()
    assert nothing["explained"] == ["no report"]


@pytest.mark.parametrize(
    "body",
    [{"report": 3}, {"zones": {"left_upper": "ill"}}, {"zones": []}, {"zones": {"left": "clear"}}, {"other": 1},
     {"zones": {"left_upper": ["lesion"]}}, {"orientation": 1}, {"model": 5}],
)  # fmt: skip
def test_read_names_a_wrong_field(server, body):
    answer = server.client.post("api/v1/read", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"]


def test_the_addresses_that_only_tell(server):
    for path in ("health", "ready", "info", "models", "openapi.json"):
        answer = server.client.get(f"api/v1/{path}")
        assert answer.status_code == 200, path
        assert answer.headers["content-type"] == "application/json"
    info = server.client.get("api/v1/info").json()
    assert info["default"] == "small"
    assert info["use"] == "Research use, not for diagnosis."
    for example in info["examples"]:
        image = server.client.get(f"api/v1/examples/{example['number']}")
        assert decoded(image.content).shape == (512, 512)
    assert server.client.get("api/v1/examples/3").status_code == 404
    assert server.client.get("api/v1/nothing").json()["status"] == 404
    assert server.client.get("api/v1/predict").json()["status"] == 405


def test_openapi_names_every_address_form_and_field(server):
    described = server.client.get("api/v1/openapi.json").json()
    routes = {route.path.replace(":int", "") for route in server.routes} - {"/"}
    assert set(described["paths"]) == routes
    predict = described["paths"]["/api/v1/predict"]["post"]
    assert predict["parameters"][0]["schema"]["enum"] == server.client.get("api/v1/info").json()["as"]
    fields = predict["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert set(fields) == {"image", "report", "orientation", "trust", "threshold", "model"}


def test_metrics_count_and_hold_no_words(server):
    server.predict(report="Opacity in the left lower zone of Mr Unmistakable.")
    text = server.client.get("api/v1/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values['c2fvl_requests_total{path="/api/v1/predict",status="200"}']) >= 1
    assert float(values["c2fvl_predict_seconds_count"]) >= 1
    assert values['c2fvl_predict_seconds_bucket{le="+Inf"}'] == values["c2fvl_predict_seconds_count"]
    assert values["c2fvl_queue_places"] == "64"
    assert values["c2fvl_held_bytes"] == "0"
    assert "Unmistakable" not in text


def test_several_models(serve, engine, unet_run):
    from c2fvl.checkpoints.trained_model import load_model
    from c2fvl.inference.torch_engine import NetworkEngine

    other = ServedModel("unet", NetworkEngine(load_model(unet_run)))
    server = serve(ServedModels([ServedModel("small", engine), other]))
    assert [model["name"] for model in server.client.get("api/v1/models").json()["models"]] == ["small", "unet"]
    assert server.predict().json()["model"]["name"] == "filmfirst"
    found = server.predict(model="unet").json()
    assert (found["model"]["name"], found["trust"], found["predicted_findings"]) == ("unet", None, None)
    assert server.predict(model="unet", trust="0.5").status_code == 422
    unknown = server.predict(model="../x")
    assert unknown.status_code == 404
    assert unknown.json()["detail"].endswith("It has: small, unet.")
    read = server.client.post("api/v1/read", json={"report": REPORT, "model": "unet"}).json()
    assert read["refused"] == "this network reads no report; the one given changes nothing"


def test_many_requests_at_once_get_each_its_own_result(serve, engine):
    gate = Gate(engine)
    server = serve(ServedModels([ServedModel("small", gate)]), limits=Limits(prepared=4))
    images = [film_png(number) for number in range(6)]
    plain = [Predictor(engine)(image).to_dict() for image in images]
    reports = [f"Opacity in the {place} zone." for place in ("left upper", "right lower", "left middle")]
    jobs = [(number % 6, reports[number % 3] if number % 2 else None) for number in range(24)]
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        futures = [
            pool.submit(server.predict, images[number], **({} if report is None else {"report": report}))
            for number, report in jobs
        ]
        wait_until(lambda: server.service.queue.taken == 24)
        gate.opened.set()
        answers = [future.result().json() for future in futures]
    for (number, report), answer in zip(jobs, answers, strict=True):
        assert (answer["report"] or {}).get("sentence") == report
        zones = answer["predicted_findings"]["zones"]  # of the image alone: they tell which image it was
        expected = plain[number]["predicted_findings"]["zones"]
        assert max(abs(zones[zone] - expected[zone]) for zone in zones) < 2e-3
        if report is None:
            assert abs(answer["area"] - plain[number]["area"]) <= 3
    assert max(gate.sizes) > 1, "what waits is computed together"
    assert server.service.queue.taken == 0
