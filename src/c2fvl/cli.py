"""The command `c2fvl`: one function per command, with what is heavy imported inside."""

import argparse
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from c2fvl import __version__
from c2fvl.model_folders import ALIAS

PROGRAM = "c2fvl"
TEXTS = (
    "right", "none", "paraphrase", "typing_errors", "zones_dropped", "count_wrong", "zone_off", "upside_down",
    "sides_exchanged", "patient_frame", "constant", "shuffled",
)  # fmt: skip
"""The changes of `battery`, which takes longer to load than the help to print."""
STOPPED = {"SIGINT": 130, "SIGTERM": 143}
"""Exit status of a training that was stopped and saved; 75 where its time was up."""
A_MODEL = "name of a trained model (see `c2fvl models`), model folder or run folder"


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

    sub = command("train", _train, "Train a network by a preset, or resume a run.")
    sub.add_argument("preset", nargs="?", help="name of a preset (see `c2fvl presets`) or path of a TOML file")
    sub.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="settings to change, such as train.epochs=20"
    )
    sub.add_argument("--resume", metavar="RUN", help="run folder to go on with")
    sub.add_argument(
        "--out", default="runs", help="folder for run folders, runs/<preset>/<time> (default: %(default)s)"
    )
    sub.add_argument("--run-dir", dest="run_folder", metavar="DIR", help="exact run folder to make, in place of --out")

    sub = command("evaluate", _evaluate, "Score a model on a data set; write a table, a summary and a page.")
    _add_part(sub)
    _add_text(sub)
    _add_text_model(sub)
    _add_trust(sub)
    _add_lengths(sub)
    sub.add_argument("--out", metavar="DIR", help="folder to write to (default: beside the model)")
    _add_device(sub, batch="auto")
    sub.add_argument("--json", action="store_true", help="print the summary as JSON")

    sub = command("audit", _audit, "Find out what a network makes of right, wrong and no text; write one page.")
    _add_part(sub)
    _add_seed(sub)
    _add_text_model(sub)
    _add_trust(sub)
    _add_lengths(sub)
    sub.add_argument("--out", metavar="DIR", help="folder to write to (default: beside the model)")
    _add_device(sub, batch="auto")
    sub.add_argument("--json", action="store_true", help="print the summary as JSON")

    sub = command(
        "calibrate", _calibrate, "Fit temperature and offset of a model, so that its probabilities mean what they say."
    )
    _add_part(sub)
    _add_text(sub)
    _add_text_model(sub)
    _add_trust(sub)
    _add_device(sub, batch="auto")
    sub.add_argument("--json", action="store_true", help="print what is kept as JSON")

    sub = command(
        "trust", _trust, "Measure what reports are worth, and cost when wrong, at each trust; choose the default."
    )
    sub.add_argument("model", help="model folder or run folder of a network that reads the film first")
    sub.add_argument("root", help="folder that holds Train_Folder, Val_Folder, …, or a csv table")
    _add_split(sub)
    _add_seed(sub)
    sub.add_argument("--keep", action="store_true", help="write the default and the curve to the model folder")
    sub.add_argument("--batch", type=_count(1), default=8, help="films at once (default: %(default)s)")
    sub.add_argument("--device", default="cpu", help="where to compute: cpu or cuda (default: %(default)s)")
    sub.add_argument("--json", action="store_true", help="print the curve as JSON")

    sub = command("acquaint", _acquaint, "Let a model know the films it was trained on, so that others are flagged.")
    sub.add_argument("model", help="model folder or run folder")
    sub.add_argument("root", help="folder that holds Train_Folder, Val_Folder, …, or a csv table")
    sub.add_argument("--split", default="train", help="part that the network was trained on (default: %(default)s)")
    sub.add_argument("--check", default="val", help="part to measure false alarms on (default: %(default)s)")
    sub.add_argument("--table", help="caption table to use in place of <Split>_text.xlsx")
    sub.add_argument("--json", action="store_true", help="print what was measured as JSON")

    sub = command("card", _card, "Write the model card, README.md of a model folder, from its run and its scores.")
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

    sub = command("predict", _predict, "Draw the mask of films, each in its own size.")
    sub.add_argument("films", nargs="*", metavar="FILE", help="films, folders or globs")
    sub.add_argument(
        "--model",
        default=ALIAS,
        metavar="NAME|FOLDER|FILE.onnx",
        help=f"{A_MODEL}, or exported network (default: %(default)s, which comes with the package)",
    )
    sub.add_argument("--report", help="a report on every film given, as a sentence")
    sub.add_argument(
        "--laterality",
        default="viewer",
        choices=("viewer", "patient"),
        help='whose left the report\'s "left" is (default: %(default)s)',
    )
    _add_text_model(sub)
    _add_trust(sub)
    sub.add_argument("--csv", metavar="TABLE", help="table with the columns image and report; paths relative to it")
    sub.add_argument(
        "--out", default="predictions", metavar="DIR", help="folder for masks and records (default: %(default)s)"
    )
    sub.add_argument("--probability", action="store_true", help="also write the probability as a 16-bit PNG")
    sub.add_argument("--overlay", action="store_true", help="also write a picture of the film with its mask")
    sub.add_argument(
        "--threshold", type=float, default=0.5, help="probability from which a pixel is lesion (default: %(default)s)"
    )
    _add_device(sub, batch="auto", workers=1, reading="threads that read films, and as many that write masks")
    sub.add_argument("--json", action="store_true", help="print one JSON line per film")

    sub = command("describe", _describe, "Print what a network reads off films: a report, with a figure for each zone.")
    sub.add_argument("films", nargs="+", metavar="FILE", help="films, folders or globs")
    sub.add_argument(
        "--model", default=ALIAS, metavar="NAME|FOLDER|FILE.onnx", help="the network (default: %(default)s)"
    )
    sub.add_argument(
        "--laterality",
        default="viewer",
        choices=("viewer", "patient"),
        help="whose left the report means (default: %(default)s)",
    )
    sub.add_argument("--device", default="cpu", help="where to compute: cpu or cuda (default: %(default)s)")
    sub.add_argument("--json", action="store_true", help="print one JSON line per film")

    sub = command("check", _check, "Look a data set over; exit with 1 where something is wrong.")
    sub.add_argument("root", help="folder that holds Train_Folder, Val_Folder, …, or a csv table")
    sub.add_argument("--table", help="caption table to use in place of <Split>_text.xlsx")
    sub.add_argument(
        "--mask",
        default="lesion",
        choices=("lesion", "above_half", "labels"),
        help="what masks hold, as the setting data.mask (default: %(default)s)",
    )
    sub.add_argument("--workers", type=_count(1), default=2, help="threads that read (default: %(default)s)")
    sub.add_argument(
        "--deep",
        action="store_true",
        help="also near duplicates, frame and faults of the captions; root may then be a caption table",
    )
    sub.add_argument("--out", metavar="DIR", help="with --deep: new folder for a picture of each pair of films")
    sub.add_argument("--write-splits", metavar="CSV", help="with --deep: new csv that divides the films by groups")
    sub.add_argument(
        "--shares", default="80,10,10", metavar="PERCENT", help="of train, val and test there (default: %(default)s)"
    )
    sub.add_argument("--seed", type=_count(0), default=0, help="seed of --write-splits (default: %(default)s)")
    sub.add_argument("--json", action="store_true", help="print the findings as JSON")

    sub = command("captions", _captions, "Write a caption table made from the masks of films that have none.")
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

    sub = command("phantom", _phantom, "Write synthetic chest films with masks and reports.")
    sub.add_argument("out", help="new folder")
    sub.add_argument("--num-cases", type=int, default=200, help="films in all parts together (default: %(default)s)")
    sub.add_argument("--seed", type=int, default=0, help="seed (default: %(default)s)")
    sub.add_argument("--size", type=int, default=224, help="side in pixels (default: %(default)s)")

    sub = command("convert", _convert, "Turn an official checkpoint into a model folder.")
    sub.add_argument("file", help="the authors' .pth.tar or .pth")
    sub.add_argument("out", help="model folder to write")
    sub.add_argument("--model", required=True, help="whose checkpoint it is, such as c2fvl")
    sub.add_argument(
        "--preset", help="preset whose data settings it was trained with (default: that of the model on QaTa-COV19)"
    )

    sub = command("export", _export, "Write a network as one ONNX file, which predicts without torch.")
    sub.add_argument("model", help=A_MODEL)
    sub.add_argument("out", help="file to write, .onnx")
    sub.add_argument("--opset", type=_count(1), help="ONNX operator set (default: the exporter's own)")
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
        "pack", _pack, "Make a model folder to give away: weights in half precision, no folders of this machine."
    )
    sub.add_argument("model", help=A_MODEL)
    sub.add_argument("out", help="new model folder")

    sub = command("pull", _pull, "Fetch a trained model from the Hugging Face hub; it is then found by its name.")
    sub.add_argument("repository", metavar="OWNER/NAME", help="its repository")
    sub.add_argument("--revision", default="", help="branch, tag or commit (default: the newest)")

    sub = command("push", _push, "Upload a packed model folder to the Hugging Face hub as one commit.")
    sub.add_argument("folder", help="model folder that `c2fvl pack` made, with its card")
    sub.add_argument("repository", metavar="OWNER/NAME", help="where to; made if it is not there")
    sub.add_argument("--private", action="store_true", help="make a new repository that others do not see")

    sub = command("compare", _compare, "Put several models into one table: scores, size, operations, speed, memory.")
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
    _add_split(sub)
    _add_text(sub)
    _add_text_model(sub)
    sub.add_argument("--fresh", action="store_true", help="score again what was scored before")
    sub.add_argument("--no-speed", action="store_true", help="leave out speed and memory")
    sub.add_argument("--out", metavar="DIR", help="folder for the table as csv, Markdown, LaTeX and JSON")
    _add_device(sub, batch="8")
    sub.add_argument("--json", action="store_true", help="print the table as JSON")

    sub = command("bench", _bench, "Measure speed and memory of networks, beside what this machine can do.")
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
    sub.add_argument("--batch", type=_count(1), default=1, help="films at once (default: %(default)s)")
    sub.add_argument("--repeats", type=_count(1), default=10, help="batches that are timed (default: %(default)s)")
    sub.add_argument("--out", metavar="DIR", help="folder for the figures as Markdown and JSON")
    sub.add_argument("--json", action="store_true", help="print the figures as JSON")

    sub = command("models", _models, "List the networks and the trained models at hand, or show one network.")
    sub.add_argument("name", nargs="?", help="show the arguments of this network")
    sub.add_argument(
        "arguments", nargs="*", metavar="argument=value", help="its arguments for --summary, such as base_width=16"
    )
    sub.add_argument("--summary", action="store_true", help="parameters and operations of each of its stages")
    sub.add_argument("--size", type=_count(16), default=None, help="side of the image for --summary (default: 224)")
    sub.add_argument("--json", action="store_true", help="print the summary as JSON")

    sub = command("presets", _presets, "List the presets, or print one.")
    sub.add_argument("name", nargs="?", help="print this preset with every setting")

    command("settings", _settings, "List every setting with its default and meaning.")
    return parser


def _count(least: int) -> Callable[[str], int]:
    """Return a reader of whole numbers from `least` on."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is too small; expected is {least} or more")
        return int(text)

    return number


def _distance(text: str) -> tuple[float, float]:
    """Return the distance of rows and of columns that MM or MM,MM names."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not all(0 < number < float("inf") for number in numbers):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no distance; expected is MM above 0, or MM,MM for rows and columns"
        )
    return (numbers[0], numbers[-1])


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no length; expected is a number above 0")
    return number


def _add_lengths(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--spacing",
        type=_distance,
        metavar="MM[,MM]",
        help="distance of pixels, or of rows and of columns (default: what the files tell, else pixels)",
    )
    sub.add_argument(
        "--tolerance",
        type=_positive,
        action="append",
        metavar="LENGTH",
        help="of the normalised surface distance, in mm or pixels; may be given several times (default: 1 and 3)",
    )


def _add_part(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", help=A_MODEL)
    sub.add_argument("root", help="folder that holds Train_Folder, Val_Folder, …, or a csv table")
    _add_split(sub)


def _add_split(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--split", default="val", help="part to take the films from (default: %(default)s)")
    sub.add_argument("--table", help="caption table to use in place of <Split>_text.xlsx")


def _add_text(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--text",
        default="right",
        choices=TEXTS,
        help="report each film is given; the changes are those of `c2fvl audit` (default: %(default)s)",
    )
    _add_seed(sub)


def _add_seed(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--seed", type=_count(0), default=0, help="seed of the changes of the text (default: %(default)s)")


def _add_trust(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--trust",
        type=_share,
        help="from 0, the film alone, to 1, follow the report; for filmfirst (default: the model's own)",
    )


def _share(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share; expected is a number from 0 to 1")
    return number


def _add_text_model(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--text-model", metavar="DIR", help="where the language model of a network that reads sentences lies now"
    )


def _loaded(options: argparse.Namespace) -> Any:
    """Return the model that the options name, its language model where they say it is."""
    from c2fvl.checkpoint import load_model

    model = load_model(options.model, device=options.device)
    if options.text_model is not None:
        model = model.with_text_model(options.text_model)
    return model if options.trust is None else model.with_trust(options.trust)


def _batch(text: str) -> int | None:
    return None if text == "auto" else _count(1)(text)


def _add_device(
    sub: argparse.ArgumentParser,
    *,
    batch: str,
    workers: int = 0,
    reading: str = "processes that read films; 0: a thread",
) -> None:
    sub.add_argument("--device", default="cpu", help="where to compute: cpu or cuda (default: %(default)s)")
    sub.add_argument(
        "--batch",
        type=_batch,
        default=batch,
        metavar="NUMBER",
        help="films at once; auto: what suits the device (default: %(default)s)",
    )
    sub.add_argument(
        "--workers", type=_count(min(workers, 1)), default=workers, help=f"{reading} (default: %(default)s)"
    )


def _train(options: argparse.Namespace) -> int:
    from c2fvl.config import load_config

    overrides = list(options.overrides)
    if options.resume is not None and options.preset is not None:
        if "=" not in options.preset:
            raise ValueError(f"a run is resumed with its own settings; leave out the preset {options.preset!r}")
        overrides.insert(0, options.preset)
        options.preset = None
    if options.resume is None and options.preset is None:
        raise ValueError("give a preset, such as `c2fvl train debug`, or a run with --resume")
    config = None if options.preset is None else load_config(options.preset, overrides)

    from c2fvl.progress import TerminalObserver
    from c2fvl.train import end_processes, train

    with TerminalObserver() as observer:
        result = train(
            config, out=options.out, run=options.run_folder, resume=options.resume,
            overrides=tuple(overrides) if options.resume else (), observer=observer,
        )  # fmt: skip
    end_processes()
    if not observer.is_main:
        return 0
    print(f"{'Finished' if result.finished else 'Stopped and saved'}: {result.reason}")
    if result.best_dice is not None:
        print(
            f"Best validation Dice per image {result.best_dice:.4f} in epoch {result.best_epoch}: {result.run / 'best'}"
        )
    if not result.finished:
        print(f"Resume with: {PROGRAM} train --resume {result.run}")
    return 0 if result.finished else STOPPED.get(result.signal or "", 75)


def _evaluate(options: argparse.Namespace) -> int:
    from c2fvl.evaluate import evaluate
    from c2fvl.progress import counting

    with counting("Scoring", quiet=options.json) as progress:
        found = evaluate(
            _loaded(options), options.root, text=options.text, progress=progress, **_scoring_options(options)
        )
    if options.json:
        print(json.dumps(found.summary))
        return 0
    _print_scores(found)
    print(f"Page: {found.page}")
    return 0


def _audit(options: argparse.Namespace) -> int:
    from c2fvl.audit import audit
    from c2fvl.page import show
    from c2fvl.progress import counting, table

    with counting("Auditing", quiet=options.json) as progress:
        found = audit(_loaded(options), options.root, progress=progress, **_scoring_options(options))
    if options.json:
        print(json.dumps(found.summary))
        return 0
    _print_scores(found)
    shown = found.summary["audit"]
    rows = [
        [row["title"], show(row["dice"], share=True), show(row["difference_to_right"], share=True),
         show(row["wrong_lungs"], share=True)]
        for row in shown["changes"]
    ]  # fmt: skip
    if rows:
        header = ["report given", "Dice per image, %", "less its own report, points", "in lungs without infection, %"]
        print(table(header, rows, width=160))
    for line in shown["words"]:
        print(line["text"])
    print(f"Page: {found.page}")
    return 0


def _card(options: argparse.Namespace) -> int:
    from c2fvl.model_card import write_card

    card = write_card(
        options.model, evaluations=options.evaluation, data=options.data, text_version=options.text_version,
        licence=options.licence, replace=options.replace,
    )  # fmt: skip
    print(card)
    return 0


def _scoring_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return what `evaluate` and `audit` have in common."""
    from c2fvl.metrics import TOLERANCES

    return {
        "split": options.split, "table": options.table, "seed": options.seed, "out": options.out,
        "device": options.device, "batch_size": options.batch, "workers": options.workers, "spacing": options.spacing,
        "tolerances": tuple(dict.fromkeys(options.tolerance or TOLERANCES)),
    }  # fmt: skip


def _print_scores(found: Any) -> None:
    from c2fvl.page import ROW_LABELS, given, show
    from c2fvl.progress import table

    columns = ("dice_per_image", "iou_per_image", "dice_pooled", "iou_pooled")
    rows = [
        [ROW_LABELS[row["grid"], row["rule"]], *(f"{100 * row[name]:.2f}" for name in columns)]
        for row in found.summary["scores"]
    ]
    first = found.summary["scores"][0]
    rows += [
        [f"  {name}, own grid", *(f"{100 * row[column]:.2f}" for column in columns)]
        for name, row in zip(found.summary["class_names"], first.get("classes", ()), strict=False)
    ]
    print(table(["%", "Dice per image", "IoU per image", "Dice pooled", "IoU pooled"], rows))
    print(
        f"{first['num_cases']} films, {first['num_empty_masks']} with an empty mask, {first['num_false_alarms']} false "
        f"alarms, {first['num_misses']} missed; report given: {given(found.summary)}"
    )
    per_image, unit = found.summary["figures"]["per_image"], found.summary["unit"]["length"]
    print(
        f"Dice per image {show(per_image['dice'], share=True)} %, IoU {show(per_image['iou'], share=True)} %, 95th "
        f"percentile of the Hausdorff distance {show(per_image['hd95'], share=False)} {unit}; in brackets 95 % "
        f"intervals, {found.summary['figures']['intervals']}"
    )


def _calibrate(options: argparse.Namespace) -> int:
    from c2fvl.calibrate import calibrate
    from c2fvl.progress import counting, table

    with counting("Calibrating", quiet=options.json) as progress:
        found = calibrate(
            _loaded(options), options.root, split=options.split, table=options.table, text=options.text,
            seed=options.seed, device=options.device, batch_size=options.batch, workers=options.workers,
            progress=progress,
        )  # fmt: skip
    if options.json:
        print(json.dumps(found))
        return 0
    names = {"nll": "negative log-likelihood of a pixel", "ece": "expected calibration error", "brier": "Brier score"}
    alone = found["without_offset"] or {}
    rows = [
        ["temperature", "1", f"{alone['temperature']:.4f}" if alone else "–", f"{found['temperature']:.4f}"],
        ["offset", "0", "0", f"{found['offset']:.4f}"],
    ]
    for key, name in names.items():
        middle = f"{alone[key]:.5f}" if alone else "–"
        rows.append([name, f"{found[f'{key}_before']:.5f}", middle, f"{found[f'{key}_after']:.5f}"])
    print(table(["", "before", "temperature alone", "kept"], rows))
    fitted = found["fitted_on"]
    print(f"Fitted on {fitted['num_cases']} films of the split {fitted['split']}; report given: {fitted['given']}")
    return 0


def _acquaint(options: argparse.Namespace) -> int:
    from c2fvl.acquaint import acquaint
    from c2fvl.checkpoint import load_model
    from c2fvl.progress import counting, table

    with counting("Looking", quiet=options.json) as progress:
        found = acquaint(
            load_model(options.model), options.root, split=options.split, check_split=options.check,
            table=options.table, progress=progress,
        )  # fmt: skip
    if options.json:
        print(json.dumps(found))
        return 0
    rows = [[name, f"{100 * share:.1f}"] for name, share in found["flagged"].items()]
    print(table([f"{found['num_checked']} films of {found['checked_on']}", "flagged, %"], rows))
    return 0


def _trust(options: argparse.Namespace) -> int:
    from c2fvl.checkpoint import load_model
    from c2fvl.progress import counting, table
    from c2fvl.trust import WRONG, measure_trust

    with counting("Measuring", quiet=options.json) as progress:
        found = measure_trust(
            load_model(options.model, device=options.device), options.root, split=options.split, table=options.table,
            seed=options.seed, keep=options.keep, batch_size=options.batch, progress=progress,
        )  # fmt: skip
    if options.json:
        print(json.dumps(found))
        return 0
    rows = [
        [
            f"{point['trust']:g}",
            *(f"{100 * point[name]['value']:.2f}" for name in ("right", *WRONG)),
            "–" if point["gain_kept"] is None else f"{100 * point['gain_kept']:.0f}",
            "yes" if point["within_bounds"] else "no",
        ]
        for point in found["points"]
    ]
    print(table(["trust", "right", *(name.replace("_", " ") for name in WRONG), "gain kept, %", "in bounds"], rows))
    kept = ", kept in the model folder" if options.keep else "; --keep writes it to the model folder"
    print(
        f"Dice per image, %; without a report {100 * found['none']['value']:.2f}. Default: {found['default']:g}{kept}"
    )
    return 0


def _predict(options: argparse.Namespace) -> int:
    from c2fvl.predict import ONNX, Predictor, collect, predict_to_folder

    for film in options.films:
        if Path(film).suffix == ONNX:
            raise ValueError(f"{film} is an exported network and no film; give it as --model {film}")
    requests = collect(options.films, table=options.csv, report=options.report)
    exported = Path(options.model).suffix == ONNX
    trust = options.trust if exported else None
    if exported and options.text_model is not None:
        raise ValueError("--text-model goes with a model folder; export the model anew for another language model")
    model = options.model if exported else _loaded(options)
    predictor = Predictor(
        model, device=options.device, threshold=options.threshold, batch_size=options.batch, trust=trust
    )
    if options.report is not None:
        # what cannot be used at all ends it at once
        _, refusal = predictor.understand_or_refuse(options.report, laterality=options.laterality)
        if refusal:
            print(f"{PROGRAM}: the report is not used: {refusal}; masks are those without a report", file=sys.stderr)
    failed = 0
    for record in predict_to_folder(
        predictor, requests, options.out, laterality=options.laterality,
        probability=options.probability, overlay=options.overlay, workers=options.workers,
    ):  # fmt: skip
        failed += "error" in record
        if options.json:
            print(json.dumps(record))
        elif "error" in record:
            print(f"{record['image']}: {record['error']}", file=sys.stderr)
        else:
            pixels = record["height"] * record["width"]
            areas = (f"{100 * area / pixels:.2f} % {name}" for name, area in record["area_per_class"].items())
            sure = record["expected_dice"]
            said = (
                "" if sure is None else f"; expected Dice {sure:.2f}{'' if record['calibrated'] else ', uncalibrated'}"
            )
            print(f"{Path(options.out) / record['mask']}: {', '.join(areas)} of the picture{said}")
            for remark in (record["reading"] or {}).get("remarks", ()):
                print(f"  {remark}")
            for reason in (record["film"] or {}).get("reasons", ()):
                print(f"{record['image']}: not to be relied on: {reason}", file=sys.stderr)
    if failed:
        print(f"{PROGRAM}: {failed} of {len(requests)} films could not be predicted", file=sys.stderr)
    return 1 if failed else 0


def _describe(options: argparse.Namespace) -> int:
    from c2fvl.predict import Predictor, collect

    predictor = Predictor(options.model, device=options.device)
    failed = 0
    for request in collect(options.films):
        try:
            found = predictor.describe(request.image)
        except (OSError, ValueError) as error:
            failed += 1
            print(f"{request.image}: {str(error).removeprefix(f'{request.image}: ')}", file=sys.stderr)
            continue
        reading, look = found.reading, found.look
        assert reading is not None
        if options.json:
            record = {"image": str(request.image), "film": None if look is None else look.as_dict()}
            print(json.dumps(record | reading.as_dict(options.laterality)))
            continue
        report, *figures = reading.lines(options.laterality)
        print(f"{request.image}: {report}")
        for line in figures:
            print(f"  {line}")
        for reason in () if look is None else look.reasons:
            print(f"  not to be relied on: {reason}")
    return 1 if failed else 0


def _check(options: argparse.Namespace) -> int:
    from c2fvl.check import check
    from c2fvl.progress import counting

    deep = _deep_options(options)
    with counting("Checking", quiet=options.json) as progress:
        report = check(
            options.root,
            table=options.table,
            mask=options.mask,
            workers=options.workers,
            progress=progress,
            deep=deep,
        )
    print(json.dumps(report.as_dict(), indent=2) if options.json else "\n".join(report.lines()))
    return 1 if report.errors else 0


def _deep_options(options: argparse.Namespace) -> Any:
    from c2fvl.deep_check import DeepOptions

    if not options.deep:
        if options.out is not None or options.write_splits is not None:
            raise ValueError("--out and --write-splits belong to the deep check; give --deep too")
        return None
    try:
        shares = tuple(int(share) for share in options.shares.split(","))
    except ValueError as error:
        raise ValueError(f"--shares is {options.shares!r}; expected three whole numbers such as 80,10,10") from error
    folder, csv = (None if given is None else Path(given) for given in (options.out, options.write_splits))
    return DeepOptions(pictures=folder, splits=csv, shares=shares, seed=options.seed)


def _captions(options: argparse.Namespace) -> int:
    from c2fvl.captions import write_captions
    from c2fvl.progress import counting

    with counting("Describing") as progress:
        count = write_captions(
            options.root,
            options.table,
            split=options.split,
            modality=options.modality,
            form=options.form,
            progress=progress,
        )
    print(f"{options.table}: {count} captions, made from the masks they describe")
    return 0


def _phantom(options: argparse.Namespace) -> int:
    from c2fvl.phantom import write_phantom

    counts = write_phantom(Path(options.out), num_cases=options.num_cases, seed=options.seed, size=options.size)
    print(f"{options.out}: " + ", ".join(f"{count} films to {split}" for split, count in counts.items()))
    return 0


def _convert(options: argparse.Namespace) -> int:
    from c2fvl.config import load_config, nearest_names
    from c2fvl.official_names import OFFICIAL_NAMES
    from c2fvl.reference import convert

    if options.model not in OFFICIAL_NAMES:
        raise ValueError(f"there is no network {options.model!r}{nearest_names(options.model, OFFICIAL_NAMES)}")
    config = load_config(options.preset or f"{options.model}_qata_paper")
    network = convert(options.file, options.out, name=options.model, config=config)
    print(
        f"{options.out}: {sum(parameter.numel() for parameter in network.parameters()):,} parameters of {options.model}"
    )
    return 0


def _export(options: argparse.Namespace) -> int:
    import dataclasses

    from c2fvl.checkpoint import load_model
    from c2fvl.export import export

    found = export(
        load_model(options.model), options.out, dtype=options.dtype, opset=options.opset,
        calibration=options.calibration, table=options.table,
        progress=lambda message: print(f"{PROGRAM}: {message}", file=sys.stderr),
    )  # fmt: skip
    if options.json:
        print(json.dumps(dataclasses.asdict(found) | {"path": str(found.path)}))
        return 0
    print(f"{found.path}: {found.dtype}, opset {found.opset}, {found.path.stat().st_size / 2**20:.1f} MiB")
    print(f"Largest difference to PyTorch in probability: {found.difference:.1e}")
    if found.dice_before is not None and found.dice_after is not None:
        before, after = 100 * found.dice_before, 100 * found.dice_after
        print(
            f"Dice per image on {found.num_scored} films: {before:.2f} before, {after:.2f} after; {before - after:.2f} "
            "lost"
        )
    return 0


def _bench(options: argparse.Namespace) -> int:
    import dataclasses

    from c2fvl import storage
    from c2fvl.bench import PARTS, bench, to_markdown
    from c2fvl.profiling import Conditions

    out = None if options.out is None else storage.check_folder(options.out, what="figures")
    found = bench(
        options.models, conditions=Conditions(options.device, options.dtype, options.batch, options.repeats),
        root=options.root, parts=options.only or PARTS,
        progress=lambda message: print(f"{PROGRAM}: measuring {message}", file=sys.stderr),
    )  # fmt: skip
    figures = dataclasses.asdict(found) | {"command": sys.argv}
    if out is not None:
        storage.write_text(out / "bench.md", to_markdown(found))
        storage.write_json(out / "bench.json", figures)
    print(json.dumps(figures) if options.json else to_markdown(found), end="\n" if options.json else "")
    return 0


def _pack(options: argparse.Namespace) -> int:
    from c2fvl.packing import pack

    found = pack(options.model, options.out)
    kept = [name for name, there in (("calibration", found.has_calibration), ("card", found.has_card)) if there]
    print(f"{found.folder}: {found.num_bytes / 1e6:.1f} MB of weights, with {' and '.join(kept) or 'no card'}")
    print(f"Largest difference of a weight by rounding: {found.largest_difference:.2g}, in {found.tensor}")
    return 0


def _pull(options: argparse.Namespace) -> int:
    from c2fvl.hub import pull

    print(f"{pull(options.repository, revision=options.revision)}: use it as --model {options.repository}")
    return 0


def _push(options: argparse.Namespace) -> int:
    from c2fvl.hub import push

    print(push(options.folder, options.repository, private=options.private))
    return 0


def _models(options: argparse.Namespace) -> int:
    from c2fvl.catalogue import CATALOGUE, arguments_of

    if options.summary or options.arguments or options.size:
        return _summarise_network(options)
    if options.name is not None:
        for line in arguments_of(options.name):
            print(line)
        return 0
    rows = [("name", "paper", "year", "text that it reads", "parameters")]
    rows += [
        (name, entry.paper, str(entry.year), entry.reads, f"{entry.parameters / 1e6:.1f} M")
        for name, entry in CATALOGUE.items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for *cells, last in rows:
        left = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=False))
        print(f"{left}  {last.rjust(widths[-1])}")
    print()
    _print_trained()
    return 0


def _print_trained() -> None:
    from c2fvl.model_folders import DEFAULT, SHIPPED, named_models

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
    from c2fvl.profiling import as_rows, build_empty, example_settings, stages
    from c2fvl.progress import table

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


def _compare(options: argparse.Namespace) -> int:
    from c2fvl.compare import compare
    from c2fvl.comparison_tables import DIFFERENCE_HEADER, difference_rows, header, rows, to_json, write
    from c2fvl.progress import table

    if options.published is not None:
        return _read_published(options)
    found = compare(
        options.models, options.root, split=options.split, table=options.table, text=options.text, seed=options.seed,
        text_model=options.text_model, device=options.device, batch_size=options.batch, workers=options.workers,
        speed=not options.no_speed, fresh=options.fresh,
        progress=lambda message: print(f"{PROGRAM}: {message}", file=sys.stderr),
    )  # fmt: skip
    files = write(found, options.out) if options.out else []
    if options.json:
        print(json.dumps(to_json(found)))
        return 0
    print(table(header(found), rows(found), numbers=len(found.columns), width=240))
    print(found.caption)
    if found.differences:
        print(table(list(DIFFERENCE_HEADER), difference_rows(found), numbers=4, width=200))
    if found.statistics:
        print(found.statistics)
    for file in files:
        print(file)
    return 0


def _read_published(options: argparse.Namespace) -> int:
    import dataclasses

    from c2fvl.statistics import read_published

    if options.models:
        raise ValueError("--published reads one pair of figures and compares no models; leave them out")
    dice, iou = options.published
    found = read_published(dice, iou)
    if options.json:
        print(json.dumps({"dice": dice, "iou": iou, **dataclasses.asdict(found)}))
    else:
        print(f"Dice {dice}, IoU {iou}: {found.words}")
    return 1 if found.kind == "impossible" else 0


def _presets(options: argparse.Namespace) -> int:
    from c2fvl.config import PRESETS, load_config, preset_names, to_toml

    if options.name is not None:
        print(to_toml(load_config(options.name)), end="")
        return 0
    width = max(len(name) for name in preset_names())
    for name in preset_names():
        first = (PRESETS / f"{name}.toml").read_text(encoding="utf-8").partition("\n")[0]
        print(f"{name:{width}}  {first.removeprefix('# ')}")
    return 0


def _settings(options: argparse.Namespace) -> int:
    from c2fvl.config import describe_settings

    for name, default, meaning in describe_settings():
        print(f"{name} = {default}\n    {meaning}")
    return 0
