"""A trained network as `network.onnx` of a model folder, by which the folder is used without torch.

The graph holds no weights: those of the folder are used, so they are on disk once, and every other file of the folder
(calibration, trust, OOD check) keeps its meaning.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from c2fvl.checkpoints.folders import GRAPH, WEIGHTS
from c2fvl.checkpoints.model_files import check_target, write_changed
from c2fvl.checkpoints.trained_model import TrainedModel
from c2fvl.files import storage
from c2fvl.inference.export import Exported
from c2fvl.inference.onnx_engine import IN_GRAPH, WEIGHTS_KEY, OnnxModel
from c2fvl.inference.onnx_translation import check_difference, difference_from, quiet, sealed_with, translate
from c2fvl.progress import SILENT, Progress

_MAX_FOLDED = 2048
"""Bytes: larger weights are not folded into one another, so that they stay those of the folder."""
_FLOAT, _EXTERNAL = 1, 1
"""Numbers of ONNX for the type float32, and for values that lie in another file."""


def export_folder(model: TrainedModel, out: Path | str, *, progress: Progress = SILENT) -> Exported:
    """Write a copy of the model's folder that has `network.onnx`, or only that file where `out` is the folder itself.

    Raises `FileExistsError` where `out` is another folder that is not empty, and `ValueError`, before anything is
    written, where the network cannot be exported, where the result differs too much, and for a folder of the package.
    """
    out = Path(out)
    copy = None if out.exists() and out.resolve() == model.path.resolve() else out
    check_target(model.path, copy, "c2fvl export")
    progress.stage("translating")
    program = translate(model, model.network.cpu(), optimized=False)
    weights_sha256 = storage.checksum((model.path / WEIGHTS).read_bytes())
    proto = _without_weights(program.model, model)
    opset = max(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    graph = sealed_with(proto, {WEIGHTS_KEY: weights_sha256, "c2fvl.intended_use": "research, not for diagnosis"})
    progress.stage("comparing with PyTorch")
    with tempfile.TemporaryDirectory(prefix="c2fvl-export-") as folder:
        tried = write_changed(model.path, {GRAPH: graph}, Path(folder) / "model")
        difference = difference_from(model, OnnxModel(tried))
    check_difference("fp32", difference)
    write_changed(model.path, {GRAPH: graph}, copy)
    return Exported(out, "fp32", opset, difference)


def _without_weights(program: Any, model: TrainedModel) -> Any:
    """Return the ONNX model of a program, in which weights of the network have names and no values."""
    import onnx_ir
    from onnxscript import optimizer

    with quiet():
        optimizer.inline(program)
        optimizer.fold_constants(program, input_size_limit=_MAX_FOLDED, output_size_limit=_MAX_FOLDED)
        optimizer.remove_unused_nodes(program)
        proto = onnx_ir.to_proto(program)
    state = {IN_GRAPH + name: value for name, value in model.network.state_dict().items()}
    for tensor in proto.graph.initializer:
        if tensor.data_type != _FLOAT or tensor.name not in state:
            continue
        values = state[tensor.name].cpu().numpy()
        if np.array_equal(np.frombuffer(tensor.raw_data, np.float32), values.ravel()):
            tensor.ClearField("raw_data")
            tensor.data_location = _EXTERNAL
            tensor.external_data.add(key="location", value=WEIGHTS)
    return proto
