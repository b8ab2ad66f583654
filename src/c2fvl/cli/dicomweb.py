"""The commands `dicomweb predict` and `dicomweb watch`: images that lie in an archive, and results that go there."""

import argparse
import datetime
import importlib.util
import sys
from pathlib import Path
from typing import Any

from c2fvl.cli.inference import (
    add_model,
    add_outputs,
    add_settings,
    check_report,
    outputs_of,
    predictor_of,
    say_record,
)
from c2fvl.cli.options import PROGRAM, Commands, add_device, add_number, add_precision, fraction, whole_number
from c2fvl.cli.output import say

_NEEDED = ("requests", "pydicom", "highdicom")


def add(commands: Commands) -> None:
    """Add the commands of this module."""
    group = commands.group("dicomweb", "Segment images in a DICOMweb archive, and send results back.")
    if group is None:
        return
    group.add("predict", run_predict, "Segment the films and CT series of a study in an archive.", _predict_options)
    group.add(
        "watch",
        run_watch,
        "Segment new chest films in an archive and send the results back, once each.",
        _watch_options,
    )


def _predict_options(sub: argparse.ArgumentParser) -> None:
    _add_archive(sub)
    sub.add_argument("--study", required=True, metavar="UID", help="StudyInstanceUID")
    sub.add_argument("--series", metavar="UID", help="SeriesInstanceUID; the other series of the study are left out")
    sub.add_argument(
        "--store",
        action="store_true",
        help="send results back: the DICOM segmentation, of a film also the overlay (sc), and sr and measurements if "
        "--output-type names them; without it nothing is changed in the archive",
    )
    add_settings(sub)
    add_outputs(sub)


def _watch_options(sub: argparse.ArgumentParser) -> None:
    _add_archive(sub)
    sub.add_argument(
        "--modality",
        default="CR,DX",
        metavar="NAMES",
        help="modalities of films, joined by commas (default: %(default)s)",
    )
    sub.add_argument(
        "--since",
        type=_since,
        default=1,
        metavar="DAYS|DATE",
        help="take studies from this date on, as 2026-11-27, or of so many days back from today (default: %(default)s)",
    )
    add_number(sub, "--every", 60, "seconds between two searches")
    sub.add_argument("--once", action="store_true", help="search once, predict what is new, and end")
    sub.add_argument(
        "--state",
        default="watch",
        metavar="DIR",
        help="folder that remembers what is done; one watch at a time may use it (default: %(default)s)",
    )
    sub.add_argument("--retry-failed", action="store_true", help="try the films again that were set aside")
    sub.add_argument(
        "--store-ood",
        action="store_true",
        help="also send back results of films that are unlike those that the model was trained on; they are set aside "
        "otherwise",
    )
    add_model(sub)
    sub.add_argument(
        "--threshold",
        type=fraction,
        default=0.5,
        help="a pixel is lesion from this probability on (default: %(default)s)",
    )
    add_device(sub)
    add_precision(sub)
    sub.set_defaults(text_model=None, trust=None)


def _add_archive(sub: argparse.ArgumentParser) -> None:
    """Add the address of the archive and how to reach it."""
    sub.add_argument(
        "url", metavar="URL", help="root of the DICOMweb services, such as http://127.0.0.1:8042/dicom-web"
    )
    sub.add_argument("--token-file", type=Path, metavar="FILE", help="file with a bearer token")
    sub.add_argument("--user", metavar="NAME", help="user of the archive (basic authentication)")
    sub.add_argument("--password-file", type=Path, metavar="FILE", help="file with the password of the user")
    sub.add_argument(
        "--ca-file",
        type=Path,
        metavar="FILE",
        help="certificates to trust, as PEM (default: those of public authorities)",
    )
    sub.add_argument(
        "--allow-unencrypted",
        action="store_true",
        help="send the password or token over http:// to another machine; for networks that are protected otherwise",
    )
    sub.add_argument(
        "--timeout",
        type=whole_number(1),
        default=60,
        metavar="SECONDS",
        help="longest silence of the archive; one answer may take ten times as long (default: %(default)s)",
    )


def _since(text: str) -> datetime.date | int:
    if text.isascii() and text.isdigit() and len(text) < 6:
        return int(text)
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number of days, or a date as 2026-11-27, got {text}") from None


def _archive(options: argparse.Namespace) -> Any:
    """Return the `Archive` that the options name."""
    if any(importlib.util.find_spec(name) is None for name in _NEEDED):
        raise ValueError("DICOMweb needs packages that are not installed: pip install 'c2fvl[dicomweb]'")
    from c2fvl.dicomweb.archive import Archive
    from c2fvl.dicomweb.connection import Connection, Credentials

    credentials = Credentials(options.token_file, options.user, options.password_file)
    connection = Connection(
        options.url, credentials, ca_file=options.ca_file, timeout=options.timeout,
        unencrypted=options.allow_unencrypted,
    )  # fmt: skip
    if connection.is_exposed:
        say(f"{PROGRAM}: images travel unencrypted to {connection.url}; use https:// where you can", error=True)
    return Archive(connection)


def run_predict(options: argparse.Namespace) -> int:
    """Run `c2fvl dicomweb predict`; return its exit status."""
    from c2fvl.cli.terminal import TerminalProgress
    from c2fvl.dicomweb.study import Skipped, StudyOptions, predict_study
    from c2fvl.inference.ct_window import parse_window
    from c2fvl.inference.outputs.endings import ClinicalOptions
    from c2fvl.inference.summary_table import SummaryTable

    check_report(options.report)
    window = None if options.window is None else parse_window(options.window)
    outputs = outputs_of(options)
    archive = _archive(options)
    predictor = predictor_of(
        options, threshold=options.threshold, batch_size=options.batch_size, force_view=options.force_view
    )
    if options.report is not None:
        refusal = predictor.understand_or_refuse(options.report, orientation=options.orientation).refusal
        if refusal:
            say(f"{PROGRAM}: the report is not used: {refusal}", error=True)
    table = SummaryTable(Path(options.out))
    with TerminalProgress("Segmenting", quiet=options.json) as progress:
        wanted = StudyOptions(
            options.report, options.orientation, outputs, window,
            ClinicalOptions(options.keep_text, options.seg_geometry), options.store, options.workers, progress,
        )  # fmt: skip
        for found in predict_study(archive, predictor, options.study, options.out, wanted, series=options.series):
            if isinstance(found, Skipped):
                _say_skipped(found)
                continue
            table.add(found)
            _say_stored(found, options)
    table.write()
    if archive.num_odd:
        say(f"{PROGRAM}: {archive.num_odd} entries of the archive have no UID that can be one; left out", error=True)
    for line in table.lines(num_reports=len(table.rows)):
        say(f"{PROGRAM}: {line}", error=True)
    return 1 if table.num_failed else 0


def _say_stored(record: dict[str, Any], options: argparse.Namespace) -> None:
    """Print a record, and what of it was stored."""
    say_record(record, options)
    stored = record.get("stored")
    if stored and not options.json:
        say(f"  in the archive: {', '.join(f'{kind} {uid}' for kind, uid in stored.items())}")


def _say_skipped(skipped: Any) -> None:
    first = skipped.objects[0]
    which = first if len(skipped.objects) == 1 else f"{len(skipped.objects)} objects, the first {first}"
    say(f"series {skipped.series}: skipped {which}: {skipped.reason}", error=True)


def run_watch(options: argparse.Namespace) -> int:
    """Run `c2fvl dicomweb watch` until a signal, or once; return its exit status."""
    from c2fvl.dicomweb.watch import Watch, WatchOptions
    from c2fvl.dicomweb.watch_state import opened_state

    modalities = tuple(name.strip().upper() for name in options.modality.split(",") if name.strip())
    if not modalities or not all(name.isascii() and name.isalnum() for name in modalities):
        raise ValueError(f"--modality must be modalities joined by commas, such as CR,DX; got {options.modality}")
    wanted = WatchOptions(modalities, options.since, options.every, options.once, options.store_ood)
    archive = _archive(options)
    with opened_state(options.state) as state:
        watch = Watch(archive, predictor_of(options, threshold=options.threshold), state, wanted)
        if options.retry_failed and (number := state.reopen_failed()):
            say(f"{PROGRAM}: {number} films that were set aside are tried again")
        if not options.once:
            say(f"{PROGRAM}: watching {archive.connection.url} every {options.every} s. Ctrl-C stops it.")
            sys.stdout.flush()
        for event in watch.run():
            say(event.text, error=event.is_problem)
            sys.stdout.flush()
    return 1 if watch.num_failed else 0
