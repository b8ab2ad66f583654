"""Fixtures: a small phantom, settings that train in seconds, the real data where it is."""

import dataclasses
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import pytest
from support.tiny_runs import TINY

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
COLLECTED = pytest.StashKey[list[pytest.Item]]()

# A busy machine makes single examples slow; the timeout of pytest bounds the whole test.
hypothesis.settings.register_profile("c2fvl", deadline=None)
hypothesis.settings.load_profile("c2fvl")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Keep the list of all tests, and give slow ones time."""
    config.stash[COLLECTED] = list(items)
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(900))  # some take half a minute; a busy machine may be ten times slower


@pytest.fixture(scope="session")
def collected(request) -> list[pytest.Item]:
    """Every test that was collected, slow or not."""
    return request.config.stash[COLLECTED]


@pytest.fixture(scope="session", autouse=True)
def _threads():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Keep the user's cache out of the tests and the tests out of it, in other processes too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _no_width(monkeypatch):
    """Print tables as for a file, whatever COLUMNS the caller or an earlier test has set."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="session")
def browser_path() -> str:
    """The browser that pages are opened in; without one the test is skipped, or fails if C2FVL_BROWSER=required."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None and os.environ.get("C2FVL_BROWSER") == "required":
        pytest.fail(f"C2FVL_BROWSER=required, but there is none of {', '.join(names)}")
    if found is None:
        pytest.skip(f"there is no browser ({', '.join(names)}) to open the page in")
    return found


@pytest.fixture(scope="module")
def browser(browser_path):
    """A browser that tests drive; of one module, because it occupies the event loop of its thread."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=browser_path, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real images and captions; the test is skipped where they are not."""
    if not (SHARED_DATA / "README.md").is_file():
        pytest.skip("the real films and captions are not beside this checkout")
    return SHARED_DATA


@pytest.fixture(scope="session")
def phantom_root(tmp_path_factory) -> Path:
    """A phantom of 40 images of 64 × 64, read only."""
    from c2fvl.data.phantom.draw import write_phantom

    root = tmp_path_factory.mktemp("data") / "phantom"
    write_phantom(root, num_cases=40, seed=1, size=64)
    return root


@pytest.fixture
def tiny_config(phantom_root):
    from c2fvl.config_files import load_config

    return load_config("debug", [*TINY, f'data.root="{phantom_root}"', "data.text=attributes"])


@pytest.fixture(scope="session")
def tiny_run(phantom_root, tmp_path_factory) -> Path:
    """A finished run of two epochs, read only."""
    from c2fvl.config_files import load_config
    from c2fvl.training.loop import train

    config = load_config("debug", [*TINY, f'data.root="{phantom_root}"'])
    return train(config, run=tmp_path_factory.mktemp("runs") / "tiny").run


@pytest.fixture(scope="session")
def unet_run(phantom_root, tmp_path_factory) -> Path:
    """A finished run of a network that reads no text, of one epoch, read only."""
    from c2fvl.config import ModelConfig
    from c2fvl.config_files import load_config
    from c2fvl.training.loop import train

    config = load_config("debug", [*TINY, f'data.root="{phantom_root}"', "train.epochs=1", "loss.side_maps=0"])
    config = dataclasses.replace(config, preset="", model=ModelConfig("unet", {"base_width": 8}))
    return train(config, run=tmp_path_factory.mktemp("runs") / "unet").run


@pytest.fixture(scope="session")
def tiny_export(tiny_run, tmp_path_factory):
    """The tiny run exported in fp32, read only."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    from c2fvl.checkpoints.trained_model import load_model
    from c2fvl.inference.export import export

    return export(load_model(tiny_run), tmp_path_factory.mktemp("exported") / "network.onnx")


@pytest.fixture
def translated(monkeypatch, tiny_export):
    """Spare exports of the tiny run the translation, which takes seconds; all that follows it is done."""
    import onnx

    program = SimpleNamespace(model_proto=onnx.load_model(tiny_export.path))
    monkeypatch.setattr("c2fvl.inference.export.translate", lambda *network, **options: program)
