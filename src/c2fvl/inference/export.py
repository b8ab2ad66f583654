"""A trained network as one ONNX file, which ONNX Runtime runs without torch.

The file takes images as `Predictor` prepares them and gives probabilities; its metadata hold everything else that is
needed to use it. It is compared with the network in PyTorch before it is written.
"""

import base64
import contextlib
import dataclasses
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from c2fvl.checkpoints.trained_model import TrainedModel
from c2fvl.config import DataConfig
from c2fvl.config_files import to_toml
from c2fvl.data.batches import collate
from c2fvl.data.classes import class_names
from c2fvl.data.dataset import CaseDataset
from c2fvl.data.scan import scan
from c2fvl.files import storage
from c2fvl.inference.masks import THRESHOLD, to_labels, to_original
from c2fvl.inference.onnx_engine import (
    CALIBRATION_KEY,
    DTYPES,
    IMAGE,
    METRICS_KEY,
    OOD_DETECTOR_KEY,
    PROBABILITY,
    SETTINGS_KEY,
    TEXT,
    OnnxModel,
)
from c2fvl.inference.onnx_file import sealed
from c2fvl.inference.onnx_translation import check_difference, difference_from, quiet, sealed_with, translate
from c2fvl.inference.torch_engine import NetworkEngine
from c2fvl.metrics.overlap import dice, overlap
from c2fvl.models.inference_model import optimize
from c2fvl.models.registry import num_classes
from c2fvl.progress import SILENT, Progress
from c2fvl.reports.encoders import text_shape

NUM_CALIBRATION_IMAGES, NUM_SCORED_IMAGES = 64, 200


@dataclass(frozen=True)
class Exported:
    """What was written."""

    path: Path
    dtype: str
    opset: int
    difference: float
    """Largest difference to PyTorch in probability, over the images it was compared on."""
    dice_before: float | None = None
    """Mean Dice per image of the network on the images named for calibration; None but for int8."""
    dice_after: float | None = None
    num_scored: int = 0


def export(
    model: TrainedModel,
    out: Path | str,
    *,
    dtype: str = "fp32",
    opset: int | None = None,
    calibration: Path | str | None = None,
    table: str | None = None,
    progress: Progress = SILENT,
) -> Exported:
    """Write the network of `model` to the file `out` (.onnx) and return how it was checked.

    int8 takes its scales from images of the training split of the data set `calibration`, and is scored on images of
    its validation split. Raises `ValueError`, before anything is written, where the network cannot be exported,
    where calibration data are missing or not needed, and where the result differs too much.
    """
    out = Path(out)
    if out.suffix != ".onnx":
        raise ValueError(f"{out}: an exported network has the ending .onnx")
    if dtype not in DTYPES:
        raise ValueError(f"the dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")
    if (dtype == "int8") != (calibration is not None):
        raise ValueError(
            "--dtype int8 needs images for its scales; name a data set with --calibration"
            if calibration is None
            else f"--calibration is only for --dtype int8, not for {dtype}; leave it out"
        )
    storage.check_folder(out.parent, what="exported network")
    images = None if calibration is None else _images(model, calibration, table)
    progress.stage("translating")
    program = translate(model, optimize(model.network.cpu()), opset=opset)
    content = _described(program.model_proto, model, dtype)
    with tempfile.TemporaryDirectory(prefix="c2fvl-export-") as folder:
        file = Path(folder) / "network.onnx"
        storage.write_bytes(file, content)
        progress.stage("comparing with PyTorch")
        difference = difference_from(model, _opened(file, model.config.model.name, opset))
        check_difference("fp32", difference)
        if dtype == "fp16":
            storage.write_bytes(file, sealed(_halved(content)))
            difference = difference_from(model, OnnxModel(file))
            check_difference(dtype, difference)
        if images is None:
            storage.write_bytes(out, file.read_bytes())
            return Exported(out, dtype, _opset(file), difference)
        progress.stage("taking scales")
        calibrated, scored = images
        quantised = Path(folder) / "int8.onnx"
        _quantise(file, quantised, calibrated)
        progress.stage("scoring both")
        before, after = (
            _mean_dice(engine, scored)
            for engine in (NetworkEngine(dataclasses.replace(model, network=model.network.cpu())), OnnxModel(quantised))
        )
        difference = difference_from(model, OnnxModel(quantised))
        storage.write_bytes(out, quantised.read_bytes())
        return Exported(out, dtype, _opset(quantised), difference, before, after, len(scored))


def _opened(file: Path, name: str, opset: int | None) -> OnnxModel:
    """Return the translated network, which must have the requested opset, and one that ONNX Runtime supports."""
    at = "" if opset is None else f" at opset {opset}"
    written = _opset(file)
    if opset not in (None, written):
        raise ValueError(
            f"the network {name} cannot be exported{at}: the exporter wrote opset {written}; leave --opset out"
        )
    try:
        return OnnxModel(file)
    except ValueError as error:
        reason = str(error).removeprefix(f"{file} ")
        raise ValueError(f"the network {name} exported{at} {reason}; leave --opset out") from error


def _described(proto: Any, model: TrainedModel, dtype: str) -> bytes:
    config = dataclasses.replace(model.config, data=dataclasses.replace(model.config.data, root="", image_cache=""))
    classes = num_classes(config.model)
    found = {
        SETTINGS_KEY: to_toml(config),
        METRICS_KEY: json.dumps(model.metrics, allow_nan=False),
        "c2fvl.dtype": dtype,
        "c2fvl.classes": json.dumps(class_names(config.data, classes)),
        "c2fvl.threshold": str(THRESHOLD),
        f"c2fvl.{IMAGE}": _describe_image(config.data),
        f"c2fvl.{PROBABILITY}": (
            "(batch, height, width) float32, the probability of the lesion in [0, 1]"
            if classes <= 2
            else "(batch, class, height, width) float32, probabilities in [0, 1]; class 0 is the background"
        ),
        "c2fvl.intended_use": "research, not for diagnosis",
    }
    if model.calibration is not None:
        found[CALIBRATION_KEY] = json.dumps(model.calibration, allow_nan=False)
    if model.ood_detector is not None:
        found[OOD_DETECTOR_KEY] = base64.b64encode(model.ood_detector.to_bytes()).decode()
    shape = text_shape(model.config)
    if shape is not None:
        found[f"c2fvl.{TEXT}"] = (
            f"(batch, {shape[0]}, {shape[1]}) float32, {config.data.text} in image orientation; NaN without a report"
        )
    return sealed_with(proto, found)


def _describe_image(data: DataConfig) -> str:
    side = data.image_size
    return (
        f"(batch, channel, height, width) float32, {data.channel_order.upper()}, grey repeated; values in [0, 1], "
        f"8-bit images divided by 255 and 16-bit images by 65535; resized to {side}×{side} by the rule {data.resize!r}"
    )


def _opset(file: Path) -> int:
    import onnx

    return max(entry.version for entry in onnx.load_model(file).opset_import if entry.domain in ("", "ai.onnx"))


def _halved(content: bytes) -> bytes:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with quiet():
        return convert_float_to_float16(onnx.load_model_from_string(content), keep_io_types=True).SerializeToString()


def _images(model: TrainedModel, root: Path | str, table: str | None) -> tuple[CaseDataset, CaseDataset]:
    """Return images for the scales and images to score, evenly spaced in two splits of a data set."""
    config = dataclasses.replace(model.config.data, missing_reports="allow")
    parts = []
    for split, maximum in ((config.train_split, NUM_CALIBRATION_IMAGES), (config.val_split, NUM_SCORED_IMAGES)):
        cases = scan(root, split, table=table or config.table or None)
        chosen = [cases[index] for index in np.linspace(0, len(cases) - 1, min(maximum, len(cases))).astype(int)]
        parts.append(CaseDataset(chosen, config, num_classes=num_classes(model.config.model)))
    return parts[0], parts[1]


class _Reader:
    """Gives the quantiser one image after another."""

    def __init__(self, images: CaseDataset, names: Sequence[str]) -> None:
        self.images, self.names, self.index = images, names, 0

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the inputs of the next image, or None after the last."""
        if self.index == len(self.images):
            return None
        image, text = _inputs(self.images, self.index)
        self.index += 1
        return {IMAGE: image} if text is None or TEXT not in self.names else {IMAGE: image, TEXT: text}


def _inputs(images: CaseDataset, index: int) -> tuple[np.ndarray, np.ndarray | None]:
    batch = collate([images[0, index]])
    return batch.image.numpy(), None if batch.text is None else batch.text.numpy()


def _quantise(source: Path, target: Path, images: CaseDataset) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader
    from onnxruntime.quantization.shape_inference import quant_pre_process

    names = [entry.name for entry in onnx.load_model(source).graph.input]
    reader = type("Reader", (_Reader, CalibrationDataReader), {})(images, names)
    described = onnx.load_model(source).metadata_props
    prepared = source.with_name("prepared.onnx")
    with quiet():
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared, target, reader, quant_format=QuantFormat.QDQ, op_types_to_quantize=["Conv"], per_channel=True,
            reduce_range=not _has_vnni(), activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )  # fmt: skip
    written = onnx.load_model(target)
    del written.metadata_props[:]
    written.metadata_props.extend(described)
    for entry in written.metadata_props:
        if entry.key == "c2fvl.dtype":
            entry.value = "int8"
    storage.write_bytes(target, sealed(written.SerializeToString()))


def _has_vnni() -> bool:
    """Tell whether this processor multiplies 8-bit numbers without the risk of overflow that older ones have."""
    with contextlib.suppress(OSError):
        return "vnni" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    return os.uname().machine.startswith(("arm", "aarch"))


def _mean_dice(engine: Any, images: CaseDataset) -> float:
    """Return the mean Dice per image at the original resolution."""
    values = []
    for index in range(len(images)):
        item = images[0, index]
        assert item.original_mask is not None
        (probability,) = engine.compute(*_inputs(images, index)).probability
        found, target = to_labels(to_original(probability, item.original_mask.shape)), item.original_mask
        classes = range(1, max(int(images.num_classes), 2))
        values.append(np.mean([dice(overlap(found == number, target == number)) for number in classes]))
    return float(np.mean(values))
