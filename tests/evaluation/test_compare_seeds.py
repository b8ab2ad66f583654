"""Systems of several seeds, folders of evaluations, and the differences of two systems, from their tables of cases."""

import csv
import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from c2fvl.checkpoints.model_files import write_files
from c2fvl.cli.main import main
from c2fvl.data.part import Part
from c2fvl.evaluation.compare.compare import Comparison, Entry, compare
from c2fvl.evaluation.compare.comparison_page import verdict
from c2fvl.evaluation.compare.paired import PairedDifference
from c2fvl.files.tables import write_cells
from c2fvl.metrics.intervals import Difference, Estimate

GROUPS = ["p1", "p1", "p2", "p3", "p3", "p4", "p5", "p6", "p7", "p8"]
HEADER = ["id", "group", "report", "original_corrected_dice", "original_corrected_iou", "original_intersection",
          "original_prediction", "original_target"]  # fmt: skip
TARGETS = [100, 80, 60, 120, 90, 70, 50, 110, 40, 100]


def write_evaluation(
    folder, seed, *, ids=None, groups=GROUPS, targets=TARGETS, network="unet", text="right", worse=0.0
):
    """Write what an evaluation leaves of ten made-up images; return its rows of counts."""
    generator = np.random.default_rng(seed)
    ids = ids or [f"f{place}" for place in range(len(targets))]
    rows = [HEADER]
    for name, group, target in zip(ids, groups, targets, strict=True):
        inside = int(target * generator.uniform(0.5 - worse, 0.9 - worse))
        found = inside + int(generator.integers(0, 30))
        iou, dice = inside / (found + target - inside), 2 * inside / (found + target)
        rows.append([name, group, "<script>=1", dice, iou, inside, found, target])
    write_cells(folder / "cases.csv", rows)
    values = np.array([row[3:] for row in rows[1:]], float)
    inside, found, true = values[:, 2:].sum(axis=0)
    scores = {
        "resolution": "original", "protocol": "corrected",
        "dice_per_image": values[:, 0].mean(), "iou_per_image": values[:, 1].mean(),
        "dice_pooled": 2 * inside / (found + true), "iou_pooled": inside / (found + true - inside),
        "num_cases": len(targets), "num_empty_masks": 0, "num_false_positives": 0, "num_missed_lesions": 0,
    }  # fmt: skip
    summary = {
        "model": {"name": network, "preset": "", "path": "gone"}, "scores": [scores],
        "unit": {"length": "pixel", "from": "the files"},
        "statistics": {
            "intervals": "", "per_image": {}, "pooled": {}, "lesions": {}, "columns_left_out": [], "subgroups": [],
        },
        "data": {"root": "data_<b>", "split": "val", "num_cases": len(targets)},
        "text": {"kind": text, "given": "its own <script>", "seed": None},
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    return values


@pytest.fixture
def made(tmp_path):
    """Three seeds of one system and two of another, made up."""
    first = [write_evaluation(tmp_path / f"a{seed}", seed) for seed in range(3)]
    second = [write_evaluation(tmp_path / f"b{seed}", 10 + seed, worse=0.2) for seed in range(2)]
    names = [
        ",".join(str(tmp_path / f"{letter}{seed}") for seed in range(count)) for letter, count in (("a", 3), ("b", 2))
    ]
    return tmp_path, [f"mine={names[0]}", f"theirs={names[1]}"], np.array(first), np.array(second)


def by_group(values):
    return [values[[place for place, group in enumerate(GROUPS) if group == name]] for name in dict.fromkeys(GROUPS)]


def test_seeds_are_averaged_image_by_image_before_anything_else(made):
    _, systems, first, second = made
    found = compare(systems, speed=False)
    assert [entry.label for entry in found.entries] == ["mine, 3 seeds", "theirs, 2 seeds"]
    generator = np.random.default_rng(3)
    draws = generator.integers(0, 8, (6000, 8))
    for entry, seeds in zip(found.entries, (first, second), strict=True):
        means = seeds.mean(axis=0)
        assert entry.values["dice_per_image"] == pytest.approx(100 * means[:, 0].mean())
        assert entry.values["iou_per_image"] == pytest.approx(100 * means[:, 1].mean())
        inside, predicted, true = np.moveaxis(seeds.sum(axis=1)[:, 2:], 1, 0)
        assert entry.values["dice_pooled"] == pytest.approx(100 * np.mean(2 * inside / (predicted + true)))
        assert entry.values["iou_pooled"] == pytest.approx(100 * np.mean(inside / (predicted + true - inside)))
        members = by_group(means[:, 0])
        drawn = [np.concatenate([members[place] for place in draw]).mean() for draw in draws]
        expected = 100 * np.quantile(drawn, [0.025, 0.975])
        assert entry.intervals["dice_per_image"] == pytest.approx(tuple(expected), abs=0.1 * np.ptp(expected))
        low, high = entry.intervals["dice_pooled"]
        assert low < entry.values["dice_pooled"] < high
    assert "10 cases in 8 groups; the bootstrap draws groups" in found.statistics
    assert set(found.columns) == {
        "dice_per_image",
        "iou_per_image",
        "dice_pooled",
        "iou_pooled",
        "parameters",
        "gflops",
    }


def test_differences_are_those_of_scipy(made):
    _, systems, first, second = made
    (pair,) = compare(systems, speed=False).differences
    assert (pair.first, pair.second) == ("mine", "theirs")
    for place, name in enumerate(("dice", "iou")):
        apart = first.mean(axis=0)[:, place] - second.mean(axis=0)[:, place]
        found = pair.differences[name]
        assert found.mean.value == pytest.approx(apart.mean())
        sums = np.array([values.sum() for values in by_group(apart)])
        other = scipy.stats.permutation_test((sums,), np.sum, permutation_type="samples", n_resamples=np.inf)
        assert found.permutation == pytest.approx(other.pvalue)
        means = [values.mean() for values in by_group(apart)]
        assert found.wilcoxon == pytest.approx(scipy.stats.wilcoxon(means).pvalue)
        assert pair.permutation_holm[name] == found.permutation  # one pair has nothing to be corrected for
        draws = np.random.default_rng(1).integers(0, 8, (6000, 8))
        members = by_group(apart)
        drawn = [np.concatenate([members[group] for group in draw]).mean() for draw in draws]
        low, high = np.quantile(drawn, [0.025, 0.975])
        assert (found.mean.low, found.mean.high) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_three_systems_are_corrected_for_three_pairs(made):
    folder, systems, _, _ = made
    write_evaluation(folder / "c", 40, worse=0.35)
    found = compare([*systems, f"last={folder / 'c'}"], speed=False)
    assert [(pair.first, pair.second) for pair in found.differences] == [
        ("mine", "theirs"), ("mine", "last"), ("theirs", "last"),
    ]  # fmt: skip
    assert "corrected for 3 pairs (Holm)" in found.statistics
    for test in ("permutation", "wilcoxon"):
        plain = [getattr(pair.differences["dice"], test) for pair in found.differences]
        held = [getattr(pair, f"{test}_holm")["dice"] for pair in found.differences]
        order, minimum = np.argsort(plain, kind="stable"), 0.0
        for rank, place in enumerate(order):
            minimum = max(minimum, min(1.0, (3 - rank) * plain[place]))
            assert held[place] == pytest.approx(minimum)


def test_what_is_printed_and_written_is_what_was_found(made, tmp_path, capsys):
    _, systems, first, second = made
    out = tmp_path / "out"
    assert main(["compare", *systems, "--no-speed", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    dice = 100 * first.mean(axis=0)[:, 0].mean()
    assert f"{dice:.2f} (" in printed
    apart = dice - 100 * second.mean(axis=0)[:, 0].mean()
    assert f"{apart:.2f} (" in printed
    found = compare(systems, speed=False)
    written = json.loads((out / "compare.json").read_text())
    assert written["networks"][0]["values"]["dice_per_image"] == pytest.approx(dice)
    assert written["differences"][0]["dice"]["permutation_p"] == found.differences[0].differences["dice"].permutation
    assert written["differences"][0]["dice"]["value"] == pytest.approx(apart / 100)
    (row, _) = csv.DictReader((out / "compare.csv").read_text().splitlines())
    assert float(row["dice_per_image_low"]) == pytest.approx(found.entries[0].intervals["dice_per_image"][0])
    assert f"{apart:.2f} (" in (out / "compare.md").read_text()
    latex = (out / "compare.tex").read_text()
    assert latex.count(r"\begin{table}") == latex.count(r"\end{table}") == 2
    assert "–" not in latex
    assert "−" not in latex


def test_names_and_reports_stay_text_in_every_table(made, tmp_path):
    folder, _, _, _ = made
    evil = "=HYPERLINK(1)<script>|_x"
    assert (
        main(["compare", f"{evil}={folder / 'a0'}", str(folder / "b0"), "--no-speed", "--out", str(tmp_path / "out")])
        == 0
    )
    rows = list(csv.reader((tmp_path / "out" / "compare.csv").read_text().splitlines()))
    assert rows[1][0] == f"'{evil}"
    markdown = (tmp_path / "out" / "compare.md").read_text()
    assert "\\<script\\>\\|\\_x" in markdown
    assert not re.search(r"(?<!\\)<[a-z]", markdown)
    assert "its own \\<script\\>" in markdown
    page = (tmp_path / "out" / "compare.html").read_text()
    assert page.count("<script") == 1  # its own
    assert "=HYPERLINK(1)&lt;script&gt;|_x" in page


def pair(value, low, high):
    """Return the difference of the systems a and b, which `verdict` reads."""
    found = Difference(Estimate(value, low, high), 0.5, 0.5)
    return PairedDifference("a", "b", {"dice": found, "iou": found}, {"dice": 0.5}, {"dice": 0.5})


@pytest.mark.parametrize(
    ("scores", "apart", "expected"),
    [
        ((80.0, 70.0), (0.1, 0.05, 0.15), "a has the highest Dice per image; it is better than b."),
        ((80.0, 79.0), (0.01, -0.05, 0.15), "a has the highest Dice per image; it is not clearly better than b."),
        ((70.0, 80.0), (-0.1, -0.15, -0.05), "b has the highest Dice per image; it is better than a."),
        ((70.0, 80.0), (-0.1, None, None), "b has the highest Dice per image; it is not clearly better than a."),
    ],
)
def test_one_sentence_says_which_is_better(scores, apart, expected):
    entries = [
        Entry(label, "unet", (Path(label),), "correct", {"dice_per_image": score})
        for label, score in zip("ab", scores, strict=True)
    ]
    found = verdict(Comparison(tuple(entries), "", {}, (pair(*apart),)))
    assert (found.text, found.warning) == (expected, False)
    entries[0] = dataclasses.replace(entries[0], text="none, because the network reads none")
    entries[1] = dataclasses.replace(entries[1], text="none")
    assert not verdict(Comparison(tuple(entries), "", {}, (pair(*apart),))).warning
    entries[1] = dataclasses.replace(entries[1], text="correct", label="b, 3 seeds", paths=(Path("b"),) * 3)
    mixed = verdict(Comparison(tuple(entries), "", {}, (pair(*apart),)))
    assert mixed.warning
    assert mixed.text.endswith("so this compares reports too.")
    assert ("not clearly" in mixed.text) == ("not clearly" in expected)


def test_folders_of_evaluations_need_no_model_and_no_data(made):
    folder, _, first, _ = made
    found = compare([folder / "a0", folder / "a1"], speed=False)
    assert [entry.label for entry in found.entries] == ["unet (a0)", "unet (a1)"]
    for entry, values in zip(found.entries, first, strict=False):
        assert entry.values["dice_per_image"] == pytest.approx(100 * values[:, 0].mean())
        assert "parameters" not in entry.values
        assert entry.text == "its own <script>"
    assert len(found.differences) == 1


def test_a_folder_of_an_evaluation_beside_a_model(tiny_run, phantom_root, tmp_path):
    from c2fvl.checkpoints.trained_model import load_model
    from c2fvl.evaluation.evaluate import evaluate

    run = shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation-*"))
    evaluate(load_model(run), Part(phantom_root, text="none"), out=tmp_path / "none")
    found = compare([f"with={run}", f"without={tmp_path / 'none'}"], Part(phantom_root), speed=False)
    tables = [
        list(csv.DictReader((place / "cases.csv").read_text().splitlines()))
        for place in (found.entries[0].evaluations[0], tmp_path / "none")
    ]
    with_text, without = ([float(row["original_corrected_dice"]) for row in rows] for rows in tables)
    (pair,) = found.differences
    assert pair.differences["dice"].mean.value == pytest.approx(np.mean(with_text) - np.mean(without))
    assert found.entries[0].values["parameters"] > 0
    assert [entry.text for entry in found.entries] == ["correct", "none"]


def test_one_case_has_no_interval_and_no_proof(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        write_evaluation(tmp_path / name, seed, groups=["p"], targets=[90])
    found = compare([tmp_path / "a", tmp_path / "b"], speed=False)
    assert found.entries[0].intervals == {}
    assert "no interval: 1 case of one group" in found.statistics
    assert found.differences[0].differences["dice"].permutation == 1
    assert (
        main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--no-speed", "--out", str(tmp_path / "out")]) == 0
    )


def test_other_images_are_named(made):
    folder, systems, _, _ = made
    ids = [*(f"f{place}" for place in range(8)), "new1", "new2"]
    write_evaluation(folder / "other", 5, ids=ids)
    with pytest.raises(
        ValueError, match=r"8 are common: only mine .*a0\) has f8, f9; only other has new1, new2.*--root DATA --fresh"
    ):
        compare([systems[0], f"other={folder / 'other'}"], speed=False)
    with pytest.raises(ValueError, match="8 are common"):
        compare([f"mine={folder / 'a0'},{folder / 'other'}"], speed=False)


def test_other_masks_or_groups_of_the_same_images_are_named(made):
    folder, _, _, _ = made
    targets = [*TARGETS[:4], 91, *TARGETS[5:]]
    write_evaluation(folder / "masks", 5, targets=targets)
    write_evaluation(folder / "groups", 5, groups=["p2", *GROUPS[1:]])
    for name, image in (("masks", "f4"), ("groups", "f0")):
        with pytest.raises(ValueError, match=rf"other masks or groups of images with the same names: {image};"):
            compare([folder / "a0", folder / name], speed=False)


def damaged(folder, name, change):
    target = shutil.copytree(folder / "a0", folder / name)
    change(target)
    return target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda at: (at / "summary.json").write_text("{"), r"summary.json is damaged"),
        (lambda at: (at / "summary.json").write_text("null"), r"the summary cannot be None"),
        (lambda at: (at / "summary.json").write_text("{}"), r"is not of an evaluation"),
        (lambda at: (at / "cases.csv").write_text("id,group\nf0,\n"), r"has no column original_corrected_dice"),
        (lambda at: (at / "cases.csv").write_text(",".join(HEADER) + "\n"), r"holds no case"),
        (
            lambda at: (at / "cases.csv").write_text(",".join(HEADER) + "\nf0,,,x,1,1,1,1\n"),
            r"holds a cell that is not a number",
        ),
        (lambda at: (at / "cases.csv").write_text(",".join(HEADER) + "\nf0,,,nan,1,1,1,1\n"), r"not finite"),
        (
            lambda at: (at / "cases.csv").write_text(",".join(HEADER) + "\nf0,,,1,1,1,1,1\n" * 2),
            r"score the model again",
        ),
    ],
)
def test_damaged_evaluations_are_named(made, change, message):
    folder, _, _, _ = made
    target = damaged(folder, "damaged", change)
    with pytest.raises(ValueError, match=message):
        compare([target], speed=False)


def test_only_seeds_of_one_network_with_one_kind_of_report_are_averaged(made, tiny_run):
    folder, _, _, _ = made
    write_evaluation(folder / "other", 5, network="lvit")
    write_evaluation(folder / "none", 5, text="none")
    for name in ("other", "none"):
        with pytest.raises(ValueError, match=r"of another .* than .*; only seeds of one network are averaged"):
            compare([f"x={folder / 'a0'},{folder / name}"], speed=False)
    for text in (f"x={folder / 'a0'},{folder / 'a0'}", f"x={folder / 'a0'},", "x="):
        with pytest.raises(ValueError, match="write LABEL=RUN,RUN"):
            compare([text], speed=False)
    with pytest.raises(ValueError, match="has no label before its ="):
        compare([f"={folder / 'a0'}"], speed=False)
    with pytest.raises(FileNotFoundError, match=r"no such|is no model folder"):
        compare([f"x={folder / 'a0'},{folder / 'nothing'}"], speed=False)
    with pytest.raises(FileNotFoundError, match="is no model folder"):
        compare([f"x={folder / 'a0'},{tiny_run}"], speed=False)


def test_seeds_of_different_networks_are_refused(tiny_run, tmp_path):
    other = shutil.copytree(tiny_run, tmp_path / "other", ignore=shutil.ignore_patterns("evaluation-*"))
    path = other / "best" / "config.toml"
    path = path if path.is_file() else next((other / "best").glob("*.toml"))
    text = path.read_text()
    assert "base_width = 8" in text
    write_files(other / "best", {path.name: text.replace("base_width = 8", "base_width = 16").encode()})
    with pytest.raises(ValueError, match=r"is another network than .*only seeds of one network are averaged"):
        compare([f"x={tiny_run},{other}"], speed=False)


def test_published_pairs_on_the_command_line(tiny_run, capsys):
    assert main(["compare", "--published", "90.6", "82.8"]) == 0
    assert "pooled" in capsys.readouterr().out
    assert main(["compare", "--published", "83.40", "74.62", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "per image"
    assert found["dice_if_pooled"] == pytest.approx(200 * 0.7462 / 1.7462)
    assert main(["compare", "--published", "50", "60"]) == 1
    for arguments, message in (
        (["--published", "abc", "50"], "expected a number such as"),
        (["--published", "90,6", "82,8"], "expected a number such as"),
        (["--published", "120", "90"], "expected 0 to 1, or 0 to 100"),
        ([str(tiny_run), "--published", "90", "80"], "leave out the models"),
        (["/no/such/run"], "is no model folder"),
        (["--seed", "-1"], "whole number of at least 0"),
    ):
        try:
            status = main(["compare", *arguments])
        except SystemExit as stopped:
            status = stopped.code
        assert status == 2
        assert message in capsys.readouterr().err
