"""The command line `c2fvl`: its commands and their options."""

import argparse
import logging
import sys
from collections.abc import Callable
from typing import Any

from c2fvl.checkpoints.folders import ALIAS
from c2fvl.cli.data import run_captions, run_check, run_phantom
from c2fvl.cli.evaluation import run_audit, run_bench, run_card, run_compare, run_evaluate
from c2fvl.cli.inference import run_export, run_predict, run_read
from c2fvl.cli.models import run_convert, run_models, run_pack, run_pull, run_push
from c2fvl.cli.options import (
    A_MODEL,
    PROGRAM,
    add_device,
    add_lengths,
    add_part,
    add_seed,
    add_split,
    add_text,
    add_text_model,
    add_trust,
    count,
)
from c2fvl.cli.training import run_calibrate, run_fit_ood, run_fit_trust, run_presets, run_settings, run_train
from c2fvl.version import __version__


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 for a problem that was found, 2 for a wrong call or input."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    settings = [item for item in rest if "=" in item and not item.startswith("-")]
    takes_settings = hasattr(options, "overrides") or (getattr(options, "name", None) and hasattr(options, "arguments"))
    if len(settings) < len(rest) or not (rest == [] or takes_settings):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if settings:  # argparse takes no positional arguments behind an option; key=value may stand anywhere
        (options.overrides if hasattr(options, "overrides") else options.arguments).extend(settings)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        return options.run(options)
    except BrokenPipeError:  # who read the output has enough of it
        sys.stdout = None  # nothing is left to be flushed at the end
        return 0
    except (ValueError, OSError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROGRAM}: stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Segmentation of medical images with the help of a report. Research use, not for diagnosis.",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[Any], int], purpose: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=purpose, description=purpose)
        sub.add_argument("--verbose", action="store_true", help="say more on the way")
        sub.set_defaults(run=run)
        return sub

    sub = command("train", run_train, "Train a network by a preset, or resume a run.")
    sub.add_argument("preset", nargs="?", help="name of a preset (see `c2fvl presets`) or path of a TOML file")
    sub.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="settings to change, such as train.epochs=20"
    )
    sub.add_argument("--resume", metavar="RUN", help="run folder to go on with")
    sub.add_argument(
        "--out", default="runs", help="folder for run folders, runs/<preset>/<time> (default: %(default)s)"
    )
    sub.add_argument("--run-dir", dest="run_folder", metavar="DIR", help="exact run folder to make, in place of --out")

    sub = command("evaluate", run_evaluate, "Score a model on a data set; write a table, a summary and a page.")
    add_part(sub)
    add_text(sub)
    add_text_model(sub)
    add_trust(sub)
    add_lengths(sub)
    sub.add_argument("--out", metavar="DIR", help="folder to write to (default: beside the model)")
    add_device(sub, batch="auto")
    sub.add_argument("--json", action="store_true", help="print the summary as JSON")

    sub = command("audit", run_audit, "Find out what a network makes of right, wrong and no text; write one page.")
    add_part(sub)
    add_seed(sub)
    add_text_model(sub)
    add_trust(sub)
    add_lengths(sub)
    sub.add_argument("--out", metavar="DIR", help="folder to write to (default: beside the model)")
    add_device(sub, batch="auto")
    sub.add_argument("--json", action="store_true", help="print the summary as JSON")

    sub = command(
        "calibrate",
        run_calibrate,
        "Fit temperature and offset of a model, so that its probabilities mean what they say.",
    )
    add_part(sub)
    add_text(sub)
    add_text_model(sub)
    add_trust(sub)
    add_device(sub, batch="auto")
    sub.add_argument("--json", action="store_true", help="print what is kept as JSON")

    sub = command(
        "fit-trust",
        run_fit_trust,
        "Measure what reports are worth, and cost when wrong, at each trust; choose the default.",
    )
    sub.add_argument("model", help="model folder or run folder of a network that reads the film first")
    sub.add_argument("root", help="folder that holds Train_Folder, Val_Folder, …, or a csv table")
    add_split(sub)
    add_seed(sub)
    sub.add_argument("--keep", action="store_true", help="write the default and the curve to the model folder")
    sub.add_argument("--batch", type=count(1), default=8, help="films at once (default: %(default)s)")
    sub.add_argument("--device", default="cpu", help="where to compute: cpu or cuda (default: %(default)s)")
    sub.add_argument("--json", action="store_true", help="print the curve as JSON")

    sub = command("fit-ood", run_fit_ood, "Let a model know the films it was trained on, so that others are flagged.")
    sub.add_argument("model", help="model folder or run folder")
    sub.add_argument("root", help="folder that holds Train_Folder, Val_Folder, …, or a csv table")
    sub.add_argument("--split", default="train", help="part that the network was trained on (default: %(default)s)")
    sub.add_argument("--check", default="val", help="part to measure false alarms on (default: %(default)s)")
    sub.add_argument("--table", help="caption table to use in place of <Split>_text.xlsx")
    sub.add_argument("--json", action="store_true", help="print what was measured as JSON")

    sub = command("card", run_card, "Write the model card, README.md of a model folder, from its run and its scores.")
    sub.add_argument("model", help=A_MODEL)
    sub.add_argument(
        "--evaluation",
        action="append",
        default=[],
        metavar="DIR",
        help="a further folder that evaluate or audit wrote; may be given several times",
    )
    sub.add_argument("--data", default="", metavar="WORDS", help="what the films are (default: their folder's name)")
    sub.add_argument("--text-version", default="", metavar="WORDS", help="which version of the captions was used")
    sub.add_argument("--licence", default="", metavar="WORDS", help="licence of the films, as far as it is known")
    sub.add_argument("--replace", action="store_true", help="overwrite a README.md that this program did not write")

    sub = command("predict", run_predict, "Draw the mask of films, each in its own size.")
    sub.add_argument("images", nargs="*", metavar="FILE", help="films, folders or globs")
    sub.add_argument(
        "--model",
        default=ALIAS,
        metavar="NAME|FOLDER|FILE.onnx",
        help=f"{A_MODEL}, or exported network (default: %(default)s, which comes with the package)",
    )
    sub.add_argument("--report", help="a report on every film given, as a sentence")
    sub.add_argument(
        "--orientation",
        default="image",
        choices=("image", "patient"),
        help='whose left the report\'s "left" is (default: %(default)s)',
    )
    add_text_model(sub)
    add_trust(sub)
    sub.add_argument("--csv", metavar="TABLE", help="table with the columns image and report; paths relative to it")
    sub.add_argument(
        "--out", default="predictions", metavar="DIR", help="folder for masks and records (default: %(default)s)"
    )
    sub.add_argument("--probability", action="store_true", help="also write the probability as a 16-bit PNG")
    sub.add_argument("--overlay", action="store_true", help="also write a picture of the film with its mask")
    sub.add_argument(
        "--threshold", type=float, default=0.5, help="probability from which a pixel is lesion (default: %(default)s)"
    )
    add_device(sub, batch="auto", workers=1, reading="threads that read films, and as many that write masks")
    sub.add_argument("--json", action="store_true", help="print one JSON line per film")

    sub = command("read", run_read, "Print what a network reads off films: a report, with a figure for each zone.")
    sub.add_argument("images", nargs="+", metavar="FILE", help="films, folders or globs")
    sub.add_argument(
        "--model", default=ALIAS, metavar="NAME|FOLDER|FILE.onnx", help="the network (default: %(default)s)"
    )
    sub.add_argument(
        "--orientation",
        default="image",
        choices=("image", "patient"),
        help="whose left the report means (default: %(default)s)",
    )
    sub.add_argument("--device", default="cpu", help="where to compute: cpu or cuda (default: %(default)s)")
    sub.add_argument("--json", action="store_true", help="print one JSON line per film")

    sub = command("check", run_check, "Look a data set over; exit with 1 where something is wrong.")
    sub.add_argument("root", help="folder that holds Train_Folder, Val_Folder, …, or a csv table")
    sub.add_argument("--table", help="caption table to use in place of <Split>_text.xlsx")
    sub.add_argument(
        "--mask",
        default="lesion",
        choices=("lesion", "above_half", "labels"),
        help="what masks hold, as the setting data.mask (default: %(default)s)",
    )
    sub.add_argument("--workers", type=count(1), default=2, help="threads that read (default: %(default)s)")
    sub.add_argument(
        "--deep",
        action="store_true",
        help="also near duplicates, frame and faults of the captions; root may then be a caption table",
    )
    sub.add_argument("--out", metavar="DIR", help="with --deep: new folder for a picture of each pair of films")
    sub.add_argument("--write-splits", metavar="CSV", help="with --deep: new csv that divides the films by groups")
    sub.add_argument(
        "--fractions", default="80,10,10", metavar="PERCENT", help="of train, val and test there (default: %(default)s)"
    )
    sub.add_argument("--seed", type=count(0), default=0, help="seed of --write-splits (default: %(default)s)")
    sub.add_argument("--json", action="store_true", help="print the findings as JSON")

    sub = command("captions", run_captions, "Write a caption table made from the masks of films that have none.")
    sub.add_argument("root", help="folder that holds Train_Folder, Val_Folder, …")
    sub.add_argument("table", help="table to write, .xlsx or .csv, such as ROOT/Train_Folder/Train_text.xlsx")
    sub.add_argument("--split", default="train", help="part to describe (default: %(default)s)")
    sub.add_argument(
        "--modality",
        default="film",
        choices=("film", "ct"),
        help="how zones are named: as on chest films, or by thirds of a CT slice (default: %(default)s)",
    )
    sub.add_argument(
        "--form",
        default="lvit",
        choices=("lvit", "c2fvl"),
        help="sentences (lvit) or eight attributes (c2fvl) (default: %(default)s)",
    )

    sub = command("phantom", run_phantom, "Write synthetic chest films with masks and reports.")
    sub.add_argument("out", help="new folder")
    sub.add_argument("--num-cases", type=int, default=200, help="films in all parts together (default: %(default)s)")
    sub.add_argument("--seed", type=int, default=0, help="seed (default: %(default)s)")
    sub.add_argument("--size", type=int, default=224, help="side in pixels (default: %(default)s)")

    sub = command("convert", run_convert, "Turn an official checkpoint into a model folder.")
    sub.add_argument("file", help="the authors' .pth.tar or .pth")
    sub.add_argument("out", help="model folder to write")
    sub.add_argument("--model", required=True, help="whose checkpoint it is, such as c2fvl")
    sub.add_argument(
        "--preset", help="preset whose data settings it was trained with (default: that of the model on QaTa-COV19)"
    )

    sub = command("export", run_export, "Write a network as one ONNX file, which predicts without torch.")
    sub.add_argument("model", help=A_MODEL)
    sub.add_argument("out", help="file to write, .onnx")
    sub.add_argument("--opset", type=count(1), help="ONNX operator set (default: the exporter's own)")
    sub.add_argument(
        "--dtype",
        default="fp32",
        choices=("fp32", "fp16", "int8"),
        help="numbers to compute in; films and probabilities stay fp32 (default: %(default)s)",
    )
    sub.add_argument(
        "--calibration",
        metavar="ROOT",
        help="data set for int8: films of its training part give the scales, its validation part is scored",
    )
    sub.add_argument("--table", help="caption table to use in place of <Split>_text.xlsx")
    sub.add_argument("--json", action="store_true", help="print what was measured as JSON")

    sub = command(
        "pack", run_pack, "Make a model folder to give away: weights in half precision, no folders of this machine."
    )
    sub.add_argument("model", help=A_MODEL)
    sub.add_argument("out", help="new model folder")

    sub = command("pull", run_pull, "Fetch a trained model from the Hugging Face hub; it is then found by its name.")
    sub.add_argument("repository", metavar="OWNER/NAME", help="its repository")
    sub.add_argument("--revision", default="", help="branch, tag or commit (default: the newest)")

    sub = command("push", run_push, "Upload a packed model folder to the Hugging Face hub as one commit.")
    sub.add_argument("folder", help="model folder that `c2fvl pack` made, with its card")
    sub.add_argument("repository", metavar="OWNER/NAME", help="where to; made if it is not there")
    sub.add_argument("--private", action="store_true", help="make a new repository that others do not see")

    sub = command("compare", run_compare, "Put several models into one table: scores, size, operations, speed, memory.")
    sub.add_argument(
        "models",
        nargs="*",
        metavar="RUN",
        help="run folders, model folders or folders of evaluations; LABEL=RUN,RUN averages the seeds of one network",
    )
    sub.add_argument("--root", help="data to score models on; without it they are compared by what they cost")
    sub.add_argument(
        "--published",
        nargs=2,
        metavar=("DICE", "IOU"),
        help="say of a published pair of figures whether it is pooled or per image",
    )
    add_split(sub)
    add_text(sub)
    add_text_model(sub)
    sub.add_argument("--fresh", action="store_true", help="score again what was scored before")
    sub.add_argument("--no-speed", action="store_true", help="leave out speed and memory")
    sub.add_argument("--out", metavar="DIR", help="folder for the table as csv, Markdown, LaTeX and JSON")
    add_device(sub, batch="8")
    sub.add_argument("--json", action="store_true", help="print the table as JSON")

    sub = command("bench", run_bench, "Measure speed and memory of networks, beside what this machine can do.")
    sub.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="names of networks or of trained models, model folders, exported files (default: c2fvl)",
    )
    sub.add_argument(
        "--only",
        action="append",
        choices=("inference", "training", "loading", "metrics"),
        help="measure this only; may be given several times",
    )
    sub.add_argument("--root", help="data set to load films from (default: a phantom)")
    sub.add_argument("--device", default="cpu", help="where to compute: cpu or cuda (default: %(default)s)")
    sub.add_argument(
        "--dtype", default="fp32", choices=("fp32", "bf16", "fp16"), help="numbers to compute in (default: %(default)s)"
    )
    sub.add_argument("--batch", type=count(1), default=1, help="films at once (default: %(default)s)")
    sub.add_argument("--repeats", type=count(1), default=10, help="batches that are timed (default: %(default)s)")
    sub.add_argument("--out", metavar="DIR", help="folder for the figures as Markdown and JSON")
    sub.add_argument("--json", action="store_true", help="print the figures as JSON")

    sub = command("models", run_models, "List the networks and the trained models at hand, or show one network.")
    sub.add_argument("name", nargs="?", help="show the arguments of this network")
    sub.add_argument(
        "arguments", nargs="*", metavar="argument=value", help="its arguments for --summary, such as base_width=16"
    )
    sub.add_argument("--summary", action="store_true", help="parameters and operations of each of its stages")
    sub.add_argument("--size", type=count(16), default=None, help="side of the image for --summary (default: 224)")
    sub.add_argument("--json", action="store_true", help="print the summary as JSON")

    sub = command("presets", run_presets, "List the presets, or print one.")
    sub.add_argument("name", nargs="?", help="print this preset with every setting")

    command("settings", run_settings, "List every setting with its default and meaning.")
    return parser
