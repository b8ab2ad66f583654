"""Commands on networks and model folders: models, convert, export, pack, pull, push."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from c2fvl.checkpoints.folders import GRAPH
from c2fvl.cli.layout import described, paragraph, table
from c2fvl.cli.options import MODEL, Commands, add_choice, add_json, add_table, whole_number
from c2fvl.cli.output import say, say_lines

if TYPE_CHECKING:
    from c2fvl.checkpoints.folders import NamedModel

_SYNTHETIC = "synthetic images of `c2fvl phantom`; not for patients"
_IMAGES = {
    "qata": "chest X-rays, lesions of COVID-19 (trained on QaTa-COV19)",
    "mosmed": "CT slices of the chest, lesions of COVID-19 (trained on MosMedData+); not for X-rays",
    "monuseg": "stained tissue, nuclei (trained on MoNuSeg)",
    "phantom": _SYNTHETIC,
    "demo": _SYNTHETIC,
}
"""Part of the name of a preset → the images that it trains for."""


def add(commands: Commands) -> None:
    """Add the commands of this module."""
    commands.add(
        "models", run_models, "List the networks and the trained models, or show one network.", _models_options
    )
    commands.add("convert", run_convert, "Convert an official checkpoint to a model folder.", _convert_options)
    commands.add("export", run_export, "Export a model to one ONNX file, which runs without torch.", _export_options)
    commands.add("pack", run_pack, "Pack a model folder to share: half-precision weights.", _pack_options)
    commands.add("pull", run_pull, "Download a trained model from the Hugging Face hub.", _pull_options)
    commands.add("push", run_push, "Upload a packed model folder to the Hugging Face hub.", _push_options)


def _models_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("name", nargs="?", help="network or trained model to describe")
    sub.add_argument(
        "overrides", nargs="*", metavar="argument=value", help="arguments for --summary, for example base_width=16"
    )
    sub.add_argument(
        "--cite",
        action="store_true",
        help="print what to cite, in BibTeX: for a network, a trained model, or a data set (qata, mosmed, monuseg); "
        "without a name everything",
    )
    sub.add_argument("--summary", action="store_true", help="show parameters and operations of each stage")
    sub.add_argument("--size", type=whole_number(16), help="height and width of the image for --summary (default: 224)")
    add_json(sub, "the summary")


def run_models(options: argparse.Namespace) -> int:
    """Run `c2fvl models`; return its exit status."""
    from c2fvl.extensions import import_extension, is_extension
    from c2fvl.models.registry import NETWORKS, TEXTS, arguments_of, num_parameters

    if options.name is not None and is_extension(options.name):
        import_extension(options.name)
    if options.cite:
        say_lines(_citations(options.name))
        return 0
    if options.summary or options.overrides or options.size:
        return _summarise_network(options)
    if options.name is not None:
        is_network = options.name in NETWORKS or is_extension(options.name)
        for line in arguments_of(options.name) if is_network else _about_trained(options.name):
            say_lines(paragraph(line))
        return 0
    parameters = num_parameters()
    rows = [
        [name, f"{entry.paper} {entry.year}", TEXTS[entry.text], f"{parameters[name] / 1e6:.1f} M"]
        for name, entry in NETWORKS.items()
    ]
    say_lines(table(["network", "paper", "report (optional)", "parameters"], rows, numbers=1))
    say("")
    _print_trained()
    return 0


def _citations(name: str | None) -> str:
    """Return the BibTeX entries of a network, a trained model or a data set, None for all of them."""
    from c2fvl.checkpoints.folders import ALIAS, DEFAULT, named_models
    from c2fvl.models.citations import bibtex

    trained = {model.name: model.network for model in named_models()}
    network = trained.get(DEFAULT if name == ALIAS else name or "", name)
    return bibtex(*() if network is None else (network,))


def _about_trained(name: str) -> list[str]:
    """Return network, size and folder of a trained model and the beginning of its card, as lines."""
    from c2fvl.checkpoints.folders import ALIAS, DEFAULT, named_models
    from c2fvl.messages import nearest_names
    from c2fvl.models.registry import NETWORKS

    found = {model.name: model for model in named_models()}
    model = found.get(DEFAULT if name == ALIAS else name)
    if model is not None:
        about = [model.about] if model.about else []
        size = f"{model.num_bytes / 1e6:.1f} MB"
        return [f"{name}: for {_suits(model)}", f"Trained {model.network}, {size}, in {model.folder}", *about]
    raise ValueError(f"there is no network or trained model {name!r}{nearest_names(name, [*NETWORKS, *found])}")


def _print_trained() -> None:
    from c2fvl.checkpoints.folders import ALIAS, DEFAULT, SHIPPED, named_models

    found = named_models()
    if not found:
        say(f"There is no trained model: {SHIPPED} has none, and none was downloaded with `c2fvl pull`.")
        return
    say("Trained models, for --model NAME:")
    say("")
    say_lines(
        described(
            {
                f"{model.name} ({ALIAS})" if model.name == DEFAULT else model.name: (
                    f"{_suits(model)}; {model.network}, {model.num_bytes / 1e6:.1f} MB, in the {model.source}"
                )
                for model in found
            }
        )
    )


def _suits(model: "NamedModel") -> str:
    """Return which images a trained model is for, by the preset and the settings of its training."""
    from c2fvl.inference.ct_window import window_of

    config = model.config
    if config is None:
        return "not known what for"
    images = next((images for name, images in _IMAGES.items() if name in config.preset), None)
    if images is None:
        images = "CT slices" if window_of(config) is not None else "images as those of its training"
    return images if config.data.text != "none" else f"{images}; reads no report"


def _summarise_network(options: argparse.Namespace) -> int:
    from c2fvl.inference.cost import as_rows, build_empty, example_settings, stages

    if options.name is None:
        raise ValueError("give the name of a network, for example `c2fvl models c2fvl --summary`")
    config = example_settings(options.name, options.overrides, options.size)
    found = stages(*build_empty(config))
    if options.json:
        say_lines(json.dumps({"image_size": config.data.image_size, "stages": as_rows(found)}))
        return 0
    rows = [
        [stage.name or "whole network", stage.kind, stage.output, f"{stage.parameters:,}", f"{stage.flops / 1e9:.3f}"]
        for stage in found
    ]
    say_lines(table(["stage", "kind", "output", "parameters", "GFLOP"], rows, numbers=3))
    side = config.data.image_size
    words = f"For one image of {side} × {side}. A multiplication with its addition counts as 2 operations."
    say_lines(paragraph(words))
    return 0


def _convert_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("file", help="official checkpoint, .pth.tar or .pth")
    sub.add_argument("out", help="model folder to write")
    sub.add_argument("--model", required=True, help="network of the checkpoint, for example c2fvl")
    sub.add_argument(
        "--preset", help="preset with the data settings of its training (default: that of the network for QaTa-COV19)"
    )


def run_convert(options: argparse.Namespace) -> int:
    """Run `c2fvl convert`; return its exit status."""
    from c2fvl.checkpoints.official.convert import convert
    from c2fvl.checkpoints.official.names import OFFICIAL_NAMES
    from c2fvl.config_files import load_config
    from c2fvl.messages import nearest_names

    if options.model not in OFFICIAL_NAMES:
        raise ValueError(f"there is no network {options.model!r}{nearest_names(options.model, OFFICIAL_NAMES)}")
    config = load_config(options.preset or f"{options.model}_qata_paper")
    network = convert(options.file, options.out, name=options.model, config=config)
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    say(f"{options.out}: {options.model} with {num_parameters:,} parameters")
    return 0


def _export_options(sub: argparse.ArgumentParser) -> None:
    from c2fvl.inference.onnx_engine import DTYPES

    sub.add_argument("model", help=MODEL)
    sub.add_argument(
        "out",
        help="file to write, .onnx; or a new folder, for a copy of the model folder that needs no torch (the model "
        "folder itself gets the file network.onnx)",
    )
    sub.add_argument("--opset", type=whole_number(1), help="ONNX operator set (default: that of the exporter)")
    add_choice(sub, "--dtype", DTYPES, "fp32", "number format of the computation; images and probabilities stay fp32")
    sub.add_argument(
        "--calibration",
        metavar="ROOT",
        help="data set for int8: the train split gives the scales, the val split is scored",
    )
    add_table(sub)
    add_json(sub, "the result")


def run_export(options: argparse.Namespace) -> int:
    """Run `c2fvl export`; return its exit status."""
    import dataclasses

    from c2fvl.checkpoints.trained_model import load_model
    from c2fvl.cli.terminal import TerminalProgress
    from c2fvl.inference.export import export
    from c2fvl.inference.export_folder import export_folder
    from c2fvl.inference.open_engine import ONNX

    with TerminalProgress() as progress:
        if Path(options.out).suffix == ONNX:
            found = export(
                load_model(options.model), options.out, dtype=options.dtype, opset=options.opset,
                calibration=options.calibration, table=options.table, progress=progress,
            )  # fmt: skip
        else:
            if options.dtype != "fp32" or options.opset is not None or options.calibration is not None:
                raise ValueError(
                    f"--dtype, --opset and --calibration are for a file .onnx; the network of the folder {options.out} "
                    "is written in fp32, leave them out"
                )
            found = export_folder(load_model(options.model), options.out, progress=progress)
    if options.json:
        say_lines(json.dumps(dataclasses.asdict(found) | {"path": str(found.path)}))
        return 0
    written = found.path / GRAPH if found.path.is_dir() else found.path
    say(f"{written}: {found.dtype}, opset {found.opset}, {written.stat().st_size / 2**20:.1f} MiB")
    say(f"Largest difference from PyTorch in probability: {found.difference:.1e}")
    if found.dice_before is not None and found.dice_after is not None:
        before, after = 100 * found.dice_before, 100 * found.dice_after
        say(f"Dice per image on {found.num_scored} images: PyTorch {before:.2f} %, exported {after:.2f} %")
    return 0


def _pack_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", help=MODEL)
    sub.add_argument("out", help="new model folder")


def run_pack(options: argparse.Namespace) -> int:
    """Run `c2fvl pack`; return its exit status."""
    from c2fvl.checkpoints.packing import pack

    found = pack(options.model, options.out)
    kept = [name for name, there in (("calibration", found.has_calibration), ("card", found.has_card)) if there]
    say(f"{found.folder}: {found.num_bytes / 1e6:.1f} MB of weights, with {' and '.join(kept) or 'no card'}")
    say(f"Largest rounding error of a weight: {found.largest_difference:.2g}, in {found.tensor}")
    return 0


def _pull_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("repository", metavar="OWNER/NAME", help="repository of the model, and its name from then on")
    sub.add_argument("--revision", default="", help="branch, tag or commit (default: the newest)")


def run_pull(options: argparse.Namespace) -> int:
    """Run `c2fvl pull`; return its exit status."""
    from c2fvl.checkpoints.hub import pull

    say(f"{pull(options.repository, revision=options.revision)}: use it with --model {options.repository}")
    return 0


def _push_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("folder", help="model folder that `c2fvl pack` made, with its card")
    sub.add_argument("repository", metavar="OWNER/NAME", help="repository; it is created if it does not exist")
    sub.add_argument("--private", action="store_true", help="create a private repository")


def run_push(options: argparse.Namespace) -> int:
    """Run `c2fvl push`; return its exit status."""
    from c2fvl.checkpoints.hub import push

    say(push(options.folder, options.repository, private=options.private))
    return 0
