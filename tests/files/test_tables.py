"""Tables that a stranger made to take time and memory."""

import io
import time
import zipfile

import pytest

from c2fvl.files import tables
from c2fvl.files.tables import read_cells, write_cells

MANY_ATTRIBUTES = " ".join(f"a{number}='1'" for number in range(20_000))


def made(path, *, sheet=None, **changed):
    """Write an xlsx of two rows with the content of its sheet, or of other files, changed."""
    write_cells(path, [["Image", "Description"], ["a.png", "text"]])
    target = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            text = old.read(member).decode()
            if sheet is not None and member.filename.endswith("sheet1.xml"):
                before, _, after = text.partition("<sheetData>")
                text = f"{before}<sheetData>{sheet}</sheetData>{after.partition('</sheetData>')[2]}"
            for name, change in changed.items():
                if member.filename.endswith(f"{name}.xml"):
                    text = change(text)
            new.writestr(member.filename, text)
    path.write_bytes(target.getvalue())
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sheet": f"<row>{'<c/>' * 3_000_000}</row>"}, "sheet1.xml holds more than the 2,500,000 tags"),
        ({"sheet": f"<row>{'<c/>' * 50}</row>" * 60_000}, "sheet1.xml holds more than"),
        ({"sheet": "<row/>" * 3_000_000}, "sheet1.xml holds more than"),
        ({"sheet": "<row><c><is>" * 1_000_000}, "sheet1.xml holds more than"),
        ({"styles": lambda text: text.replace("</cellXfs>", "<xf/>" * 3_000_000 + "</cellXfs>")}, "styles.xml holds"),
        ({"sheet": f"<row {MANY_ATTRIBUTES}/>"}, "has a tag of more than 65536 bytes"),
        ({"sheet": '<row r="1048576"><c r="A1048576"><v>1</v></c></row>'}, "more than 1000000 rows"),
        ({"workbook": lambda text: " " * 2**21 + "<!DOCTYPE a>" + text}, "workbook.xml defines a document type"),
        ({"workbook": lambda text: "<!-- a -->" + " " * (2**20 - 12) + "<!DOCTYPE a>" + text}, "document type"),
        ({"workbook": lambda text: f"<!ENTITY a 'b'>{text}"}, "document type"),
    ],
)
def test_what_takes_minutes_is_refused_at_once(tmp_path, change, message):
    path = made(tmp_path / "a.xlsx", **change)
    assert path.stat().st_size < 2**20
    began = time.monotonic()
    with pytest.raises(ValueError, match=message):
        read_cells(path)
    assert time.monotonic() - began < 30  # the machine may be busy; it takes less than 3 s


def test_a_part_of_any_name_is_looked_into(tmp_path):
    path = tmp_path / "a.xlsx"
    write_cells(path, [["Image"], ["a.png"]])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("xl/worksheets/sheet1.bin", '\ufeff<?xml version="1.0"?><!DOCTYPE a>'.encode("utf-16"))
    with pytest.raises(ValueError, match=r"sheet1\.bin defines a document type"):
        read_cells(path)


def test_pictures_and_comments_in_a_workbook_are_no_fault(tmp_path):
    path = made(tmp_path / "a.xlsx", workbook=lambda text: text.replace("?>", "?>\n<!-- <c/> --><!-- - -->", 1))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("xl/media/image1.bmp", b"BM<!DOCTYPE" + b"<" * 3_000_000)
    assert [cells for _, cells in read_cells(path)] == [["Image", "Description"], ["a.png", "text"]]


def test_an_archive_of_many_files_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_MEMBERS", 20)
    path = made(tmp_path / "a.xlsx")
    assert read_cells(path)
    with zipfile.ZipFile(path, "a") as archive:
        for number in range(20):
            archive.writestr(str(number), b"")
    with pytest.raises(ValueError, match="holds more than 20 files"):
        read_cells(path)


def test_large_tables_are_read(tmp_path):
    rows = [["Image", "Description"], *(["a.png", number] for number in range(5000))]
    write_cells(tmp_path / "a.xlsx", rows)
    assert [cells for _, cells in read_cells(tmp_path / "a.xlsx")] == rows
