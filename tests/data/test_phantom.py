"""The phantom: what its images, masks and reports promise, counted anew from the pictures."""

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from openpyxl import load_workbook
from scipy import ndimage

from c2fvl.data.phantom import draw as phantom
from c2fvl.data.phantom.draw import PhantomCase, draw_case, write_phantom

SIZE = 96
ZONES = ("lupper", "lmiddle", "llower", "rupper", "rmiddle", "rlower")


@pytest.fixture(scope="module")
def cases() -> list[PhantomCase]:
    return [draw_case(7, index, size=SIZE) for index in range(160)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "set"
    assert write_phantom(out, num_cases=24, seed=5, size=64) == {"train": 16, "val": 4, "test": 4}
    return out


def zone_map(lungs: np.ndarray) -> np.ndarray:
    """Number the zones 1 to 6 pixel by pixel, by a rule written down a second time."""
    zones = np.zeros(lungs.shape, int)
    for number in (1, 2):
        rows, columns = np.nonzero(lungs == number)
        height = rows.max() + 1 - rows.min()
        thirds = np.digitize(rows - rows.min(), [round(height / 3), round(2 * height / 3)])
        zones[rows, columns] = 3 * (number - 1) + thirds + 1
    return zones


def dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    total = int(prediction.sum()) + int(truth.sum())
    return 2 * int((prediction & truth).sum()) / total if total else 1.0


def table(path: Path) -> list[tuple[object, ...]]:
    return list(load_workbook(path).active.iter_rows(values_only=True))


def test_arrays(cases: list[PhantomCase]) -> None:
    for case in cases:
        for array in (case.image, case.mask, case.decoys, case.lungs):
            assert array.shape == (SIZE, SIZE)
            assert array.dtype == np.uint8
        assert set(np.unique(case.mask)) <= {0, 1}
        assert set(np.unique(case.decoys)) <= {0, 1}
        assert set(np.unique(case.lungs)) == {0, 1, 2}
        assert case.lungs[(case.mask | case.decoys) == 1].all()


def test_films_look_like_chests(cases: list[PhantomCase]) -> None:
    """Lungs are dark in a bright body, one in each half; the heart's tip is at the right of the picture."""
    for case in cases:
        clear = (case.lungs > 0) & (case.mask + case.decoys == 0)
        heart = case.image[SIZE // 2 : int(0.62 * SIZE), int(0.48 * SIZE) : int(0.56 * SIZE)]
        assert case.image[clear].mean() + 40 < heart.mean()
        assert 0.15 < (case.lungs > 0).mean() < 0.45
        assert not (case.lungs[:, SIZE // 2 :] == 1).any()
        assert not (case.lungs[:, : SIZE // 2] == 2).any()
        assert np.percentile(case.image, 99) > 150
        assert (case.image == 255).mean() < 0.12
    mean_film = np.mean([case.image for case in cases], axis=0)
    rows, columns = slice(int(0.56 * SIZE), int(0.64 * SIZE)), slice(int(0.3 * SIZE), int(0.36 * SIZE))
    assert mean_film[:, ::-1][rows, columns].mean() > mean_film[rows, columns].mean() + 20
    levels = [case.image.mean() for case in cases]
    assert np.ptp(levels) > 25  # exposures vary


def test_shadows_are_brighter_than_the_lung_around_them(cases: list[PhantomCase]) -> None:
    brighter = []
    for case in cases:
        shadows = case.mask | case.decoys
        around = cv2.dilate(shadows, np.ones((13, 13), np.uint8)) & (case.lungs > 0) & (shadows == 0)
        if shadows.any() and around.any():
            brighter.append(case.image[shadows == 1].mean() - case.image[around == 1].mean())
    assert np.mean(np.array(brighter) > 10) > 0.95
    assert 20 < np.mean(brighter) < 80


def test_report_counts_connected_lesions(cases: list[PhantomCase]) -> None:
    for case in cases:
        count = ndimage.label(case.mask, np.ones((3, 3)))[1]
        assert case.report.number == count == cv2.connectedComponents(case.mask, connectivity=8)[0] - 1
    assert {1, 2, 3, 4} <= {case.report.number for case in cases}
    assert max(case.report.number for case in cases) <= 6


def test_report_side_is_seen_in_the_halves_of_the_picture(cases: list[PhantomCase]) -> None:
    for case in cases:
        left, right = case.mask[:, : SIZE // 2].any(), case.mask[:, SIZE // 2 :].any()
        assert case.report.side == {0: "none", 1: "unilateral", 2: "bilateral"}[int(left) + int(right)]
        assert any(zone.startswith("l") for zone in case.report.zones) == left
        assert any(zone.startswith("r") for zone in case.report.zones) == right
        assert case.report.orientation == "image"


def test_report_names_the_zones_of_the_lesions(cases: list[PhantomCase]) -> None:
    seen = Counter()
    for case in cases:
        zones, labels = zone_map(case.lungs), ndimage.label(case.mask, np.ones((3, 3)))[0]
        named = set()
        for label in range(1, labels.max() + 1):
            fractions = np.bincount(zones[labels == label], minlength=7) / (labels == label).sum()
            named |= {ZONES[zone - 1] for zone in range(1, 7) if fractions[zone] >= 0.1}
        assert case.report.zones == named
        seen.update(named)
    assert set(seen) == set(ZONES)
    assert min(seen.values()) > 15


def test_empty_images(cases: list[PhantomCase]) -> None:
    empty = [case for case in cases if not case.mask.any()]
    assert 0 < len(empty) < 0.12 * len(cases)
    for case in empty:
        assert (case.report.side, case.report.number, case.report.zones) == ("none", 0, frozenset())
        assert str(case.report).lower() == "no pulmonary infection, zero infected areas."
    assert {bool(case.decoys.any()) for case in empty} == {True, False}


def test_decoys_lie_in_zones_without_lesions(cases: list[PhantomCase]) -> None:
    for case in cases:
        zones = zone_map(case.lungs)
        with_lesions, with_decoys = set(zones[case.mask == 1]), set(zones[case.decoys == 1])
        assert not with_lesions & with_decoys
        assert not {ZONES[zone - 1] for zone in with_decoys} & case.report.zones
        if case.mask.any() and case.decoys.any():
            distance = ndimage.distance_transform_edt(case.mask == 0)
            assert distance[case.decoys == 1].min() >= 2
    assert np.mean([case.decoys.any() for case in cases]) > 0.65


def test_nothing_but_the_report_tells_lesions_from_decoys() -> None:
    """Area and contrast of one lesion and one decoy of each contested image, told apart no better than by a coin."""
    wins = np.zeros(3)
    contested = 0
    for index in range(240):
        case = draw_case(11, index, size=64)
        if not (case.mask.any() and case.decoys.any()):
            continue
        contested += 1
        facts = []
        for field in (case.mask, case.decoys):
            labels, count = ndimage.label(field, np.ones((3, 3)))
            one = labels == 1 + index % count
            facts.append((one.sum(), case.image[one].mean(), np.nonzero(one)[0].mean()))
        wins += np.greater(facts[0], facts[1]) + 0.5 * np.equal(facts[0], facts[1])
    assert contested > 150
    assert np.abs(wins / contested - 0.5).max() < 3.5 * 0.5 / np.sqrt(contested)


def test_lesions_vary_in_size(cases: list[PhantomCase]) -> None:
    fractions = []
    for case in cases:
        labels, count = ndimage.label(case.mask, np.ones((3, 3)))
        smaller_lung = min((case.lungs == 1).sum(), (case.lungs == 2).sum())
        fractions += [(labels == label).sum() / smaller_lung for label in range(1, count + 1)]
    assert np.quantile(fractions, 0.1) < 0.04
    assert 0.06 < np.median(fractions) < 0.15
    assert np.quantile(fractions, 0.97) > 0.3


def test_reading_the_report_pays() -> None:
    """Whoever marks every shadow loses at least 20 points of Dice against whoever keeps those in the named zones."""
    without_report, with_report = [], []
    for index in range(40):
        case = draw_case(0, index)
        shadows, truth = (case.mask | case.decoys).astype(bool), case.mask.astype(bool)
        labels, count = ndimage.label(shadows, np.ones((3, 3)))
        zones = zone_map(case.lungs)
        kept = np.zeros_like(truth)
        for label in range(1, count + 1):
            main_zone = np.bincount(zones[labels == label], minlength=7).argmax()
            if ZONES[main_zone - 1] in case.report.zones:
                kept |= labels == label
        without_report.append(dice(shadows, truth))
        with_report.append(dice(kept, truth))
    assert np.mean(with_report) == 1.0
    assert np.mean(without_report) < 0.8


@pytest.mark.parametrize("size", [32, 50, 224])
def test_an_image_depends_on_seed_index_and_size_alone(size: int) -> None:
    first, again = draw_case(3, 12, size=size), draw_case(3, 12, size=size)
    assert first.report == again.report
    for name in ("image", "mask", "decoys", "lungs"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    for other in (draw_case(4, 12, size=size), draw_case(3, 14, size=size)):
        assert (first.image != other.image).mean() > 0.3


def test_images_of_one_group_share_the_anatomy() -> None:
    first, second, stranger = (draw_case(0, index, size=SIZE) for index in (0, 1, 2))
    assert first.group == second.group == "sub-S00000"
    assert (first.name, second.name) == ("sub-S00000_run-1", "sub-S00000_run-2")
    assert stranger.group == "sub-S00001"
    assert not np.array_equal(first.image, second.image)

    def fraction(number: int) -> list[float]:
        return [(case.lungs == number).sum() / (case.lungs > 0).sum() for case in (first, second, stranger)]

    assert abs(fraction(1)[0] - fraction(1)[1]) < 0.01 < abs(fraction(1)[0] - fraction(1)[2])


def test_layout(folder: Path) -> None:
    groups = {}
    for split, number in (("Train", 16), ("Val", 4), ("Test", 4)):
        part = folder / f"{split}_Folder"
        images = sorted(path.name for path in (part / "img").iterdir())
        masks = sorted(path.name for path in (part / "labelcol").iterdir())
        assert len(images) == number
        assert masks == [f"mask_{name}" for name in images]
        groups[split] = {name.split("_")[0] for name in images}
        sentences, attributes = table(part / f"{split}_text.xlsx"), table(part / f"{split}_attributes.xlsx")
        assert sentences[0][:2] == ("Image", "Description")
        assert attributes[0] == ("Image", "bilateral", "number", *ZONES)
        assert sorted(row[0] for row in sentences[1:]) == sorted(row[0] for row in attributes[1:]) == masks
        for name, bilateral, number_of_areas, *zones in attributes[1:]:
            image = cv2.imread(str(part / "img" / str(name).removeprefix("mask_")), cv2.IMREAD_UNCHANGED)
            mask = cv2.imread(str(part / "labelcol" / str(name)), cv2.IMREAD_UNCHANGED)
            assert image.shape == mask.shape == (64, 64)
            assert set(np.unique(mask)) <= {0, 255}
            assert number_of_areas == cv2.connectedComponents(mask, connectivity=8)[0] - 1
            assert bool(bilateral) == bool(mask[:, :32].any() and mask[:, 32:].any())
            assert (any(zones[:3]), any(zones[3:])) == (mask[:, :32].any(), mask[:, 32:].any())
    assert not groups["Train"] & groups["Val"] | groups["Train"] & groups["Test"] | groups["Val"] & groups["Test"]
    assert sorted(path.name for path in folder.iterdir()) == ["Test_Folder", "Train_Folder", "Val_Folder"]


def test_written_images_are_the_drawn_ones_whatever_their_number(folder: Path, tmp_path: Path) -> None:
    write_phantom(tmp_path / "fewer", num_cases=9, seed=5, size=64)
    for index in range(9):
        case = draw_case(5, index, size=64)
        for pattern in (f"*_Folder/img/{case.name}.png", f"*_Folder/labelcol/mask_{case.name}.png"):
            (fewer,), (more,) = (tmp_path / "fewer").glob(pattern), folder.glob(pattern)
            assert fewer.read_bytes() == more.read_bytes()
        (path,) = folder.glob(f"*_Folder/img/{case.name}.png")
        assert np.array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), case.image)


@pytest.mark.parametrize("num_cases", range(6, 40))
def test_no_split_is_empty_and_no_group_is_shared(num_cases: int) -> None:
    splits = phantom._split(num_cases, (0.7, 0.15, 0.15))
    assert sorted(index for indices in splits.values() for index in indices) == list(range(num_cases))
    owners: dict[str, set[str]] = {}
    for split, indices in splits.items():
        assert indices
        for index in indices:
            owners.setdefault(draw_case(0, index, size=32).group, set()).add(split)
    assert all(len(owner) == 1 for owner in owners.values())


def test_fractions_are_kept() -> None:
    splits = phantom._split(400, (0.5, 0.2, 0.3))
    assert [len(splits[name]) / 400 for name in ("Train", "Val", "Test")] == pytest.approx([0.5, 0.2, 0.3], abs=0.01)


def test_an_empty_folder_is_filled_and_a_full_one_refused(tmp_path: Path) -> None:
    out = tmp_path / "set"
    out.mkdir()
    write_phantom(out, num_cases=6, size=32)
    before = sorted(out.rglob("*"))
    with pytest.raises(FileExistsError, match=r"set exists already"):
        write_phantom(out, num_cases=6, size=32)
    assert sorted(out.rglob("*")) == before
    (tmp_path / "file").write_text("kept")
    with pytest.raises(FileExistsError, match="file exists already"):
        write_phantom(tmp_path / "file", num_cases=6, size=32)
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_cases": 5}, "num_cases 5 is too few"),
        ({"size": 31}, "size 31 is too small"),
        ({"seed": -1}, "seed -1"),
        ({"fractions": (0.9, 0.1, 0.0)}, "three positive numbers"),
        ({"fractions": (0.7, 0.2, 0.2)}, "the sum 1"),
    ],
)
def test_wrong_arguments_write_nothing(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_phantom(tmp_path / "set", **arguments)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_wrong_image_numbers() -> None:
    with pytest.raises(ValueError, match="index -2"):
        draw_case(0, -2)
    with pytest.raises(ValueError, match="size 16"):
        draw_case(0, 0, size=16)


def test_a_full_disk_leaves_no_half_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def write_until_full(path: Path, image: np.ndarray) -> None:
        if len(written) == 4:
            raise OSError(28, "No space left on device")
        written.append(path)
        phantom_write_image(path, image)

    phantom_write_image = phantom.write_image
    monkeypatch.setattr(phantom, "write_image", write_until_full)
    with pytest.raises(OSError, match="No space left"):
        write_phantom(tmp_path / "set", num_cases=8, size=32)
    assert len(written) == 4
    assert not list(tmp_path.iterdir())
