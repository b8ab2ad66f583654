"""Networks on ONNX Runtime, without torch: exported files, and model folders that hold `network.onnx`.

The metadata of an exported file hold everything that a model folder has besides the weights; `docs/export.md` lists
the keys. `network.onnx` of a model folder is the network without its weights, which are those of the folder.
"""

import base64
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from safetensors import SafetensorError
from safetensors.numpy import load as parse_safetensors

from c2fvl.checkpoints.folders import GRAPH, WEIGHTS, without_places
from c2fvl.checkpoints.model_files import open_folder
from c2fvl.checkpoints.small_files import read_small_files
from c2fvl.config import Config
from c2fvl.config_files import parse_config
from c2fvl.devices import automatic_threads
from c2fvl.files import storage
from c2fvl.files.parsing import parse_json
from c2fvl.inference.engine import Computed
from c2fvl.inference.onnx_file import check_file, tensors_outside
from c2fvl.messages import first_line
from c2fvl.metrics.out_of_distribution import OodDetector
from c2fvl.metrics.temperature import parse_calibration
from c2fvl.reports.predicted_findings import LOGITS

logger = logging.getLogger(__name__)

SETTINGS_KEY, METRICS_KEY, CALIBRATION_KEY = "c2fvl.settings", "c2fvl.metrics", "c2fvl.calibration"
OOD_DETECTOR_KEY, WEIGHTS_KEY = "c2fvl.ood", "c2fvl.weights_sha256"
IMAGE, TEXT, PROBABILITY = "image", "text", "probability"
IN_GRAPH = "network."
"""Begins the names of weights in `network.onnx`; the rest is the name in the model folder."""
DTYPES = ("fp32", "fp16", "int8")
"""Number formats of an exported network."""
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_EXPORT_AGAIN = "export the model again with `c2fvl export`"


class OtherWeightsError(ValueError):
    """A `network.onnx` that was made for other weights than those beside it."""


class OnnxModel:
    """A network on ONNX Runtime that gives probabilities for arrays.

    `path` is an exported file, or a model folder with `network.onnx`, whose files are compared with its manifest.
    `threads` is the number of CPU threads; None takes the cores that are free. The result is the same for any number.
    Raises `FileNotFoundError`, or `ValueError` for a file that is damaged, was not exported by this program or has
    weights that are not finite, or a device for which this ONNX Runtime has nothing; `OtherWeightsError` where the
    network of a folder was made for other weights.
    """

    batch_size = 1
    precision = "fp32"

    def __init__(self, path: Path | str, *, device: str = "cpu", threads: int | None = None) -> None:
        self.path = Path(path)
        self.device, self.runtime = str(device), f"onnxruntime {onnxruntime.__version__}"
        self.config: Config
        self.metrics: dict[str, Any]
        self.calibration: dict[str, Any] | None = None
        self.ood_detector: OodDetector | None = None
        if self.path.is_dir():
            self._open_folder(device, threads)
        elif self.path.is_file():
            self._open_file(device, threads)
        else:
            raise FileNotFoundError(f"{self.path}: the file does not exist; `c2fvl export MODEL {self.path}` makes one")
        self._reads_text = TEXT in {entry.name for entry in self._session.get_inputs()}
        given = {entry.name for entry in self._session.get_outputs()}
        self._logits = [name for name in LOGITS if name in given]

    def compute(self, images: np.ndarray, text: np.ndarray | None) -> Computed:
        """Return the output for images (B, 3, S, S) and text (B, T, F), as `Engine` does."""
        given = {IMAGE: np.ascontiguousarray(images, np.float32)}
        if self._reads_text:
            assert text is not None
            given[TEXT] = np.ascontiguousarray(text, np.float32)
        try:
            probability, *logits = self._session.run([PROBABILITY, *self._logits], given)
        except Exception as error:  # its own exceptions have no public common class
            logger.info("ONNX Runtime: %s", error)
            raise ValueError(
                f"{self.path} cannot be run on images {images.shape}: {first_line(error)}; {_EXPORT_AGAIN} "
                "(--verbose shows the whole message of ONNX Runtime)"
            ) from error
        return Computed(np.asarray(probability, np.float32), tuple(np.asarray(values) for values in logits))

    def _open_file(self, device: str, threads: int | None) -> None:
        """Take everything from an exported file."""
        self._session = _session(self.path, _read(self.path), device, threads, {})
        found = self._session.get_modelmeta().custom_metadata_map
        if SETTINGS_KEY not in found:
            raise ValueError(f"{self.path} was not exported by c2fvl: its metadata have no {SETTINGS_KEY}")
        self.config = without_places(parse_config(found[SETTINGS_KEY], where=f"{self.path} ({SETTINGS_KEY})"))
        try:
            self.metrics = dict(parse_json(found.get(METRICS_KEY, "{}")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.path}: the metadata {METRICS_KEY} are damaged: {error}") from error
        if CALIBRATION_KEY in found:
            self.calibration = parse_calibration(found[CALIBRATION_KEY], where=f"{self.path} ({CALIBRATION_KEY})")
        if OOD_DETECTOR_KEY in found:
            where = f"{self.path} ({OOD_DETECTOR_KEY})"
            try:
                data = base64.b64decode(found[OOD_DETECTOR_KEY], validate=True)
            except ValueError as error:
                raise ValueError(f"{where} is damaged: {error}") from error
            self.ood_detector = OodDetector.from_bytes(data, where=where)

    def _open_folder(self, device: str, threads: int | None) -> None:
        """Take the network from `network.onnx` of a model folder, and everything else from its other files."""
        files = open_folder(self.path)
        self.config = without_places(files.settings())
        data = files.need(WEIGHTS)
        checksum = storage.checksum(data)
        small = read_small_files(files, checksum)
        small.warn()
        self.metrics, self.calibration, self.ood_detector = small.metrics, small.calibration, small.ood_detector
        weights = _weights(data, self.path / WEIGHTS)
        graph = self.path / GRAPH
        self._session = _session(graph, files.need(GRAPH), device, threads, weights)
        if self._session.get_modelmeta().custom_metadata_map.get(WEIGHTS_KEY) != checksum:
            raise OtherWeightsError(f"{graph} was made for other weights than those beside it; {_EXPORT_AGAIN}")


def _weights(data: bytes, file: Path) -> dict[str, np.ndarray]:
    """Return weights by their names in the graph, in float32; `ValueError` where they are damaged or not finite."""
    try:
        found = parse_safetensors(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not a whole safetensors file of numbers that NumPy has: {error}") from error
    weights = {}
    for name, values in found.items():
        if values.dtype.kind == "f":
            values = values.astype(np.float32)  # noqa: PLW2901 - half precision becomes the float32 of the network
            if not np.isfinite(values).all():
                raise ValueError(f"{file}: the weights {name} are not finite; get the model again")
        weights[IN_GRAPH + name] = np.ascontiguousarray(values)
    return weights


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} {error}; {_EXPORT_AGAIN}") from error


def _session(
    path: Path, content: bytes, device: str, threads: int | None, weights: Mapping[str, np.ndarray]
) -> onnxruntime.InferenceSession:
    """Return a session for the content of a file, with the weights that lie outside of it."""
    kind = {"auto": "cpu", "gpu": "cuda"}.get(str(device), str(device).partition(":")[0])
    provider = _PROVIDERS.get(kind)
    if provider not in onnxruntime.get_available_providers():
        raise ValueError(
            f"the device {str(device)!r} cannot be used with an exported network here; ONNX Runtime has "
            f"{', '.join(onnxruntime.get_available_providers())}; cpu always can"
        )
    try:
        check_file(content, outside=weights)
    except ValueError as error:
        raise ValueError(f"{path} {error}; {_EXPORT_AGAIN}") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or automatic_threads()
    outside = tensors_outside(content)
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(weights[name]) for name in outside]
    try:
        if outside:
            options.add_external_initializers(outside, values)
        return onnxruntime.InferenceSession(content, options, providers=[provider])
    except Exception as error:  # its own exceptions have no public common class
        logger.info("ONNX Runtime: %s", error)
        raise ValueError(
            f"{path} cannot be read by ONNX Runtime: it is damaged, not complete or no ONNX file; {_EXPORT_AGAIN} "
            "(--verbose shows the message of ONNX Runtime)"
        ) from error
