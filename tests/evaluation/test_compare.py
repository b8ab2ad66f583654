"""One table of several networks, and what each costs."""

import csv
import json
import shutil

import numpy as np
import openpyxl
import pytest
import torch
from torch import nn

from c2fvl.cli.main import main
from c2fvl.config import Config
from c2fvl.config_files import override
from c2fvl.data.part import Part
from c2fvl.evaluation.compare import compare as module
from c2fvl.evaluation.compare.compare import Comparison, Entry, compare
from c2fvl.evaluation.compare.comparison_page import render_comparison
from c2fvl.evaluation.compare.tables import to_latex, to_markdown, write
from c2fvl.evaluation.evaluate import evaluate
from c2fvl.files.images import read_mask, write_mask
from c2fvl.files.tables import write_cells
from c2fvl.inference.compute import Compute
from c2fvl.inference.cost import build_empty, count_flops, example_settings, stages
from c2fvl.training.loop import train


@pytest.fixture(scope="module")
def runs(tiny_run, unet_run, phantom_root, tmp_path_factory):
    """Two runs of one preset and one of a network without text."""
    from support.tiny_runs import TINY

    from c2fvl.config_files import load_config

    folder = tmp_path_factory.mktemp("compared")
    shutil.copytree(tiny_run, folder / "first")
    config = load_config("debug", [*TINY, f'data.root="{phantom_root}"', "train.epochs=1"])
    train(override(config, ["train.seed=5"]), run=folder / "second")
    shutil.copytree(unet_run, folder / "third")
    return [folder / name for name in ("first", "second", "third")]


@pytest.fixture(scope="module")
def compared(runs, phantom_root):
    return compare(runs, Part(phantom_root, split="test"), speed=False)


def test_scores_are_those_of_an_evaluation(compared, runs, phantom_root, tmp_path):
    from c2fvl.checkpoints.trained_model import load_model

    found = evaluate(load_model(runs[2]), Part(phantom_root, split="test"), out=tmp_path / "scores")
    expected = found.summary.as_dict()["scores"][0]
    entry = compared.entries[2]
    for name in ("dice_per_image", "iou_per_image", "dice_pooled", "iou_pooled"):
        assert entry.values[name] == pytest.approx(100 * expected[name])
    assert entry.values["parameters"] == sum(p.numel() for p in load_model(runs[2]).network.parameters()) / 1e6
    assert [entry.label for entry in compared.entries] == ["debug (first)", "debug (second)", "unet"]
    assert compared.entries[2].text == "none, because the network reads none"


def test_what_was_scored_is_not_scored_again(compared, runs, phantom_root, monkeypatch):
    calls = []
    monkeypatch.setattr(module, "evaluate", lambda *a, **k: calls.append(a[1]) or evaluate(*a, **k))
    again = compare(runs, Part(phantom_root, split="test"), speed=False)
    assert not calls
    assert [entry.values for entry in again.entries] == [entry.values for entry in compared.entries]
    compare(runs[:1], Part(phantom_root, split="test"), speed=False, fresh=True)
    compare(runs[:1], Part(phantom_root, split="test", text="shuffled", seed=1), speed=False)
    compare(runs[:1], Part(phantom_root, split="test", text="shuffled", seed=1), speed=False)
    compare(runs[:1], Part(phantom_root, split="test", text="shuffled", seed=2), speed=False)
    assert [part.seed for part in calls] == [0, 1, 2]


def test_scores_of_other_images_do_not_enter_one_table(compared, runs, phantom_root):
    table = compared.entries[0].evaluations[0] / "cases.csv"
    lines = table.read_text().splitlines()
    try:
        table.write_text("\n".join(lines[:-1]) + "\n")
        with pytest.raises(ValueError, match=r"not the same ones; .* are common: only .* has .*--fresh"):
            compare(runs, Part(phantom_root, split="test"), speed=False)
    finally:
        table.write_text("\n".join(lines) + "\n")


def test_scores_of_corrected_masks_are_made_anew_and_not_mixed(runs, phantom_root, tmp_path, monkeypatch):
    """A mask with as many pixels as before, at another place: nothing but its content tells."""
    from c2fvl.checkpoints.trained_model import load_model

    root, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(phantom_root, root)
    shutil.copytree(runs[0], run)
    old = evaluate(load_model(run), Part(root, split="test"), out=tmp_path / "old").folder
    compare([run], Part(root, split="test"), speed=False)
    mask = next(path for path in sorted((root / "Test_Folder" / "labelcol").iterdir()) if read_mask(path).any())
    write_mask(mask, np.ascontiguousarray(read_mask(mask)[:, ::-1]))
    calls = []
    monkeypatch.setattr(module, "evaluate", lambda *a, **k: calls.append(a[1]) or evaluate(*a, **k))
    compare([run], Part(root, split="test"), speed=False)
    assert len(calls) == 1
    with pytest.raises(ValueError, match="other masks"):
        compare([run, f"old={old}"], Part(root, split="test"), speed=False)


@pytest.mark.parametrize(("value", "message"), [("0.01", "was changed"), ("1.7", "from 0 to 1"), ("nan", "finite")])
def test_a_table_that_was_changed_is_noticed(compared, tmp_path, value, message):
    folder = tmp_path / "scores"
    shutil.copytree(compared.entries[0].evaluations[0], folder)
    with (folder / "cases.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    rows[1][rows[0].index("original_corrected_dice")] = value
    (folder / "cases.csv").write_text(
        "\n".join(",".join(f'"{cell}"' for cell in row) for row in rows), encoding="utf-8"
    )
    with pytest.raises(ValueError, match=message):
        compare([folder], speed=False)


def test_one_run_named_twice_differs_by_nothing(runs, phantom_root):
    found = compare([runs[0], runs[0]], Part(phantom_root, split="test"), speed=False)
    assert len({entry.label for entry in found.entries}) == 2
    assert found.differences[0].differences["dice"].mean.value == 0


def test_folders_without_a_model_end_it_before_anything_is_scored(runs, phantom_root, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "evaluate", lambda *a, **k: pytest.fail("scored"))
    with pytest.raises(FileNotFoundError, match="is no model folder"):
        compare([runs[0], tmp_path / "nothing"], Part(phantom_root, split="val"), speed=False)
    with pytest.raises(ValueError, match="nothing to compare"):
        compare([], Part(phantom_root))


def test_rights_of_every_folder_are_known_before_anything_is_scored(runs, phantom_root, tmp_path, monkeypatch):
    """The second folder cannot be written; the first model is not scored for nothing."""
    first, second = (tmp_path / name for name in ("first", "second"))
    for folder in (first, second):
        shutil.copytree(runs[2] / "best", folder / "best")
    (second / "evaluation-test").write_text("a file where the scores would go")
    monkeypatch.setattr(module, "load_model", None)
    with pytest.raises(ValueError, match=r"evaluation-test .*scores would be lost"):
        compare([first, second], Part(phantom_root, split="test"), speed=False)


def test_scores_with_other_reports_are_not_used_again(runs, phantom_root, tmp_path, monkeypatch):
    from c2fvl.checkpoints.trained_model import load_model

    root, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(phantom_root, root)
    shutil.copytree(runs[0], run)
    shutil.rmtree(run / "evaluation-test", ignore_errors=True)
    folder = root / "Test_Folder"
    shutil.copy(folder / "Test_text.xlsx", folder / "Other_text.xlsx")
    evaluate(load_model(run), Part(root, split="test", table="Other_text.xlsx"))
    calls = []
    monkeypatch.setattr(module, "evaluate", lambda *a, **k: calls.append(a[1].table) or evaluate(*a, **k))
    for table in (None, None, "Other_text.xlsx"):
        compare([run], Part(root, split="test", table=table), speed=False)
    assert calls == [None, "Other_text.xlsx"]
    rows = [list(row) for row in openpyxl.load_workbook(folder / "Test_text.xlsx").active.iter_rows(values_only=True)]
    sentences = [row[1] for row in rows[1:]]
    write_cells(
        folder / "Test_text.xlsx",
        [rows[0], *([row[0], text] for row, text in zip(rows[1:], sentences[::-1], strict=True))],
    )
    calls.clear()
    compare([run], Part(root, split="test"), speed=False)
    assert calls == [None]


@pytest.mark.slow(like="test_speed_and_memory_are_measured_in_a_process_of_their_own")
def test_memory_is_that_of_the_network_alone(runs):
    """A process that starts another hands on its highest mark of memory, which must not be told as the other's."""
    held = np.ones(1_500_000_000 // 8)
    held[::512] += 1
    found = compare(runs[2:], compute=Compute(batch_size=1), speed=True)
    assert 0 < found.entries[0].values["peak_memory"] < 500
    assert held.size


def test_speed_and_memory_are_measured_in_a_process_of_their_own(runs):
    found = compare(runs[1:], compute=Compute(batch_size=2), speed=True)
    for entry in found.entries:
        assert entry.values["images_per_second"] > 0
        assert 0 < entry.values["peak_memory"] < 2000
        assert "dice_per_image" not in entry.values
    assert "batches of 2" in found.caption


def entry(label, **values):
    return Entry(label, "unet", (module.Path("x"),), "its own", values)


def test_awkward_names_and_ties_in_the_written_tables(tmp_path):
    columns = {"dice_per_image": "Dice per image", "gflops": "GFLOP per film"}
    rows = (
        entry("a_b & 100%", dice_per_image=80.004, gflops=12.0),
        entry("c|d*e", dice_per_image=80.001, gflops=3.0),
        entry("none", dice_per_image=None, gflops=30.0),
    )
    comparison = Comparison(rows, "A caption with 50 % & more.", columns)
    latex, markdown = to_latex(comparison), to_markdown(comparison)
    assert r"a\_b \& 100\% & its own & \textbf{80.00} & 12.0 \\" in latex
    assert r"\textbf{80.00} & \textbf{3.00}" in latex  # what is shown alike is best alike; fewer operations are better
    assert r"A caption with 50 \% \& more." in latex
    assert latex.count("{") == latex.count("}")
    assert r"| c\|d\*e | its own | **80.00** | **3.00** |" in markdown
    assert "| none | its own | – | 30.0 |" in markdown
    page = render_comparison(comparison)
    assert "a_b &amp; 100%" in page
    assert "GFLOP" in page
    assert "highest" not in page  # without paired differences none is said to be better
    files = write(comparison, tmp_path / "out", page=page)
    names = [file.name for file in files]
    assert names == ["compare.csv", "compare.md", "compare.tex", "compare.json", "compare.html"]
    with open(files[0], newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert table[0]["network"] == "a_b & 100%"
    assert float(table[0]["dice_per_image"]) == 80.004
    assert json.loads(files[3].read_text())["networks"][1]["values"]["gflops"] == 3.0


def test_compare_on_the_command_line(runs, phantom_root, tmp_path, capsys):
    arguments = ["compare", *map(str, runs), "--root", str(phantom_root), "--split", "test", "--no-speed"]
    assert main([*arguments, "--out", str(tmp_path / "tables")]) == 0
    printed = capsys.readouterr().out
    assert "debug (second)" in printed
    assert "images, at the original resolution" in printed
    assert (tmp_path / "tables" / "compare.tex").is_file()
    assert main([*arguments, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["networks"]) == 3
    (tmp_path / "file").write_text("")
    assert main([*arguments, "--out", str(tmp_path / "file")]) == 2


def test_operations_by_hand():
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList(
                [nn.Conv2d(3, 4, 3, padding=1, groups=1), nn.Conv2d(4, 4, 3, padding=1, groups=2)]
            )
            self.upsample = nn.ConvTranspose2d(4, 2, 2, stride=2)
            self.linear = nn.Linear(2, 5)

        def forward(self, image):
            for part in self.parts:
                image = part(image)
            image = self.upsample(image)
            tokens = image.flatten(2).transpose(1, 2)[:, None]
            nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
            return self.linear(tokens)

    with torch.device("meta"):
        network, image = Small(), torch.zeros(1, 3, 6, 8)
    counts = count_flops(network, (image,))
    pixels = 6 * 8
    assert counts["parts.0"] == 2 * pixels * 4 * 3 * 9
    assert counts["parts.1"] == 2 * pixels * 4 * 2 * 9
    assert counts["upsample"] == 2 * pixels * 4 * 2 * 4
    tokens = 4 * pixels
    assert counts["linear"] == 2 * tokens * 2 * 5
    attention = 2 * 2 * tokens * tokens * 2
    assert counts[""] == sum(counts[name] for name in ("parts.0", "parts.1", "upsample", "linear")) + attention
    found = {stage.name: stage for stage in stages(network, (image,))}
    assert list(found) == ["parts.0", "parts.1", "upsample", "linear", ""]
    assert found["parts.0"].output == "4×6×8"
    assert found[""].parameters == sum(p.numel() for p in network.parameters())


def test_c2fvl_costs_what_its_layers_say():
    """The published form of 55.6 GFLOP less what is the same for less: late projections, enlarged maps, two gates."""
    found = stages(*build_empty(example_settings("c2fvl")))
    whole = found[-1]
    assert whole.parameters == 24_196_088
    late = sum(2 * width**2 * (224**2 // 4**scale - 14**2) for scale, width in enumerate((64, 128, 256, 512)))
    pixels = [224**2 // 4**scale for scale in range(4)]
    upsampled = sum(
        2 * 5 * width * after * count
        for width, after, count in zip((64, 128, 256, 512), (64, 64, 128, 256), pixels, strict=True)
    )
    gates = sum(2 * 2 * width**2 * count for width, count in zip((64, 128, 256, 512), pixels, strict=True))
    merging = sum(2 * 2 * width**3 for width in (64, 128, 256, 512))  # of two weights into one, once a pass
    assert (whole.flops + late + upsampled + gates - merging) / 1e9 == pytest.approx(55.6, abs=0.1)
    assert sum(stage.flops for stage in found[:-1]) == pytest.approx(whole.flops, rel=1e-3)


def test_models_summary_on_the_command_line(capsys):
    assert main(["models", "medt", "--summary", "--size", "96", "base_width=4", "groups=4"]) == 0
    printed = capsys.readouterr().out
    assert "local_branch" in printed
    assert "96 × 96" in printed
    assert main(["models", "lvit", "vocabulary_size=20", "--summary", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["stages"][-1]["flops"] > 1e9
    for arguments, message in [(["nope", "--summary"], "known are"), (["unet", "nope=1"], "has no argument")]:
        assert main(["models", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert main(["models", "--summary"]) == 2


def test_an_example_of_every_network_is_counted():
    from c2fvl.models.registry import NETWORKS

    for name in NETWORKS:
        assert stages(*build_empty(example_settings(name)))[-1].flops > 1e8, name
    assert isinstance(example_settings("unet", image_size=64), Config)
