"""Networks of the user's own: trained by name like the others, and never imported because a file names them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.tiny_runs import TINY
from torch import nn

from c2fvl import extensions
from c2fvl.checkpoints.hub import _checked
from c2fvl.checkpoints.trained_model import load_model, save_model
from c2fvl.cli.main import main
from c2fvl.config import Config, ModelConfig
from c2fvl.config_files import load_config, override
from c2fvl.data.part import Part
from c2fvl.evaluation.audit import audit
from c2fvl.evaluation.evaluate import evaluate
from c2fvl.extensions import find_extension, import_extension, is_extension
from c2fvl.inference.cost import build_empty, example_settings
from c2fvl.inference.predictor import Predictor
from c2fvl.inference.speed import in_own_process
from c2fvl.models import Output, build_model
from c2fvl.models.inference_model import optimize
from c2fvl.models.registry import arguments_of, find_network, num_classes
from c2fvl.training.loop import train


class OwnNetwork(nn.Module):
    """Two convolutions, shifted by the attributes of the report."""

    TEXT = "attributes"

    def __init__(self, *, num_classes: int = 1, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.first_norm = nn.BatchNorm2d(3)  # before the convolution, against the names of this package
        self.text = nn.Linear(8, width)
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, image, text=None):
        features = self.first(self.first_norm(image)).relu()
        if text is not None:
            features = features + self.text(text[:, 0].nan_to_num(0.0))[:, :, None, None]
        return Output(self.head(features))


class NoText(nn.Module):
    """It does not say what it reads."""


class NoArguments(nn.Module):
    """Its constructor has no num_classes."""

    TEXT = "none"

    def __init__(self, width):
        super().__init__()


class NoForward(OwnNetwork):
    """Its forward takes no text."""

    def forward(self, image):
        return Output(image)


class PlainTensor(OwnNetwork):
    """It returns something else than an Output."""

    def forward(self, image, text=None):
        return image.mean(1, keepdim=True)


def own_loss(output, mask, text=None, findings=None):
    """Return the plain cross-entropy of the lesion."""
    loss = nn.functional.binary_cross_entropy_with_logits(output.logits[:, 0], mask.float())
    return {"loss": loss, "own": loss.detach()}


OWN = f"{__name__}:OwnNetwork"
NO_SIDE_MAPS = ("loss.alignment=0", "loss.side_maps=0")
ORDER = [item for item in TINY if not item.startswith("model.")]


@pytest.fixture(scope="module")
def run(phantom_root, tmp_path_factory):
    settings = [*ORDER, f'data.root="{phantom_root}"', f"model.name={OWN}", "model.arguments.width=6"]
    config = load_config("debug", [*settings, f"loss.custom={__name__}:own_loss", "optimizer.learning_rate=0.01"])
    return train(config, run=tmp_path_factory.mktemp("own") / "run").run


def test_it_trains_evaluates_audits_and_exports(run, phantom_root, tmp_path):
    model = load_model(run)
    assert isinstance(model.network, OwnNetwork)
    assert model.config.model == ModelConfig(OWN, {"width": 6, "num_classes": 1})
    assert model.config.data.text == "attributes"
    assert "train_own" in json.loads((run / "log.jsonl").read_text().splitlines()[0])
    evaluate(model, Part(phantom_root, "test"), out=tmp_path / "evaluation")
    assert (tmp_path / "evaluation" / "summary.json").is_file()
    audit(model, Part(phantom_root, "test"), out=tmp_path / "audit")
    assert (tmp_path / "audit" / "audit.csv").is_file()
    assert main(["export", str(run), str(tmp_path / "own.onnx")]) == 0
    image = next(Path(phantom_root, "Test_Folder", "img").iterdir())
    report = "Unilateral pulmonary infection, one infected area, upper left lung."
    by_torch, by_onnx = (Predictor(source)(image, report) for source in (run, tmp_path / "own.onnx"))
    assert abs(by_torch.probability - by_onnx.probability).max() < 1e-5


def test_an_exported_file_needs_no_class(run, phantom_root, tmp_path):
    assert main(["export", str(run), str(tmp_path / "own.onnx")]) == 0
    image = next(Path(phantom_root, "Test_Folder", "img").iterdir())
    code = f"""
import sys
from c2fvl import Predictor
print(Predictor({str(tmp_path / "own.onnx")!r})({str(image)!r}).mask.shape)
assert "torch" not in sys.modules and {__name__!r} not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_known_of_it(tmp_path):
    assert find_network(OWN).text == "attributes"
    assert num_classes(ModelConfig(OWN)) == 1
    assert "  width: int = 8" in arguments_of(OWN)
    network, inputs = build_empty(example_settings(OWN, ["width=4"], image_size=64))
    assert network(*inputs).logits.shape == (1, 1, 64, 64)
    with pytest.raises(ValueError, match="did you mean width"):
        build_model(OWN, widht=4)


def test_names_inside_it_are_not_taken_for_those_of_this_package():
    """The batch norm stands before the convolution; folding it in as if it followed would change the output."""
    torch.manual_seed(0)
    network = build_model(OWN).eval()
    network.first_norm.running_mean.uniform_(-1, 1)
    image, text = torch.rand(2, 3, 32, 32), torch.rand(2, 1, 8)
    with torch.no_grad():
        found, expected = optimize(network, example=image)(image, text), network(image, text)
    assert torch.allclose(found.logits, expected.logits, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{__name__}:OwnNetwok", "did you mean OwnNetwork"),
        (f"{__name__}:ORDER", "not written in|no class"),
        (f"{__name__}:fixture_of_nothing", "has no"),
        (f"{__name__}:run", "no class"),
        (f"{__name__}:NoText", "attribute TEXT"),
        (f"{__name__}:NoArguments", r"missing: num_classes; without default: width"),
        (f"{__name__}:NoForward", "forward"),
        (f"{__name__}:Path", "not written in"),
        ("os:system", "not written in|own code"),
        ("subprocess:Popen", "own code"),
        ("torch.nn:Linear", "attribute TEXT"),
        ("antigravity:geohash", "--allow-code antigravity"),
        ("no:thing:else", "there is no network"),
        ("../evil:Net", "there is no network"),
    ],
)
def test_a_class_that_does_not_fit_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        build_model(name)
    assert "antigravity" not in sys.modules


def test_a_network_that_returns_something_else_is_named(phantom_root, tmp_path):
    name = f"{__name__}:PlainTensor"
    config = load_config("debug", [*ORDER, f'data.root="{phantom_root}"', f"model.name={name}", *NO_SIDE_MAPS])
    with pytest.raises(ValueError, match=r"PlainTensor\.forward returned Tensor; expected c2fvl\.models\.Output"):
        train(config, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


MODULE = '''"""A module that tells when it is imported."""
from pathlib import Path

from torch import nn

from c2fvl.models import Output

Path(__file__).with_suffix(".ran").touch()


class Net(nn.Module):
    """One convolution."""

    TEXT = "none"

    def __init__(self, *, num_classes: int = 1) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, num_classes, 1)

    def forward(self, image, text=None):
        return Output(self.head(image))


def parameters():
    from c2fvl.models import build_model

    return sum(each.numel() for each in build_model(f"{__name__}:Net").parameters())
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return the name of a module that was never imported, and a model folder that names it."""
    name = f"own_{os.urandom(4).hex()}"
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path / "code")
    config = override(Config(), ["data.text=none", "data.image_size=32", f"model.name={name}:Net"])
    save_model(tmp_path / "model", nn.ModuleDict({"head": nn.Conv2d(3, 1, 1)}), config, {})
    yield name
    sys.modules.pop(name, None)


def test_a_model_folder_imports_nothing_by_itself(module, tmp_path, phantom_root):
    ran = tmp_path / "code" / f"{module}.ran"
    image = next(Path(phantom_root, "Test_Folder", "img").iterdir())
    with pytest.raises(ValueError, match=rf"--allow-code {module} .*or `import {module}`"):
        load_model(tmp_path / "model")
    for command in (
        ["predict", str(image), "--model", str(tmp_path / "model"), "--out", str(tmp_path / "masks")],
        ["evaluate", str(tmp_path / "model"), str(phantom_root)],
        ["export", str(tmp_path / "model"), str(tmp_path / "net.onnx")],
        ["bench", str(tmp_path / "model")],
        ["models"],
    ):
        main(command)
    files, config = _checked(tmp_path / "model")  # of a model that is pulled from the hub
    assert config.model.name == f"{module}:Net"
    assert files
    assert not ran.exists()
    assert module not in sys.modules
    import_extension(module)
    assert ran.exists()
    assert load_model(tmp_path / "model").network.head.weight.shape == (1, 3, 1, 1)


def test_allow_code_imports_the_module_that_it_names(module, tmp_path, phantom_root, capsys):
    image = next(Path(phantom_root, "Test_Folder", "img").iterdir())
    predict = ["predict", str(image), "--model", str(tmp_path / "model"), "--out", str(tmp_path / "masks")]
    assert main(predict) == 2
    assert f"--allow-code {module}" in capsys.readouterr().err
    assert main([*predict, "--allow-code", module]) == 0
    assert (tmp_path / "masks" / image.name).is_file()
    assert main([*predict, "--allow-code", "own_missing"]) == 2
    assert "no module own_missing" in capsys.readouterr().err


def test_a_name_on_the_command_line_is_imported(module, capsys):
    assert main(["models", f"{module}:Net"]) == 0
    assert "One convolution" in capsys.readouterr().out
    assert main(["models", f"{module}:Net", "num_classes=2", "--size", "32"]) == 0


def test_a_resumed_run_imports_nothing_by_itself(module, phantom_root, tmp_path):
    config = load_config(
        "debug",
        [*ORDER, f'data.root="{phantom_root}"', f"model.name={module}:Net", *NO_SIDE_MAPS],
    )
    run = train(config, run=tmp_path / "run").run  # the settings of a new run are the user's own
    sys.modules.pop(module)
    (tmp_path / "code" / f"{module}.ran").unlink()
    with pytest.raises(ValueError, match="--allow-code"):
        train(resume=run, overrides=("train.epochs=3",))
    assert not (tmp_path / "code" / f"{module}.ran").exists()
    import_extension(module)
    assert train(resume=run, overrides=("train.epochs=3",)).finished


def test_a_new_process_may_import_what_this_one_did(module):
    import_extension(f"{module}:Net")
    build_model(f"{module}:Net")
    assert in_own_process(sys.modules[module].parameters) == 4


def test_a_new_process_imports_what_the_user_allowed_before_it_is_used(module, monkeypatch):
    """`c2fvl compare --allow-code MODULE` measures a network in a new process before this one has built it."""
    monkeypatch.setattr(extensions, "_used", set())
    import_extension(module)
    assert in_own_process(arguments_of, f"{module}:Net")


def test_modules_that_are_not_there_are_told_from_those_that_fail(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_broken.py").write_text("import nothing_of_that_name")
    with pytest.raises(ModuleNotFoundError, match="nothing_of_that_name"):
        import_extension("own_broken")
    with pytest.raises(ValueError, match="no module own_missing"):
        import_extension("own_missing:Net")
    with pytest.raises(ValueError, match=r"not the name of a module"):
        import_extension("../own_missing")
    assert not is_extension("C:\\model") and not is_extension("unet") and is_extension("a.b:C")
    with pytest.raises(ValueError, match="has no 'Gone'"):
        find_extension(f"{__name__}:Gone")
    assert json.dumps(sorted(sys.modules))  # nothing half imported is left
