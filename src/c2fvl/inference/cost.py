"""Parameters and floating-point operations of a network and its stages.

Operations are counted on the meta device, so that nothing is computed, by the counter that comes with torch: 2 for each
multiplication with its addition in convolutions and matrix products, attention included. Norms, activations and
resizing, which such counts leave out by custom, are left out.
"""

import dataclasses
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from c2fvl.config import Config
from c2fvl.config_files import override
from c2fvl.models import build_model
from c2fvl.models.registry import find_network, network_class
from c2fvl.reports.encoders import text_shape


@dataclass(frozen=True)
class Stage:
    """One part of a network."""

    name: str
    kind: str
    output: str
    """Shape of what it returned last, as 64×14×14; "" where that is no tensor."""
    parameters: int
    flops: int


def count_flops(network: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, int]:
    """Return the operations of a forward pass by the name of the module, "" for the whole network.

    The network and its inputs should be on the meta device, because elsewhere the counter may miss attention.
    """
    network.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(*inputs)
    root = type(network).__name__
    counts = {name: sum(operations.values()) for name, operations in counter.get_flop_counts().items()}
    named = {name.removeprefix(f"{root}."): count for name, count in counts.items() if name.startswith(f"{root}.")}
    return {**named, "": counter.get_total_flops()}


def stages(network: nn.Module, inputs: tuple[Tensor, ...]) -> list[Stage]:
    """Return the parts of a network in the order of their names in it: its children, and those of lists of modules.

    The whole network, "", comes last; its operations include those outside of the parts.
    """
    parts: dict[str, nn.Module] = {}
    for name, child in network.named_children():
        inner = child.named_children() if isinstance(child, nn.ModuleList) else ()
        parts |= {f"{name}.{index}": module for index, module in inner} or {name: child}
    shapes: dict[str, str] = {}

    def watch(name: str) -> Any:
        def note(module: nn.Module, arguments: Any, result: Any) -> None:
            shapes[name] = "×".join(map(str, result.shape[1:])) if isinstance(result, Tensor) else ""

        return note

    hooks = [module.register_forward_hook(watch(name)) for name, module in parts.items()]
    counts = count_flops(network, inputs)
    for hook in hooks:
        hook.remove()
    found = [
        Stage(name, type(module).__name__, shapes.get(name, ""), _parameters(module), counts.get(name, 0))
        for name, module in parts.items()
    ]
    return [*found, Stage("", type(network).__name__, "", _parameters(network), counts[""])]


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def example_settings(name: str, arguments: Iterable[str] = (), image_size: int | None = None) -> Config:
    """Return settings of a network by name with `argument=value` changes and a text of the size that it reads.

    These settings describe the network alone; training also needs a vocabulary. Raises `ValueError` for unknown names
    and arguments.
    """
    entry = find_network(name)
    config = override(Config(), [f"model.name={name}", *(f"model.arguments.{item}" for item in arguments)])
    free = dict(config.model.arguments)
    sizes = inspect.signature(network_class(name)).parameters
    if image_size is not None and "image_size" in sizes:
        free.setdefault("image_size", image_size)
    default = sizes["image_size"].default if "image_size" in sizes else config.data.image_size
    data = dataclasses.replace(config.data, image_size=image_size or free.get("image_size", default))
    if entry.text == "sentence":
        words = free.get("vocabulary_size", 0)
        tokens = free.get("text_tokens", sizes["text_tokens"].default)
        free.setdefault("text_features", sizes["text_features"].default)
        data = dataclasses.replace(data, text="words" if words else "sentence", text_tokens=tokens)
    else:
        data = dataclasses.replace(data, text=entry.text)
    return dataclasses.replace(config, data=data, model=dataclasses.replace(config.model, arguments=free))


def build_empty(config: Config) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Return the network of the settings and one image with its report, on the meta device."""
    with torch.device("meta"):
        network = build_model(config.model.name, config.model.arguments)
        return network, example_inputs(config, 1)


def example_inputs(config: Config, batch: int) -> tuple[Tensor, ...]:
    """Return that many images and, for a network that reads them, reports of the settings' size; all zero."""
    side = config.data.image_size
    image = torch.zeros(batch, int(config.model.arguments.get("in_channels", 3)), side, side)
    shape = text_shape(config)
    return (image,) if shape is None else (image, torch.zeros(batch, *shape))


def as_rows(found: list[Stage]) -> list[dict[str, Any]]:
    """Return the stages ready for JSON."""
    return [dataclasses.asdict(stage) for stage in found]
