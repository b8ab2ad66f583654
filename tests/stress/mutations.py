"""Damaged and hostile forms of a file, drawn from a seed."""

import io
import json
import random
import re
import struct
import zipfile
from collections.abc import Callable, Sequence

NUMBERS = (b"nan", b"NaN", b"Infinity", b"-1", b"0", b"1e999", b"1" * 400, b"99999999999999999999", b"-0.0", b"1.5")
TEXTS = (
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n" * 300, b'"', b"'", b"[" * 20_000, b"{" * 20_000, b"}" * 9,
    b"," * 2_000, b"A" * 200_000, b"../../../etc/passwd", b"=1+1", b"\xf0\x9f\x98\x80", b"\xcc\x81" * 50,
    b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"null", b"true", b"[]", b"{}", b"\\u0000", b"\\ud800",
)  # fmt: skip
WORDS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000)
"""Numbers at which lengths, sizes and offsets in binary files overflow."""

Mutation = Callable[[bytes, random.Random], bytes]


def flip(data: bytes, draw: random.Random) -> bytes:
    """Change one to eight bytes."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8))):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def cut(data: bytes, draw: random.Random) -> bytes:
    """Keep the beginning, as after a full disk; sometimes nothing."""
    return data[: draw.randrange(len(data))] if draw.random() < 0.9 else b""


def lose(data: bytes, draw: random.Random) -> bytes:
    """Take a piece out."""
    begin = draw.randrange(len(data))
    return data[:begin] + data[begin + draw.randrange(1, 1 + max(1, len(data) // 4)) :]


def repeat(data: bytes, draw: random.Random) -> bytes:
    """Write a piece twice or a hundred times."""
    begin = draw.randrange(len(data))
    piece = data[begin : begin + draw.randrange(1, 200)]
    return data[:begin] + piece * draw.choice((2, 3, 100)) + data[begin:]


def blank(data: bytes, draw: random.Random) -> bytes:
    """Overwrite a piece with zeros, as a file system does after a power loss."""
    begin = draw.randrange(len(data))
    length = min(draw.choice((4, 512, 4096)), len(data) - begin)
    return data[:begin] + bytes(length) + data[begin + length :]


def overflow(data: bytes, draw: random.Random) -> bytes:
    """Write a number at which sizes overflow, most often in the header."""
    form = draw.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
    number = struct.pack(form, draw.choice(WORDS) & (256 ** struct.calcsize(form) - 1))
    limit = min(len(data), 200) if draw.random() < 0.7 else len(data)
    begin = draw.randrange(limit)
    return data[:begin] + number + data[begin + len(number) :]


def swap_number(data: bytes, draw: random.Random) -> bytes:
    """Put another number in the place of one that is written in digits."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data))
    if not found:
        return flip(data, draw)
    at = draw.choice(found)
    return data[: at.start()] + draw.choice(NUMBERS) + data[at.end() :]


def insert_text(data: bytes, draw: random.Random) -> bytes:
    """Put something into the file that parsers stumble over."""
    begin = draw.randrange(len(data) + 1)
    return data[:begin] + draw.choice(TEXTS) + data[begin:]


def swap_word(data: bytes, draw: random.Random) -> bytes:
    """Put a hostile word in the place of a word of the file."""
    found = list(re.finditer(rb"[A-Za-z_]{2,}", data))
    if not found:
        return insert_text(data, draw)
    at = draw.choice(found)
    return data[: at.start()] + draw.choice(TEXTS + NUMBERS) + data[at.end() :]


def swap_lines(data: bytes, draw: random.Random) -> bytes:
    """Shuffle a few lines, or write one twice."""
    lines = data.split(b"\n")
    for _ in range(3):
        first, second = draw.randrange(len(lines)), draw.randrange(len(lines))
        lines[first], lines[second] = lines[second], lines[first] if draw.random() < 0.5 else lines[second]
    return b"\n".join(lines)


BINARY = (flip, cut, lose, repeat, blank, overflow)
TEXT = (flip, cut, lose, repeat, swap_number, insert_text, swap_word, swap_lines)


def mutate(data: bytes, draw: random.Random, mutations: Sequence[Mutation] = BINARY) -> bytes:
    """Return the data changed once, sometimes twice or three times."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        data = draw.choice(mutations)(data or b" ", draw)
    return data


def mutate_archive(data: bytes, draw: random.Random) -> bytes:
    """Change one member of a zip archive, with its checksum made to fit; sometimes the archive itself."""
    if draw.random() < 0.3:
        return mutate(data, draw)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(entry.filename, entry.compress_type, archive.read(entry)) for entry in archive.infolist()]
    place = draw.randrange(len(members))
    name, kind, content = members[place]
    what = draw.random()
    if what < 0.1:
        del members[place]
    elif what < 0.2:
        members.append((name if draw.random() < 0.5 else "../" + name, kind, content))
    else:
        members[place] = (name, kind, mutate(content, draw, TEXT if name.endswith((".xml", ".rels")) else BINARY))
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, kind, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=kind)
    return written.getvalue()


def mutate_safetensors(data: bytes, draw: random.Random) -> bytes:
    """Change the table of a safetensors file, with its length made to fit; sometimes the file itself."""
    if draw.random() < 0.4:
        return mutate(data, draw)
    length = int.from_bytes(data[:8], "little")
    table = mutate(data[8 : 8 + length], draw, TEXT)
    if draw.random() < 0.5:
        entries = json.loads(data[8 : 8 + length])
        entry = entries[draw.choice([name for name in entries if name != "__metadata__"])]
        entry[draw.choice(("shape", "data_offsets"))] = draw.choice(([], [0], [-1], [2**62, 2**62], [0, 2**40], None))
        entry["dtype"] = draw.choice((entry["dtype"], "F64", "BF16", "I64", "NONE"))
        table = json.dumps(entries).encode()
    return len(table).to_bytes(8, "little") + table + data[8 + length :]
