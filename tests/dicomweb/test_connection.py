"""What an archive may answer, and what it may not: time, size, redirects, credentials, junk."""

import json
import shutil
import subprocess
import time

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_archive import fake_archive
from support.films import small_film

from c2fvl.cli.main import main
from c2fvl.dicomweb import archive as archive_module
from c2fvl.dicomweb import connection, multipart
from c2fvl.dicomweb.archive import Archive, FoundObject, FoundSeries
from c2fvl.dicomweb.connection import ArchiveAwayError, ArchiveError, Connection, Credentials, ObjectError
from c2fvl.dicomweb.uids import derived_uid, is_uid

FILM = FoundObject("1.2.826.1", "1.2.826.1.1", "1.2.826.1.1.1")
SECRET = "a-token-of-many-letters"


def always(*answer, **headers):
    """Return a rule that answers every request so."""

    def rule(method, path, handler):
        handler.answer(*answer, **headers)
        return True

    return rule


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=3))
def test_multipart_bodies_come_back(parts):
    assert multipart.decode(*multipart.encode(parts, "0123456789abcdef")) == parts


@pytest.mark.parametrize(
    ("kind", "body", "parts"),
    [
        ("application/dicom", b"one", [b"one"]),
        (
            'multipart/related; type="application/dicom"; boundary=b',
            b"--b\r\nA: 1\r\nB: 2\r\n\r\none\r\n--b--",
            [b"one"],
        ),
        ('Multipart/Related; BOUNDARY="b c"', b"preamble\r\n--b c\r\n\r\n\r\n--b\r\n\r\n--b c--tail", [b"\r\n--b\r\n"]),
    ],
)
def test_multipart_bodies_of_other_archives_are_read(kind, body, parts):
    assert multipart.decode(kind, body) == parts


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/html", b"<html>"),
        ("multipart/related", b"--b\r\n\r\none\r\n--b--"),
        ("multipart/related; boundary=b", b""),
        ("multipart/related; boundary=b", b"--b\r\n\r\none"),
        ("multipart/related; boundary=b", b"--b\r\n\r\none\r\n--b"),
        ("multipart/related; boundary=b", b"--b\r\nno end of the header" + bytes(99999)),
    ],
)
def test_multipart_bodies_that_are_cut_or_of_another_kind_are_refused(kind, body):
    with pytest.raises(ValueError, match=r"cut short|expected a DICOM object"):
        multipart.decode(kind, body)


def test_uids_are_checked_and_derived():
    assert is_uid("1.2.840.10008") and is_uid("0") and is_uid("1" * 64)
    for odd in ("", ".", "..", "1.", ".1", "1..2", "1/2", "../1", "1.2\n", "1" * 65, "１.2", 1, None, ["1"]):
        assert not is_uid(odd), odd
    assert is_uid(derived_uid("a", 1)) and derived_uid("a", 1) == derived_uid("a", 1) != derived_uid("a", 2)
    assert derived_uid("a", 1).startswith("2.25.")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://me:secret@host/dicom-web", "holds a user or a password"),
        ("me:secret@host/dicom-web", "holds a user or a password"),
        ("http://me:secret@host:x/", "holds a user or a password"),
        ("ftp://host", "expected https://HOST"),
        ("host:8042", "expected https://HOST"),
        ("http://host:x/", "cannot be read"),
        ("http://host/dicom-web?x=1", "without \\? and #"),
        ("http://host/dicom web", "without \\? and #"),
        ("http://host/\x1b[31m", "without \\? and #"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_and_no_password_is_repeated(url, said):
    with pytest.raises(ValueError, match=said) as caught:
        Connection(url)
    assert "secret" not in str(caught.value)


def test_credentials_go_unencrypted_only_to_this_machine_or_by_an_option(tmp_path):
    token = tmp_path / "token"
    token.write_text(SECRET + "\n")
    credentials = Credentials(token)
    for url in ("http://192.0.2.7/dicom-web", "http://archive.example", "http://127.0.0.1.example"):
        assert Connection(url).is_exposed
        with pytest.raises(ValueError, match="unencrypted to another machine; use https://"):
            Connection(url, credentials)
        Connection(url, credentials, unencrypted=True)
    for url in ("http://127.0.0.1:8042/dicom-web", "http://localhost", "http://[::1]:80/x", "https://archive.example"):
        assert not Connection(url, credentials).is_exposed


def test_credentials_come_from_files_and_are_read_again(tmp_path, fake):
    for content in (b"", b"two\nlines", b"\xff\xfe", b"x" * 70000):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(ValueError, match="must hold one line"):
            Credentials(tmp_path / "bad").header()
    with pytest.raises(ValueError, match="give both"):
        Credentials(user="me")
    with pytest.raises(ValueError, match="exclude each other"):
        Credentials(tmp_path / "bad", "me", tmp_path / "bad")
    (tmp_path / "password").write_text("päss word\n")
    assert Credentials(None, "me", tmp_path / "password").header()["Authorization"] == "Basic bWU6cMOkc3Mgd29yZA=="
    (tmp_path / "token").write_text("first\n")
    used = Connection(fake.url, Credentials(tmp_path / "token"))
    for content, expected in (("second", "second"), ("", "second"), (None, "second")):
        (tmp_path / "token").unlink()
        if content is not None:
            (tmp_path / "token").write_text(content)
        used.renew_credentials()
        used.get_json("/studies", {"offset": "0"})
        assert fake.headers[-1]["Authorization"] == f"Bearer {expected}"


def test_passwords_and_proxies_of_the_environment_are_not_used(tmp_path, monkeypatch, fake):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert Archive(Connection(fake.url)).has_study("1.2") is False
    assert "Authorization" not in fake.headers[-1]


def test_a_redirect_is_not_followed_and_carries_no_token_away(tmp_path, fake):
    (tmp_path / "token").write_text(SECRET)
    with fake_archive() as other:
        for status in (301, 302, 307, 308):
            fake.rules = [always(status, Location=f"{other.url}/studies")]
            with pytest.raises(ArchiveError, match=f"sends requests on to {other.url}/studies"):
                Archive(Connection(fake.url, Credentials(tmp_path / "token"))).has_study("1.2")
        assert other.requests == []


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        ((401, b""), ArchiveError, "wants a password or a token \\(401\\)"),
        ((403, b""), ArchiveError, "does not allow this .*403"),
        ((404, b""), ArchiveError, "nothing at this address \\(404\\).*dicom-web"),
        ((400, b""), ArchiveError, "refuses /studies \\(400\\)"),
        ((200, b"<html>", "text/html"), ArchiveError, "answers with text/html"),
        ((200, b"{}"), ArchiveError, "is no list"),
        ((200, b"junk"), ArchiveError, "no JSON"),
        ((200, b"[" * 100_000), ArchiveError, "no JSON"),
        ((500, b""), ArchiveAwayError, "cannot answer now \\(500\\)"),
        ((503, b""), ArchiveAwayError, "cannot answer now \\(503\\)"),
        ((429, b""), ArchiveAwayError, "cannot answer now \\(429\\)"),
    ],
)
def test_answers_that_are_no_results_of_a_search_are_said(fake, archive, answer, error, said):
    fake.rules = [always(*answer)]
    with pytest.raises(error, match=said):
        archive.has_study("1.2")


def test_an_answer_without_content_and_an_empty_list_find_nothing(fake, archive):
    for answer in ((204, b""), (200, b""), (200, b"[]")):
        fake.rules = [always(*answer)]
        assert archive.has_study("1.2") is False


def test_a_compressed_answer_is_refused(fake, archive):
    fake.rules = [always(200, b"\x1f\x8b", Content_Encoding="gzip")]
    with pytest.raises(ArchiveError, match="compresses its answers"):
        archive.has_study("1.2")
    assert fake.headers[-1]["Accept-Encoding"] == "identity"


def raw(*pieces, pause=0.0, count=1):
    """Return a rule that writes raw bytes and closes the connection."""

    def rule(method, path, handler):
        handler.close_connection = True
        try:
            for _ in range(count):
                for piece in pieces:
                    handler.wfile.write(piece)
                    handler.wfile.flush()
                    time.sleep(pause)
        except OSError:  # the client has enough
            pass
        return True

    return rule


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\n"


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (raw(b""), "does not answer"),
        (raw(HEAD + b"Content-Length: 100\r\n\r\n[]"), "cut its answer short"),
        (raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n[]"), "cut its answer short"),
        (raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n[]"), "cut its answer short|does not answer"),
        (raw(b"no HTTP at all\r\n\r\n"), "does not answer"),
        (raw(HEAD + b"X: 1\r\n" * 500 + b"\r\n"), "does not answer"),
    ],
)
def test_a_broken_answer_means_that_the_archive_is_away(fake, archive, rule, said):
    fake.rules = [rule]
    with pytest.raises(ArchiveAwayError, match=said):
        archive.has_study("1.2")


def test_nobody_there(archive):
    with pytest.raises(ArchiveAwayError, match="connection refused"):
        Archive(Connection("http://127.0.0.1:1/dicom-web")).has_study("1.2")
    with pytest.raises(ArchiveError, match=r"certificate is not trusted or TLS fails.*--ca-file"):
        Archive(Connection(archive.connection.url.replace("http", "https"))).has_study("1.2")


def test_a_certificate_is_verified_by_the_authority_that_was_named(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not there to make a certificate")
    for name, host in (("own", "IP:127.0.0.1"), ("other", "DNS:archive.example")):
        key, certificate = tmp_path / f"{name}.key", tmp_path / f"{name}.crt"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", f"/CN={name}",
             "-addext", f"subjectAltName={host}", "-keyout", key, "-out", certificate],
            check=True, capture_output=True,
        )  # fmt: skip
        (tmp_path / f"{name}.pem").write_bytes(key.read_bytes() + certificate.read_bytes())
    with fake_archive(tmp_path / "own.pem") as fake:
        assert Archive(Connection(fake.url, ca_file=tmp_path / "own.crt")).has_study("1.2") is False
        for ca_file in (None, tmp_path / "other.crt"):
            with pytest.raises(ArchiveError, match=r"certificate is not trusted .*self.signed certificate.*--ca-file"):
                Archive(Connection(fake.url, ca_file=ca_file)).has_study("1.2")
    of_another_host = pytest.raises(ArchiveError, match=r"certificate is not trusted .*IP address mismatch")
    with fake_archive(tmp_path / "other.pem") as fake, of_another_host:
        Archive(Connection(fake.url, ca_file=tmp_path / "other.crt")).has_study("1.2")


def test_a_file_that_inflates_without_end_is_refused(fake, archive, monkeypatch):
    monkeypatch.setattr("c2fvl.files.dicom_headers._MAX_INFLATED", 2**16)
    film = small_film(1)
    film.PixelData = bytes(2**20)
    film.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    fake.add(film)
    assert len(fake.objects[FILM.uid][1]) < 2**14
    with pytest.raises(ObjectError, match="is damaged and cannot be read"):
        archive.fetch(FILM)


def test_a_silent_archive_and_one_that_sends_drop_by_drop_are_left(fake, monkeypatch):
    slow = Archive(Connection(fake.url, timeout=0.1))
    fake.rules = [raw(HEAD + b"Content-Length: 100\r\n\r\n", pause=1)]
    with pytest.raises(ArchiveAwayError, match=r"does not answer within 0\.1 s"):
        slow.has_study("1.2")
    fake.rules = [raw(HEAD + b"Content-Length: 1000\r\n\r\n", b"[", pause=0.05, count=60)]
    begin = time.monotonic()
    with pytest.raises(ArchiveAwayError, match="more than 1 s for one answer"):
        slow.has_study("1.2")
    assert time.monotonic() - begin < 3


def test_an_endless_answer_is_not_kept(fake, archive, monkeypatch):
    monkeypatch.setattr(connection, "_MAX_JSON", 2**20)
    fake.rules = [raw(HEAD + b"\r\n", b"[" + b"1," * 2**17, count=40)]
    with pytest.raises(ArchiveError, match="larger than 1 MiB"):
        archive.has_study("1.2")
    monkeypatch.setattr(archive_module, "_MAX_OBJECT", 2**20)
    fake.rules = [always(200, bytes(2**20 + 1), "application/dicom")]
    with pytest.raises(ObjectError, match="larger than 1 MiB"):
        archive.fetch(FILM)


def test_hostile_uids_are_left_out(fake, archive):
    odd = ["../../../etc/passwd", "1/../2", "..", "", "1.2\x1b[31m", "9" * 65, 5, None, {"a": 1}, [1]]
    items = [{"00080018": {"Value": [one]}, "00080016": {"Value": ["x"]}} for one in odd]
    items += [{}, 7, None, {"00080018": 3}, {"00080018": {"Value": []}}, {"00080018": {"Value": ["1.2.3"]}}]
    fake.rules = [always(200, json.dumps(items).encode())]
    assert [one.uid for one in archive.objects(FoundSeries("1.2", "1.3"))] == ["1.2.3"]
    assert archive.num_odd


@pytest.mark.parametrize("page", [1, 2, 1000])
def test_all_pages_of_a_search_are_read(fake, archive, page):
    fake.page = page
    fake.add(*(small_film(number) for number in range(5)))
    assert {one.uid for one in archive.studies(modality="CR", since="19000101")} == {
        f"1.2.826.{number}" for number in range(5)
    }


def test_senseless_counts_of_objects_are_none(fake, archive):
    items = [
        {"0020000D": {"Value": [f"1.{number}"]}, "00201208": {"Value": [value]}}
        for number, value in enumerate([3, "4", "9" * 5000, "x", None, [], 2.5])
    ]
    fake.rules = [always(200, json.dumps(items).encode())]
    found = archive.studies(modality="CR", since="20260101")
    assert [one.count for one in found] == [3, 4, None, None, None, None, None]


def test_a_search_without_end_is_ended(fake, archive, monkeypatch):
    monkeypatch.setattr(archive_module, "_MAX_FOUND", 50)
    count = iter(range(10**6))

    def endless(method, path, handler):
        handler.answer(200, json.dumps([{"00080018": {"Value": [f"1.{next(count)}"]}}]).encode())
        return True

    fake.rules = [endless]
    with pytest.raises(ArchiveError, match="finds more than 50"):
        archive.objects(FoundSeries("1.2", "1.3"))
    same = [{"00080018": {"Value": ["1.2.3"]}}]
    fake.rules = [always(200, json.dumps(same).encode())]  # it knows no pages
    assert len(archive.objects(FoundSeries("1.2", "1.3"))) == 1


def test_an_object_that_was_not_asked_for_is_refused(fake, archive):
    fake.add(small_film(1))
    data = fake.objects[FILM.uid][1]
    assert archive.fetch(FILM).data == data
    png = b"\x89PNG\r\n\x1a\n" + bytes(100)
    two = multipart.encode([data, data], "b")
    for kind, body, said in (
        ("application/dicom", png, "another object|damaged"),
        ("application/dicom", data[:300], "another object|damaged"),
        (two[0], two[1], "holds 2 objects"),
    ):
        fake.rules = [always(200, body, kind)]
        with pytest.raises(ObjectError, match=said):
            archive.fetch(FILM)
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        fake.objects[FILM.uid] = (None, None)
        fake.add(small_film(1, **{name: "1.2.9"}))
        other = fake.objects.get(FILM.uid, (None, None))[1] or fake.objects["1.2.9"][1]
        fake.rules = [always(200, other, "application/dicom")]
        with pytest.raises(ObjectError, match=f"its {name} differs"):
            archive.fetch(FILM)
    for status, said in (
        (404, "does not have this object"),
        (403, "does not give this object"),
        (410, "does not give this object"),
    ):
        fake.rules = [always(status)]
        with pytest.raises(ObjectError, match=said):
            archive.fetch(FILM)


def sequence(tag, *items):
    return {tag: {"vr": "SQ", "Value": list(items)}}


def refused(uid, code):
    return {"00081155": {"vr": "UI", "Value": [uid]}, "00081197": {"vr": "US", "Value": [code]}}


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (200, sequence("00081198", refused("1.2.7", 0x0122)), "1 of 1 results \\(its SOP class is not supported\\)"),
        (409, sequence("00081198", refused("1.2.7", 0xABCD)), "reason ABCD"),
        (202, sequence("00081198", {"00081155": {"Value": ["1.2.7"]}}), "no reason is given"),
        (400, None, "status 400"),
        (413, None, "status 413"),
        (200, None, "status 200"),
        (200, [1, None, "x"], "status 200"),
    ],
)
def test_a_refused_store_is_said_with_its_reason(fake, archive, status, answer, said):
    body = b"" if answer is None else json.dumps(answer).encode()

    def rule(method, path, handler):
        if method == "POST":
            handler.answer(status, body)
        return method == "POST"

    fake.rules = [rule]
    with pytest.raises(ObjectError, match=said):
        archive.store("1.2", {"1.2.7": b"data"})


def test_a_store_that_says_nothing_is_looked_up(fake, archive):
    film = small_film(1)

    def rule(method, path, handler):
        if method == "POST":
            fake.add(film)
            handler.answer(200, b"<xml/>", "application/dicom+xml")
        return method == "POST"

    fake.rules = [rule]
    archive.store(FILM.study, {FILM.uid: b"data"})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict", "http://me:secret@host/", "--study", "1.2"], "give --user and --password-file"),
        (["predict", "http://127.0.0.1:1/", "--study", "../1"], "--study must be a UID"),
        (["predict", "http://127.0.0.1:1/", "--study", "1.2"], "connection refused"),
        (["watch", "http://127.0.0.1:1/", "--once"], "connection refused"),
        (["watch", "http://127.0.0.1:1/", "--modality", "CR;DX"], "--modality must be"),
        (["watch", "http://127.0.0.1:1/", "--user", "me"], "give both"),
        (["watch", "http://127.0.0.1:1/", "--ca-file", "none.pem"], "--ca-file none.pem cannot be used"),
        (["watch", "http://127.0.0.1:1/", "--token-file", "none"], "none"),
        (["watch", "http://127.0.0.1:1/", "--model", "ct_small"], "is for CT slices"),
    ],
)
def test_wrong_calls_are_one_line(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert main(["dicomweb", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and "secret" not in error


def test_a_missing_package_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["dicomweb", "predict", "http://127.0.0.1:1/", "--study", "1.2"]) == 2
    assert capsys.readouterr().err == (
        "c2fvl: DICOMweb needs packages that are not installed: pip install 'c2fvl[dicomweb]'\n"
    )
