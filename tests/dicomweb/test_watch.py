"""A watch sends the results of each new chest film back, once, whatever ends it and whatever the archive does."""

import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from support.films import small_film

from c2fvl.cli.main import main
from c2fvl.dicomweb import watch as watch_module
from c2fvl.dicomweb.archive import Archive
from c2fvl.dicomweb.connection import ArchiveAwayError, ArchiveError, Connection
from c2fvl.dicomweb.watch import MAX_TRIES, Watch, WatchOptions
from c2fvl.dicomweb.watch_state import DONE, FAILED, OPEN, SKIPPED, WatchState, opened_state
from c2fvl.files.partial import PREFIX

ONCE = WatchOptions(once=True, store_ood=True)


def uid(number):
    return f"1.2.826.{number}.1.1"


def counts(fake, numbers):
    """Return for each film the number of segmentations and of overlays that the archive has."""
    found = []
    for number in numbers:
        own = [one for one, _ in fake.objects.values() if str(one.StudyInstanceUID) == f"1.2.826.{number}"]
        found.append((sum(one.Modality == "SEG" for one in own), sum(one.Modality == "OT" for one in own)))
    return found


@pytest.fixture
def look(archive, predictor, tmp_path):
    """Return a function that watches once, as a new process would, and returns what was said and the state."""

    def once(options=ONCE):
        with opened_state(tmp_path / "state") as state:
            said = list(Watch(archive, predictor, state, options).run())
        return said, state

    return once


def status(state, number):
    return state.film(f"1.2.826.{number}", uid(number)).status


def test_each_film_has_its_results_once(fake, look, tmp_path):
    fake.add(*(small_film(number) for number in range(3)))
    said, _ = look()
    assert counts(fake, range(3)) == [(1, 1)] * 3 and len(said) == 3
    assert all("% of the image; stored seg and sc" in event.text and not event.is_problem for event in said)
    fake.requests.clear()
    assert look()[0] == []  # another process, with the same state
    assert not any("/instances/" in request or "POST" in request for request in fake.requests)
    fake.add(small_film(7))
    assert [uid(7) in event.text for event in look()[0]] == [True]
    assert counts(fake, (0, 1, 2, 7)) == [(1, 1)] * 4
    for path in (tmp_path / "state").rglob("*"):
        assert path.is_dir() or path.suffix == ".json"  # no image, no result
        assert path.is_dir() or ("Film" not in path.read_text() and "P1" not in path.read_text())


def test_without_its_state_a_watch_asks_the_archive(fake, look, tmp_path, archive, predictor):
    fake.add(*(small_film(number) for number in range(2)))
    look()
    (overlay,) = (name for name, (one, _) in fake.objects.items() if one.Modality == "OT" and one.PatientID == "P1")
    del fake.objects[overlay]  # as if the archive had taken one of two
    fake.requests.clear()
    with opened_state(tmp_path / "new") as state:
        said = [event.text for event in Watch(archive, predictor, state, ONCE).run()]
    assert "has the results already" in said[0] and "stored seg and sc" in said[1]
    assert counts(fake, range(2)) == [(1, 1)] * 2
    assert sum("POST" in request for request in fake.requests) == 1


def test_results_other_modalities_and_other_body_parts_are_no_input(fake, look):
    fake.add(
        small_film(0), small_film(1, BodyPartExamined="HAND"), small_film(2, Modality="MG"),
        small_film(3, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33"), small_film(4, BodyPartExamined=None),
        small_film(5, Manufacturer="c2fvl project", ManufacturerModelName="c2fvl"),
    )  # fmt: skip
    _, state = look(WatchOptions(modalities=("CR", "DX", "OT", "SEG"), once=True, store_ood=True))
    assert counts(fake, range(6)) == [(1, 1), (0, 0), (0, 0), (0, 0), (1, 1), (0, 0)]
    assert [status(state, number) for number in (0, 1, 4, 5)] == [DONE, SKIPPED, DONE, SKIPPED]
    said, _ = look(WatchOptions(modalities=("CR", "DX", "OT", "SEG"), once=True, store_ood=True))
    assert [event.text.rpartition(": ")[2] for event in said] == ["a result of c2fvl"] * 2  # the new overlays
    assert counts(fake, range(6)) == [(1, 1), (0, 0), (0, 0), (0, 0), (1, 1), (0, 0)]


def test_films_that_the_model_does_not_know_are_set_aside_unless_asked_for(fake, look, archive, predictor, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (96, 96), dtype=np.uint8)
    fake.add(small_film(0, image=noise))
    said, state = look(WatchOptions(once=True))
    assert status(state, 0) == FAILED and "set aside: not stored, since its result cannot be relied on" in said[0].text
    assert counts(fake, [0]) == [(0, 0)]
    with opened_state(tmp_path / "new") as state:
        list(Watch(archive, predictor, state, ONCE).run())
    assert counts(fake, [0]) == [(1, 1)]


def test_a_film_that_cannot_be_read_is_set_aside_at_once_and_retried_when_asked(fake, look, tmp_path, monkeypatch):
    fake.add(small_film(0, ViewPosition="LL"), small_film(1))
    said, state = look()
    assert "set aside" in said[0].text and "lateral" in said[0].text and said[0].is_problem
    assert [status(state, number) for number in (0, 1)] == [FAILED, DONE]
    assert look()[0] == []
    fake.add(small_film(0))
    monkeypatch.chdir(tmp_path)
    assert main(["dicomweb", "watch", fake.url, "--once", "--state", "state", "--store-ood"]) == 0
    assert counts(fake, [0]) == [(0, 0)]
    assert main(["dicomweb", "watch", fake.url, "--once", "--state", "state", "--store-ood", "--retry-failed"]) == 0
    assert counts(fake, range(2)) == [(1, 1)] * 2


_TRIED = "test_a_film_that_cannot_be_had_or_stored_is_tried_some_times_and_stops_no_other"


@pytest.mark.parametrize(
    "fault", ["cut", "500", "refused", pytest.param("timeout", marks=pytest.mark.slow(like=_TRIED))]
)
def test_a_film_that_cannot_be_had_or_stored_is_tried_some_times_and_stops_no_other(fake, look, monkeypatch, fault):
    fake.add(*(small_film(number) for number in range(3)))

    def rule(method, path, handler):
        is_mine = f"/instances/{uid(1)}" in path if fault != "refused" else method == "POST" and b"P1" in handler.body
        if is_mine and fault == "timeout":
            time.sleep(0.8)
        if is_mine:
            handler.answer(500 if fault in ("500", "timeout") else 200 if fault == "cut" else 400, b"--b", "x/y")
        return is_mine

    fake.rules = [rule]
    now = [time.time()]
    monkeypatch.setattr(watch_module.time, "time", lambda: now[0])
    said, state = look()
    assert [status(state, number) for number in range(3)] == [DONE, OPEN, DONE]
    assert sum("not done, and tried again later" in event.text for event in said) == 1
    assert look()[0] == []  # not before its time
    for _ in range(MAX_TRIES - 2):
        now[0] += 10_000
        said, state = look()
        assert len(said) == 1 and status(state, 1) == OPEN
    now[0] += 10_000
    said, state = look()
    assert "set aside" in said[0].text and status(state, 1) == FAILED
    now[0] += 10_000
    assert look()[0] == [] and counts(fake, range(3)) == [(1, 1), (0, 0), (1, 1)]


def test_a_film_at_which_the_process_ends_again_and_again_is_set_aside(fake, look, monkeypatch):
    fake.add(small_film(0), small_film(1))

    class KilledError(BaseException):
        """Nothing after it runs, as after SIGKILL."""

    def kill(predictor, requests, *_, **__):
        if uid(0) in str(requests[0].image):
            raise KilledError
        return predict(predictor, requests, *_, **__)

    predict = watch_module.predict_to_folder
    monkeypatch.setattr(watch_module, "predict_to_folder", kill)
    for _ in range(MAX_TRIES):
        with pytest.raises(KilledError):
            look()
    said, state = look()
    assert "the process ended 5 times while it worked on this film" in said[0].text
    assert [status(state, number) for number in range(2)] == [FAILED, DONE]


def test_a_signal_is_not_the_fault_of_a_film(fake, look, monkeypatch):
    fake.add(small_film(0))

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(watch_module, "predict_to_folder", stop)
        for _ in range(MAX_TRIES + 1):
            with pytest.raises(KeyboardInterrupt):
                look()
    look()
    assert counts(fake, [0]) == [(1, 1)]


def test_an_archive_that_is_away_is_waited_for_and_said_once(fake, predictor, tmp_path, monkeypatch):
    fake.add(small_film(0))
    state = WatchState(tmp_path)
    watch = Watch(Archive(Connection(fake.url, timeout=0.5)), predictor, state, WatchOptions(store_ood=True))
    searches = iter(range(100))

    def away(method, path, handler):
        handler.answer(503)
        return True

    class EndError(Exception):
        pass

    def wait(seconds):
        assert seconds == 60
        step = next(searches)
        fake.rules = [away] if step in (2, 3, 4) else []
        if step == 5:
            fake.add(small_film(1))
        if step == 7:
            raise EndError

    monkeypatch.setattr(watch_module.time, "sleep", wait)
    fake.rules = [away]  # also at the beginning
    said = []
    with contextlib.suppress(EndError):
        said += (event.text for event in watch.run())
    kinds = ["waiting" if "waiting" in one else "back" if "again" in one else "film" for one in said]
    assert kinds == ["waiting", "back", "film", "waiting", "back", "film"]
    assert f"{fake.url} cannot answer now (503); waiting for it" in said and f"{fake.url} answers again" in said
    assert counts(fake, range(2)) == [(1, 1)] * 2


def test_an_archive_that_goes_away_in_the_middle_costs_no_film_a_try(fake, look):
    fake.add(small_film(0), small_film(1))
    gone = []

    def rule(method, path, handler):
        if method == "POST":
            gone.append(path)
        if gone:
            handler.answer(502)
        return bool(gone)

    fake.rules = [rule]
    with pytest.raises(ArchiveAwayError):
        look()
    fake.rules = []
    _, state = look()
    assert counts(fake, range(2)) == [(1, 1)] * 2 and state.film("1.2.826.0", uid(0)).tries == 0


def test_a_wrong_address_ends_a_watch_and_a_refusal_later_does_not(fake, predictor, tmp_path, monkeypatch):
    def refuse(method, path, handler):
        handler.answer(401)
        return True

    fake.rules = [refuse]
    watch = Watch(Archive(Connection(fake.url)), predictor, WatchState(tmp_path), WatchOptions())
    with pytest.raises(ArchiveError, match="401"):
        next(watch.run())
    fake.rules = []
    steps = iter([[refuse], [refuse], []])
    monkeypatch.setattr(watch_module.time, "sleep", lambda _: setattr(fake, "rules", next(steps)))
    events = watch.run()
    assert "401" in next(events).text and "answers again" in next(events).text


def test_a_study_or_a_film_that_is_refused_stops_no_other(fake, look):
    fake.add(*(small_film(number) for number in range(3)))

    def rule(method, path, handler):
        is_gone = "/studies/1.2.826.0/series?" in path
        is_refused = f"/instances/{uid(1)}" in path
        if is_gone or is_refused:
            handler.answer(404 if is_gone else 403)
        return is_gone or is_refused

    fake.rules = [rule]
    said, state = look()
    assert "studies/1.2.826.0: left out: the archive does not have this study any more (404)" in said[0].text
    assert "does not give this object (403)" in said[1].text
    assert [status(state, number) for number in range(3)] == [OPEN, OPEN, DONE]


def test_since_is_a_date_or_days_back_and_moves_with_the_clock(fake, look):
    day = datetime.date(2026, 11, 27)
    assert WatchOptions(since=day).first_date() == "20261127"
    today = datetime.date.today()
    assert WatchOptions(since=0).first_date() == today.strftime("%Y%m%d")
    assert WatchOptions(since=3).first_date() == (today - datetime.timedelta(days=3)).strftime("%Y%m%d")
    look(WatchOptions(since=day, once=True))
    assert any("StudyDate=20261127-" in request and "ModalitiesInStudy=CR" in request for request in fake.requests)
    for wrong in ("yesterday", "2026-13-01", "-1"):
        with pytest.raises(SystemExit):
            main(["dicomweb", "watch", fake.url, f"--since={wrong}"])


def test_one_watch_for_a_state_folder(fake, tmp_path, capsys):
    with opened_state(tmp_path):
        assert main(["dicomweb", "watch", fake.url, "--once", "--state", str(tmp_path)]) == 2
    assert "is used by another `c2fvl dicomweb watch`" in capsys.readouterr().err
    assert main(["dicomweb", "watch", fake.url, "--once", "--state", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b'{"films": {"1.2": {"status": "new"}}}', b'{"films": {"1.2": {"other": 1}}}',
     b'{"films": {"1.2": {"status": "done", "tries": "x"}}}'],
)  # fmt: skip
def test_a_damaged_state_is_named(tmp_path, content):
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "1.2.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"1\.2\.json cannot be read .* remove it"), opened_state(tmp_path):
        pass


def test_old_states_are_forgotten(tmp_path):
    with opened_state(tmp_path) as state:
        state.note("1.2", "1.2.3", state.film("1.2", "1.2.3"))
        state.note("1.4", "1.4.3", state.film("1.4", "1.4.3"))
    os.utime(tmp_path / "studies" / "1.2.json", (0, 0))
    with opened_state(tmp_path):
        assert [path.name for path in (tmp_path / "studies").iterdir()] == ["1.4.json"]


@pytest.mark.slow(like="test_each_film_has_its_results_once")
def test_a_watch_that_is_killed_again_and_again_stores_each_result_once(fake, tmp_path):
    """SIGKILL at any moment, then SIGTERM: the films are done once each, and no image is left on the disk."""
    numbers = range(12)
    fake.add(*(small_film(number) for number in numbers))
    command = [sys.executable, "-m", "c2fvl", "dicomweb", "watch", fake.url, "--state", str(tmp_path / "state"),
               "--every", "1", "--store-ood", "--threads", "1"]  # fmt: skip
    for kills in range(1, 4):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        fake.requests.clear()
        end = time.monotonic() + 60
        while sum("POST" in request for request in fake.requests) < kills and time.monotonic() < end:
            time.sleep(0.003)
        process.kill()
        process.communicate()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    end = time.monotonic() + 120
    while counts(fake, numbers) != [(1, 1)] * 12 and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(2)  # it looks again and finds nothing
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 143 and "stopped by SIGTERM" in said, said
    assert counts(fake, numbers) == [(1, 1)] * 12
    assert not [path for path in (tmp_path / "state").iterdir() if path.name.startswith(PREFIX)]
    states = [json.loads(path.read_text()) for path in (tmp_path / "state" / "studies").iterdir()]
    assert len(states) == 12
