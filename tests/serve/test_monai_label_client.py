"""The stock client of MONAI Label talks to the server: all its calls, with and without log in."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("requests", reason="the client of MONAI Label needs requests")

from support.label_maps import read_nrrd  # noqa: E402
from support.monailabel_wheel import MISSING, find_wheel, unpack  # noqa: E402
from support.volumes import chest  # noqa: E402

from c2fvl.data.phantom.draw import draw_case  # noqa: E402
from c2fvl.inference.predictor import Predictor  # noqa: E402
from c2fvl.inference.volumes import predict_volume  # noqa: E402
from c2fvl.serve.networks import ServedModel, ServedModels  # noqa: E402
from c2fvl.serve.settings import ServerSettings  # noqa: E402

SCRIPT = Path(__file__).parents[1] / "support" / "monai_label_script.py"
REPORT = "Patchy opacity in the left lower lobe."
TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module")
def stock_client(tmp_path_factory):
    """The folder of the client alone, unpacked; the package that holds it would import what is not installed."""
    wheel = find_wheel()
    if wheel is None:
        pytest.skip(MISSING)
    if importlib.util.find_spec("cgi") is None:
        pytest.skip("the stock client needs the module cgi, which left Python in 3.13")
    folder = tmp_path_factory.mktemp("client")
    unpack(wheel, "monailabel/client", folder)
    (folder / "monailabel" / "__init__.py").touch()
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A film and a volume as 3D Slicer saves them."""
    folder = tmp_path_factory.mktemp("images")
    film = draw_case(3, 0, size=160).image.T[..., None]
    nibabel.Nifti1Image(film, np.diag([-0.2, -0.3, 1.0, 1.0])).to_filename(folder / "film.nii.gz")
    turn = np.array([[0, -0.7, 0.1, 20], [-0.8, 0, 0, 15], [0, 0.1, 2.0, 100], [0, 0, 0, 1]])
    volume = chest(5, 64, 60).transpose(1, 2, 0)
    nibabel.Nifti1Image(volume, turn).to_filename(folder / "ct.nii.gz")
    return folder


@pytest.mark.parametrize("token", [None, TOKEN])
def test_every_call_of_the_stock_client(start, engine, stock_client, images, token):
    from c2fvl.checkpoints.trained_model import load_model
    from c2fvl.inference.torch_engine import NetworkEngine

    ct = NetworkEngine(load_model("ct_small"), in_place=True)
    models = ServedModels([ServedModel("small", engine), ServedModel("ct_small", ct)])
    with start(models, ServerSettings(port=0, token=token, monai_label=True)) as server:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", SCRIPT, stock_client, server.address, images, TOKEN],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert len(server.service.sessions) == 1, "all but that of the refused request were removed by their client"
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["models"] == ["small", "ct_small"]
    assert found["auth_enabled"] == (token is not None)
    if token:
        assert found["valid"] is True
        assert "Status: 401" in found["without"]
        assert "It is the token of the server" in found["wrong"]
    film, ct_file = images / "film.nii.gz", images / "ct.nii.gz"
    expected = Predictor(engine)(film, REPORT, orientation="patient")
    file, params = found["film"]
    check_geometry(file, film, expected.mask.T[..., None])
    assert params["label_names"] == {"lesion": 1}
    assert params["report"]["zones"] == ["image_right_lower"], "the patient's left is the right of the image"
    plain = Path(found["file"][0])
    assert plain != Path(file)
    check_geometry(plain, film, Predictor(engine)(film).mask.T[..., None])
    file, params = found["volume"]
    report = f"{REPORT} The right lung is clear."
    check_geometry(file, ct_file, predict_volume(Predictor(ct, batch_size=8), ct_file, report).mask_in_file)
    assert "left" in params["report"]["used_for_volume"].lower()
    assert "Set the option `orientation`" in found["asked"]
    assert "Load the image again" in found["removed"]
    assert (found["datastore"], found["next_sample"], found["training"]) == ({"objects": {}}, {}, False)
    for refused in (found["label"], found["upload"]):
        assert "Status: 501" in refused
        assert "Save the segmentation in the viewer" in refused


def check_geometry(result, image, mask):
    """Check that a result has this mask, and lies where its image lies."""
    found, affine, _ = read_nrrd(Path(result).read_bytes())
    given = nibabel.load(image)
    assert found.shape == given.shape
    assert np.allclose(affine, given.affine, atol=1e-6)
    assert np.mean(found != mask) < 1e-3, "a batch of another size changes the last digits"
