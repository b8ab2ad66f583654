"""Encode sentences as token features of a frozen language model of the BERT family, kept in a cache on disk.

The features are those of the last layer, without the tokens for beginning and end; the pieces of one word are averaged,
as LViT (Li et al., IEEE TMI 2023) reads its captions. Transformers loads the model, from safetensors only, and only if
a sentence has no features in the cache. The key of the cache is made of the content of the model's files and the
settings, so a changed model never finds the features of another.
"""

import functools
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as parse_safetensors
from safetensors.numpy import save as to_safetensors

from c2fvl.config import DataConfig
from c2fvl.files import storage
from c2fvl.files.parsing import parse_json

logger = logging.getLogger(__name__)

CACHE_VERSION = 1
PUBLISHED_PIECES = 25
"""LViT's language model reads at most so many word pieces, with the tokens for beginning and end."""
PUBLISHED_WORDS = 9
"""LViT pads captions of fewer words."""
BATCH = 32
_PATTERNS = ("*.json", "*.txt", "*.model", "*.safetensors")


class LanguageModel:
    """A language model with its settings, and the features that it has computed so far."""

    def __init__(self, folder: Path, *, tokens: int, rule: str, cache: Path) -> None:
        self.folder, self.tokens, self.rule = folder, tokens, rule
        self.num_features = _num_features(folder)
        self.fingerprint = _fingerprint(folder)
        key = f"{CACHE_VERSION} {self.fingerprint} {rule} {tokens}"
        self.cache = cache / storage.checksum(key.encode())[:32]

    @classmethod
    def from_settings(cls, config: DataConfig) -> "LanguageModel":
        """Return the language model that the settings name.

        Raises `ValueError` if it is missing or incomplete, or is not the one that the network was trained with.
        """
        if not config.text_model:
            raise ValueError(
                "data.text=sentence needs a language model: set data.text_model to a folder with one of the BERT "
                "family, or to a name of the Hugging Face hub with data.text_fetch=true; data.text=words needs none"
            )
        folder = _find(config.text_model, config.text_revision, fetch=config.text_fetch)
        model = cls(
            folder,
            tokens=config.text_tokens,
            rule=config.text_rule,
            cache=storage.cache_folder(config.text_cache, "text"),
        )
        if config.text_fingerprint not in ("", model.fingerprint):
            raise ValueError(
                f"the language model in {folder} is not the one that the network was trained with: its checksum is "
                f"{model.fingerprint[:12]}…, expected {config.text_fingerprint[:12]}…; name the right one with "
                "--text-model or data.text_model"
            )
        return model

    def prepare(self, sentences: Iterable[str]) -> None:
        """Compute the features of all sentences that are not in the cache, and write them to it."""
        new = sorted(sentence for sentence in set(sentences) if _key(sentence) not in self._known)
        if not new:
            return
        computed: dict[str, np.ndarray] = {}
        tokenizer, network = _load(self.folder, self.fingerprint)
        for start in range(0, len(new), BATCH):
            batch = new[start : start + BATCH]
            for sentence, features in zip(batch, self._compute(batch, tokenizer, network), strict=True):
                computed[_key(sentence)] = features
        self._known.update(computed)
        data = to_safetensors(computed)
        try:
            storage.write_bytes(self.cache / f"{storage.checksum(data)}.safetensors", data)
        except OSError as error:
            logger.warning("the features of %d sentences are not cached: %s", len(computed), error)

    def features(self, sentence: str) -> np.ndarray:
        """Return (n, F) float32 of the first n ≤ tokens tokens of a sentence."""
        self.prepare([sentence])
        return self._known[_key(sentence)]

    def _compute(self, sentences: list[str], tokenizer: Any, network: Any) -> list[np.ndarray]:
        import torch

        published = self.rule == "published"
        texts = [_padded(sentence) if published else sentence for sentence in sentences]
        max_positions = int(getattr(network.config, "max_position_embeddings", 512))
        longest = PUBLISHED_PIECES if published else min(tokenizer.model_max_length, max_positions)
        encoded = tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=longest)
        with torch.inference_mode():
            states = network(**encoded).last_hidden_state.float().numpy()
        features = []
        for row in range(len(texts)):
            words: dict[int, list[int]] = {}
            for index, word in enumerate(encoded.word_ids(row)):
                if word is not None:  # None: the token for beginning, end or padding
                    words.setdefault(word, []).append(index)
            averaged = [states[row, pieces].mean(axis=0) for pieces in list(words.values())[: self.tokens]]
            features.append(np.asarray(averaged, np.float32).reshape(-1, states.shape[2]))
        return features

    @functools.cached_property
    def _known(self) -> dict[str, np.ndarray]:
        """Features by the key of their sentence, first those that the cache holds."""
        known: dict[str, np.ndarray] = {}
        for path in sorted(self.cache.glob("*.safetensors")):
            try:
                data = path.read_bytes()
                if storage.checksum(data) != path.stem:
                    raise ValueError("its content does not match its name")
                known |= parse_safetensors(data)
            except (OSError, ValueError, SafetensorError) as error:
                logger.warning("%s is damaged and ignored; its sentences are computed again: %s", path, error)
                storage.remove_file(path)
        return known


def _key(sentence: str) -> str:
    return storage.checksum(sentence.encode())[:32]


def _padded(sentence: str) -> str:
    """Return the caption as LViT gives it to its language model: the first line, padded to nine words."""
    line = sentence.splitlines()[0]
    return line + " EOF XXX" * max(0, PUBLISHED_WORDS - len(line.split()))


def _find(name: str, revision: str, *, fetch: bool) -> Path:
    """Return the folder of a language model: the named one, or the one in the cache of the hub."""
    folder = Path(name).expanduser()
    if folder.exists():
        if not folder.is_dir():
            raise ValueError(f"data.text_model={name} is a file; give the folder that holds config.json")
    else:
        folder = _from_hub(name, revision, fetch=fetch)
    absent = [file for file in ("config.json", "tokenizer.json") if not (folder / file).is_file()]
    if not list(folder.glob("*.safetensors")):
        absent.append("weights as *.safetensors (other formats could execute code and are not read)")
    if absent:
        raise ValueError(f"data.text_model={name} is not a complete language model: {folder} lacks {', '.join(absent)}")
    return folder


def _from_hub(name: str, revision: str, *, fetch: bool) -> Path:
    if Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ValueError(f"data.text_model={name}: the folder does not exist")
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise ValueError(_NOT_INSTALLED) from error
    try:
        return Path(
            huggingface_hub.snapshot_download(
                name, revision=revision or None, local_files_only=not fetch, allow_patterns=list(_PATTERNS)
            )
        )
    except (OSError, ValueError, HfHubHTTPError) as error:
        if fetch:
            raise ValueError(
                f"the language model {name!r} cannot be downloaded ({str(error).splitlines()[0]}); check the name and "
                "the connection"
            ) from error
        raise ValueError(
            f"the language model {name!r} is neither a folder nor in the hub's cache on this machine; to train, set "
            "data.text_model to its folder, data.text_fetch=true to download it, or data.text=words, which needs none; "
            "for a trained network, give --text-model FOLDER"
        ) from error


_NOT_INSTALLED = (
    "sentences need transformers, which is not installed: pip install 'c2fvl[text]'; or set data.text=words, which "
    "needs none"
)


@functools.lru_cache(maxsize=2)
def _load(folder: Path, fingerprint: str) -> tuple[Any, Any]:
    """Return the tokenizer and the frozen network; because of the checksum a changed folder is loaded again."""
    import torch

    try:
        import transformers
    except ImportError as error:
        raise ValueError(_NOT_INSTALLED) from error
    transformers.utils.logging.disable_progress_bar()
    safe = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **safe)
        network, loading = transformers.AutoModel.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **safe
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ValueError(f"{folder} cannot be loaded as a language model: {error}") from error
    absent = sorted(key for key in loading["missing_keys"] if not key.startswith("pooler."))  # nothing reads the pooler
    wrong = sorted(str(entry[0]) for entry in loading["mismatched_keys"])
    if absent or wrong:
        raise ValueError(
            f"the weights in {folder} do not fit its config.json: {len(absent)} are missing, {len(wrong)} have another "
            f"shape ({(absent + wrong)[0]}, …); get the model again"
        )
    if not tokenizer.is_fast:
        raise ValueError(
            f"the tokenizer in {folder} does not say which pieces make a word; give one with tokenizer.json"
        )
    return tokenizer, network.eval()


def _num_features(folder: Path) -> int:
    try:
        config = parse_json((folder / "config.json").read_text(encoding="utf-8"))
        size = config.get("hidden_size", config.get("dim"))  # DistilBERT says dim
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{folder / 'config.json'} cannot be read: {error}") from error
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"{folder / 'config.json'} has no hidden_size; expected a model of the BERT family")
    return size


def _fingerprint(folder: Path) -> str:
    """Return the checksum of all files in the folder that the features depend on."""
    files = sorted({path for pattern in _PATTERNS for path in folder.glob(pattern)})
    lines = []
    for path in files:
        stat = path.stat()
        lines.append(f"{path.name} {_file_checksum(path, stat.st_size, stat.st_mtime_ns)}")
    return storage.checksum("\n".join(lines).encode())


@functools.lru_cache(maxsize=256)
def _file_checksum(path: Path, size: int, changed: int) -> str:
    """Return the checksum of a file; because of size and time a changed file is read again."""
    return storage.checksum(path.read_bytes())
