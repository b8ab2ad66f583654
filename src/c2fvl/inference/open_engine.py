"""Which engine runs a trained model: ONNX Runtime where the model allows it, otherwise torch. No torch is imported."""

import logging
from pathlib import Path

from c2fvl.checkpoints.folders import GRAPH, find_model
from c2fvl.devices import automatic_device, has_torch
from c2fvl.inference.engine import Engine
from c2fvl.inference.onnx_engine import OnnxModel, OtherWeightsError

logger = logging.getLogger(__name__)

ONNX = ".onnx"


def open_engine(
    model: Path | str,
    *,
    device: str = "auto",
    batch_size: int | None = 1,
    threads: int | None = None,
    precision: str = "auto",
    text_model: str | None = None,
) -> Engine:
    """Return what computes for a model folder, a run folder, the name of a trained model or an exported file.

    On a processor a model folder with `network.onnx` is run by ONNX Runtime, in fp32; any other folder needs torch.
    `device` "auto" is cuda, else mps, else cpu, but a folder with `network.onnx` leaves the processor for cuda alone.
    `threads` of the processor: None leaves those of torch, and gives ONNX Runtime those that are free. `text_model`
    replaces the folder of a language model.
    Raises `FileNotFoundError` and `ValueError` as the engines do, and `ModuleNotFoundError` where torch is needed and
    not installed.
    """
    if Path(model).suffix == ONNX:
        if text_model is not None:
            raise ValueError("--text-model needs a model folder; export the model again for another language model")
        return OnnxModel(model, device="cpu" if device == "auto" else device, threads=threads)
    folder = find_model(model)
    if device == "auto":
        device = automatic_device()
        if device == "mps" and (folder / GRAPH).is_file():
            device = "cpu"
    if device == "cpu" and precision in ("auto", "fp32") and text_model is None and (folder / GRAPH).is_file():
        try:
            return OnnxModel(folder, device=device, threads=threads)
        except OtherWeightsError as error:
            if not has_torch():
                raise
            logger.warning("%s; until then torch runs the model", error)
    import torch

    from c2fvl.checkpoints.trained_model import load_model
    from c2fvl.inference.torch_engine import NetworkEngine

    if threads is not None:
        torch.set_num_threads(threads)
    trained = load_model(folder, device=device)
    if text_model is not None:
        trained = trained.with_text_model(text_model)
    return NetworkEngine(trained, device=device, batch_size=batch_size, precision=precision, in_place=True)
