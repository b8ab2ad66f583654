"""Compressed pixels are decoded in another process, which may die; hostile headers end in one sentence."""

import random
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom")

from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless
from stress.mutations import mutate
from support.dicom import as_bytes, example, film

from c2fvl.files import dicom_decode, dicom_headers, dicom_worker
from c2fvl.files.dicom_headers import parse
from c2fvl.files.read_picture import read_picture

PIXELS = np.random.default_rng(0).integers(0, 4096, (64, 48)).astype(np.uint16)


def compressed(syntax, pixels=PIXELS) -> bytes:
    dataset = film(pixels, bits=12)
    dataset.compress(syntax)
    return as_bytes(dataset)


@pytest.fixture
def fresh_worker():
    """A test that changes the worker begins and ends without one."""
    dicom_decode._decoding.end()
    yield
    dicom_decode._decoding.end()


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless])
def test_lossless_syntaxes_give_the_stored_values(syntax):
    np.testing.assert_allclose(read_picture(compressed(syntax)).pixels, PIXELS / 4095, atol=1e-6)


def test_damaged_streams_leave_this_process_alive():
    """One of seventy damaged JPEG Lossless streams kills its decoder; `make stress` tries thousands."""
    files = [compressed(syntax) for syntax in (JPEG2000Lossless, JPEGLSLossless, RLELossless)]
    files.append(example("JPEG-LL.dcm").read_bytes())
    refused = 0
    for number in range(24):
        content = files[number % 4]
        begin = content.rindex(b"\xe0\x7f\x10\x00")  # the pixels, so that the header stays whole
        data = content[:begin] + mutate(content[begin:], random.Random(number))
        try:
            pixels = read_picture(data, name="damaged").pixels
            assert pixels.min() >= 0
            assert pixels.max() <= 1
        except ValueError as error:
            refused += 1
            assert str(error).startswith("damaged: ")
            assert "\n" not in str(error)
    assert refused > 5
    np.testing.assert_allclose(read_picture(files[0]).pixels, PIXELS / 4095, atol=1e-6)


WORKER = """
import os, struct, sys, time
lengths = struct.Struct("<IQ")
def answer(text):
    os.write(1, lengths.pack(len(text), 0) + text)
answer(b'{"ready": 1}')
sys.stdin.buffer.read(lengths.size)
"""


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        ("os.abort()", "the decoder broke off on its pixels; the file is probably damaged"),
        ("os._exit(0)", "the decoder broke off"),
        ("time.sleep(60)", "not decoded within 0 s; the file is probably damaged"),
        ("os.write(1, lengths.pack(2, 2**40) + b'{}'); time.sleep(60)", "broke off"),
        ("os.write(1, lengths.pack(100, 0) + b'{}')", "broke off"),
    ],
)
def test_a_decoder_that_dies_costs_one_file(fresh_worker, monkeypatch, tmp_path, act, reason):
    content = compressed(RLELossless)
    with monkeypatch.context() as patched:
        script = tmp_path / "worker.py"
        script.write_text(f"import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n{WORKER}\n{act}\n")
        patched.setattr(dicom_worker, "__file__", str(script))
        patched.setattr(dicom_decode, "_DECODE_SECONDS", 0.4)
        with pytest.raises(ValueError, match=rf"^film\.dcm: .*{reason}"):
            read_picture(content, name="film.dcm")
    np.testing.assert_allclose(read_picture(content).pixels, PIXELS / 4095, atol=1e-6)


def test_a_worker_that_does_not_start_is_said(fresh_worker, monkeypatch, tmp_path):
    (tmp_path / "worker.py").write_text("raise SystemExit")
    monkeypatch.setattr(dicom_worker, "__file__", str(tmp_path / "worker.py"))
    with pytest.raises(ValueError, match="does not start; install 'c2fvl\\[dicom\\]' again"):
        read_picture(compressed(RLELossless))


def test_a_worker_that_was_killed_is_replaced(fresh_worker):
    content = compressed(RLELossless)
    read_picture(content)
    process = dicom_decode._decoding.worker.process
    process.kill()
    process.wait()
    np.testing.assert_allclose(read_picture(content).pixels, PIXELS / 4095, atol=1e-6)


def test_threads_take_turns():
    contents = [compressed(RLELossless, np.roll(PIXELS, number)) for number in range(8)]
    found = {}
    threads = [
        threading.Thread(target=lambda number=number: found.update({number: read_picture(contents[number]).pixels}))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(8):
        np.testing.assert_allclose(found[number], np.roll(PIXELS, number) / 4095, atol=1e-6)


def test_a_plain_script_may_read_compressed_films(tmp_path):
    """Without `if __name__ == "__main__"`; the worker imports nothing of this package, and no torch."""
    (tmp_path / "film.dcm").write_bytes(compressed(RLELossless))
    (tmp_path / "script.py").write_text(
        "import os, sys\n"
        "from c2fvl.files.read_picture import read_picture\n"
        "print(read_picture('film.dcm').pixels.sum())\n"
        "from c2fvl.files import dicom_decode\n"
        "if os.path.isdir('/proc'):\n"
        "    maps = open(f'/proc/{dicom_decode._decoding.worker.process.pid}/maps').read()\n"
        "    print('torch' in maps, 'torch' in sys.modules)\n"
    )
    how = {"capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, check=False, **how)
    assert done.returncode == 0, done.stderr
    total, *others = done.stdout.split()
    assert float(total) == pytest.approx((PIXELS / 4095).sum(), rel=1e-4)
    assert others in ([], ["False", "False"])
    worker = Path(dicom_worker.__file__)
    listed = [sys.executable, "-X", "importtime", "-P", worker, Path(np.__file__).parents[1]]
    imported = subprocess.run(listed, check=False, stdin=subprocess.DEVNULL, **how).stderr
    assert "pydicom" in imported
    assert "c2fvl" not in imported
    assert "torch" not in imported


def test_without_pydicom_the_extra_is_named(monkeypatch):
    content = as_bytes(film(PIXELS))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ValueError, match=r"^scan: reading DICOM needs pydicom: pip install 'c2fvl\[dicom\]'$"):
        read_picture(content, name="scan")


def test_a_missing_decoder_is_named(monkeypatch, fresh_worker):
    monkeypatch.setitem(dicom_decode._COMPRESSED, str(RLELossless), dicom_decode._Syntax("RLE", "gdcm2", "python-gdcm"))
    with pytest.raises(ValueError, match=r"decoding RLE needs python-gdcm: pip install 'c2fvl\[dicom\]'"):
        read_picture(compressed(RLELossless))


def test_too_many_pixels_are_refused_before_decoding(fresh_worker):
    with pytest.raises(ValueError, match="48 x 64 pixels are over the limit of 500, so the file was not decoded"):
        read_picture(compressed(RLELossless), max_pixels=500)
    assert dicom_decode._decoding.worker is None


def test_a_deflated_file_is_inflated_within_a_limit(monkeypatch):
    dataset = film(PIXELS, bits=12, syntax=DeflatedExplicitVRLittleEndian)
    content = as_bytes(dataset)
    np.testing.assert_allclose(read_picture(content).pixels, PIXELS / 4095, atol=1e-6)
    meta = content[: 132 + 12 + int.from_bytes(content[140:144], "little")]
    deflating = zlib.compressobj(wbits=-15)
    bomb = meta + deflating.compress(bytes(2**20)) * 1 + deflating.flush()
    monkeypatch.setattr(dicom_headers, "_MAX_INFLATED", 2**19)
    with pytest.raises(ValueError, match="inflates to more than 0 MiB"):
        read_picture(bomb)


@pytest.mark.parametrize("depth", [200, 2000, 20_000])
def test_nested_sequences_end_in_a_sentence(depth):
    content = as_bytes(film(PIXELS, bits=12))
    sequence = b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    with pytest.raises(ValueError, match=r"^deep: .*(nested too deeply|no pixels|expected a chest film)"):
        read_picture(content[: content.index(b"\x08\x00\x16\x00")] + sequence * depth, name="deep")


def test_a_header_of_a_million_elements_ends(monkeypatch):
    monkeypatch.setattr(dicom_headers, "_MAX_READS", 2000)
    content = as_bytes(film(PIXELS, bits=12))
    element = b"\x09\x00\x10\x00LO\x00\x00"
    begin = content.index(b"\x08\x00\x16\x00")
    with pytest.raises(ValueError, match="more than about 666 elements"):
        read_picture(content[:begin] + element * 5000 + content[begin:])


def test_a_file_cut_anywhere_is_refused():
    content = as_bytes(film(PIXELS, bits=12, WindowCenter=2048, WindowWidth=4096))
    for length in sorted({*range(140, len(content), 37), len(content) - 2}):
        with pytest.raises(ValueError, match=r"^cut: "):
            read_picture(content[:length], name="cut")


def test_values_of_the_wrong_kind_are_never_a_traceback():
    whole = as_bytes(film(PIXELS, bits=12, WindowCenter=2048, WindowWidth=4096, PixelSpacing=[0.1, 0.1]))
    began = time.monotonic()
    outcomes = set()
    for number in range(150):
        draw = random.Random(number)
        begin = whole.index(b"\x08\x00\x16\x00")
        end = whole.rindex(b"\xe0\x7f\x10\x00")
        data = whole[:begin] + mutate(whole[begin:end], draw) + whole[end:]
        try:
            read_picture(data, name="odd")
            outcomes.add("read")
        except ValueError as error:
            outcomes.add("refused")
            assert str(error).startswith("odd: ")
            assert "\n" not in str(error)
    assert outcomes == {"read", "refused"}
    assert time.monotonic() - began < 60


def test_a_dataset_in_memory_is_read():
    from c2fvl.files.dicom_film import read_film

    np.testing.assert_allclose(read_film(film(PIXELS, bits=12)).pixels, PIXELS / 4095, atol=1e-6)
    np.testing.assert_allclose(read_film(parse(as_bytes(film(PIXELS, bits=12)))).pixels, PIXELS / 4095, atol=1e-6)
