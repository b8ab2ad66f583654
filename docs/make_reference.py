"""Write the pages that are made from the program itself: `commands.md`, `settings.md` and the presets.

Run `python docs/make_reference.py` after a change of the command line, the settings or a preset; a test fails while a
page is out of date.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import torch

from c2fvl.cli import main as cli
from c2fvl.cli.options import PROGRAM
from c2fvl.config import SECTIONS, Config, ModelConfig
from c2fvl.config_files import PRESETS, load_config, preset_names, settings_table, to_toml
from c2fvl.files import storage
from c2fvl.models import build_model, registry
from c2fvl.models.registry import NETWORKS, arguments_of

DOCS = Path(__file__).parent
NOTE = "<!-- Made by docs/make_reference.py; change the program, not this page. -->"

EXAMPLES = {
    "train": (
        "c2fvl train debug data.root=demo/phantom",
        "c2fvl train phantom data.root=demo/phantom train.epochs=2 --out runs",
        "c2fvl train --resume demo/run",
    ),
    "evaluate": (
        "c2fvl evaluate demo/run demo/phantom --split test",
        "c2fvl evaluate demo/run demo/phantom --split test --report shuffled --seed 1 --json",
        "c2fvl evaluate --masks reader2 datasets/QaTa-COV19 --out scores/reader2",
    ),
    "calibrate": ("c2fvl calibrate demo/run demo/phantom",),
    "predict": (
        "c2fvl predict demo/phantom/Test_Folder/img --model demo/run --out demo/masks",
        "c2fvl predict 'demo/phantom/Test_Folder/img/*_run-1.png' --model demo/run --out demo/masks --json",
    ),
    "dicomweb predict": (
        "c2fvl dicomweb predict http://127.0.0.1:8042/dicom-web --study 1.2.3 --out results",
        "c2fvl dicomweb predict http://127.0.0.1:8042/dicom-web --study 1.2.3 --store",
    ),
    "dicomweb watch": ("c2fvl dicomweb watch http://127.0.0.1:8042/dicom-web --state /var/lib/c2fvl",),
    "check": ("c2fvl check demo/phantom",),
    "prepare": (
        "c2fvl prepare qata archive.zip datasets/QaTa-COV19 --captions tables/",
        "c2fvl prepare mosmed archive.zip datasets/MosMed --captions tables/ --by-patient",
    ),
    "captions": (
        "c2fvl captions demo/phantom train.csv",
        "c2fvl captions demo/phantom train_attributes.xlsx --form c2fvl",
    ),
    "phantom": ("c2fvl phantom datasets/phantom --num-cases 200 --seed 0",),
    "convert": ("c2fvl convert best_model-C2FVL.pth.tar models/official --model c2fvl",),
    "pack": ("c2fvl pack demo/run packed",),
    "pull": ("c2fvl pull OWNER/NAME", "c2fvl pull OWNER/NAME --revision v1"),
    "push": ("c2fvl push packed OWNER/NAME --private",),
    "models": ("c2fvl models", "c2fvl models c2fvl"),
    "presets": ("c2fvl presets", "c2fvl presets c2fvl_qata"),
    "settings": ("c2fvl settings",),
}


PRESET_FAMILIES = (
    "| the name ends with | meaning |",
    "|---|---|",
    "| `_paper` | the published recipe, with its faults; for a comparison with the published score |",
    "| `_qata`, `_mosmed` | the corrected recipe, for QaTa-COV19 or MosMedData+ |",
    "| `_small` | a narrow network that trains on a CPU |",
    "| `_phantom`, `_demo`, `phantom`, `debug` | synthetic data; they test the program |",
)


def commands_page() -> str:
    """Return the page of the commands, made from the argument parser."""
    commands = cli.command_parsers(cli.parser())
    lines = [
        NOTE,
        "",
        "# Commands",
        "",
        f"`{PROGRAM} COMMAND --help` prints the same on the terminal. `python -m c2fvl` is the same command.",
        "Every command takes `--verbose`, and `--allow-code MODULE` for",
        "[code of your own](networks.md#a-network-of-your-own).",
        "",
        "| exit status | |",
        "|---|---|",
        "| 0 | done |",
        "| 1 | `check` found errors; `predict` or `read` failed for some images, the others are done |",
        "| 2 | a wrong call, input or setting, or a disk that cannot be written; one line says what and where |",
        "| 75 | `train` stopped and saved, because the time of `train.max_hours` was up |",
        "| 130 | stopped by Ctrl-C (SIGINT) |",
        "| 143 | stopped by SIGTERM |",
        "",
        "After the first Ctrl-C or SIGTERM, `train` saves at its next step and then ends; every other command ends at",
        "once. Each file is left whole or not at all. A second signal ends any command at once, with the status of",
        "that signal; a training then keeps the state that it saved before.",
        "",
        "| command | |",
        "|---|---|",
        *(f"| [`{name}`](#{_anchor(name)}) | {_text(commands[name].description)} |" for name in commands),
    ]
    for name, sub in commands.items():
        lines += ["", f"## {name}", "", _usage(name, sub), "", str(sub.description)]
        lines += ["", "| argument | |", "|---|---|"] if _own_actions(sub) else []
        lines += [_row(action) for action in _own_actions(sub)]
        if name in EXAMPLES:
            lines += ["", "```sh", *EXAMPLES[name], "```"]
    return "\n".join(lines) + "\n"


def settings_page() -> str:
    """Return the page of the settings, section by section, and of the arguments of the networks."""
    lines = [
        NOTE,
        "",
        "# Settings",
        "",
        "A [preset](presets.md), and the `config.toml` of a run, is a TOML file with these sections. A setting that is",
        "left out keeps its default. On the command line, `section.key=value` changes a setting. An unknown name or a",
        "value of the wrong type is an error that names it.",
    ]
    described = settings_table()
    for section, kind in SECTIONS.items():
        lines += ["", f"## {section}", "", f"{kind.__doc__}", "", "| setting | default | meaning |", "|---|---|---|"]
        for name, default, meaning in described:
            if name.startswith(f"{section}."):
                lines.append(f"| `{name}` | `{_cell(default)}` | {_text(meaning)} |")
    lines += ["", "## Arguments of the networks"]
    for name, entry in NETWORKS.items():
        lines += ["", f"`{name}` ({entry.citation}):", ""]
        lines += ["| argument | kind | default |", "|---|---|---|"]
        for line in arguments_of(name):
            if line.startswith("  "):
                argument, _, default = line.strip().partition(" = ")
                argument, _, kind_name = argument.partition(": ")
                lines.append(f"| `model.arguments.{argument}` | {kind_name} | `{_cell(default)}` |")
    return "\n".join(lines) + "\n"


def presets_page() -> str:
    """Return the page that lists the presets by network."""
    lines = [
        NOTE,
        "",
        "# Presets",
        "",
        "A preset is a set of [settings](settings.md) with a name: `c2fvl train NAME data.root=FOLDER`. The command",
        "`c2fvl presets NAME` prints every setting of one. The pages of the networks show what each preset changes.",
        "",
        *PRESET_FAMILIES,
    ]
    networks = _presets_by_network()
    for network, names in networks.items():
        lines += ["", f"## {network}", "", "| preset | |", "|---|---|"]
        lines += [f"| [`{name}`](presets/{network}.md#{_anchor(name)}) | {_text(_purpose(name))} |" for name in names]
    lines += ["", "```{toctree}", ":hidden:", "", *(f"presets/{network}" for network in networks), "```"]
    return "\n".join(lines) + "\n"


def network_page(network: str) -> str:
    """Return the page of the presets of one network, each as a TOML file of what differs from the defaults."""
    lines = [
        NOTE,
        "",
        f"# {network}",
        "",
        f"The [presets](../presets.md) of the network `{network}`. Each block is a whole TOML file; a setting that it",
        "does not name keeps [its default](../settings.md).",
    ]
    for name in _presets_by_network()[network]:
        lines += ["", f"## {name}", "", _text(_purpose(name)), "", "```toml", *_changed(name), "```"]
    return "\n".join(lines) + "\n"


def _presets_by_network() -> dict[str, list[str]]:
    networks: dict[str, list[str]] = {name: [] for name in NETWORKS}
    for name in preset_names():
        networks[load_config(name).model.name].append(name)
    return networks


def _purpose(preset: str) -> str:
    """Return the first line of a preset's file, which says what it is for."""
    return (PRESETS / f"{preset}.toml").read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def _anchor(title: str) -> str:
    return title.replace(" ", "-")


def _usage(name: str, sub: argparse.ArgumentParser) -> str:
    """Return one line of usage; argparse's own differs between versions of Python."""
    words = [PROGRAM, name]
    for action in _own_actions(sub):
        if not action.option_strings:
            shown = _metavar(action)
            words.append({"?": f"[{shown}]", "*": f"[{shown} …]"}.get(str(action.nargs), shown))
        elif action.required:
            words.append(f"{action.option_strings[0]} {_metavar(action)}")
    has_options = any(action.option_strings and not action.required for action in _own_actions(sub))
    return f"`{' '.join(words)}{' [options]' if has_options else ''}`"


def _own_actions(sub: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in sub._actions if action.dest not in ("help", "verbose", "allow_code")]


def _row(action: argparse.Action) -> str:
    shown = _metavar(action)
    if action.option_strings:
        shown = action.option_strings[0] if action.nargs == 0 else f"{action.option_strings[0]} {shown}"
    meaning = (action.help or "") % {"default": action.default, "prog": PROGRAM}
    return f"| `{_cell(shown)}` | {_text(meaning)} |"


def _metavar(action: argparse.Action) -> str:
    if action.choices is not None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    if isinstance(action.metavar, tuple):
        return " ".join(action.metavar)
    return str(action.metavar or (action.dest.upper() if action.option_strings else action.dest))


def _changed(preset: str) -> list[str]:
    """Return the lines of a TOML file with what a preset sets differently from the defaults."""
    config, tables = load_config(preset), []
    for section, kind in SECTIONS.items():
        values = {item.name: getattr(getattr(config, section), item.name) for item in dataclasses.fields(kind)}
        changed = {name: value for name, value in values.items() if value != getattr(kind(), name)}
        arguments = changed.pop("arguments", {})
        tables.append((section, changed))
        tables.append((f"{section}.arguments", arguments))
    lines = [f"preset = {_toml(preset)}"]
    for table, values in tables:
        if values:
            lines += ["", f"[{table}]", *(f"{name} = {_toml(value)}" for name, value in values.items())]
    return lines


def _toml(value: Any) -> str:
    """Return a value as the settings write it, by way of a table that holds nothing else."""
    text = to_toml(Config(model=ModelConfig(arguments={"value": value})))
    return next(line for line in text.splitlines() if line.startswith("value = ")).removeprefix("value = ")


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def _text(text: object) -> str:
    """Return words as Markdown outside of code, where a "<" would begin a tag."""
    return _cell(text).replace("<", "&lt;")


def pages() -> dict[str, str]:
    """Return the text of each page that is made here, by its path in the folder of the documentation."""
    of_networks = {f"presets/{network}.md": network_page(network) for network in NETWORKS}
    fixed = {"commands.md": commands_page(), "settings.md": settings_page(), "presets.md": presets_page()}
    return fixed | of_networks


def count_parameters() -> dict[str, int]:
    """Return the number of parameters of each network with its default arguments."""
    with torch.device("meta"):
        networks = {name: build_model(name) for name in NETWORKS}
    return {name: sum(each.numel() for each in network.parameters()) for name, network in networks.items()}


if __name__ == "__main__":
    storage.write_json(Path(registry.__file__).with_name("parameters.json"), count_parameters())
    for file_name, text in pages().items():
        storage.write_text(DOCS / file_name, text)
