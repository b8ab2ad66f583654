"""Figures of an audit, computed again from its table, its images and its network by other ways."""

import csv
import json
import shutil

import numpy as np
import openpyxl
import pytest
import scipy.stats
import torch
from support.progress import Steps

from c2fvl.checkpoints.trained_model import load_model
from c2fvl.cli.main import main
from c2fvl.data.part import Part
from c2fvl.data.perturbations import most_common_report, perturb_reports, perturbations
from c2fvl.data.scan import scan
from c2fvl.evaluation.audit import SECOND_PASS, audit
from c2fvl.files.images import read_mask, write_image, write_mask
from c2fvl.files.tables import write_cells
from c2fvl.inference.predictor import Predictor
from c2fvl.reports.from_mask import report_from_mask
from c2fvl.reports.zones import ZONES


def table_of(folder, name="audit.csv"):
    return list(csv.DictReader((folder / name).read_text(encoding="utf-8").splitlines()))


def column(rows, name):
    return np.array([float(row[name]) for row in rows])


@pytest.fixture(scope="module")
def audited(tiny_run, phantom_root, tmp_path_factory):
    progress = Steps()
    out = tmp_path_factory.mktemp("audit")
    found = audit(load_model(tiny_run), Part(phantom_root, seed=2), out=out, progress=progress)
    return found, table_of(out), progress.steps


@pytest.fixture
def silent(tiny_run):
    """A network whose every probability is all but 0."""
    model = load_model(tiny_run)
    with torch.no_grad():
        for name, weights in model.network.named_parameters():
            if name.startswith("heads."):
                weights.fill_(-60.0 if name.endswith("bias") else 0.0)
    return model


def test_the_table_and_the_summary_are_written_beside_an_evaluation(audited):
    found, rows, steps = audited
    summary = json.loads((found.folder / "summary.json").read_text())
    assert summary == json.loads(json.dumps(found.summary.as_dict()))
    names = [change["name"] for change in summary["audit"]["changes"]]
    assert names == [*(change.name for change in perturbations(None)), SECOND_PASS]
    scored = table_of(found.folder, "cases.csv")
    assert [row["id"] for row in rows] == [row["id"] for row in scored]
    assert column(rows, "right_dice") == pytest.approx(column(scored, "original_corrected_dice"), abs=1e-12)
    assert column(rows, "right_iou") == pytest.approx(column(scored, "original_corrected_iou"), abs=1e-12)
    total = len(rows) * (2 + len(names) - 1)
    assert steps[-1] == (total, total)
    assert [done for done, _ in steps] == list(range(1, total + 1))


def test_every_change_is_the_mean_of_its_column(audited):
    found, rows, _ = audited
    groups = np.array([row["group"] for row in rows])
    names = sorted(set(groups))
    generator = np.random.default_rng(5)
    draws = generator.integers(0, len(names), (4000, len(names)))
    members = [np.flatnonzero(groups == name) for name in names]
    for change in found.summary.as_dict()["audit"]["changes"]:
        for measure in ("dice", "iou"):
            values = column(rows, f"{change['name']}_{measure}")
            assert change[measure]["value"] == pytest.approx(values.mean(), abs=1e-12)
            drawn = [values[np.concatenate([members[place] for place in draw])].mean() for draw in draws]
            low, high = np.quantile(drawn, [0.025, 0.975])
            width = max(high - low, 1e-6)
            assert change[measure]["low"] == pytest.approx(low, abs=0.15 * width)
            assert change[measure]["high"] == pytest.approx(high, abs=0.15 * width)


def test_differences_and_their_tests_are_those_of_scipy(audited):
    found, rows, _ = audited
    groups = np.array([row["group"] for row in rows])
    names = sorted(set(groups))
    right, seen = column(rows, "right_dice"), []
    for change in found.summary.as_dict()["audit"]["changes"]:
        apart = change["difference_to_right"]
        if change["name"] == "right":
            assert apart is None
            assert change["permutation_p_holm"] is None
            continue
        values = column(rows, f"{change['name']}_dice") - right
        assert apart["value"] == pytest.approx(values.mean(), abs=1e-12)
        sums = np.array([values[groups == name].sum() for name in names])
        means = np.array([values[groups == name].mean() for name in names])
        if values.any():
            other = scipy.stats.permutation_test((sums,), np.sum, permutation_type="samples", n_resamples=np.inf)
            assert apart["permutation_p"] == pytest.approx(other.pvalue, abs=1e-9)
            assert apart["wilcoxon_p"] == pytest.approx(scipy.stats.wilcoxon(means).pvalue)
        else:
            assert (apart["permutation_p"], apart["wilcoxon_p"]) == (1, 1)
        seen.append((apart["permutation_p"], change["permutation_p_holm"]))
    ordered, minimum = sorted(range(len(seen)), key=lambda place: seen[place][0]), 0.0
    for rank, place in enumerate(ordered):
        minimum = max(minimum, min(1.0, seen[place][0] * (len(seen) - rank)))
        assert seen[place][1] == pytest.approx(minimum)


def test_the_headline_by_hand(audited):
    found, rows, _ = audited
    entries = {entry["name"]: entry["value"] for entry in found.summary.as_dict()["audit"]["headline"]}
    means = {name: column(rows, f"{name}_dice").mean() for name in ("right", "none", "shuffled", "sides_exchanged")}
    assert entries == {
        "right": pytest.approx(means["right"]),
        "none": pytest.approx(means["none"]),
        "benefit": pytest.approx(means["right"] - means["none"]),
        "harm_shuffled": pytest.approx(means["none"] - means["shuffled"]),
        "harm_sides_exchanged": pytest.approx(means["none"] - means["sides_exchanged"]),
    }
    text = " ".join(line["text"] for line in found.summary.as_dict()["audit"]["remarks"])
    assert f"{abs(100 * entries['benefit']):.2f} points" in text
    assert f"{abs(100 * entries['harm_shuffled']):.2f} points" in text


@pytest.mark.parametrize("name", ["right", "sides_exchanged", "zone_off", "constant", SECOND_PASS])
def test_masks_and_their_lungs_are_those_of_the_predictor(audited, tiny_run, phantom_root, name):
    found, rows, _ = audited
    predictor = Predictor(tiny_run)
    cases = scan(phantom_root, "val")
    if name == "constant":
        given = [most_common_report(scan(phantom_root, "train"))] * len(cases)
        assert str(given[0]) == found.summary.as_dict()["audit"]["constant_report"]
    elif name == SECOND_PASS:
        given = [report_from_mask(predictor(case.image).mask, modality="film") for case in cases]
    else:
        given = [case.report for case in perturb_reports(cases, name, seed=2)]
    counts = dict.fromkeys(("excluded_lungs", "excluded_zones", "wrong_lungs"), (0, 0))
    pixels = []
    for row, case, report in zip(rows, cases, given, strict=True):
        assert row[f"{name}_report"] == report.text or row[f"{name}_report"] == str(report)
        mask, true = predictor(case.image, report).mask, read_mask(case.mask)
        both = mask.sum() + true.sum()
        assert float(row[f"{name}_dice"]) == pytest.approx(2 * (mask & true).sum() / both, abs=1e-12)
        pixels.append((2 * (mask & true).sum(), both))
        height, width = mask.shape
        rows_of = dict(
            zip(
                ("upper", "middle", "lower"),
                np.array_split(np.arange(height), [round(height / 3), round(2 * height / 3)]),
                strict=True,
            )
        )
        in_half = {"l": mask[:, : width // 2].sum(), "r": mask[:, width // 2 :].sum()}
        in_zone = {
            zone: (mask[:, : width // 2] if zone[0] == "l" else mask[:, width // 2 :])[rows_of[zone[1:]]].sum()
            for zone in ZONES
        }
        for key, told, areas, size in (
            ("excluded_lungs", report, in_half, 1), ("excluded_zones", report, in_zone, None),
            ("wrong_lungs", case.report, in_half, 1),
        ):  # fmt: skip
            outside = [area for place, area in areas.items() if place not in {zone[:size] for zone in told.zones}]
            if (told.zones or told.side == "none") and outside:
                counts[key] = (counts[key][0] + sum(outside), counts[key][1] + mask.sum())
    change = next(change for change in found.summary.as_dict()["audit"]["changes"] if change["name"] == name)
    inside, sizes = np.sum(pixels, axis=0)
    assert change["dice_pooled"]["value"] == pytest.approx(inside / sizes)
    for key, (outside, whole) in counts.items():
        if not whole:
            assert change[key] is None
        else:
            assert change[key]["value"] == pytest.approx(outside / whole)
            assert change[key]["low"] is None or change[key]["low"] <= change[key]["value"] <= change[key]["high"]


def test_the_interval_of_a_share_is_drawn_from_the_images_that_have_it(audited, tiny_run, phantom_root):
    """A draw without any image whose report excludes a lung says nothing; it is no draw with a share of 1."""
    found, rows, _ = audited
    predictor, by_group = Predictor(tiny_run), {}
    for case in scan(phantom_root, "val"):
        hands = {zone[0] for zone in case.report.zones}
        if len(hands) == 2 or not (hands or case.report.side == "none"):
            continue
        mask = predictor(case.image, case.report).mask
        half = {"l": mask[:, :32].sum(), "r": mask[:, 32:].sum()}
        outside = sum(area for hand, area in half.items() if hand not in hands)
        before = by_group.get(case.group, (0, 0))
        by_group[case.group] = (before[0] + outside, before[1] + mask.sum())
    assert 1 < len(by_group) < len({row["group"] for row in rows})
    each = [outside / whole for outside, whole in by_group.values()]
    change = found.summary.as_dict()["audit"]["changes"][0]
    assert min(each) - 1e-9 <= change["wrong_lungs"]["low"] <= change["wrong_lungs"]["high"] <= max(each) + 1e-9


def test_what_the_network_cannot_tell_apart_scores_alike(audited):
    """Attributes are the same in other words, with typing errors, and for two ways to exchange the sides."""
    found, rows, _ = audited
    for first, second in (
        ("right", "paraphrase"),
        ("right", "typing_errors"),
        ("sides_exchanged", "patient_orientation"),
    ):
        for measure in ("dice", "iou"):
            assert (column(rows, f"{first}_{measure}") == column(rows, f"{second}_{measure}")).all()
    changes = {change["name"]: change for change in found.summary.as_dict()["audit"]["changes"]}
    assert changes["paraphrase"]["num_changed"] == changes["typing_errors"]["num_changed"] == 0
    assert changes["none"]["num_changed"] == len(rows)
    assert any(row["right_report"] != row["paraphrase_report"] for row in rows)
    assert all(row["none_report"] == "" for row in rows)
    assert changes["none"]["excluded_lungs"] is None


def test_the_constant_mask_is_scored_by_hand(audited, phantom_root):
    from c2fvl.evaluation.mean_masks import fit_mean_masks

    found, rows, _ = audited
    masks = fit_mean_masks(scan(phantom_root, "train"), "lesion")
    scores = []
    for case in scan(phantom_root, "val"):
        true = read_mask(case.mask)
        drawn = masks.constant_mask(true.shape)
        scores.append(
            (2 * (drawn & true).sum() / (drawn.sum() + true.sum()), (drawn & true).sum() / (drawn | true).sum())
        )
    baseline = found.summary.as_dict()["audit"]["baselines"][0]
    assert (baseline["name"], baseline["num_training_images"]) == ("constant", len(scan(phantom_root, "train")))
    assert baseline["dice"]["value"] == pytest.approx(np.mean(scores, axis=0)[0])
    assert baseline["iou"]["value"] == pytest.approx(np.mean(scores, axis=0)[1])
    apart = column(rows, "none_dice").mean() - np.mean(scores, axis=0)[0]
    assert baseline["difference"]["value"] == pytest.approx(apart)


def test_a_network_without_text_has_no_changes_and_says_so(unet_run, phantom_root, tmp_path):
    found = audit(load_model(unet_run), Part(phantom_root, split="test"), out=tmp_path)
    assert found.summary.as_dict()["audit"]["changes"] == found.summary.as_dict()["audit"]["headline"] == []
    assert found.summary.as_dict()["audit"]["remarks"][0] == {
        "text": "This network reads no text: no report, right or wrong, changes its mask.", "warning": False,
    }  # fmt: skip
    assert "changes its mask" in found.page.read_text()
    assert list(table_of(tmp_path)[0]) == ["id", "group"]
    (baseline,) = found.summary.as_dict()["audit"]["baselines"]
    dice = column(table_of(tmp_path, "cases.csv"), "original_corrected_dice").mean()
    assert baseline["difference"]["value"] == pytest.approx(dice - baseline["dice"]["value"])


def test_a_network_that_finds_nothing_does_not_beat_one_mask_for_all(silent, phantom_root, tmp_path):
    found = audit(silent, Part(phantom_root), out=tmp_path)
    rows = table_of(tmp_path)
    empty = [not read_mask(case.mask).any() for case in scan(phantom_root, "val")]
    assert column(rows, "right_dice").tolist() == [float(none) for none in empty]
    page = found.page.read_text()
    words = found.summary.as_dict()["audit"]["remarks"]
    assert any("is not better than one mask for all images" in line["text"] and line["warning"] for line in words)
    assert "is not better than one mask for all images" in page
    assert not any("-0.00" in line["text"] or "−0.00" in line["text"] for line in words)
    for change in found.summary.as_dict()["audit"]["changes"]:
        assert change["wrong_lungs"] is change["excluded_lungs"] is None  # no area lies anywhere
        assert change["dice"]["value"] == np.mean(empty)
    assert column(rows, f"{SECOND_PASS}_dice").mean() == np.mean(empty)
    assert {row[f"{SECOND_PASS}_report"] for row in rows} == {"No pulmonary infection, zero infected areas."}


@pytest.fixture(scope="module")
def own_images(tmp_path_factory):
    """Three images in a csv without a training part: one report that can be read, one free text, one image without."""
    folder = tmp_path_factory.mktemp("own")
    generator = np.random.default_rng(0)
    said = ["Unilateral pulmonary infection, one infected area, upper left lung.", "<script>alert(1)</script>", ""]
    names = ["a<b>&", 'quo"te, comma', "ä ☃ '=1"]
    rows = [["image", "mask", "text", "split"]]
    for name, text in zip(names, said, strict=True):
        write_image(folder / f"{name}.png", generator.integers(0, 256, (40, 50, 3), dtype=np.uint8))
        mask = np.zeros((40, 50), np.uint8)
        mask[5:20, 5:20] = 1
        write_mask(folder / f"mask {name}.png", mask)
        rows.append([f"{name}.png", f"mask {name}.png", text, "val"])
    write_cells(folder / "films.csv", rows)
    return folder / "films.csv", names


def test_images_without_report_and_strange_names_stay_text(own_images, tiny_run, tmp_path):
    root, names = own_images
    found = audit(load_model(tiny_run), Part(root), out=tmp_path)
    rows = table_of(tmp_path)
    assert [row["id"] for row in rows] == [row["id"] for row in table_of(tmp_path, "cases.csv")] == sorted(names)
    by_name = {row["id"]: row for row in rows}
    assert by_name["ä ☃ '=1"]["right_report"] == by_name["ä ☃ '=1"]["zone_off_report"] == ""
    assert by_name['quo"te, comma']["right_report"] == "<script>alert(1)</script>"
    for row in rows:
        assert row["constant_report"].startswith(("Unilateral", "<script>"))
    changes = {change["name"]: change for change in found.summary.as_dict()["audit"]["changes"]}
    assert changes["none"]["num_changed"] == 1  # of one image alone the network could read the report
    page = found.page.read_text()
    assert page.count("<script") == 1  # its own
    assert "&lt;script&gt;alert(1)" in page
    assert "a&lt;b&gt;&amp;" in page
    words = [line["text"] for line in found.summary.as_dict()["audit"]["remarks"]]
    assert "There is no training split here, so there is no image-independent baseline." in words
    assert found.summary.as_dict()["audit"]["baselines"] == []


def test_formulas_in_names_do_not_run(tiny_run, tmp_path):
    evil = "=HYPERLINK(1)"  # a caption that begins so is no caption, and free text is not read by this network
    write_image(tmp_path / f"{evil}.png", np.zeros((32, 32, 3), np.uint8))
    write_mask(tmp_path / "m.png", np.eye(32, dtype=np.uint8))
    caption = "unilateral pulmonary infection, upper left lung"
    write_cells(tmp_path / "films.csv", [["image", "mask", "text"], [f"{evil}.png", "m.png", caption]])
    found = audit(load_model(tiny_run), Part(tmp_path / "films.csv", split="all"), out=tmp_path / "out")
    (row,) = table_of(tmp_path / "out")
    assert row["id"] == f"'{evil}" and row["right_report"] == caption
    assert not any(cell.startswith(("=", "+", "@")) for cell in row.values())
    names = [change["name"] for change in found.summary.as_dict()["audit"]["changes"]]
    assert "shuffled" not in names  # there is no other image whose report it could be given
    assert {change["dice"]["low"] for change in found.summary.as_dict()["audit"]["changes"]} == {None}


def test_no_readable_report_is_said(tiny_run, tmp_path):
    for number in range(2):
        write_image(tmp_path / f"f{number}.png", np.full((32, 32, 3), 90 * number, np.uint8))
        write_mask(tmp_path / f"m{number}.png", np.eye(32, dtype=np.uint8))
    cells = [["image", "mask", "text"], ["f0.png", "m0.png", "Cough"], ["f1.png", "m1.png", "Fever"]]
    write_cells(tmp_path / "films.csv", cells)
    found = audit(load_model(tiny_run), Part(tmp_path / "films.csv", split="all"), out=tmp_path / "out")
    assert found.summary.as_dict()["audit"]["changes"] == []
    assert found.summary.as_dict()["audit"]["remarks"][0]["warning"]
    assert "No case has a report that the network can read" in found.page.read_text()


def test_a_caption_table_of_the_scored_part_alone_serves(phantom_root, tiny_run, tmp_path):
    copied = shutil.copytree(phantom_root, tmp_path / "data")
    folder = copied / "Val_Folder"
    shutil.copy(folder / "Val_text.xlsx", folder / "Other.xlsx")
    sheet = openpyxl.load_workbook(folder / "Other.xlsx").active
    sentence = "No pulmonary infection, zero infected areas."
    rows = [list(row) for row in sheet.iter_rows(values_only=True)]
    write_cells(folder / "Other.xlsx", [rows[0], *([row[0], sentence] for row in rows[1:])])
    found = audit(load_model(tiny_run), Part(copied, table=str(folder / "Other.xlsx")), out=tmp_path / "out")
    assert {row["right_report"] for row in table_of(tmp_path / "out")} == {sentence}
    assert found.summary.as_dict()["audit"]["baselines"][0]["num_training_images"] == len(scan(copied, "train"))
    assert found.summary.as_dict()["audit"]["constant_report"] == str(most_common_report(scan(copied, "train")))


def test_without_masks_to_train_on_there_is_no_baseline(own_images, tiny_run, tmp_path):
    """Of two parts the training one has no masks and no reports, so the common report is that of the images scored."""
    root, _ = own_images
    lines = list(csv.reader(root.read_text(encoding="utf-8").splitlines()))
    write_image(root.parent / "train.png", np.zeros((8, 8, 3), np.uint8))
    cells = [*lines[:2], ["train.png", "", "", "train"]]
    write_cells(root.parent / "parts.csv", cells)
    found = audit(load_model(tiny_run), Part(root.parent / "parts.csv"), out=tmp_path)
    assert found.summary.as_dict()["audit"]["baselines"] == []
    assert "There is no training split here" in found.page.read_text()
    assert found.summary.as_dict()["audit"]["constant_report"] == lines[1][2]


def test_audit_on_the_command_line_prints_what_the_summary_holds(tiny_run, phantom_root, tmp_path, capsys):
    command = ["audit", str(tiny_run), str(phantom_root), "--split", "test", "--seed", "3"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    summary = json.loads((tmp_path / "summary.json").read_text())
    for change in summary["audit"]["changes"]:
        (line,) = [line for line in printed.splitlines() if line.strip().startswith(change["title"])]
        assert f" {100 * change['dice']['value']:.2f} " in line
        difference = change["difference_to_none"]
        if difference is not None:
            values = [100 * difference[key] for key in ("value", "low", "high")]
            assert f"{values[0]:.2f} ({values[1]:.2f} to {values[2]:.2f})" in line.replace("\N{MINUS SIGN}", "-")
    for line in summary["audit"]["remarks"]:
        assert line["text"] in printed
    assert summary["audit"]["seed"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MODEL", "/no/such/data"], "neither a folder nor a csv file"),
        (["/no/such/run", "ROOT"], "is no model folder"),
        (["MODEL", "ROOT", "--split", "dev"], "expected train, val, test"),
        (["MODEL", "ROOT", "--table", "nothing.xlsx"], "the caption table does not exist"),
        (["MODEL", "ROOT", "--out", "FILE"], "name a folder for the scores"),
        (["MODEL", "ROOT", "--spacing", "0"], "must be MM or MM,MM"),
        (["MODEL", "ROOT", "--spacing", "a"], "must be MM or MM,MM"),
        (["MODEL", "ROOT", "--spacing", "1,2,3"], "MM,MM (rows, columns)"),
        (["MODEL", "ROOT", "--spacing", "nan"], "must be MM or MM,MM"),
        (["MODEL", "ROOT", "--tolerance", "-1"], "must be a number above 0"),
        (["MODEL", "ROOT", "--tolerance", "x"], "must be a number above 0"),
        (["MODEL", "ROOT", "--seed", "-1"], "whole number of at least 0"),
    ],
)
@pytest.mark.parametrize("command", ["audit", "evaluate"])
def test_bad_input_names_the_remedy(command, arguments, message, tiny_run, phantom_root, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    places = {"MODEL": str(tiny_run), "ROOT": str(phantom_root), "FILE": str(tmp_path / "file")}
    try:
        status = main([command, *(places.get(argument, argument) for argument in arguments)])
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2
    assert message in capsys.readouterr().err
