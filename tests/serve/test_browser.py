"""The page in a real browser: image, report, zones, trust, threshold, comparison, keys, downloads; and nothing else."""

import re

import cv2
import numpy as np
import pytest
from support.dicom import as_bytes, film
from support.servers import film_png

from c2fvl.data.phantom.draw import draw_case

PIXELS = """() => {
  const canvas = document.querySelector('#first canvas');
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  let coloured = 0, left = 0;
  for (let at = 0; at < data.length; at += 4) if (data[at] !== data[at + 1] || data[at] !== data[at + 2]) {
    coloured += 1; left += (at / 4) % canvas.width < canvas.width / 2;
  }
  return [coloured, left];
}"""
DROP = """([name, text]) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name));
  document.querySelector('#stage').dispatchEvent(new DragEvent('drop', { dataTransfer: transfer, bubbles: true }));
}"""
INJECT = """() => {
  const script = document.createElement('script');
  script.textContent = 'window.injected = true';
  document.body.append(script);
  return window.injected === true;
}"""


@pytest.fixture
def page(browser, server):
    """The page, opened; what it asked for and what it complained of are checked at the end."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page = context.new_page()
    page.asked, page.said = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("console", lambda message: page.said.append(message.text) if message.type == "error" else None)
    page.goto(server.address)
    page.wait_for_selector("#examples button:nth-child(3)")
    yield page
    foreign = [url for url in page.asked if not url.startswith((server.address, "data:", f"blob:{server.address}"))]
    assert foreign == [], "nothing outside this server is asked for"
    context.close()
    assert page.said == []


def choose(page, content, name="film.png"):
    """Choose a file and wait for its mask."""
    with page.expect_response("**/predict?as=view") as answer:
        page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": content})
    assert answer.value.status == 200
    page.wait_for_selector("#result:not([hidden])")
    page.wait_for_selector("#busy", state="hidden")


def changing(page, act):
    """Return the record of the answer that an action leads to, when it is drawn; earlier actions are waited for."""
    page.wait_for_selector("#busy", state="hidden")
    with page.expect_response("**/predict?as=view") as answer:
        act()
    view = answer.value.json()
    page.wait_for_selector("#busy", state="hidden")
    return view["record"]


def eventually(page, expression):
    """Wait until an expression is true; the page's policy does not let the browser driver wait for it."""
    for _ in range(1500):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(20)
    pytest.fail(f"it did not become true: {expression}")


def reading(page):
    """Return what the page says of the report, by its names."""
    names, values = (page.locator(f"#reading {tag}").all_text_contents() for tag in ("dt", "dd"))
    return dict(zip(names, values, strict=True))


def slide(page, name, value):
    page.locator(f"#{name}").evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", value
    )


def test_first_sight_image_report_and_zones(page):
    assert page.locator("header").get_by_text("Research use, not for diagnosis").is_visible()
    assert page.locator("#examples button").count() == 3
    choose(page, film_png(0, size=256))
    for hand in ("R", "L"):
        assert page.locator(f"#first .{hand.lower()}").text_content() == hand
        assert page.locator(f"#first .{hand.lower()}").is_visible()
    assert page.locator("#first .r").bounding_box()["x"] < page.locator("#first .l").bounding_box()["x"]
    assert "assumed" in page.locator("#notes").text_content()

    def type_report():
        page.focus("#report")
        page.keyboard.type(
            "Opacity in the left lower zone. The right lung is clear. Possible opacity in the left upper zone."
        )

    record = changing(page, type_report)
    eventually(page, "document.querySelector('#reading').textContent.includes('Doubtful')")
    found = reading(page)
    assert found["Lesion"] == "patient's left lower"
    assert found["Clear"] == "patient's right lung"
    assert "Possible opacity" in found["Doubtful"]
    assert found["Left"] == "is the patient's left, at the right of the image"
    assert record["report"]["orientation_given"] == "patient"
    zone = page.locator("[data-zone=left_lower]")
    assert zone.get_attribute("data-state") == "lesion"
    assert re.search(r"image \d\.\d\d", zone.text_content())
    changing(page, lambda: page.click("[data-orientation=image]"))
    assert page.locator("[data-zone=right_lower]").get_attribute("data-state") == "lesion"
    assert reading(page)["Lesion"] == "patient's right lower"


def test_zones_by_hand_trust_and_threshold(page):
    choose(page, film_png(0, size=256))
    page.fill("#report", "Heart size normal.")
    eventually(page, "document.querySelector('#reading').textContent.includes('Heart')")
    record = changing(page, lambda: page.click("[data-zone=left_lower]"))
    assert record["report"]["zones"] == ["image_right_lower"], "the patient's left lies at the right of the image"
    assert page.locator("#zones-said").text_content().startswith("Set by hand; the text is not used.")
    record = changing(page, lambda: page.click("[data-zone=left_lower]"))
    assert record["report"]["free_zones"] == ["image_right_lower"]
    record = changing(page, lambda: page.click("#use-text"))
    assert record["report"]["sentence"] == "Heart size normal."

    page.fill("#report", "Opacity in the left upper zone. The right lung is clear. The left lower zone is clear.")
    areas = {}
    for trust in (0, 1):
        record = changing(page, lambda trust=trust: slide(page, "trust", trust))
        assert record["trust"] == trust
        areas[trust] = (record["area"], page.evaluate(PIXELS)[0])
    assert areas[0] != areas[1], "the trust changes the mask, and what is drawn of it"
    assert "ignored" not in page.locator("#trust-said").text_content()

    page.uncheck("#contour")
    slide(page, "trust", 0)
    changing(page, lambda: slide(page, "threshold", 0.3))
    low = page.evaluate(PIXELS)[0]
    slide(page, "threshold", 0.7)
    preview = page.evaluate(PIXELS)[0]
    assert preview < low, "the mask follows the threshold at once"
    eventually(page, "state.view.threshold === 0.7 && document.querySelector('#busy').hidden")
    assert abs(page.evaluate(PIXELS)[0] - preview) <= 0.02 * preview, "and the server's mask is the same"


def test_a_dropped_dicom_film_and_downloads(page, engine, tmp_path):
    pytest.importorskip("highdicom")
    import base64

    import pydicom

    from c2fvl.inference.predictor import Predictor

    image = draw_case(3, 1, size=256).image
    content = as_bytes(film(np.ascontiguousarray(image[:, ::-1]), PatientOrientation=["R", "F"]))
    with page.expect_response("**/predict?as=view"):
        page.evaluate(DROP, ["film.dcm", base64.b64encode(content).decode()])
    page.wait_for_selector("#result:not([hidden])")
    assert "mirrored" in page.locator("#notes").text_content()
    expected = Predictor(engine)(content)
    page.uncheck("#contour")
    drawn = page.evaluate(PIXELS)
    assert drawn == [int(expected.upright_mask.sum()), int(expected.upright_mask[:, :128].sum())]
    found = {}
    for name in ("mask", "json", "nifti", "seg", "sc", "overlay"):
        with page.expect_download() as download:
            page.click(f"#downloads [data-as={name}]")
        found[name] = tmp_path / download.value.suggested_filename
        download.value.save_as(found[name])
    mask = cv2.imread(str(found["mask"]), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(mask, 255 * expected.mask)
    assert pydicom.dcmread(found["seg"]).Modality == "SEG"
    assert {path.name for path in found.values()} == {
        "mask.png", "record.json", "result.nii.gz", "result_seg.dcm", "result_sc.dcm", "overlay.png"
    }  # fmt: skip


def test_the_comparison(page):
    page.click("#examples button:nth-child(1)")
    page.wait_for_selector("#result:not([hidden])")
    slide(page, "trust", 1)
    page.click("#compare")
    page.wait_for_selector("#second:not([hidden])")
    assert page.locator("#first figcaption").text_content().startswith("As given: Lesion")
    assert page.locator("#second figcaption").text_content().startswith("Left and right exchanged: ")
    eventually(page, "document.querySelector('#overlap').textContent.includes('Dice')")
    reports = page.evaluate("[state.view, state.other].map((view) => view.record.report)")
    assert [report["orientation_given"] for report in reports] == ["patient", "image"]
    assert [zone.replace("right", "left") for zone in reports[0]["zones"]] == reports[1]["zones"]
    page.select_option("#with", "none")
    eventually(page, "state.other.record.report === null")
    page.click("#compare")
    assert page.locator("#second").is_hidden()


def test_keys_themes_and_errors(page):
    choose(page, film_png(0, size=256))
    page.keyboard.press("m")
    page.keyboard.press("c")
    assert page.evaluate(PIXELS)[0] == 0
    page.keyboard.press("m")
    assert page.evaluate(PIXELS)[0] > 0
    page.keyboard.press("]")
    assert page.locator("#opacity").input_value() == "0.4"
    page.keyboard.press("r")
    page.keyboard.type("m c")
    assert page.locator("#report").input_value() == "m c", "in the report, letters are letters"
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.click("#keys-done")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.click("#theme")
    assert page.evaluate(background) != light
    with page.expect_response("**/predict?as=view") as answer:
        page.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": b"no image"})
    assert answer.value.status == 422
    page.wait_for_selector("#error:not([hidden])")
    assert page.locator("#empty").is_visible()
    page.said[:] = [line for line in page.said if "422" not in line]  # the browser's own note of the answer


def test_a_mask_that_is_not_that_of_the_settings_cannot_be_saved(page, tmp_path):
    choose(page, film_png(0, size=256))
    changing(page, lambda: slide(page, "threshold", 0.3))
    with page.expect_download() as download:
        page.click("#downloads [data-as=mask]")
    download.value.save_as(tmp_path / "mask.png")
    shown = page.evaluate("Array.from(state.view.labels).reduce((sum, label) => sum + label, 0)")
    assert np.count_nonzero(cv2.imread(str(tmp_path / "mask.png"), cv2.IMREAD_UNCHANGED)) == shown

    problem = '{"detail": "Unmistakable."}'
    page.route("**/predict?as=view", lambda route: route.fulfill(status=422, body=problem))
    slide(page, "threshold", 0.6)
    assert page.locator("#downloads [data-as=mask]").is_disabled(), "at once, not only when the answer is there"
    page.wait_for_selector("#error:not([hidden])")
    assert page.locator("#error").text_content().startswith("Unmistakable. The mask that is shown is the one before")
    assert page.locator("#downloads [data-as=mask]").is_disabled()
    assert "old" in page.locator("#stage").get_attribute("class")
    page.unroute("**/predict?as=view")
    changing(page, lambda: slide(page, "threshold", 0.5))
    assert page.locator("#downloads [data-as=mask]").is_enabled()
    assert page.locator("#error").is_hidden()

    page.route("**/read", lambda route: route.fulfill(status=500, body=problem))
    page.click("[data-zone=left_lower]")
    page.wait_for_selector("#error:not([hidden])")
    page.wait_for_timeout(600)
    assert page.locator("#downloads [data-as=mask]").is_disabled(), "zones that were not read are not segmented by"
    page.said.clear()  # the browser's own notes of these answers


def test_an_injected_script_does_not_run(page):
    assert page.evaluate(INJECT) is False
    refused = [line for line in page.said if "Content Security Policy" in line]
    assert refused
    page.said[:] = [line for line in page.said if line not in refused]


def contrast(first, second):
    def light(colour):
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    high, low = sorted((light(first), light(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_colours_have_the_contrast_of_aa(server):
    text = server.client.get("/").text
    blocks = re.findall(r":root(?:\[data-theme=\"dark\"\])? \{(.*?)\}", text, re.S)[:2]
    assert len(blocks) == 2
    pairs = (("ink", "bg"), ("ink", "card"), ("soft", "card"), ("soft", "bg"), ("on-accent", "accent"), ("ok", "card"),
             ("accent", "chosen"), ("doubt", "card"), ("bad", "card"), ("ok", "ok-bg"), ("doubt", "doubt-bg"),
             ("bad", "bad-bg"), ("soft", "chosen"), ("soft", "ok-bg"), ("ink", "chosen"), ("doubt", "chosen"),
             ("doubt", "ok-bg"))  # fmt: skip
    for block in blocks:
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        for first, second in pairs:
            assert contrast(colours[first], colours[second]) >= 4.5, (first, second)


def test_a_phone_sees_everything_without_scrolling_sideways(browser, server):
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark", has_touch=True)
    page = context.new_page()
    page.goto(server.address)
    page.wait_for_selector("#examples button:nth-child(3)")
    page.tap("#examples button:nth-child(2)")
    page.wait_for_selector("#result:not([hidden])")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.locator("#first canvas").bounding_box()["width"] > 350
    context.close()


def test_a_token_is_taken_from_the_address_and_moved_out_of_it(browser, serve):
    server = serve(token="a-token-of-some-length")
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{server.address}#token=a-token-of-some-length")
    page.wait_for_selector("#examples button:nth-child(3)")
    assert "token" not in page.url
    context.close()
    other = browser.new_context()
    page = other.new_page()
    page.goto(server.address)
    page.wait_for_selector("#ask-token[open]")
    page.fill("#token", "a-token-of-some-length")
    page.keyboard.press("Enter")
    page.wait_for_selector("#examples button:nth-child(3)")
    other.close()
