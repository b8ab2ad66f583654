"""Commands on networks and trained models."""

import argparse
import json

from c2fvl.checkpoints.folders import ALIAS


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
    print(
        f"{options.out}: {sum(parameter.numel() for parameter in network.parameters()):,} parameters of {options.model}"
    )
    return 0


def run_pack(options: argparse.Namespace) -> int:
    """Run `c2fvl pack`; return its exit status."""
    from c2fvl.checkpoints.packing import pack

    found = pack(options.model, options.out)
    kept = [name for name, there in (("calibration", found.has_calibration), ("card", found.has_card)) if there]
    print(f"{found.folder}: {found.num_bytes / 1e6:.1f} MB of weights, with {' and '.join(kept) or 'no card'}")
    print(f"Largest difference of a weight by rounding: {found.largest_difference:.2g}, in {found.tensor}")
    return 0


def run_pull(options: argparse.Namespace) -> int:
    """Run `c2fvl pull`; return its exit status."""
    from c2fvl.checkpoints.hub import pull

    print(f"{pull(options.repository, revision=options.revision)}: use it as --model {options.repository}")
    return 0


def run_push(options: argparse.Namespace) -> int:
    """Run `c2fvl push`; return its exit status."""
    from c2fvl.checkpoints.hub import push

    print(push(options.folder, options.repository, private=options.private))
    return 0


def run_models(options: argparse.Namespace) -> int:
    """Run `c2fvl models`; return its exit status."""
    from c2fvl.models.registry import NETWORKS, TEXTS, arguments_of, num_parameters

    if options.summary or options.arguments or options.size:
        return _summarise_network(options)
    if options.name is not None:
        for line in arguments_of(options.name):
            print(line)
        return 0
    rows = [("name", "paper", "year", "text that it reads", "parameters")]
    rows += [
        (name, entry.paper, str(entry.year), TEXTS[entry.text], f"{num_parameters()[name] / 1e6:.1f} M")
        for name, entry in NETWORKS.items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for *cells, last in rows:
        left = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=False))
        print(f"{left}  {last.rjust(widths[-1])}")
    print()
    _print_trained()
    return 0


def _print_trained() -> None:
    from c2fvl.checkpoints.folders import DEFAULT, SHIPPED, named_models

    found = named_models()
    if not found:
        print(f"No trained model is at hand: none came with the package ({SHIPPED}), none was pulled.")
        return
    rows = [("trained model", "place", "network", "size", "")]
    rows += [
        (f"{model.name} ({ALIAS})" if model.name == DEFAULT else model.name, model.place, model.network,
         f"{model.num_bytes / 1e6:.1f} MB", model.words)
        for model in found
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _summarise_network(options: argparse.Namespace) -> int:
    from c2fvl.cli.terminal import table
    from c2fvl.inference.cost import as_rows, build_empty, example_settings, stages

    if options.name is None:
        raise ValueError("name a network to summarise, such as `c2fvl models c2fvl --summary`")
    config = example_settings(options.name, options.arguments, options.size)
    found = stages(*build_empty(config))
    if options.json:
        print(json.dumps({"image_size": config.data.image_size, "stages": as_rows(found)}))
        return 0
    rows = [
        [stage.name or "whole network", stage.kind, stage.output, f"{stage.parameters:,}", f"{stage.flops / 1e9:.3f}"]
        for stage in found
    ]
    print(table(["stage", "kind", "output", "parameters", "GFLOP"], rows, numbers=3))
    side = config.data.image_size
    print(f"One film of {side} × {side}; 2 operations for each multiplication with its addition.")
    return 0
