"""Networks as ONNX models: the translation by torch's exporter, and the comparison of the result with torch."""

import contextlib
import dataclasses
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from c2fvl.checkpoints.trained_model import TrainedModel
from c2fvl.inference.onnx_engine import IMAGE, PROBABILITY, TEXT, OnnxModel
from c2fvl.inference.onnx_file import BLANK, CHECKSUM_KEY, sealed
from c2fvl.inference.torch_engine import NetworkEngine, probabilities
from c2fvl.reports.encoders import text_shape
from c2fvl.reports.findings import FINDINGS
from c2fvl.reports.predicted_findings import LOGITS
from c2fvl.version import __version__

TOLERANCE = {"fp32": 1e-5, "fp16": 2e-2}
"""Largest allowed difference of a probability; int8 is judged by Dice."""
OLDEST_OPSET = 18


class _Probability(nn.Module):
    """The network with probabilities instead of logits, followed by its predicted findings, if any."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return (B, S, S) of the lesion, or (B, C, S, S), and the logits of the predicted findings."""
        output = self.network(*inputs)
        return probabilities(output), *(output.findings or ())


def translate(model: TrainedModel, network: nn.Module, *, opset: int | None = None, optimized: bool = True) -> Any:
    """Return a form of the model's network as a program of the exporter, with probabilities in place of logits.

    `optimized` folds weights into one another. Raises `ValueError` for a network that cannot be exported.
    """
    if opset is not None and opset < OLDEST_OPSET:
        raise ValueError(f"the opset is {opset}; the exporter of PyTorch writes {OLDEST_OPSET} and later")
    inputs = examples(model, 2)
    names = [IMAGE, TEXT][: len(inputs)]
    axes: list[dict[int, Any]] = [{0: "batch"} for _ in inputs]
    step: Any = getattr(model.network, "EXPORT_SIZE_STEP", None)
    if step is not None:
        height, width = torch.export.Dim("height_in_steps", min=2), torch.export.Dim("width_in_steps", min=2)
        axes[0] = {0: torch.export.Dim("batch"), 2: step * height, 3: step * width}
    network = _Probability(network).eval()
    with torch.no_grad():
        outputs = [PROBABILITY, *LOGITS][: len(network(*inputs))]
    try:
        with quiet():
            program = torch.onnx.export(
                network, inputs, dynamo=True, input_names=names, output_names=outputs,
                dynamic_shapes=[tuple(axes)], opset_version=opset, verbose=False, optimize=optimized,
            )  # fmt: skip
    except ImportError as error:
        raise ValueError("the export needs onnx and onnxscript: pip install 'c2fvl[onnx]'") from error
    except Exception as error:  # the exporter's own exceptions are many and not public
        at = "" if opset is None else f" at opset {opset}; leave --opset out"
        raise ValueError(
            f"the network {model.config.model.name} cannot be exported{at}: {str(error).strip().splitlines()[0]}"
        ) from error
    assert program is not None
    return program


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the messages of the exporter."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def sealed_with(proto: Any, metadata: dict[str, str]) -> bytes:
    """Return an ONNX model as the content of a file with these metadata and its checksum."""
    del proto.metadata_props[:]
    for key, value in {**metadata, CHECKSUM_KEY: BLANK, "c2fvl.version": __version__}.items():
        proto.metadata_props.add(key=key, value=value)
    for node in proto.graph.node:  # the source line of each node, with paths of this machine
        del node.metadata_props[:]
        node.doc_string = ""
    return sealed(proto.SerializeToString())


def examples(model: TrainedModel, count: int, *, seed: int = 0) -> tuple[Tensor, ...]:
    """Return images of the network's size that vary smoothly, with noise, and reports of which the last is missing."""
    generator = torch.Generator().manual_seed(seed)
    side, channels = model.config.data.image_size, int(model.config.model.arguments.get("in_channels", 3))
    coarse = torch.rand(count, channels, 7, 7, generator=generator)
    image = nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)
    image = (0.9 * image + 0.1 * torch.rand(image.shape, generator=generator)).clamp(0, 1)
    shape = text_shape(model.config)
    if shape is None:
        return (image,)
    text = torch.rand(count, *shape, generator=generator)
    if model.config.data.text == "attributes":
        text = text.round()
    elif model.config.data.text == "findings":
        text[:, :, : len(FINDINGS) - 1] = text[:, :, : len(FINDINGS) - 1].round()
        text[0, :, -1] = torch.nan
    elif model.config.data.text == "words":
        text = (text * max(len(model.config.data.vocabulary), 1)).floor()
    text[-1] = torch.nan
    return image, text


def difference_from(model: TrainedModel, exported: OnnxModel) -> float:
    """Return the largest difference between both for one image, for two and for three."""
    engine = NetworkEngine(dataclasses.replace(model, network=model.network.cpu()))
    differences = []
    for count in (1, 2, 3):
        image, *rest = (values.numpy() for values in examples(model, count, seed=count))
        text = rest[0] if rest else None
        ours, theirs = engine.compute(image, text), exported.compute(image, text)
        differences.append(np.abs(ours.probability - theirs.probability).max())
        for logits, others in zip(ours.logits, theirs.logits, strict=True):
            with np.errstate(invalid="ignore"):  # with trust 1 both are infinite
                apart = np.where(logits == others, 0.0, np.tanh(logits / 2) - np.tanh(others / 2))
            differences.append(np.abs(apart).max() / 2)
    return float(max(differences))


def check_difference(dtype: str, difference: float) -> None:
    """Raise `ValueError` for a difference that is too large for a number format."""
    if not difference <= TOLERANCE[dtype]:  # a NaN fails too
        raise ValueError(
            f"the exported network in {dtype} differs from PyTorch by {difference:.1e} in probability, more than "
            f"{TOLERANCE[dtype]:.0e}; nothing was written" + ("" if dtype == "fp32" else "; export it as fp32")
        )
