"""Model folders: the names of their files, and how a path or a name is resolved to a folder. No torch.

A name is searched in `weights/` of the package, in `weights/` of the checkout that the package runs from, and in the
user's cache, where `c2fvl pull OWNER/NAME` puts models. A name that is also that of a model folder here is an error;
`./NAME` is the folder.
"""

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from c2fvl.config import Config, InitConfig
from c2fvl.config_files import parse_config
from c2fvl.files import storage
from c2fvl.messages import nearest_names

WEIGHTS, SETTINGS, METRICS = "model.safetensors", "config.toml", "metrics.json"
CALIBRATION, CARD = "calibration.json", "README.md"
TRUST_CURVE, OOD_DETECTOR = "trust.json", "ood.safetensors"
"""Written by `c2fvl fit-trust --keep` and `c2fvl fit-ood`."""
GRAPH = "network.onnx"
"""The network without its weights, by which a folder is used without torch; written by `c2fvl export`."""
PULLED = "pulled.json"
"""In folders of the cache: repository and revision of the model."""

DEFAULT, ALIAS = "small", "default"
"""The model that comes with the package and is used unless another is named, and its other name."""
SHIPPED = Path(__file__).parents[1] / "weights"
CHECKOUT = Path(__file__).parents[3]
"""The checkout that the package runs from, if it contains `pyproject.toml`."""
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
_ID = re.compile(rf"{_NAME.pattern}/{_NAME.pattern}", re.ASCII)


@dataclass(frozen=True)
class NamedModel:
    """A trained model that is found by its name."""

    name: str
    """NAME, or OWNER/NAME of a pulled model."""
    source: str
    """"package", "checkout" or "cache"."""
    folder: Path

    @property
    def config(self) -> Config | None:
        """Return its settings; None where they are damaged."""
        try:
            return parse_config(read(self.folder / SETTINGS).decode("utf-8", "replace"), where=SETTINGS)
        except ValueError:
            return None

    @property
    def network(self) -> str:
        """Return the name of its network; "settings damaged" where they are."""
        return "settings damaged" if self.config is None else self.config.model.name

    @property
    def num_bytes(self) -> int:
        """Return the size of its weights."""
        return (self.folder / WEIGHTS).stat().st_size

    @property
    def about(self) -> str:
        """Return the first paragraph of its card that describes the network; empty without a card."""
        card = self.folder / CARD
        text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
        after = text.partition("\n# ")[2].splitlines()[1:]
        return next((line for line in after if line.strip() and not line.startswith(("**", "<!--"))), "")


def find_model(path: Path | str) -> Path:
    """Return the model folder of a path or a name: the folder itself, `best` of a run folder, or that of a named model.

    A `Path` that exists is never a name. Raises `FileNotFoundError` with the known names where there is none, and
    `ValueError` for a name that is also a model folder here.
    """
    given, is_path, path = str(path), isinstance(path, Path), Path(path)
    model = None if is_path and path.exists() else _find_named(DEFAULT if given == ALIAS else given)
    if model is None:
        if path.exists():
            return _folder_at(path)
        raise FileNotFoundError(_unknown(given))
    if path.exists() and any(_is_model(folder) for folder in (path, path / "best")):
        raise ValueError(
            f"{given} is the name of a trained model ({model.folder}) and of a model folder here; write ./{given} for "
            "the folder, or rename it"
        )
    return model.folder


def named_models() -> list[NamedModel]:
    """Return the trained models that can be named, by source and name. The first of two with one name is kept."""
    found: dict[str, NamedModel] = {}
    for model in (*_in("package", SHIPPED), *_in("checkout", _checkout()), *_pulled()):
        found.setdefault(model.name, model)
    return list(found.values())


def pulled_folder(repository: str) -> Path:
    """Return the cache folder for a repository OWNER/NAME, whether it exists or not; `ValueError` for another name."""
    if not _ID.fullmatch(repository):
        raise ValueError(f"{repository!r} names no repository; expected OWNER/NAME, such as c2fvl/small")
    return _cache() / repository


def name_of(folder: Path) -> str | None:
    """Return the name of a model folder that can be found by name; None for any other folder."""
    return next((model.name for model in named_models() if model.folder.resolve() == folder.resolve()), None)


def comes_along(folder: Path) -> bool:
    """Tell whether a model folder belongs to the package or to the checkout that it runs from."""
    return folder.parent in (SHIPPED, CHECKOUT / "weights")


def read(path: Path) -> bytes:
    """Return the content of a file of a model folder; `ValueError` where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def portable(config: Config) -> Config:
    """Return the settings without paths of this machine, and without anything to download or to cache elsewhere."""
    data = config.data
    model = data.text_model
    if not (_NAME.fullmatch(model) or _ID.fullmatch(model)):  # a folder, not a name of the hub
        model = Path(model).name
    data = dataclasses.replace(
        data, root="", table="" if Path(data.table).is_absolute() else data.table, image_cache="", text_cache="",
        text_model=model, text_fetch=False, folds="",
    )  # fmt: skip
    train = dataclasses.replace(config.train, teachers=tuple(Path(name).name for name in config.train.teachers))
    return dataclasses.replace(config, data=data, train=train, init=InitConfig())


def without_places(config: Config) -> Config:
    """Return settings of a model folder that lead nowhere: caches are those of this user, and nothing is downloaded.

    The folder of a language model stays, for it is only read, and its checksum is compared.
    """
    data = config.data
    kept = "none" if data.image_cache == "none" else ""
    data = dataclasses.replace(data, image_cache=kept, text_cache="", text_fetch=False)
    return dataclasses.replace(config, data=data)


def _folder_at(path: Path) -> Path:
    for folder in (path, path / "best"):
        if _is_model(folder):
            return folder
    runs = sorted(found.parent for found in path.glob(f"*/best/{WEIGHTS}")) if path.is_dir() else []
    hint = f"; did you mean {runs[-1]}?" if runs else ""
    if path.suffix == ".onnx":
        raise FileNotFoundError(
            f"{path} is an exported network, which can only predict: `c2fvl predict IMAGE --model {path}`. Give the "
            "model folder that it was exported from"
        )
    raise FileNotFoundError(
        f"{path} is no model folder: there is no {WEIGHTS} with {SETTINGS}, neither in {path} nor in {path / 'best'}. "
        f"Give a model folder, a run folder or a name from `c2fvl models`{hint}"
    )


def _is_model(folder: Path) -> bool:
    return (folder / WEIGHTS).is_file() and (folder / SETTINGS).is_file()


def _find_named(name: str) -> NamedModel | None:
    return next((model for model in named_models() if model.name == name), None)


def _in(source: str, folder: Path | None) -> Iterator[NamedModel]:
    if folder is not None and folder.is_dir():
        for entry in sorted(folder.iterdir()):
            if _NAME.fullmatch(entry.name) and _is_model(entry):
                yield NamedModel(entry.name, source, entry)


def _checkout() -> Path | None:
    return CHECKOUT / "weights" if (CHECKOUT / "pyproject.toml").is_file() else None


def _cache() -> Path:
    return storage.cache_folder("", "models")


def _pulled() -> Iterator[NamedModel]:
    cache = _cache()
    for owner in sorted(cache.iterdir()) if cache.is_dir() else ():
        for model in _in("cache", owner):
            yield dataclasses.replace(model, name=f"{owner.name}/{model.name}")


def _unknown(given: str) -> str:
    names = [model.name for model in named_models()]
    fetch = f"; `c2fvl pull {given}` downloads the model of that name" if _ID.fullmatch(given) else ""
    if given == ALIAS:
        here = f"trained models here: {', '.join(names) or 'none'}"
        return (
            f"there is no trained model {ALIAS!r}: no weights came with this copy of the package ({SHIPPED / DEFAULT} "
            f"is not there); {here}; name a model folder or run folder, or fetch one with `c2fvl pull OWNER/NAME`"
        )
    known = [ALIAS, *names] if DEFAULT in names else names
    if not known:
        said = "; there is no trained model here"
    else:
        said = nearest_names(given, known)
        if "did you mean" in said:
            said += f" Trained models here: {', '.join(known)}"
    return f"{given} is no model folder and no name of a trained model{fetch}{said}"
