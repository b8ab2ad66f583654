"""Trained models from and to the Hugging Face hub. No torch.

Only the files of a model folder are downloaded, whatever else a repository contains: safetensors, TOML, JSON and
Markdown, none of which can execute. They are checked before they are kept. Settings that name folders or download
something are emptied.
"""

import contextlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from c2fvl.checkpoints.folders import (
    CALIBRATION,
    CARD,
    GRAPH,
    METRICS,
    PULLED,
    SETTINGS,
    TRUST_CURVE,
    WEIGHTS,
    find_model,
    portable,
    pulled_folder,
)
from c2fvl.checkpoints.model_files import MODEL_FILES, ModelFiles, write_files
from c2fvl.checkpoints.small_files import read_small_files
from c2fvl.config import Config
from c2fvl.config_files import to_toml
from c2fvl.extensions import is_extension
from c2fvl.files import storage
from c2fvl.messages import first_line
from c2fvl.models.registry import find_network
from c2fvl.version import __version__

NEEDED = (WEIGHTS, SETTINGS, METRICS, storage.MANIFEST)
FILES = (*(name for name in MODEL_FILES if name != GRAPH), storage.MANIFEST)
"""The network as a graph is not sent: it could compute anything, and `c2fvl export` makes it of the weights."""
"""All that is pulled and pushed."""
MAX_BYTES_PULLED = {WEIGHTS: 2 * 2**30}
"""Largest weights that are downloaded; each other file may have 4 MiB."""
_OTHER_BYTES = 4 * 2**20


def pull(repository: str, *, revision: str = "", endpoint: str | None = None, token: str | None = None) -> Path:
    """Download the model of a repository OWNER/NAME into the user's cache and return its folder.

    A model that was pulled before is replaced once the new one is complete and has predicted an image. Without
    `endpoint` and `token`, those of the hub's settings are used (HF_ENDPOINT, HF_TOKEN, a login). Raises `ValueError`
    for a repository that does not exist, cannot be reached or lacks a file, and for files that are damaged, do not
    belong together or predict no image; then the older model stays as it was.
    """
    target = pulled_folder(repository)
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint, token=token, library_name="c2fvl", library_version=__version__)
    with tempfile.TemporaryDirectory(prefix="c2fvl-pull-") as downloaded:
        with _clear_errors(repository, api.endpoint, "fetched", revision):
            info = api.model_info(repository, revision=revision or None, files_metadata=True)
            sizes = {entry.rfilename: entry.size or 0 for entry in info.siblings or ()}
        _check_listing(repository, sizes)
        with _clear_errors(repository, api.endpoint, "fetched", revision):
            for name in FILES:
                if name in sizes:
                    api.hf_hub_download(repository, name, revision=info.sha, local_dir=downloaded)
        try:
            files, config = _checked(Path(downloaded))
            if not is_extension(config.model.name):  # its code is not here, and is not run to check it
                _try_out(Path(downloaded))
        except ValueError as error:
            said = str(error).replace(f"{downloaded}/", "")
            raise ValueError(f"the model {repository} is not kept: {said}") from error
    files[SETTINGS] = to_toml(portable(config)).encode()
    del files[storage.MANIFEST]  # of settings that are replaced
    with storage.new_folder(target, replace=True) as folder:
        write_files(folder, files)
        storage.write_json(
            folder / PULLED, {"repository": repository, "revision": info.sha, "endpoint": str(api.endpoint)}
        )
    return target


def push(
    model: Path | str,
    repository: str,
    *,
    private: bool = False,
    endpoint: str | None = None,
    token: str | None = None,
) -> str:
    """Upload a packed model folder as one commit to a repository OWNER/NAME and return the address of the commit.

    The repository is created if needed. The commit removes files of a model folder that this one lacks; other files
    stay. Raises `FileNotFoundError` where there is no model, and `ValueError` for a folder that is not packed, has no
    card or is damaged, without a token, and where the hub refuses.
    """
    pulled_folder(repository)  # raises for another name
    folder = find_model(model)
    files, config = _checked(folder)
    if portable(config) != config:
        raise ValueError(f"{folder / SETTINGS} names folders of this machine; make a folder to push with `c2fvl pack`")
    if CARD not in files:
        raise ValueError(f"{folder} has no model card, {CARD}; write one with `c2fvl card {model}` before packing")
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

    api = HfApi(endpoint=endpoint, token=token or get_token(), library_name="c2fvl", library_version=__version__)
    if api.token is None:
        raise ValueError(
            "there is no token of the Hugging Face hub; create one with write access "
            f"({api.endpoint}/settings/tokens), then set HF_TOKEN or run `hf auth login`"
        )
    with _clear_errors(repository, api.endpoint, "pushed to"):
        api.create_repo(repository, private=private or None, exist_ok=True)
        info = api.model_info(repository)
    if private and not info.private:
        raise ValueError(
            f"{repository} exists already and is public, so nothing was pushed; make it private at "
            f"{api.endpoint}/{repository}/settings, or leave out --private"
        )
    there = {entry.rfilename for entry in info.siblings or ()}
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=data) for name, data in files.items()
    ]
    operations += [CommitOperationDelete(path_in_repo=name) for name in FILES if name in there - files.keys()]
    message = f"{config.preset or config.model.name}, by c2fvl {__version__}"
    with _clear_errors(repository, api.endpoint, "pushed to"):
        return str(api.create_commit(repository, operations, commit_message=message).commit_url)


def _check_listing(repository: str, sizes: Mapping[str, int]) -> None:
    """Raise `ValueError` where a repository lacks a needed file or has one that is too large."""
    missing = [name for name in NEEDED if name not in sizes]
    if missing:
        raise ValueError(
            f"{repository} is no model of c2fvl: it lacks {', '.join(missing)}; `c2fvl push` makes repositories that "
            "can be pulled, and nothing but safetensors is read"
        )
    for name in FILES:
        maximum = MAX_BYTES_PULLED.get(name, _OTHER_BYTES)
        if sizes.get(name, 0) > maximum:
            raise ValueError(f"{repository}: {name} has {sizes[name]:,} bytes; at most {maximum:,} are downloaded")


def _checked(folder: Path) -> tuple[dict[str, bytes], Config]:
    """Return files and settings of a model folder; `ValueError` where a file is damaged or of another model."""
    model_files = ModelFiles(folder)
    config = model_files.settings()
    if not is_extension(config.model.name):
        find_network(config.model.name)
    small = read_small_files(model_files, storage.checksum(model_files.need(WEIGHTS)))
    small.require(CALIBRATION, TRUST_CURVE)
    if model_files.entries is None or not small.metrics:
        raise ValueError(f"{folder} lacks {storage.MANIFEST} or {METRICS}; `c2fvl pack` makes a folder that has both")
    found = {name: model_files.read(name) for name in FILES if name != storage.MANIFEST}
    files = {name: data for name, data in found.items() if data is not None}
    listed = {name: entry for name, entry in model_files.entries.items() if name != GRAPH}
    return files | {storage.MANIFEST: storage.json_bytes(listed)}, config


def _try_out(folder: Path) -> None:
    """Load a model and run it on a grey image; `ValueError` where that fails or gives numbers that are not finite."""
    import torch

    from c2fvl.checkpoints.trained_model import load_model
    from c2fvl.models import Output
    from c2fvl.reports.encoders import text_shape

    model = load_model(folder)
    side, channels = model.config.data.image_size, int(model.config.model.arguments.get("in_channels", 3))
    shape = text_shape(model.config)
    inputs = (torch.full((1, channels, side, side), 0.5), None if shape is None else torch.full((1, *shape), torch.nan))
    try:
        with torch.inference_mode():
            output = model.network(*inputs)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"it cannot predict an image of its size, {side} × {side}: {first_line(error)}") from error
    if not isinstance(output, Output) or not torch.isfinite(output.logits).all():
        raise ValueError("what it predicts for a grey image is not finite")


@contextlib.contextmanager
def _clear_errors(repository: str, endpoint: str, done: str, revision: str = "") -> Iterator[None]:
    """Turn exceptions of the hub's client into `ValueError` with a remedy."""
    from huggingface_hub import errors

    no_answer: Any = errors.HfHubHTTPError.__mro__[1]  # of its HTTP library, which changed between versions
    here = f"{repository} cannot be {done} ({endpoint})"
    token = "set HF_TOKEN or run `hf auth login`"
    try:
        yield
    except errors.GatedRepoError as error:
        raise ValueError(f"{here}: accept its conditions at {endpoint}/{repository}, then {token}") from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"{here}: the repository does not exist, or it is private; check the name, and for a private one {token}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"{here}: it has no revision {revision!r}; leave --revision out for the newest") from error
    except errors.OfflineModeIsEnabled as error:
        raise ValueError(f"{here}: HF_HUB_OFFLINE is set; unset it to reach the hub") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        remedy = {
            401: f"the token is not accepted; make a new one, then {token}",
            403: "the token has no right to that; make one that may write to this owner's repositories",
        }.get(status, "try again later")
        raise ValueError(f"{here}: the hub answered {status} ({_without_request(error)}); {remedy}") from error
    except (OSError, no_answer) as error:
        raise ValueError(
            f"{here}: {_without_request(error)}; check the connection, the proxy and HF_ENDPOINT"
        ) from error


def _without_request(error: BaseException) -> str:
    return re.sub(r"\s*\(Request ID.*?\)", "", first_line(error)).strip()
