"""Fixtures: a small phantom, settings that train in seconds, the real data where it is."""

from pathlib import Path

import pytest
from support.tiny_runs import TINY

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


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


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real films and captions; the test is skipped where they are not."""
    if not (SHARED_DATA / "README.md").is_file():
        pytest.skip("the real films and captions are not beside this checkout")
    return SHARED_DATA


@pytest.fixture(scope="session")
def phantom_root(tmp_path_factory) -> Path:
    """A phantom of 40 films of 64 × 64, read only."""
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
