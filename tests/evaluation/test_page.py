"""The page in a real browser: it renders, says nothing on the console and asks for nothing."""

import json
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from c2fvl.checkpoints.trained_model import load_model
from c2fvl.data.part import Part
from c2fvl.evaluation.audit import audit
from c2fvl.evaluation.evaluate import evaluate
from c2fvl.evaluation.pages.rows import show
from c2fvl.files.images import write_image, write_mask
from c2fvl.metrics.intervals import Estimate


def open_page(browser_path, page, folder, *options):
    """Return what the browser made of a page: elements as text, lines on the console, addresses it asked for."""
    log = folder / "network.json"
    done = subprocess.run(
        [browser_path, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr",
         f"--log-net-log={log}", f"--user-data-dir={folder / 'profile'}", *options, page.as_uri()],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    events = json.loads(log.read_text())
    names = {number: name for name, number in events["constants"]["logEventTypes"].items()}
    begun = [
        event["params"] for event in events["events"]
        if names[event["type"]] == "URL_REQUEST_START_JOB" and "url" in event.get("params", {})
    ]  # fmt: skip
    asked = [
        request["url"] for request in begun
        if request.get("initiator") != "not an origin"  # what the browser asks for of itself
        and not request["url"].startswith(("data:", "file:"))
    ]  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line], asked


@pytest.fixture(scope="module")
def audited(tiny_run, phantom_root, tmp_path_factory):
    return audit(load_model(tiny_run), Part(phantom_root, split="val"), out=tmp_path_factory.mktemp("audit"))


def test_the_page_renders_in_silence(browser_path, audited, tmp_path):
    text, console, asked = open_page(browser_path, audited.page, tmp_path, "--dump-dom")
    assert not console
    assert not asked
    assert text.count("<svg") >= 8
    for part in ("Effect of the report", "Subgroups", "Calibration", "Worst cases", "How this was made"):
        assert part in text
    assert f"{100 * audited.summary.as_dict()['scores'][0]['dice_per_image']:.2f}" in text


@pytest.mark.parametrize(("width", "options"), [(1280, ()), (390, ("--force-dark-mode",))], ids=["wide", "phone, dark"])
def test_the_page_shows_something_on_any_screen(browser_path, audited, tmp_path, width, options):
    picture = tmp_path / "page.png"
    open_page(browser_path, audited.page, tmp_path, f"--screenshot={picture}", f"--window-size={width},2000", *options)
    seen = cv2.imread(str(picture))
    assert seen.shape[1] == width
    assert len(np.unique(seen.reshape(-1, 3), axis=0)) > 50
    rows = (seen != seen[0, 0]).any(axis=(1, 2))
    assert rows[:1000].mean() > 0.3


def test_the_page_can_be_printed(browser_path, audited, tmp_path):
    paper = tmp_path / "page.pdf"
    open_page(browser_path, audited.page, tmp_path, f"--print-to-pdf={paper}")
    data = paper.read_bytes()
    assert data.startswith(b"%PDF")
    assert len(data) > 50_000


def test_a_page_that_speaks_or_asks_would_be_noticed(browser_path, tmp_path):
    """The check itself can fail: a script that errs, and a picture from elsewhere."""
    page = tmp_path / "bad.html"
    page.write_text('<script>console.error("oh")</script><img src="http://127.0.0.1:9/x.png">')
    _, console, asked = open_page(browser_path, page, tmp_path, "--dump-dom")
    assert len(console) >= 1
    assert "http://127.0.0.1:9/x.png" in asked


def test_what_files_hold_never_lives_on_the_page(browser_path, tiny_run, tmp_path):
    evil = "<script>console.error(1)</script><img src=http://127.0.0.1:9/y onerror=console.error(2)>"
    for number in range(3):
        write_image(tmp_path / f"f{number}&'.png", np.full((32, 32, 3), 60 * number, np.uint8))
        write_mask(tmp_path / f"m{number}.png", np.eye(32, k=number, dtype=np.uint8))
    lines = ["image,mask,text,split,si<b>te", *(f'f{n}&\'.png,m{n}.png,"{evil}",val,<i>{n}' for n in range(3))]
    (tmp_path / "films.csv").write_text("\n".join(lines))
    found = evaluate(load_model(tiny_run), Part(tmp_path / "films.csv"), out=tmp_path / "out")
    text, console, asked = open_page(browser_path, found.page, tmp_path, "--dump-dom")
    assert not console
    assert not asked
    assert "&lt;script&gt;console.error" in text
    assert "column si&lt;b&gt;te" in text
    assert "<script" not in text


class Names(HTMLParser):
    def __init__(self):
        super().__init__()
        self.ids, self.targets, self.labelled, self.drawings = [], [], 0, 0

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids += [attributes["id"]] if "id" in attributes else []
        if attributes.get("href", "").startswith("#"):
            self.targets.append(attributes["href"][1:])
        self.drawings += tag == "svg"
        self.labelled += attributes.get("role") == "img" and bool(attributes.get("aria-label"))


def test_names_on_the_page_are_its_own_and_every_chart_has_words(audited):
    names = Names()
    names.feed(audited.page.read_text(encoding="utf-8"))
    assert len(names.ids) == len(set(names.ids))
    assert set(names.targets) <= set(names.ids)
    assert names.drawings == names.labelled > 0


def test_numbers_are_shown_with_as_many_digits_as_mean_something():
    assert show(Estimate(0.78471, 0.7, 0.81239), fraction=True) == "78.47 (70.00 to 81.24)"
    assert show(Estimate(-0.0123, None, None), fraction=True) == "−1.23"
    assert show(Estimate(3.14159, None, None), fraction=False) == "3.14"
    assert show(Estimate(12345.6, None, None), fraction=False) == "12346"
    assert show(None, fraction=True) == "–"


def test_one_image_has_no_interval_and_says_so(tiny_run, tmp_path):
    write_image(tmp_path / "f.png", np.full((32, 32, 3), 90, np.uint8))
    write_mask(tmp_path / "m.png", np.eye(32, dtype=np.uint8))
    Path(tmp_path / "films.csv").write_text("image,mask,split\nf.png,m.png,val\n")
    found = evaluate(load_model(tiny_run), Part(tmp_path / "films.csv", text="none"), out=tmp_path / "out")
    dice = found.summary.as_dict()["statistics"]["per_image"]["dice"]
    assert (dice["low"], dice["high"]) == (None, None)
    page = found.page.read_text(encoding="utf-8")
    assert "no interval: 1 case of one group" in page
    assert "no risk-coverage curve" in page


def test_words_of_a_table_are_never_typeset(tiny_run, tmp_path):
    """A $ is matplotlib's mark of a formula, and the fonts at hand do not hold every sign."""
    for number in range(4):
        write_image(tmp_path / f"f{number}.png", np.full((32, 32, 3), 60 * number, np.uint8))
        write_mask(tmp_path / f"m{number}.png", np.eye(32, k=number, dtype=np.uint8))
    sites = ["US$ 5 \\frac{ $", "中文 医院", "x" * 150, "$x_1^2$"]
    lines = ["image,mask,split,cost $\\frac{$", *(f"f{n}.png,m{n}.png,val,{site}" for n, site in enumerate(sites))]
    (tmp_path / "films.csv").write_text("\n".join(lines), encoding="utf-8")
    found = evaluate(load_model(tiny_run), Part(tmp_path / "films.csv", text="none"), out=tmp_path / "out")
    page = found.page.read_text(encoding="utf-8")
    assert page.count("US$ 5 \\frac{ $") >= 2  # in chart and table
    assert page.count("$x_1^2$") >= 2
    assert "mathdefault" not in page


def test_an_evaluation_leaves_no_older_audit_in_its_folder(tiny_run, phantom_root, tmp_path):
    audit(load_model(tiny_run), Part(phantom_root, split="val"), out=tmp_path)
    assert (tmp_path / "audit.csv").is_file()
    evaluate(load_model(tiny_run), Part(phantom_root, split="val"), out=tmp_path)
    assert not (tmp_path / "audit.csv").exists()
