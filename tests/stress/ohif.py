"""Results in OHIF, a viewer that hospitals use: a CT segmentation lies on its slices, and the overlay of a film opens.

It needs the wheel of monailabel, which carries a built OHIF (`make .venv/monailabel`), Orthanc, a browser, and a
network of its own; where one of these is missing, the stage is left out. Nothing of the viewer is installed.
"""

import http.server
import io
import mimetypes
import shutil
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from outcome import Outcome, Stage, in_child
from support.monailabel_wheel import MISSING, find_wheel, unpack

PORT, ARCHIVE = 18080, "http://127.0.0.1:18042"
SLICES, SIDE = 12, 256
COLOURED = """() => {
  let most = [0, 0, 0];
  for (const canvas of document.querySelectorAll('canvas')) {
    if (canvas.width < 300) continue;  // a thumbnail
    const copy = document.createElement('canvas');
    [copy.width, copy.height] = [canvas.width, canvas.height];
    const context = copy.getContext('2d');
    context.drawImage(canvas, 0, 0);
    const data = context.getImageData(0, 0, copy.width, copy.height).data;
    let found = 0, right = 0, lower = 0;
    for (let at = 0; at < data.length; at += 4) {
      const colour = data.subarray(at, at + 3);
      if (Math.max(...colour) - Math.min(...colour) < 40) continue;
      found += 1;
      right += (at / 4) % copy.width > copy.width / 2;
      lower += at / 4 / copy.width > copy.height / 2;
    }
    if (found > most[0]) most = [found, right, lower];
  }
  return most;
}"""
"""How many pixels of the picture have a colour, and how many of these lie in its right and in its lower half."""


def open_results(stage: Stage) -> Outcome:
    """Open results of c2fvl in OHIF, once."""
    outcome = Outcome("results in OHIF")
    missing = _missing()
    if missing:
        outcome.tried[f"left out: {missing}"] = 0
        return outcome
    found, error = in_child(lambda: _look(stage.folder / "ohif"), seconds=600)
    if error:
        outcome.fail(error)
    for name, fault in (found or {}).items():
        outcome.tried[name] += 1
        if fault:
            outcome.fail(f"{name}: {fault}")
    return outcome


def _missing() -> str:
    """Return what is missing for this stage; empty if nothing is."""
    import pytest

    try:
        import playwright.sync_api  # noqa: F401
        import support.volumes  # noqa: F401
        from support.orthanc import orthanc_or_skip

        orthanc_or_skip()
    except (ImportError, pytest.skip.Exception) as reason:
        return str(reason)
    if find_wheel() is None:
        return MISSING
    return "" if shutil.which("chromium") else "there is no chromium"


def _look(folder: Path) -> dict[str, str]:
    """Return what is wrong with each result in the viewer; empty texts for nothing."""
    from playwright.sync_api import sync_playwright
    from support.orthanc import running_orthanc

    folder.mkdir()
    wheel = find_wheel()
    assert wheel is not None
    bundle = unpack(wheel, "monailabel/endpoints/static/ohif", folder)
    with running_orthanc(folder / "orthanc"):
        study, film_study = _store(folder)
        with _Viewer(bundle), sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"),
                args=["--no-sandbox", "--disable-dev-shm-usage", "--use-angle=swiftshader",
                      "--enable-unsafe-swiftshader"],
            )  # fmt: skip
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            found = {}
            for name, check, shown in (
                ("CT with its segmentation", _segmentation, study),
                ("film with its overlay", _overlay, film_study),
            ):
                page.goto(f"http://127.0.0.1:{PORT}/ohif/viewer?StudyInstanceUIDs={shown}")
                found[name] = check(page)
                page.screenshot(path=folder / f"{name.replace(' ', '_')}.png")
            browser.close()
    return found


def _store(folder: Path) -> tuple[str, str]:
    """Put a CT series with its segmentation, and a film with its overlay, into the archive; return their studies."""
    import pydicom
    from support.dicom import as_bytes, film
    from support.volumes import Bright, chest, write_series

    from c2fvl.data.phantom.draw import draw_case
    from c2fvl.inference.outputs.of_prediction import clinical_files
    from c2fvl.inference.predictor import Predictor
    from c2fvl.inference.requests import collect
    from c2fvl.inference.to_folder import predict_to_folder

    series = write_series(folder / "ct", chest(SLICES, SIDE, SIDE))
    (record,) = predict_to_folder(Predictor(Bright(SIDE), batch_size=4), collect([str(series)]), folder / "out")
    assert "error" not in record, record
    given = as_bytes(film(draw_case(3, 0, size=512).image, PatientOrientation=["L", "F"]))
    overlay = clinical_files(Predictor("small")(given), ("sc",))["sc"]
    files = [file.read_bytes() for file in (*sorted(series.iterdir()), *(folder / "out").rglob("*.dcm"))]
    for content in (*files, given, overlay):
        request = urllib.request.Request(f"{ARCHIVE}/instances", content, method="POST")
        urllib.request.urlopen(request).close()
    first, second = (pydicom.dcmread(io.BytesIO(content)).StudyInstanceUID for content in (files[0], given))
    return str(first), str(second)


def _segmentation(page: Any) -> str:
    """Open a segmentation; the lesion lies in the slices from the middle on, at the patient's left behind."""
    page.get_by_text(f"(1/{SLICES})").first.wait_for(timeout=120_000)
    page.get_by_text("Confirm and Hide").click()
    page.get_by_text("c2fvl mask").first.dblclick()
    page.get_by_text("Yes", exact=True).click(timeout=120_000)
    page.get_by_text("Do you want to open").wait_for(state="detached")
    page.mouse.move(800, 450)
    page.wait_for_timeout(1500)
    found = []
    for number in range(1, SLICES + 1):
        page.get_by_text(f"({number}/{SLICES})").first.wait_for(timeout=20_000)
        page.wait_for_timeout(400)
        found.append(page.evaluate(COLOURED))
        page.mouse.wheel(0, 100)
    coloured = [number >= SLICES // 2 for number in range(SLICES)]
    if [pixels > 1000 for pixels, _, _ in found] != coloured:
        return f"coloured pixels for each slice: {[pixels for pixels, _, _ in found]}"
    beside = [(pixels, right, lower) for pixels, right, lower in found if not pixels == right == lower]
    return f"the lesion is not at the patient's left, behind: {beside}" if beside else ""


def _overlay(page: Any) -> str:
    """Open the overlay of a film."""
    page.get_by_text("1/1").first.wait_for(timeout=120_000)
    page.wait_for_timeout(1500)
    if (grey := page.evaluate(COLOURED)[0]) > 0:
        return f"the film alone has {grey} coloured pixels"
    page.get_by_text("c2fvl overlay").first.dblclick()
    for _ in range(40):
        page.wait_for_timeout(500)
        if page.evaluate(COLOURED)[0] > 5000:
            return ""
    return f"{page.evaluate(COLOURED)[0]} coloured pixels in the overlay"


class _Viewer:
    """The files of OHIF, and the archive behind them as it asks for it, on this machine alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        folder = self.folder

        class Answer(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                asked = self.path.partition("/proxy/dicom/")[2].partition("/")[2]
                status, kind, content = _archived(asked, self.headers) if asked else _file(folder, self.path)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Answer)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def _archived(asked: str, headers: Any) -> tuple[int, str, bytes]:
    request = urllib.request.Request(f"{ARCHIVE}/dicom-web/{asked}", headers={"Accept": headers.get("Accept", "*/*")})
    try:
        with urllib.request.urlopen(request) as answer:
            return 200, answer.headers.get("Content-Type", ""), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, "text/plain", b""


def _file(folder: Path, path: str) -> tuple[int, str, bytes]:
    found = folder / path.partition("?")[0].removeprefix("/ohif/").lstrip("/")
    if not found.is_file():
        found = folder / "index.html"
    return 200, mimetypes.guess_type(found.name)[0] or "application/octet-stream", found.read_bytes()
