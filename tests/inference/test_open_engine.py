"""Model folders on ONNX Runtime: the same answers as with torch, and what must not be run."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from support.servers import film_png

from c2fvl.checkpoints.folders import SHIPPED
from c2fvl.checkpoints.model_files import write_files
from c2fvl.checkpoints.trained_model import load_model
from c2fvl.files import storage
from c2fvl.inference.export_folder import export_folder
from c2fvl.inference.onnx_engine import OnnxModel, OtherWeightsError
from c2fvl.inference.onnx_file import BLANK, CHECKSUM_KEY, sealed
from c2fvl.inference.open_engine import open_engine
from c2fvl.inference.predictor import Predictor
from c2fvl.inference.torch_engine import NetworkEngine

REPORT = "Unilateral pulmonary infection, one infected area, lower left lung."


@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory):
    """The tiny run as a folder with its graph, read only."""
    pytest.importorskip("onnxscript")
    return export_folder(load_model(tiny_run), tmp_path_factory.mktemp("exported") / "model")


@pytest.fixture
def folder(exported, tmp_path):
    """A copy of the folder, to be changed."""
    return shutil.copytree(exported.path, tmp_path / "model")


@pytest.mark.parametrize("name", ["small", "ct_small"])
def test_models_of_the_package_answer_alike_with_and_without_torch(name):
    light, heavy = open_engine(name, device="cpu"), NetworkEngine(load_model(name))
    assert isinstance(light, OnnxModel)
    draw = np.random.default_rng(0)
    side = light.config.data.image_size
    images = draw.random((3, 3, side, side), np.float32)
    text = np.full((3, 1, 9), np.nan, np.float32)
    text[1, 0, :] = [1, 1, 1, 0, 0, 0, 0, 0, 0.9]
    ours, theirs = light.compute(images, text), heavy.compute(images, text)
    assert np.abs(ours.probability - theirs.probability).max() < 1e-5
    for found, expected in zip(ours.logits, theirs.logits, strict=True):
        assert np.allclose(found, expected, atol=1e-4)
    assert (light.metrics, light.calibration) == (heavy.metrics, heavy.calibration)
    assert light.ood_detector.to_bytes() == heavy.ood_detector.to_bytes()


def test_threads_and_batches_change_no_digit():
    draw = np.random.default_rng(0)
    images, text = draw.random((3, 3, 160, 160), np.float32), np.full((3, 1, 9), np.nan, np.float32)
    together = OnnxModel(SHIPPED / "small", threads=2).compute(images, text).probability
    engine = OnnxModel(SHIPPED / "small", threads=1)
    for index in range(3):
        alone = engine.compute(images[index : index + 1], text[index : index + 1]).probability
        assert np.array_equal(alone[0], together[index])


def test_a_prediction_needs_no_torch(tmp_path):
    code = f"""
import sys
for name in ("torch", "accelerate", "tensorboard", "matplotlib", "scipy", "jinja2", "huggingface_hub"):
    sys.modules[name] = None
from c2fvl.cli.main import main
sys.exit(main(["predict", "image.png", "--report", {REPORT!r}, "--overlay", "--json"]))
"""
    (tmp_path / "image.png").write_bytes(film_png(1))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["model"]["engine"].startswith("onnxruntime ")
    assert record["model"]["device"] == "cpu"
    found = Predictor("small", device="cpu")(tmp_path / "image.png", REPORT)
    assert record["area"] == int(found.mask.sum())


def test_trust_is_that_of_the_settings_though_the_graph_was_made_with_another(tmp_path):
    folder = shutil.copytree(SHIPPED / "small", tmp_path / "small")
    text = (folder / "config.toml").read_text()
    found = {}
    for trust in ("0.0", "1.0"):
        (folder / "manifest.json").unlink(missing_ok=True)
        (folder / "config.toml").write_text(re.sub(r"^trust = .*$", f"trust = {trust}", text, flags=re.M))
        predictor = Predictor(folder, device="cpu")
        assert predictor.model.trust == float(trust)
        image = film_png(1)
        light = predictor(image, REPORT).probability
        heavy = Predictor(NetworkEngine(load_model(folder)))(image, REPORT).probability
        assert np.abs(light - heavy).max() < 1e-4
        found[trust] = light
    assert np.abs(found["0.0"] - found["1.0"]).max() > 0.01


@pytest.mark.slow(like="test_a_graph_holds_no_weights")
def test_a_folder_gets_its_graph_in_place(tiny_run, exported, tmp_path):
    own = shutil.copytree(tiny_run / "best", tmp_path / "own")
    graph = (exported.path / "network.onnx").read_bytes()
    before = {file.name: file.read_bytes() for file in own.iterdir() if file.name != "manifest.json"}
    found = export_folder(load_model(own), own)
    assert found.path == own
    assert found.difference < 1e-5
    after = {file.name: file.read_bytes() for file in own.iterdir() if file.name != "manifest.json"}
    assert len(after.pop("network.onnx")) == len(graph)
    assert after == before
    assert isinstance(open_engine(own, device="cpu"), OnnxModel)


@pytest.mark.parametrize("name", ["small", "ct_small"])
def test_a_graph_holds_no_weights(name):
    import onnx

    graph = onnx.ModelProto.FromString((SHIPPED / name / "network.onnx").read_bytes()).graph
    inside = [tensor for tensor in graph.initializer if tensor.data_location == 0]
    outside = {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.initializer if tensor.data_location == 1}
    parameters = sum(values.numel() for values in load_model(name).network.parameters())
    assert sum(outside.values()) >= parameters
    assert sum(len(tensor.raw_data) for tensor in inside) / 4 < 0.02 * parameters


def test_models_of_the_package_are_not_changed():
    with pytest.raises(ValueError, match=r"comes with the package and is not changed.*--out"):
        export_folder(load_model("small"), SHIPPED / "small")


def test_a_graph_of_other_weights_is_left_to_torch(folder, tiny_run, caplog):
    weights = (folder / "model.safetensors").read_bytes()
    other = weights[:-1] + bytes([weights[-1] ^ 1])
    metrics = {"weights_sha256": storage.checksum(other)}
    write_files(folder, {"model.safetensors": other, "metrics.json": storage.json_bytes(metrics)})
    with pytest.raises(OtherWeightsError, match="was made for other weights"):
        OnnxModel(folder)
    assert isinstance(open_engine(folder, device="cpu"), NetworkEngine)
    assert "until then torch runs the model" in caplog.text


def changed_graph(folder, change):
    """Change the graph of a folder as a stranger could, checksums included."""
    import onnx

    proto = onnx.ModelProto.FromString((folder / "network.onnx").read_bytes())
    change(proto)
    for entry in proto.metadata_props:
        if entry.key == CHECKSUM_KEY:
            entry.value = BLANK
    write_files(folder, {"network.onnx": sealed(proto.SerializeToString())})


def outside_name(proto):
    return next(tensor for tensor in proto.graph.initializer if tensor.data_location == 1)


def test_a_graph_that_reads_another_file_is_refused(folder, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(1 << 16))

    def change(proto):
        tensor = outside_name(proto)
        old, tensor.name = tensor.name, "elsewhere"
        tensor.external_data[0].value = "../secret"
        for node in proto.graph.node:
            node.input[:] = ["elsewhere" if name == old else name for name in node.input]

    changed_graph(folder, change)
    with pytest.raises(ValueError, match=r"network\.onnx takes weights from another file: elsewhere"):
        OnnxModel(folder)


def test_an_exported_file_with_outside_weights_is_refused(folder, tmp_path):
    shutil.copy(folder / "network.onnx", tmp_path / "alone.onnx")
    with pytest.raises(ValueError, match="takes weights from another file"):
        OnnxModel(tmp_path / "alone.onnx")


def test_a_weight_of_another_shape_is_refused(folder):
    def change(proto):
        tensor = outside_name(proto)
        tensor.dims[0] += 1

    changed_graph(folder, change)
    with pytest.raises(ValueError, match=r"cannot be (read by ONNX Runtime|run on)"):
        OnnxModel(folder).compute(np.zeros((1, 3, 32, 32), np.float32), np.zeros((1, 1, 9), np.float32))


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "removed"])
def test_a_damaged_graph_is_refused(folder, damage):
    file = folder / "network.onnx"
    data = file.read_bytes()
    middle = len(data) // 2
    if damage == "removed":
        file.unlink()
    else:
        file.write_bytes(
            {
                "cut": data[:middle],
                "empty": b"",
                "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            }[damage]
        )
    with pytest.raises(ValueError, match=r"network\.onnx.*(does not match|is missing).*`c2fvl export`"):
        OnnxModel(folder)


def test_weights_that_are_not_finite_are_refused(folder):
    from safetensors.numpy import load, save

    weights = load((folder / "model.safetensors").read_bytes())
    name = next(name for name, values in sorted(weights.items()) if values.dtype == np.float32)
    weights[name] = np.full_like(weights[name], np.nan)
    data = save(weights)
    metrics = {"weights_sha256": storage.checksum(data)}
    write_files(folder, {"model.safetensors": data, "metrics.json": storage.json_bytes(metrics)})
    with pytest.raises(ValueError, match=f"{name} are not finite"):
        OnnxModel(folder)


def test_without_torch_a_folder_without_a_graph_says_what_to_install(tiny_run, tmp_path):
    code = f"""
import sys
sys.modules["torch"] = None
from c2fvl.cli.main import main
sys.exit(main(["predict", "image.png", "--model", {str(tiny_run)!r}]))
"""
    (tmp_path / "image.png").write_bytes(film_png(1))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == (
        "c2fvl: this needs torch, which is not installed: pip install 'c2fvl[train]'"
    )
