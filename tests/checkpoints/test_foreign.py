"""The guarded reader of checkpoints that others wrote, attacked."""

import collections
import hashlib
import io
import os
import pickle
import random
import zipfile

import numpy as np
import pytest
import torch
from support.reference_weights import official_state_dict

from c2fvl.checkpoints.foreign import read_checkpoint
from c2fvl.checkpoints.official.convert import convert, from_reference
from c2fvl.checkpoints.trained_model import load_model
from c2fvl.config_files import load_config


@pytest.fixture(scope="module")
def weights():
    """A small state dict with the kinds of tensor that a checkpoint holds."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 6, generator=generator)
    return collections.OrderedDict(
        matrix=base, view=base[1:3, ::2], transposed=base.t(), scalar=torch.tensor(3.5), empty=torch.zeros(0, 3),
        half=base.half(), double=base.double(), count=torch.tensor(7), flags=base > 0, brain=base.bfloat16(),
        parameter=torch.nn.Parameter(base * 2),
    )  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path, weights):
    path = tmp_path / "best_model-C2FVL.pth.tar"
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
    torch.save(
        {"epoch": 17, "best_model": True, "model": "C2FVL", "state_dict": weights, "val_loss": torch.tensor(0.3),
         "optimizer": optimizer}, path,
    )  # fmt: skip
    return path


def test_reads_what_torch_reads(checkpoint, weights):
    found = read_checkpoint(checkpoint)
    assert list(found) == list(weights)
    for name, value in weights.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value.detach()), name


def test_reads_a_bare_state_dict(tmp_path, weights):
    torch.save(weights, tmp_path / "epoch_149.pth")
    assert torch.equal(read_checkpoint(tmp_path / "epoch_149.pth")["matrix"], weights["matrix"])


def test_old_files_are_refused_with_the_way_to_re_save_them(tmp_path, weights):
    torch.save({"state_dict": weights}, tmp_path / "old.pth.tar", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"(?s)not in PyTorch's zip format.*torch\.save\("):
        read_checkpoint(tmp_path / "old.pth.tar")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="not in PyTorch's zip format"):
        read_checkpoint(tmp_path / "text")
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "none")


class Evil:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.target}",)


def repacked(path, out, change, *, compression=zipfile.ZIP_STORED):
    """Write the archive again with its members changed, checksums made to fit."""
    with zipfile.ZipFile(path) as archive:
        members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    change(members)
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out


def table(members):
    return next(name for name in members if name.endswith("data.pkl"))


def test_nothing_in_a_file_can_run(checkpoint, tmp_path):
    target = tmp_path / "ran"

    def change(members):
        members[table(members)] = pickle.dumps({"state_dict": {"a": Evil(target)}}, protocol=2)

    with pytest.raises(ValueError, match=r"asks for (posix|nt)\.system"):
        read_checkpoint(repacked(checkpoint, tmp_path / "evil.pth.tar", change))
    assert not target.exists()


def test_sparse_tensors_and_other_kinds_are_refused(tmp_path):
    for name, value in {"sparse": torch.eye(3).to_sparse(), "complex": torch.ones(2, dtype=torch.complex64)}.items():
        torch.save({"state_dict": {"a": value}}, tmp_path / name)
        with pytest.raises(ValueError, match="asks for"):
            read_checkpoint(tmp_path / name)
    torch.save({"state_dict": {"a": "text"}}, tmp_path / "text")
    with pytest.raises(ValueError, match="not a tensor"):
        read_checkpoint(tmp_path / "text")
    torch.save([1, 2], tmp_path / "list")
    with pytest.raises(ValueError, match="holds no state dict"):
        read_checkpoint(tmp_path / "list")


def test_damaged_archives_are_refused(checkpoint, tmp_path):
    data = checkpoint.read_bytes()
    (tmp_path / "cut").write_bytes(data[:-200])
    with pytest.raises(ValueError, match="damaged"):
        read_checkpoint(tmp_path / "cut")

    def shorten(members):
        name = next(name for name in members if name.endswith("data/0"))
        members[name] = members[name][:-4]

    def drop(members):
        del members[next(name for name in members if name.endswith("data/0"))]

    def big_endian(members):
        members[next(name for name in members if name.endswith("byteorder"))] = b"big"

    for change, message in [(shorten, "bytes instead of"), (drop, "is missing"), (big_endian, "big-endian")]:
        with pytest.raises(ValueError, match=message):
            read_checkpoint(repacked(checkpoint, tmp_path / "changed", change))
    with pytest.raises(ValueError, match="compressed"):
        read_checkpoint(
            repacked(checkpoint, tmp_path / "packed", lambda members: None, compression=zipfile.ZIP_DEFLATED)
        )


STORAGE = object()


class View:
    """A tensor as a file may describe it."""

    def __init__(self, size, stride, offset):
        self.described = (STORAGE, offset, size, stride, False, collections.OrderedDict())

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, self.described


def with_view(*view):
    """Return a change of an archive: its table of weights holds one view of a storage of 24 numbers."""

    class Writer(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", 24) if value is STORAGE else None

    def change(members):
        stream = io.BytesIO()
        Writer(stream, protocol=2).dump({"state_dict": {"a": View(*view)}})
        members[table(members)] = stream.getvalue()

    return change


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [((4, 7), (7, 1), 0), ((4, 6), (6, 1), 1), ((2, 2), (100, 1), 0), ((-1, 6), (6, 1), 0), ((4, 6), (-6, 1), 0),
     ((2**40, 1), (0, 1), 0), ((4,), (6, 1), 0), ((4.0, 6), (6, 1), 0)],
)  # fmt: skip
def test_views_beyond_their_storage_are_refused(checkpoint, tmp_path, weights, size, stride, offset):
    with pytest.raises(ValueError, match=r"storage|wrongly"):
        read_checkpoint(repacked(checkpoint, tmp_path / "view", with_view(size, stride, offset)))
    whole = read_checkpoint(repacked(checkpoint, tmp_path / "whole", with_view((4, 6), (6, 1), 0)))
    assert torch.equal(whole["a"], weights["matrix"])


def test_a_thousand_damaged_files_never_load_silently_different(checkpoint, tmp_path, weights):
    """Each is read exactly as it was or refused with a ValueError; nothing else."""
    data = bytearray(checkpoint.read_bytes())
    generator = random.Random(0)
    expected = {name: value.detach().float().numpy() for name, value in weights.items()}
    refused = 0
    path = tmp_path / "damaged.pth.tar"
    for _ in range(1000):
        changed = bytearray(data)
        for _ in range(generator.choice([1, 1, 2, 8])):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        if generator.random() < 0.1:
            del changed[generator.randrange(len(changed)) :]
        path.write_bytes(changed)
        try:
            found = read_checkpoint(path)
        except ValueError:
            refused += 1
            continue
        assert {name: value.shape for name, value in found.items()} == {
            name: value.shape for name, value in expected.items()
        }
        assert all(np.array_equal(value.float().numpy(), expected[name]) for name, value in found.items())
    assert 100 < refused < 1000


def test_damaged_tables_are_refused_with_valid_checksums(checkpoint, tmp_path):
    """The table of weights itself is damaged and the checksums made to fit: no crash, no other error."""
    generator = random.Random(1)
    outcomes = collections.Counter()
    for _ in range(300):

        def change(members):
            name = table(members)
            content = bytearray(members[name])
            content[generator.randrange(len(content))] = generator.randrange(256)
            members[name] = bytes(content)

        try:
            read_checkpoint(repacked(checkpoint, tmp_path / "changed", change))
            outcomes["read"] += 1
        except ValueError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 30


def test_converting_an_official_file(tmp_path):
    from c2fvl.cli.main import main

    file = tmp_path / "best_model-C2FVL.pth.tar"
    state = {f"module.{key}": value for key, value in official_state_dict("c2fvl").items()}
    torch.save(
        {"epoch": 3, "best_model": True, "model": "C2FVL", "state_dict": state, "val_loss": torch.tensor(0.5)}, file
    )
    assert main(["convert", str(file), str(tmp_path / "model"), "--model", "c2fvl"]) == 0
    model = load_model(tmp_path / "model")
    expected = from_reference("c2fvl", official_state_dict("c2fvl")).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.network.state_dict().items())
    assert model.config.data.channel_order == "bgr"
    assert model.config.data.resize == "published"
    assert model.metrics["source"] == file.name
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        convert(file, tmp_path / "model", name="c2fvl", config=load_config("c2fvl_qata_paper"))
    assert main(["convert", str(file), str(tmp_path / "other"), "--model", "unet"]) == 2
    assert not (tmp_path / "other").exists()


def test_a_full_disk_while_converting_leaves_no_folder(tmp_path, monkeypatch):
    file, fsync, written = tmp_path / "official.pth.tar", os.fsync, []
    torch.save({"state_dict": official_state_dict("unet")}, file)

    def full_at_the_weights(descriptor):
        written.append(descriptor)
        if os.fstat(descriptor).st_size > 2**20:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full_at_the_weights)
    out = tmp_path / "model"
    with pytest.raises(OSError, match=rf"{out}/model.safetensors cannot be written: No space left on device; free"):
        convert(file, out, name="unet", config=load_config("unet_qata_paper"))
    assert len(written) > 1
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]


LARGE = pytest.mark.slow(like="test_the_authors_files_of_every_network_become_model_folders[unet]")


@pytest.mark.parametrize(
    "name",
    [
        "lvit", "unet", pytest.param("uctransnet", marks=LARGE), pytest.param("transunet", marks=LARGE), "medt",
        "axialunet", "logo",
    ],
)  # fmt: skip
def test_the_authors_files_of_every_network_become_model_folders(name, tmp_path, capsys):
    from c2fvl.cli.main import main

    file = tmp_path / "official.pth"
    torch.save(official_state_dict(name), file)
    assert main(["convert", str(file), str(tmp_path / "model"), "--model", name]) == 0
    assert "parameters" in capsys.readouterr().out
    model = load_model(tmp_path / "model")
    expected = from_reference(name, official_state_dict(name)).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.network.state_dict().items())
    data = model.config.data
    assert data.image_size == (128 if name in ("medt", "axialunet", "logo") else 224)
    assert (data.text, data.text_tokens) == ("sentence", 10) if name == "lvit" else data.text == "none"
    other = "unet" if name != "unet" else "uctransnet"
    assert main(["convert", str(file), str(tmp_path / "other"), "--model", other]) == 2
    assert f"no checkpoint of the published {other}" in capsys.readouterr().err.replace("not a", "no")
    assert not (tmp_path / "other").exists()


def with_table(content):
    def change(members):
        members[table(members)] = content

    return change


def test_a_deep_nest_as_a_key_does_not_crash(checkpoint, tmp_path):
    content = b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x01s."
    with pytest.raises(ValueError, match="neither a name nor a number"):
        read_checkpoint(repacked(checkpoint, tmp_path / "deep", with_table(content)))


def test_a_memo_place_out_of_all_bounds_fills_no_memory(checkpoint, tmp_path):
    """A LONG_BINPUT of two thousand million would have a list of that many places made."""
    content = b"\x80\x02}r\x00\x00\x00\x7f."
    with pytest.raises(ValueError, match="holds no state dict"):
        read_checkpoint(repacked(checkpoint, tmp_path / "memo", with_table(content)))


@pytest.mark.parametrize(
    "content",
    [b"\x80\x02ctorch._utils\n_rebuild_parameter\n}b.", b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nNb.",
     b"\x80\x02ctorch\nFloatStorage\nNb."],
)  # fmt: skip
def test_nothing_s_state_can_be_set(checkpoint, tmp_path, weights, content):
    with pytest.raises(ValueError, match="sets the state"):
        read_checkpoint(repacked(checkpoint, tmp_path / "build", with_table(content)))
    assert list(read_checkpoint(checkpoint)) == list(weights)  # the reader itself is what it was


def test_many_views_of_one_storage_are_no_bomb(tmp_path):
    storage = torch.zeros(2**18)
    torch.save({"state_dict": {str(number): storage.view(-1) for number in range(100)}}, tmp_path / "bomb")
    with pytest.raises(ValueError, match="many times as large"):
        read_checkpoint(tmp_path / "bomb")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.to(torch.int32), r"int32 instead of torch\.float32"),
        (lambda value: value.to(torch.complex64), "instead of"),
        (lambda value: value * torch.nan, "not finite"),
        (lambda value: value.double() * 1e300, "not finite"),
        (lambda value: value.to_sparse(), "no dense tensor"),
        (lambda value: value.to("meta"), "no dense tensor"),
        (lambda value: torch.zeros(1024, 0, 3, 3), "wrong shape"),
    ],
)
def test_weights_that_are_no_numbers_are_refused(change, message):
    weights = official_state_dict("c2fvl")
    weights["inc.conv.weight"] = change(weights["inc.conv.weight"])
    with pytest.raises(ValueError, match=message):
        from_reference("c2fvl", weights)


def test_reading_makes_no_copy_of_a_view_too_large(tmp_path):
    """A view that repeats one number a million times over would be a bomb; it is refused by its count."""
    storage = torch.zeros(1).expand(1000, 1000)
    buffer = io.BytesIO()
    torch.save({"state_dict": {"a": storage}}, buffer)
    (tmp_path / "bomb").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="beyond its storage"):
        read_checkpoint(tmp_path / "bomb")


@pytest.fixture
def legacy(tmp_path, weights):
    """Write the format before PyTorch 1.6 under a name with its checksum."""
    buffer = io.BytesIO()
    torch.save(dict(weights), buffer, _use_new_zipfile_serialization=False)
    return named(tmp_path, buffer.getvalue())


def named(folder, data):
    path = folder / f"lite0-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    path.write_bytes(data)
    return path


def test_an_older_file_is_read_if_its_name_carries_its_checksum(legacy, weights):
    found = read_checkpoint(legacy)
    assert list(found) == list(weights)
    for name, value in weights.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value.detach()), name
    changed = bytearray(legacy.read_bytes())
    changed[len(changed) // 2] ^= 1
    legacy.write_bytes(changed)
    with pytest.raises(ValueError, match="SHA-256 does not begin with"):
        read_checkpoint(legacy)


def test_a_checksum_in_the_name_is_compared_for_every_format(checkpoint, tmp_path):
    data = checkpoint.read_bytes()
    assert read_checkpoint(named(tmp_path, data))
    (tmp_path / "lite0-00000000.pth").write_bytes(data)
    with pytest.raises(ValueError, match="SHA-256 does not begin with 00000000"):
        read_checkpoint(tmp_path / "lite0-00000000.pth")


def test_damaged_older_files_are_refused_with_valid_checksums(legacy, tmp_path, weights):
    """The name is made to fit the damage: no crash, no other error, and never another number of weights."""
    data, generator = legacy.read_bytes(), random.Random(2)
    outcomes = collections.Counter()
    for _ in range(500):
        changed = bytearray(data)
        for _ in range(generator.choice([1, 1, 4])):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        if generator.random() < 0.1:
            del changed[generator.randrange(len(changed)) :]
        path = named(tmp_path, bytes(changed))
        try:
            read_checkpoint(path)
            outcomes["read"] += 1
        except ValueError:
            outcomes["refused"] += 1
        path.unlink()
    assert outcomes["refused"] > 50


def test_nothing_in_an_older_file_can_run(tmp_path):
    target = tmp_path / "ran"
    buffer = io.BytesIO()
    torch.save({"a": Evil(target)}, buffer, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"asks for (posix|nt)\.system"):
        read_checkpoint(named(tmp_path, buffer.getvalue()))
    assert not target.exists()


@pytest.mark.parametrize("extra", [b"", b"\x80\x02})" + b"\x85" * 3_000_000 + b"K\x01s."])
def test_an_older_file_of_other_pickles_is_refused(tmp_path, extra):
    """Also where a table has a deep nest as a key, which would end a process that hashes it."""
    with pytest.raises(ValueError, match=r"damaged|begin|neither"):
        read_checkpoint(named(tmp_path, pickle.dumps(1, protocol=2) + extra))
