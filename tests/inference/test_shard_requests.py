"""What is predicted and scored from shards is what the folder gives, to the last digit."""

import json

import pytest

from c2fvl.cli.main import main
from c2fvl.data.shard_writer import cases_of, write_shards

OF_THE_PLACE = ("image", "seconds", "created", "software")


@pytest.fixture(scope="module")
def shards(phantom_root, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards") / "out"
    write_shards(cases_of(phantom_root), out, size=40_000)
    return out


def test_masks_and_records_are_those_of_the_files(tiny_run, phantom_root, shards, tmp_path, capsys):
    table = phantom_root / "Test_Folder/Test_films.csv"
    one, other = tmp_path / "files", tmp_path / "shards"
    assert main(["predict", "--csv", str(table), "--model", str(tiny_run), "--out", str(one)]) == 0
    again = ["predict", f"{shards}/test-*.tar", "--model", str(tiny_run), "--out", str(other), "--skip-existing"]
    assert main(again) == 0
    masks = {path.name: path.read_bytes() for path in one.glob("*.png")}
    assert masks == {path.name: path.read_bytes() for path in other.glob("*.png")} and len(masks) > 3
    for path in one.glob("*.json"):
        before, after = json.loads(path.read_text()), json.loads((other / path.name).read_text())
        assert after["image"] == str(shards / "test-000000.tar" / f"{path.stem}.image.png")
        for key in before.keys() | after.keys():
            assert key in OF_THE_PLACE or before[key] == after[key], key
    times = [path.stat().st_mtime_ns for path in sorted(other.glob("*.png"))]
    capsys.readouterr()
    assert main(again) == 0
    assert [path.stat().st_mtime_ns for path in sorted(other.glob("*.png"))] == times
    assert f"{len(masks)} of {len(masks)} images were predicted before" in capsys.readouterr().err


def test_scores_are_those_of_the_folder(tiny_run, phantom_root, shards, tmp_path):
    compare_results("evaluate", "val", tiny_run, phantom_root, shards, tmp_path)


@pytest.mark.slow(like="test_scores_are_those_of_the_folder")
def test_the_audit_is_that_of_the_folder(tiny_run, phantom_root, shards, tmp_path):
    compare_results("audit", "test", tiny_run, phantom_root, shards, tmp_path)


def compare_results(command, split, model, folder, shards, out):
    for name, root in (("folder", folder), ("shards", shards)):
        assert main([command, str(model), str(root), "--split", split, "--out", str(out / name)]) == 0
    files = sorted(path.name for path in (out / "folder").glob("*.csv"))
    assert files
    for file in files:
        assert (out / "folder" / file).read_bytes() == (out / "shards" / file).read_bytes(), file
