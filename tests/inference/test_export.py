"""An exported network answers as the network does, without torch, and says what it is."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from c2fvl.checkpoints.trained_model import TrainedModel, load_model
from c2fvl.cli.main import main
from c2fvl.config_files import override
from c2fvl.data.part import Part
from c2fvl.inference.predictor import Predictor
from c2fvl.inference.requests import Request
from c2fvl.inference.to_folder import predict_to_folder
from c2fvl.inference.torch_engine import NetworkEngine

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from c2fvl.inference import export as export_module  # noqa: E402
from c2fvl.inference.export import export  # noqa: E402
from c2fvl.inference.onnx_engine import OnnxModel  # noqa: E402
from c2fvl.inference.onnx_file import sealed  # noqa: E402

REPORT = "Unilateral pulmonary infection, one infected area, lower left lung."


@pytest.fixture(scope="module")
def model(tiny_run):
    return load_model(tiny_run)


@pytest.fixture
def exported(tiny_export):
    return tiny_export


@pytest.fixture(scope="module")
def image(phantom_root):
    return sorted((phantom_root / "Val_Folder/img").iterdir())[0]


def test_probabilities_are_those_of_the_model(model, exported, phantom_root):
    assert exported.dtype == "fp32" and 0 < exported.difference < 1e-5
    first, second = Predictor(model), Predictor(exported.path)
    for path in sorted((phantom_root / "Val_Folder/img").iterdir()):
        for report in (None, REPORT):
            expected, found = first(path, report), second(path, report)
            assert np.abs(expected.probability - found.probability).max() < 1e-5
            assert np.array_equal(expected.mask, found.mask)


def test_any_number_of_images_at_once(model, exported):
    rng = np.random.default_rng(0)
    images = rng.random((5, 3, 32, 32), np.float32)
    text = rng.integers(0, 2, (5, 1, 8)).astype(np.float32)
    network = OnnxModel(exported.path)
    together = network.compute(images, text).probability
    alone = np.concatenate([network.compute(images[[row]], text[[row]]).probability for row in range(5)])
    assert together.shape == (5, 32, 32)
    assert np.abs(together - alone).max() < 1e-6


def test_the_file_says_what_it_is(exported):
    found = {entry.key: entry.value for entry in onnx.load_model(exported.path).metadata_props}
    assert found["c2fvl.dtype"] == "fp32" and found["c2fvl.threshold"] == "0.5"
    assert json.loads(found["c2fvl.classes"]) == ["lesion"]
    assert "[0, 1]" in found["c2fvl.image"] and "32×32" in found["c2fvl.image"]
    assert "NaN without a report" in found["c2fvl.text"]
    documented = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    assert all(f"`{key}`" in documented for key in found)


def test_the_file_tells_nothing_of_this_machine(model, exported, tmp_path):
    content = exported.path.read_bytes()
    for secret in (str(Path(__file__).parents[2]), str(Path.home()), str(model.path), model.config.data.root):
        assert secret.encode() not in content


def test_the_u_net_takes_images_of_any_size_divisible_by_16(model, tmp_path):
    torch.manual_seed(0)
    unet = plain_model(model, "unet", {"base_width": 4}, tmp_path)
    found = OnnxModel(export(unet, tmp_path / "unet.onnx").path)
    image = np.random.default_rng(0).random((2, 3, 48, 80), np.float32)
    with torch.no_grad():
        expected = unet.network(torch.from_numpy(image)).logits.sigmoid()[:, 0].numpy()
    assert np.abs(found.compute(image, None).probability - expected).max() < 1e-5


def plain_model(like, name, arguments, path):
    """Return an untrained network as if it had been trained."""
    from c2fvl.models import build_model

    data = dataclasses.replace(like.config.data, text="none")
    config = override(dataclasses.replace(like.config, data=data), [f"model.name={name}"])
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, arguments=arguments))
    return TrainedModel(build_model(name, arguments).eval(), config, {}, path)


@pytest.mark.usefixtures("translated")
def test_half_precision(model, exported, image, tmp_path):
    found = export(model, tmp_path / "half.onnx", dtype="fp16")
    assert found.path.stat().st_size < 0.7 * exported.path.stat().st_size
    assert 1e-6 < found.difference < 1e-2
    expected, got = Predictor(model)(image, REPORT), Predictor(found.path)(image, REPORT)
    assert np.abs(expected.probability - got.probability).max() < 1e-2


@pytest.mark.usefixtures("translated")
def test_eight_bits_take_their_scales_from_data_and_say_the_loss(model, tiny_run, phantom_root, tmp_path, capsys):
    out = tmp_path / "int8.onnx"
    call = ["export", str(tiny_run), str(out), "--dtype", "int8", "--calibration", str(phantom_root)]
    assert main(call) == 0
    said = capsys.readouterr().out
    assert "PyTorch" in said and "exported" in said
    assert main([*call, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["num_scored"] == len(list((phantom_root / "Val_Folder/img").iterdir()))
    assert abs(found["dice_before"] - found["dice_after"]) < 0.2
    assert dict(OnnxModel(out).metrics) == model.metrics
    kinds = {node.op_type for node in onnx.load_model(out).graph.node}
    assert "QuantizeLinear" in kinds or "QLinearConv" in kinds
    evaluated = dice_by_evaluation(tiny_run, phantom_root, tmp_path)
    assert found["dice_before"] == pytest.approx(evaluated, abs=1e-6)


def dice_by_evaluation(run, root, tmp_path):
    from c2fvl.evaluation.evaluate import evaluate

    return evaluate(load_model(run), Part(root), out=tmp_path / "scores").summary.scores[0].dice_per_image


def test_predicting_needs_no_torch_and_gives_the_same_masks(tiny_run, exported, image, tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None; from c2fvl.cli.main import main; "
        f"sys.exit(main(['predict', {str(image)!r}, '--model', {str(exported.path)!r}, '--report', {REPORT!r}, "
        f"'--out', {str(tmp_path / 'exported')!r}, '--overlay', '--probability']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    options = ["--report", REPORT, "--overlay", "--probability"]
    assert main(["predict", str(image), "--model", str(tiny_run), "--out", str(tmp_path / "trained"), *options]) == 0
    first, second = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir() if "probability" not in file.name}
        for name in ("exported", "trained")
    )
    assert first.keys() == second.keys()
    assert all(first[name] == second[name] for name in first if name.endswith(".png"))
    records = [json.loads(content[f"{image.stem}.json"]) for content in (first, second)]
    assert records[0].pop("model")["weights_sha256"] == records[1].pop("model")["weights_sha256"]
    assert records[0] == records[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opset": 11}, "opset is 11.*writes 18"),
        pytest.param(
            {"opset": 99}, "cannot be exported at opset 99",
            marks=pytest.mark.slow(like="test_what_cannot_be_exported_is_refused_and_nothing_written"),
        ),
        ({"dtype": "fp8"}, "expected one of fp32, fp16, int8"),
        ({"dtype": "int8"}, "needs images.*--calibration"),
        ({"calibration": "folder"}, "--calibration is only for --dtype int8"),
        ({"dtype": "int8", "calibration": "nowhere"}, "nowhere"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_is_refused_and_nothing_written(model, tmp_path, options, message):
    out = tmp_path / "network.onnx"
    with pytest.raises((ValueError, OSError), match=message):
        export(model, out, **options)
    assert list(tmp_path.iterdir()) == []


def test_another_ending_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match=r"ending \.onnx"):
        export(model, tmp_path / "network.pt")


@pytest.mark.usefixtures("translated")
def test_a_result_that_differs_is_not_written(model, tmp_path, monkeypatch):
    out = tmp_path / "network.onnx"
    out.write_bytes(b"an earlier one")
    monkeypatch.setattr(export_module, "difference_from", lambda model, exported: float("nan"))
    with pytest.raises(ValueError, match="differs from PyTorch"):
        export(model, out)
    assert out.read_bytes() == b"an earlier one"


def test_calibration_without_masks_is_refused(model, phantom_root, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(phantom_root, root)
    shutil.rmtree(root / "Val_Folder/labelcol")
    with pytest.raises(ValueError, match="labelcol"):
        export(model, tmp_path / "network.onnx", dtype="int8", calibration=root)
    assert not (tmp_path / "network.onnx").exists()


@pytest.mark.parametrize("content", [b"", b"not a network", "cut", "foreign"])
def test_damaged_and_foreign_files_are_refused(exported, tmp_path, content):
    file = tmp_path / "network.onnx"
    if content == "cut":
        content = exported.path.read_bytes()[:-2000]
    elif content == "foreign":
        proto = onnx.load_model(exported.path)
        del proto.metadata_props[:]
        content = proto.SerializeToString()
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be read|not exported by c2fvl"):
        OnnxModel(file)


def test_wrong_calls_say_what_is_wrong(exported, image, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    for call, message in (
        (["predict", str(image), "--model", "nowhere.onnx", *out], "the file does not exist"),
        (["predict", "--model", str(exported.path), *out], "no image to predict"),
        (["predict", str(exported.path), str(image), *out], f"--model {exported.path}"),
        (["predict", str(image), "--model", str(exported.path), "--device", "cuda", *out], "cpu always can"),
        (["predict", str(image), "--model", str(exported.path), "--text-model", "folder", *out], "--text-model"),
    ):
        assert main(call) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def changed(path, target, change):
    """Write an exported file with its model changed, and with a checksum that fits, as a stranger could."""

    model = onnx.load_model(path)
    change(model)
    target.write_bytes(sealed(model.SerializeToString()))
    return target


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("form", ["raw", "floats", "halves", "constant"])
def test_weights_that_are_not_finite_are_refused(tiny_export, tmp_path, value, form):

    def change(model):
        initializer = next(entry for entry in model.graph.initializer if len(entry.dims) == 4)
        numbers = onnx.numpy_helper.to_array(initializer).copy()
        numbers.flat[3] = value
        name, kind, dims = initializer.name, onnx.TensorProto.FLOAT, initializer.dims
        if form == "floats":
            broken = onnx.helper.make_tensor(name, kind, dims, numbers.ravel())
        elif form == "halves":
            broken = onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT16, dims, numbers.ravel())
        else:
            broken = onnx.numpy_helper.from_array(numbers, name)
        if form == "constant":
            model.graph.initializer.remove(initializer)
            model.graph.node.insert(0, onnx.helper.make_node("Constant", [], [name], value=broken))
        else:
            initializer.CopyFrom(broken)

    with pytest.raises(ValueError, match=r"has weights that are not finite: \S+; export the model again"):
        OnnxModel(changed(tiny_export.path, tmp_path / "a.onnx", change))


def test_any_change_of_an_exported_file_is_refused(tiny_export, tmp_path):
    data, draw = tiny_export.path.read_bytes(), np.random.default_rng(0)
    for place in draw.integers(0, len(data), 200):
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(draw.integers(8))
        (tmp_path / "a.onnx").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.onnx (does not match the checksum|has no checksum)"):
            OnnxModel(tmp_path / "a.onnx")
    for size in (0, 10, len(data) // 2, len(data) - 1):
        (tmp_path / "a.onnx").write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"checksum.*export the model again"):
            OnnxModel(tmp_path / "a.onnx")


def test_what_onnx_runtime_cannot_run_is_one_line_for_that_image(tiny_export, tmp_path, phantom_root, capsys):
    def change(model):
        entry = next(entry for entry in model.metadata_props if entry.key == "c2fvl.settings")
        assert "image_size = 32" in entry.value
        entry.value = entry.value.replace("image_size = 32", "image_size = 33", 1)

    path = changed(tiny_export.path, tmp_path / "a.onnx", change)
    image = sorted((phantom_root / "Test_Folder" / "img").iterdir())[0]
    assert main(["predict", str(image), "--model", str(path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "cannot be run on images (1, 3, 33, 33)" in error and error.count("\n") == 1
    assert not list(tmp_path.glob("out/*.png"))


def test_probabilities_that_are_none_are_an_error_for_that_image(tiny_run, phantom_root, tmp_path, monkeypatch, capsys):
    images = sorted((phantom_root / "Test_Folder" / "img").iterdir())[:3]
    engine, computed = NetworkEngine(load_model(tiny_run)), 0
    compute = engine.compute

    def overflowing(*given):
        nonlocal computed
        computed += 1
        found = compute(*given)
        if computed == 2:
            found.probability[0, 5, 5] = np.nan
        return found

    monkeypatch.setattr(engine, "compute", overflowing)
    predictor = Predictor(engine)
    records = list(predict_to_folder(predictor, [Request(image) for image in images], tmp_path / "out"))
    assert ["error" in record for record in records] == [False, True, False]
    assert "holds values from nan" in records[1]["error"]
    assert not (tmp_path / "out" / f"{images[1].stem}.png").exists()
    computed = 1
    with pytest.raises(ValueError, match="holds values from nan"):
        predictor(images[0])
