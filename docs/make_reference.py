"""Write the pages that are made from the program itself: `commands.md` and `settings.md`.

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
        *(f"| [`{name}`](#{name.replace(' ', '-')}) | {_text(commands[name].description)} |" for name in commands),
    ]
    for name, sub in commands.items():
        lines += ["", f"## {name}", "", _usage(name, sub), "", str(sub.description)]
        lines += ["", "| argument | |", "|---|---|"] if _own_actions(sub) else []
        lines += [_row(action) for action in _own_actions(sub)]
        if name in EXAMPLES:
            lines += ["", "```sh", *EXAMPLES[name], "```"]
    return "\n".join(lines) + "\n"


def settings_page() -> str:
    """Return the page of the settings and of what each preset sets."""
    lines = [
        NOTE,
        "",
        "# Settings",
        "",
        "A preset, and the `config.toml` of a run, is a TOML file of these sections; what it leaves out keeps the",
        "default. On the command line a setting is changed by `section.key=value`. An unknown name or a value of the",
        "wrong kind is an error that names it.",
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
    names = preset_names()
    lines += ["", "## Presets", "", "| preset | |", "|---|---|"]
    for name in names:
        first = (PRESETS / f"{name}.toml").read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        lines.append(f"| `{name}` | {_text(first)} |")
    lines += [
        "",
        "What they set; an empty cell is the default. `c2fvl presets NAME` prints one in full.",
        "",
        "| | " + " | ".join(name.replace("_", " ") for name in names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    changed = {name: _changed(name) for name in names}
    for key in _ordered([key for key, *_ in described], {key for values in changed.values() for key in values}):
        values = [changed[name].get(key, "") for name in names]
        lines.append(f"| `{key}` | " + " | ".join(f"`{_cell(value)}`" if value else "" for value in values) + " |")
    return "\n".join(lines) + "\n"


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


def _changed(preset: str) -> dict[str, str]:
    """Return what a preset sets differently from the defaults, by section.key, as TOML."""
    config = load_config(preset)
    values: dict[str, str] = {}
    for section, kind in SECTIONS.items():
        for item in dataclasses.fields(kind):
            value: Any = getattr(getattr(config, section), item.name)
            if value == getattr(kind(), item.name):
                continue
            if isinstance(value, dict):
                values |= {f"{section}.{item.name}.{key}": _toml(entry) for key, entry in value.items()}
            else:
                values[f"{section}.{item.name}"] = _toml(value)
    return values


def _ordered(settings: list[str], changed: set[str]) -> list[str]:
    """Return the changed settings in the order of the sections, the arguments of a network where they belong."""
    return [key for setting in settings for key in sorted(changed) if key == setting or key.startswith(f"{setting}.")]


def _toml(value: Any) -> str:
    """Return a value as the settings write it, by way of a table that holds nothing else."""
    text = to_toml(Config(model=ModelConfig(arguments={"value": value})))
    return next(line for line in text.splitlines() if line.startswith("value = ")).removeprefix("value = ")


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def _text(text: object) -> str:
    """Return words as Markdown outside of code, where a "<" would begin a tag."""
    return _cell(text).replace("<", "&lt;")


PAGES = {"commands.md": commands_page, "settings.md": settings_page}


def count_parameters() -> dict[str, int]:
    """Return the number of parameters of each network with its default arguments."""
    with torch.device("meta"):
        networks = {name: build_model(name) for name in NETWORKS}
    return {name: sum(each.numel() for each in network.parameters()) for name, network in networks.items()}


if __name__ == "__main__":
    storage.write_json(Path(registry.__file__).with_name("parameters.json"), count_parameters())
    for file_name, page in PAGES.items():
        storage.write_text(DOCS / file_name, page())
