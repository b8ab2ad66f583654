"""Statistics of an evaluation: subgroups by hand, lengths by the files, every value from the table of cases."""

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr
from support.tiny_runs import TINY

from c2fvl.checkpoints.trained_model import load_model
from c2fvl.cli.main import main
from c2fvl.config_files import load_config
from c2fvl.data.cases import Case
from c2fvl.data.part import Part
from c2fvl.data.phantom.draw import write_phantom
from c2fvl.data.scan import scan
from c2fvl.evaluation.evaluate import evaluate
from c2fvl.evaluation.records import to_plain
from c2fvl.evaluation.statistics import as_columns, compute_statistics, pooled
from c2fvl.evaluation.subgroups import subgroups
from c2fvl.files.images import read_mask, read_spacing, write_image, write_labels, write_mask
from c2fvl.files.tables import write_cells
from c2fvl.inference.predictor import Predictor
from c2fvl.metrics.case_scores import score_case
from c2fvl.metrics.intervals import Bootstrap
from c2fvl.metrics.overlap import Overlap
from c2fvl.training.loop import train


def table_of(folder):
    return list(csv.DictReader((folder / "cases.csv").read_text(encoding="utf-8").splitlines()))


def column(rows, name):
    return np.array([float(row[name]) for row in rows])


def cases_of(count, **columns):
    return [
        Case(
            f"f{place}", Path("x.png"), None, None, None, tuple((name, cells[place]) for name, cells in columns.items())
        )
        for place in range(count)
    ]


def scores_of(*masks):
    return as_columns([[score_case(np.zeros_like(mask), mask)] for mask in masks])


def rows_of(found, name):
    (stratum,) = [stratum for stratum in found if stratum.name == name]
    return {label: places.tolist() for label, places in stratum.rows}


def drawn(*boxes, shape=(30, 40)):
    mask = np.zeros(shape, np.uint8)
    for top, left, height, width in boxes:
        mask[top : top + height, left : left + width] = 1
    return mask


def test_sides_numbers_and_zones_by_hand():
    masks = [
        drawn(),
        drawn((2, 2, 4, 4)),  # upper left
        drawn((24, 30, 4, 4)),  # lower right
        drawn((12, 2, 4, 4), (12, 30, 4, 4)),  # both middles
        drawn((2, 2, 10, 10), (12, 30, 2, 2)),  # right: 4 of 104, a stray
        drawn(*((row, 30, 2, 2) for row in (0, 4, 8, 12, 16))),
    ]
    found = subgroups(cases_of(6), scores_of(*masks))
    assert rows_of(found, "side") == {
        "no lesion": [0], "image left (patient's right)": [1, 4], "image right (patient's left)": [2, 5],
        "both sides": [3],
    }  # fmt: skip
    assert rows_of(found, "number of lesions") == {"0": [0], "1": [1, 2], "2": [3, 4], "4 and more": [5]}
    assert rows_of(found, "zone with a lesion") == {
        "image left upper zone (patient's right)": [1, 4], "image left middle zone (patient's right)": [3, 4],
        "image right upper zone (patient's left)": [5], "image right middle zone (patient's left)": [3, 5],
        "image right lower zone (patient's left)": [2],
    }  # fmt: skip
    overlapping = {stratum.name for stratum in found if stratum.overlapping}
    assert overlapping == {"zone with a lesion"}


def test_sizes_are_fifths_of_the_images_with_lesions():
    areas = [7, 0, 3, 9, 1, 5, 2, 8, 4, 6, 10]
    masks = [drawn((0, 0, 1, area)) if area else drawn() for area in areas]
    rows = rows_of(subgroups(cases_of(11), scores_of(*masks)), "size of the lesion")
    assert {label: sorted(areas[place] for place in places) for label, places in rows.items()} == {
        "no lesion": [0], "smallest fifth": [1, 2], "second fifth": [3, 4], "third fifth": [5, 6],
        "fourth fifth": [7, 8], "largest fifth": [9, 10],
    }  # fmt: skip
    two = rows_of(subgroups(cases_of(2), scores_of(*masks[:1], masks[3])), "size of the lesion")
    assert list(two.values()) == [[0], [1]]
    assert subgroups(cases_of(2), scores_of(masks[0], masks[0]))[0].name == "size of the lesion"
    assert subgroups(cases_of(1), scores_of(masks[0])) == []
    assert subgroups(cases_of(2), scores_of(masks[1], masks[1])) == []  # all alike: nothing to tell apart


def test_columns_of_a_table():
    count = 20
    numbers = [str(value) for value in range(count - 1)] + [""]
    cases = cases_of(
        count,
        site=["a", "b", "", "a"] * 5,
        age=numbers,
        same=["x"] * count,
        words=[f"word {place}" for place in range(count)],
        twelve=[str(place % 12) for place in range(count)],
        ties=["0"] * 8 + [f"{place}.5" for place in range(12)],
        gaps=["nan", "inf", *[str(1000 + place) for place in range(18)]],
    )
    found = subgroups(cases, scores_of(*[drawn((0, 0, 2, 2))] * count))
    assert rows_of(found, "column site") == {
        "(empty)": list(range(2, 20, 4)), "a": [p for p in range(20) if p % 4 in (0, 3)], "b": list(range(1, 20, 4)),
    }  # fmt: skip
    age = rows_of(found, "column age")
    assert sorted(place for places in age.values() for place in places) == list(range(count))
    assert age.pop("(empty)") == [19]
    assert [len(places) for places in age.values()] == [4, 4, 3, 4, 4]
    assert list(age) == ["0 to 3", "4 to 7", "8 to 10", "11 to 14", "15 to 18"]
    assert len(rows_of(found, "column twelve")) == 12  # labels, though they are numbers
    ties = rows_of(found, "column ties")
    assert sorted(place for places in ties.values() for place in places) == list(range(count))
    assert next(iter(ties.values()))[:8] == list(range(8))
    assert rows_of(found, "column gaps")["(empty)"] == [0, 1]
    names = [stratum.name for stratum in found]
    assert "column same" not in names
    assert "column words" not in names


def test_lesions_of_several_classes_are_counted_not_averaged():
    """One lesion of the first class and none of the second are one lesion, not half of one."""
    masks = [
        (drawn((0, 0, 2, 2)), drawn()),
        (drawn((0, 0, 2, 2), (9, 9, 2, 2)), drawn((20, 20, 9, 9))),
        (drawn(), drawn()),
    ]
    details = [[score_case(np.zeros_like(mask), mask) for mask in of_case] for of_case in masks]
    overlaps = [[Overlap(0, 0, int(mask.sum())) for mask in of_case] for of_case in masks]
    found = to_plain(compute_statistics(cases_of(3), as_columns(details), overlaps))
    assert sum(row["lesions"] for row in found["lesions"].values()) == 4
    assert sum(row["missed"] for row in found["lesions"].values()) == 4
    (numbers,) = [stratum for stratum in found["subgroups"] if stratum["name"] == "number of lesions"]
    assert {row["label"]: row["num_cases"] for row in numbers["rows"]} == {"0": 1, "1": 1, "3": 1}


@pytest.mark.parametrize(
    ("dpi", "spacing"),
    [((254, 127), (0.2, 0.1)), ((72, 72), None), ((96, 96), None), ((300, 300), None), ((72, 96), None), (None, None),
     ((181.43, 181.43), (0.14, 0.14)), ((72, 254), (0.1, 25.4 / 72))],
)  # fmt: skip
@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
def test_distances_are_those_that_a_file_tells(tmp_path, dpi, spacing, ending):
    path = tmp_path / f"film.{ending}"
    Image.new("L", (8, 6)).save(path, **({} if dpi is None else {"dpi": dpi}))
    found = read_spacing(path)
    assert found is None if spacing is None else found == pytest.approx(spacing, rel=4e-3)


def test_what_is_no_picture_tells_no_distance(tmp_path):
    (tmp_path / "film.png").write_bytes(b"\x89PNG no")
    assert read_spacing(tmp_path / "film.png") is None
    assert read_spacing(tmp_path / "nothing.png") is None
    Image.new("L", (8, 6)).save(tmp_path / "zero.jpg", dpi=(0, 0))
    assert read_spacing(tmp_path / "zero.jpg") is None


@pytest.fixture(scope="module")
def model(tiny_run):
    return load_model(tiny_run)


@pytest.fixture(scope="module")
def scored(model, phantom_root, tmp_path_factory):
    return evaluate(model, Part(phantom_root), out=tmp_path_factory.mktemp("scored"))


@pytest.fixture
def images(phantom_root, tmp_path):
    """Three images of the phantom whose files tell a distance of 0.2 mm of rows and 0.1 mm of columns."""
    for case in scan(phantom_root, "val")[:3]:
        for part, path in (("img", case.image), ("labelcol", case.mask)):
            target = tmp_path / "data" / "Val_Folder" / part / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.open(path).save(target, **({"dpi": (254, 127)} if part == "img" else {}))
    return tmp_path / "data"


def distances(found, true, spacing):
    """Return the Hausdorff distance and the mean surface distance; the diagonal where one mask is empty."""
    edges = [np.argwhere(mask & ~ndimage.binary_erosion(mask)) * spacing for mask in (found > 0, true > 0)]
    if not len(edges[0]) and not len(edges[1]):
        return 0.0, 0.0
    if not len(edges[0]) or not len(edges[1]):
        return (float(np.hypot(found.shape[0] * spacing[0], found.shape[1] * spacing[1])),) * 2
    every = cdist(*edges)
    both = np.concatenate([every.min(axis=0), every.min(axis=1)])
    return both.max(), both.mean()


def test_lengths_are_in_mm_where_every_file_tells_them(images, model, tiny_run, tmp_path):
    found = evaluate(model, Part(images, text="none"), out=tmp_path / "out", tolerances=(0.3,))
    assert found.summary.as_dict()["unit"] == {"length": "mm", "from": "the files"}
    predictor = Predictor(tiny_run)
    for row, case in zip(table_of(tmp_path / "out"), scan(images, "val"), strict=True):
        mask, true = predictor(case.image).mask, read_mask(case.mask)
        hausdorff, mean = distances(mask, true, (0.2, 0.1))
        assert float(row["hd"]) == pytest.approx(hausdorff, rel=1e-4)
        assert float(row["assd"]) == pytest.approx(mean, rel=1e-4)
        assert float(row["area"]) == pytest.approx(mask.sum() * 0.02, rel=1e-4)
        assert "nsd_0.3" in row
        assert "nsd_1" not in row
    assert "mm²" in found.page.read_text()


def test_one_image_without_a_distance_makes_all_pixels(images, model, tmp_path):
    case = scan(images, "val")[1]
    Image.open(case.image).save(case.image, dpi=(300, 300))
    found = evaluate(model, Part(images, text="none"), out=tmp_path / "out")
    assert found.summary.as_dict()["unit"]["length"] == "pixel"
    assert "only 2 of 3 hold a distance" in found.summary.as_dict()["unit"]["from"]
    assert "only 2 of 3 hold a distance" in found.page.read_text()


def test_a_given_distance_scales_lengths_and_areas(images, model, tiny_run, tmp_path, capsys):
    command = ["evaluate", str(tiny_run), str(images), "--report", "none", "--spacing", "0.5,0.25"]
    command += ["--tolerance", "2", "--tolerance", "0.5", "--tolerance", "2.0"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["unit"] == {"length": "mm", "from": "given: 0.5 × 0.25 mm"}
    rows = table_of(tmp_path / "out")
    assert [name for name in rows[0] if name.startswith("nsd_")] == ["nsd_2", "nsd_0.5"]
    predictor = Predictor(tiny_run)
    for row, case in zip(rows, scan(images, "val"), strict=True):
        mask, true = predictor(case.image).mask, read_mask(case.mask)
        assert (float(row["hd"]), float(row["assd"])) == pytest.approx(distances(mask, true, (0.5, 0.25)), rel=1e-6)
        assert float(row["area_target"]) == pytest.approx(true.sum() * 0.125)
    per_image = summary["statistics"]["per_image"]
    assert per_image["hd95"]["value"] == pytest.approx(column(rows, "hd95").mean())
    assert f"{per_image['hd95']['value']:.2f}" in printed
    assert " mm; in brackets 95 % confidence intervals" in printed


def test_every_number_is_the_mean_of_its_column(scored):
    rows, found = table_of(scored.folder), scored.summary.as_dict()["statistics"]
    assert (
        found["intervals"]
        == f"{len(rows)} cases in {len({row['group'] for row in rows})} groups; the bootstrap draws groups"
    )
    names = {"dice": "original_corrected_dice", "iou": "original_corrected_iou"}
    for name, entry in found["per_image"].items():
        values = column(rows, names.get(name, name))
        assert entry["value"] == pytest.approx(values.mean(), abs=1e-9), name
        assert entry["low"] <= entry["value"] + 1e-9
        assert entry["high"] >= entry["value"] - 1e-9
        if entry["median"] is not None:
            quartiles = np.quantile(values, [0.25, 0.5, 0.75], method="inverted_cdf")
            assert [entry[key]["value"] for key in ("lower_quartile", "median", "upper_quartile")] == pytest.approx(
                quartiles
            )
    wanted = {
        "dice",
        "iou",
        "precision",
        "recall",
        "specificity",
        "hd",
        "hd95",
        "assd",
        "nsd_1",
        "nsd_3",
        "estimated_dice",
    }
    assert wanted <= found["per_image"].keys()
    assert not any(name.startswith(("area_image_", "lesions")) for name in found["per_image"])


def test_intervals_are_those_of_another_bootstrap_by_groups(scored):
    rows, found = table_of(scored.folder), scored.summary.as_dict()["statistics"]
    groups = np.array([row["group"] for row in rows])
    members = [np.flatnonzero(groups == name) for name in sorted(set(groups))]
    generator = np.random.default_rng(11)
    draws = [
        np.concatenate([members[place] for place in generator.integers(0, len(members), len(members))])
        for _ in range(6000)
    ]
    inside, predicted, true = (column(rows, f"original_{name}") for name in ("intersection", "prediction", "target"))
    others = {
        ("per_image", "dice"): [column(rows, "original_corrected_dice")[draw].mean() for draw in draws],
        ("per_image", "hd95"): [column(rows, "hd95")[draw].mean() for draw in draws],
        ("pooled", "dice"): [2 * inside[draw].sum() / (predicted + true)[draw].sum() for draw in draws],
        ("pooled", "iou"): [inside[draw].sum() / (predicted + true - inside)[draw].sum() for draw in draws],
    }
    for (part, name), values in others.items():
        low, high = np.quantile(values, [0.025, 0.975])
        entry = found[part][name]
        assert (entry["low"], entry["high"]) == pytest.approx((low, high), abs=0.1 * (high - low)), (part, name)
    assert found["pooled"]["dice"]["value"] == pytest.approx(2 * inside.sum() / (predicted + true).sum())
    assert found["pooled"]["iou"]["value"] == pytest.approx(inside.sum() / (predicted + true - inside).sum())
    page = scored.page.read_text()
    for part, name in others:
        for key in ("value", "low", "high"):
            scale = 1 if name == "hd95" else 100
            assert f"{scale * found[part][name][key]:.2f}" in page


def test_lesions_and_subgroups_are_counted_from_masks(scored, phantom_root):
    rows, found = table_of(scored.folder), scored.summary.as_dict()["statistics"]
    masks = [read_mask(case.mask) for case in scan(phantom_root, "val")]
    sizes = [
        np.bincount(areas.ravel())[1:] / mask.size
        for mask in masks
        for areas in [ndimage.label(mask, np.ones((3, 3)))[0]]
    ]
    every = np.concatenate(sizes)
    for name, low, high in (("small", 0, 0.01), ("medium", 0.01, 0.05), ("large", 0.05, 2)):
        assert found["lesions"][name]["lesions"] == np.count_nonzero((every >= low) & (every < high))
        assert found["lesions"][name]["missed"] == column(rows, f"lesions_missed_{name}").sum()
    dice = column(rows, "original_corrected_dice")
    iou = column(rows, "original_corrected_iou")
    named = {stratum["name"]: stratum for stratum in found["subgroups"]}
    for label, count in ((row["label"], row["num_cases"]) for row in named["number of lesions"]["rows"]):
        assert count == sum(len(own) == int(label) if label.isdigit() else len(own) >= 4 for own in sizes)
    by_label = {
        ("number of lesions", "4 and more"): [len(own) >= 4 for own in sizes],
        **{("number of lesions", str(number)): [len(own) == number for own in sizes] for number in range(4)},
        ("side", "both sides"): [min(mask[:, :32].sum(), mask[:, 32:].sum()) > 0.05 * mask.sum() for mask in masks],
        ("side", "no lesion"): [not mask.any() for mask in masks],
    }
    checked = 0
    for stratum in found["subgroups"]:
        for row in stratum["rows"]:
            chosen = by_label.get((stratum["name"], row["label"]))
            if chosen is not None:
                groups = {line["group"] for line, is_in in zip(rows, chosen, strict=True) if is_in}
                assert (row["num_cases"], row["num_groups"]) == (sum(chosen), len(groups))
                assert row["dice"]["value"] == pytest.approx(dice[chosen].mean())
                assert row["iou"]["value"] == pytest.approx(iou[chosen].mean())
                checked += 1
        if not stratum["overlapping"]:
            assert sum(row["num_cases"] for row in stratum["rows"]) == len(rows)
    assert checked >= 3


def test_calibration_is_that_of_the_probabilities(scored, tiny_run, phantom_root):
    predictor = Predictor(tiny_run)
    cases = scan(phantom_root, "val")
    found = [predictor(case.image, case.report) for case in cases]
    probability = np.concatenate([one.probability.ravel() for one in found]).astype(np.float64)
    lesion = np.concatenate([read_mask(case.mask).ravel() for case in cases]) > 0
    calibration, rows = scored.summary.as_dict()["calibration"], table_of(scored.folder)
    assert calibration["pixels"]["brier"] == pytest.approx(np.mean((probability - lesion) ** 2), rel=1e-4)
    bins = np.minimum((probability * 15).astype(int), 14)
    gaps = [abs(probability[bins == number].sum() - lesion[bins == number].sum()) for number in range(15)]
    assert calibration["pixels"]["ece"] == pytest.approx(sum(gaps) / len(lesion), rel=1e-3)
    expected = [2 * (one.probability * one.mask).sum() / (one.probability.sum() + one.mask.sum()) for one in found]
    told = column(rows, "estimated_dice")
    assert told == pytest.approx([one.estimated_dice for one in found], rel=1e-4)
    assert told == pytest.approx(expected, abs=0.05)
    area = np.mean(
        [one.probability.mean() - (read_mask(case.mask) > 0).mean() for one, case in zip(found, cases, strict=True)]
    )
    assert calibration["area"]["mean_difference"] == pytest.approx(area, rel=1e-3)
    assert calibration["confidence"]["mean"] == pytest.approx(told.mean())
    dice = column(rows, "original_corrected_dice")
    assert calibration["confidence"]["spearman"] == pytest.approx(spearmanr(told, dice).statistic)
    assert calibration["confidence"]["mean_dice"] == pytest.approx(dice.mean())


def test_subgroups_by_a_column_of_ones_own_table(phantom_root, model, tmp_path):
    cells = [["image", "mask", "text", "site"]]
    for place, case in enumerate(scan(phantom_root, "val")):
        for path in (case.image, case.mask):
            shutil.copy(path, tmp_path / f"{path.parent.name}-{path.name}")
        names = [f"{path.parent.name}-{path.name}" for path in (case.image, case.mask)]
        cells.append([*names, case.report.text, ["<b>north", "south", ""][place % 3]])
    write_cells(tmp_path / "films.csv", cells)
    found = evaluate(model, Part(tmp_path / "films.csv", split="all"), out=tmp_path / "out")
    dice = {row["id"]: float(row["original_corrected_dice"]) for row in table_of(tmp_path / "out")}
    (stratum,) = [one for one in found.summary.as_dict()["statistics"]["subgroups"] if one["name"] == "column site"]
    sites = {"<b>north": 0, "south": 1, "(empty)": 2}
    assert {row["label"] for row in stratum["rows"]} == set(sites)
    for row in stratum["rows"]:
        own = [dice[Path(line[0]).stem] for line in cells[1:][sites[row["label"]] :: 3]]
        assert row["dice"]["value"] == pytest.approx(np.mean(own))
    page = found.page.read_text()
    assert "<b>north" not in page
    assert "&lt;b&gt;north" in page


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """A network of two classes, lesions left and right of the image's middle, and its data."""
    root = tmp_path_factory.mktemp("classes") / "data"
    write_phantom(root, num_cases=16, seed=2, size=64)
    for path in root.glob("*/labelcol/*.png"):
        labels = (cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 0).astype(np.uint8)
        labels[:, 32:] *= 2
        path.unlink()
        write_labels(path, labels)
    config = load_config(
        "debug",
        [*TINY, f'data.root="{root}"', "data.mask=labels", "model.arguments.num_classes=3", "train.epochs=1",
         'data.class_names=["left", "right"]', 'data.mirrored_classes=["left", "right"]'],
    )  # fmt: skip
    return train(config, run=root.parent / "run").run, root


def test_several_classes_have_columns_of_their_own_and_their_mean(classes, tmp_path):
    run, root = classes
    found = evaluate(load_model(run), Part(root, split="train"), out=tmp_path)
    rows, predictor = table_of(tmp_path), Predictor(run)
    assert found.summary.as_dict()["calibration"] is None
    assert "estimated_dice" not in rows[0]
    single = [name for name in rows[0] if f"{name}_class_1" in rows[0]]
    assert {"original_corrected_dice", "original_corrected_iou", "hd95", "nsd_1", "area", "lesions_target"} <= set(
        single
    )
    for name in single:
        mean = (column(rows, f"{name}_class_1") + column(rows, f"{name}_class_2")) / 2
        assert column(rows, name) == pytest.approx(mean, rel=1e-9), name
    lesions = 0
    for row, case in zip(rows, scan(root, "train"), strict=True):
        mask, labels = predictor(case.image, case.report).mask, read_mask(case.mask, "labels")
        for number in (1, 2):
            one, two = mask == number, labels == number
            assert int(row[f"original_intersection_class_{number}"]) == (one & two).sum()
            assert int(row[f"original_prediction_class_{number}"]) == one.sum()
            assert int(row[f"original_target_class_{number}"]) == two.sum()
            both = one.sum() + two.sum()
            assert float(row[f"original_corrected_dice_class_{number}"]) == pytest.approx(
                2 * (one & two).sum() / both if both else 1
            )
            lesions += ndimage.label(two, np.ones((3, 3)))[1]
    scores_of = found.summary.as_dict()["statistics"]
    assert sum(size["lesions"] for size in scores_of["lesions"].values()) == lesions
    pooled = []
    for number in (1, 2):
        inside, predicted, true = (
            column(rows, f"original_{name}_class_{number}").sum() for name in ("intersection", "prediction", "target")
        )
        pooled.append(2 * inside / (predicted + true))
    assert scores_of["pooled"]["dice"]["value"] == pytest.approx(np.mean(pooled))
    (numbers,) = [one for one in scores_of["subgroups"] if one["name"] == "number of lesions"]
    assert sum(row["num_cases"] for row in numbers["rows"]) == len(rows)


def test_strange_names_stay_text(model, tmp_path):
    names = ["a<b>&c", 'quo"te, comma', "ä ☃ '=1", "=1+1"]
    cells = [["image", "mask", "text"]]
    for name in names:
        write_image(tmp_path / f"{name}.png", np.full((32, 32, 3), 80, np.uint8))
        write_mask(tmp_path / f"m {name}.png", np.eye(32, dtype=np.uint8))
        cells.append([f"{name}.png", f"m {name}.png", "<img src=x onerror=alert(1)>"])
    write_cells(tmp_path / "films.csv", cells)
    found = evaluate(model, Part(tmp_path / "films.csv", split="all"), out=tmp_path / "out")
    assert {row["id"].removeprefix("'") for row in table_of(tmp_path / "out")} == set(names)
    assert not any(row["id"].startswith("=") for row in table_of(tmp_path / "out"))
    page = found.page.read_text()
    assert "<b>&" not in page
    assert "<img src=x" not in page


def test_pooled_scores_by_hand():
    """Two cases of two classes: pixels are added over cases, then the ratio is taken, then the mean over classes."""
    overlaps = [[Overlap(3, 4, 5), Overlap(0, 2, 0)], [Overlap(1, 1, 3), Overlap(2, 2, 2)]]
    found = pooled(overlaps, Bootstrap([None, None]))
    assert found["dice"].value == pytest.approx((2 * 4 / 13 + 2 * 2 / 6) / 2)
    assert found["iou"].value == pytest.approx((4 / 9 + 2 / 4) / 2)
