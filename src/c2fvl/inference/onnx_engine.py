"""Exported networks on ONNX Runtime, without torch.

The metadata of the file hold everything that a model folder has besides the weights; `docs/export.md` lists the keys.
"""

import base64
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from c2fvl.checkpoints.folders import without_places
from c2fvl.config import Config
from c2fvl.config_files import parse_config
from c2fvl.files.parsing import parse_json
from c2fvl.inference.engine import Computed
from c2fvl.inference.onnx_file import check_file
from c2fvl.metrics.out_of_distribution import OodDetector
from c2fvl.metrics.temperature import parse_calibration
from c2fvl.reports.predicted_findings import LOGITS

if TYPE_CHECKING:
    import onnxruntime

logger = logging.getLogger(__name__)

SETTINGS_KEY, METRICS_KEY, CALIBRATION_KEY = "c2fvl.settings", "c2fvl.metrics", "c2fvl.calibration"
OOD_DETECTOR_KEY = "c2fvl.ood"
IMAGE, TEXT, PROBABILITY = "image", "text", "probability"
DTYPES = ("fp32", "fp16", "int8")
"""Number formats of an exported network."""
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_NOT_INSTALLED = "exported networks need ONNX Runtime, which is not installed: pip install 'c2fvl[onnx]'"


class OnnxModel:
    """An exported network that gives probabilities for arrays.

    Raises `FileNotFoundError`, or `ValueError` for a file that is damaged, was not exported by this program or has
    weights that are not finite, or a device for which this ONNX Runtime has nothing. `threads` is the number of CPU
    threads; None takes all cores.
    """

    batch_size = 1

    def __init__(self, path: Path | str, *, device: str = "cpu", threads: int | None = None) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: the file does not exist; `c2fvl export MODEL {self.path}` makes one")
        self._session = _open(self.path, device, threads)
        found = self._session.get_modelmeta().custom_metadata_map
        if SETTINGS_KEY not in found:
            raise ValueError(f"{self.path} was not exported by c2fvl: its metadata have no {SETTINGS_KEY}")
        self.config: Config = without_places(parse_config(found[SETTINGS_KEY], where=f"{self.path} ({SETTINGS_KEY})"))
        try:
            self.metrics: dict[str, Any] = dict(parse_json(found.get(METRICS_KEY, "{}")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.path}: the metadata {METRICS_KEY} are damaged: {error}") from error
        self.calibration: dict[str, Any] | None = None
        if CALIBRATION_KEY in found:
            self.calibration = parse_calibration(found[CALIBRATION_KEY], where=f"{self.path} ({CALIBRATION_KEY})")
        self.ood_detector: OodDetector | None = None
        if OOD_DETECTOR_KEY in found:
            where = f"{self.path} ({OOD_DETECTOR_KEY})"
            try:
                data = base64.b64decode(found[OOD_DETECTOR_KEY], validate=True)
            except ValueError as error:
                raise ValueError(f"{where} is damaged: {error}") from error
            self.ood_detector = OodDetector.from_bytes(data, where=where)
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
                f"{self.path} cannot be run on images {images.shape}: {_first_line(error)}; export the model again "
                "with `c2fvl export` (--verbose shows the whole message of ONNX Runtime)"
            ) from error
        return Computed(np.asarray(probability, np.float32), tuple(np.asarray(values) for values in logits))


def _open(path: Path, device: str, threads: int | None) -> "onnxruntime.InferenceSession":
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(_NOT_INSTALLED) from error
    kind = {"auto": "cpu", "gpu": "cuda"}.get(str(device), str(device).partition(":")[0])
    provider = _PROVIDERS.get(kind)
    if provider not in onnxruntime.get_available_providers():
        raise ValueError(
            f"the device {str(device)!r} cannot be used with an exported network here; ONNX Runtime has "
            f"{', '.join(onnxruntime.get_available_providers())}; cpu always can"
        )
    try:
        content = path.read_bytes()
        check_file(content)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} {error}; export the model again with `c2fvl export`") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    try:
        return onnxruntime.InferenceSession(content, options, providers=[provider])
    except Exception as error:  # its own exceptions have no public common class
        logger.info("ONNX Runtime: %s", error)
        raise ValueError(
            f"{path} cannot be read by ONNX Runtime: it is damaged, not complete or no ONNX file; export the model "
            "again with `c2fvl export` (--verbose shows the message of ONNX Runtime)"
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
