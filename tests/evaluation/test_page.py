"""The page in a real browser: it renders, says nothing on the console and asks for nothing."""

import dataclasses
import json
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from c2fvl.checkpoints.trained_model import load_model
from c2fvl.data.part import Part
from c2fvl.data.pictures import encode_webp
from c2fvl.evaluation.audit import audit
from c2fvl.evaluation.evaluate import evaluate
from c2fvl.evaluation.pages import charts
from c2fvl.evaluation.pages.axis import Axis
from c2fvl.evaluation.pages.effects import Effect
from c2fvl.evaluation.pages.panels import (
    MAX_THUMBNAILS,
    NUM_WORST,
    THUMBNAIL_BYTES,
    THUMBNAIL_SIDE,
    choose_thumbnails,
)
from c2fvl.evaluation.pages.rows import show
from c2fvl.evaluation.pages.verdict import verdict
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
    assert text.count("<svg") >= 5
    assert text.count('class="track"') >= 20
    for part in ("Effect of the report", "Subgroups", "Calibration", "Worst", "How this was made"):
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
    assert text.count("<script") == 1  # its own


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
    chart = charts.dots([(site, Estimate(0.5, 0.4, 0.6)) for site in sites], name="sites", label="Dice, $")
    for drawn in (page, chart):
        assert "US$ 5 \\frac{ $" in drawn
        assert "$x_1^2$" in drawn
        assert "mathdefault" not in drawn


def test_an_evaluation_leaves_no_older_audit_in_its_folder(tiny_run, phantom_root, tmp_path):
    audit(load_model(tiny_run), Part(phantom_root, split="val"), out=tmp_path)
    assert (tmp_path / "audit.csv").is_file()
    evaluate(load_model(tiny_run), Part(phantom_root, split="val"), out=tmp_path)
    assert not (tmp_path / "audit.csv").exists()


@pytest.fixture
def opened(browser, audited):
    """Open the page in a window of a width; the contexts are closed at the end."""
    contexts = []

    def open_in(width):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}))
        page = contexts[-1].new_page()
        page.goto(audited.page.as_uri())
        return page

    yield open_in
    for context in contexts:
        context.close()


def test_images_come_first_and_details_are_folded(opened):
    page = opened(1400)
    top = "element => element.getBoundingClientRect().top"
    assert page.locator(".strip").first.evaluate(top) < 500
    assert page.locator("details").first.evaluate(top) < 3000
    assert page.locator("details[open]").count() == 0
    assert page.locator(".strip").first.locator("figure").count() == 6


def test_nothing_is_wider_than_a_telephone_or_too_small_on_it(opened):
    page = opened(390)
    page.evaluate("() => document.querySelectorAll('details').forEach(folded => { folded.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    letters = page.evaluate(
        """() => {
          const drawn = [...document.querySelectorAll('svg text')].map(text => {
            const svg = text.closest('svg');
            return parseFloat(getComputedStyle(text).fontSize) * svg.clientWidth / svg.viewBox.baseVal.width;
          });
          const size = one => parseFloat(getComputedStyle(one).fontSize);
          const written = [...document.querySelectorAll('body *')].map(size);
          return [drawn.length, Math.min(...drawn), Math.min(...written.filter(size => size > 0))];
        }"""
    )
    assert letters[0] > 20
    assert letters[1] >= 11
    assert letters[2] >= 10


def test_the_list_of_all_images_is_sorted_and_filtered_by_the_page_itself(opened, audited):
    page = opened(1280)
    page.click("#images > summary")
    shown = "() => [...document.querySelectorAll('#gallery li:not([hidden])')].map(one => one.dataset)"
    first = page.evaluate(shown)
    assert len(first) == audited.summary.data.num_cases
    scores = [float(entry["dice"]) for entry in first]
    assert scores == sorted(scores)
    page.select_option("#order", "largest")
    areas = [float(entry["target"]) for entry in page.evaluate(shown)]
    assert areas == sorted(areas, reverse=True)
    assert areas[0] > areas[-1]
    page.select_option("#kind", "poor")
    poor = page.evaluate(shown)
    assert len(poor) == sum(score < 0.5 for score in scores)
    page.select_option("#kind", "all")
    name = page.locator("#gallery li span:not(.soft)").first.inner_text()
    page.fill("#words", name.split()[0].upper())
    assert len(page.evaluate(shown)) == 1
    assert page.inner_text("#shown") == f"1 of {len(scores)} shown"


def test_the_name_of_an_image_opens_the_list_at_it_and_no_foreign_script_runs(opened):
    page = opened(1280)
    page.locator(".strip a").first.click()
    target = page.locator(".strip a").first.get_attribute("href")
    assert page.locator(f"{target}:target").is_visible()
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<p id=mark></p>')")
    injected = (
        "const own = document.createElement('script'); own.textContent = 'window.ran = 1'; document.body.append(own)"
    )
    page.evaluate(injected)
    assert page.evaluate("window.ran") is None


def test_an_axis_has_round_ticks_around_everything():
    axis = Axis.around([Estimate(0.7, 0.62, 0.81), Estimate(1.0, None, None)], limits=(0, 100))
    assert (axis.low, axis.high, axis.step) == (60, 100, 10)
    assert axis.place(0.6) == 0
    assert axis.place(0.7) == 25
    assert axis.span(Estimate(0.7, 0.6, 0.8)) == (0, 50)
    assert axis.span(Estimate(0.7, None, None)) is None
    signed = Axis.around([Estimate(-0.031, -0.055, -0.01)], zero=True, limits=(-100, 100))
    assert [label for _, label in signed.ticks] == ["−6", "−4", "−2", "0"]
    for value in (0.0, 0.5, 1.0):
        flat = Axis.around([Estimate(value, value, value)], limits=(0, 100))
        assert flat.low < flat.high
        assert 0 <= flat.place(value) <= 100


def test_reports_are_sorted_by_what_they_bring_and_marked_by_harm(audited):
    effects = Effect.of_reports(audited.summary.audit.changes)
    values = [effect.estimate.value for effect in effects]
    assert values == sorted(values, reverse=True)
    assert len(effects) == len(audited.summary.audit.changes) - 1
    by_name = {change.name: change for change in audited.summary.audit.changes}
    benefit = next(entry for entry in audited.summary.audit.headline if entry.name == "benefit")
    found = by_name["right"].difference_to_none
    assert (found.value, found.low, found.high) == pytest.approx((benefit.value, benefit.low, benefit.high))
    signs = [
        Effect("", "", Estimate(*bounds)).sign for bounds in ((2, 1, 3), (-2, -3, -1), (1, -1, 3), (1, None, None))
    ]
    assert signs == ["▲", "▼", "●", "●"]


def test_of_many_images_the_worst_and_an_even_choice_have_a_thumbnail():
    dice = np.random.default_rng(0).permutation(np.linspace(0, 1, 1000))
    chosen = choose_thumbnails(dice.tolist())
    assert len(chosen) == len(set(chosen)) == MAX_THUMBNAILS
    assert sorted(dice[chosen])[:NUM_WORST] == sorted(dice)[:NUM_WORST]
    assert np.diff(sorted(dice[chosen])[NUM_WORST:]).max() < 0.011
    assert choose_thumbnails([0.5, 0.1]) == [1, 0]


def test_a_thumbnail_has_a_limited_number_of_bytes():
    noise = np.random.default_rng(0).integers(0, 256, (500, 700, 3), dtype=np.uint8)
    assert 500 < len(encode_webp(noise, max_side=THUMBNAIL_SIDE, max_bytes=THUMBNAIL_BYTES)) <= THUMBNAIL_BYTES


def test_one_sentence_says_how_good_the_result_is_and_against_what(audited):
    summary = audited.summary
    scores = {"dice": np.full(summary.data.num_cases, 0.4)}
    words = verdict(dataclasses.replace(summary, data=dataclasses.replace(summary.data, num_cases=20)), scores).text
    assert words.startswith("The network ")
    assert "one mask for all images" in words
    assert "kinds of wrong report" in words
    data = dataclasses.replace(summary.data, root="datasets/QaTa-COV19", split="test", num_cases=2113)
    known = dataclasses.replace(summary, audit=None, data=data)
    published = next(row for row in summary.scores if row.protocol == "published")
    words = verdict(known, scores)
    assert f"{100 * published.dice_per_image:.2f} %" in words.text
    assert "83.66 %" in words.text
    assert words.warning
    for other in ({"split": "val"}, {"num_cases": 2112}, {"root": "mine"}):
        unknown = dataclasses.replace(known, data=dataclasses.replace(data, **other))
        assert "83.66" not in verdict(unknown, scores).text
        assert "only a comparison can say" in verdict(unknown, scores).text
    few = dataclasses.replace(known, data=dataclasses.replace(data, num_cases=3))
    assert verdict(few, scores).text == "3 images are too few to judge by."
