"""Masks that never see the image, against plain NumPy on a handful of small masks."""

import dataclasses

import cv2
import numpy as np
import pytest
from support.progress import Steps

from c2fvl.data.cases import Case
from c2fvl.evaluation.mean_masks import MIN_IMAGES, SIDE, fit_mean_masks
from c2fvl.files.images import write_labels, write_mask
from c2fvl.reports.report import Report

LEFT, RIGHT = Report("unilateral", 1, {"lupper"}), Report("unilateral", 1, {"rlower"})
RARE, FREE = Report("none", 0), Report(text="in words of its own")
CUTS = [0.05 * number for number in range(1, 19)]


def blocks(seed, count, columns, side=SIDE):
    """Return masks with a block of random rows in the given columns."""
    generator = np.random.default_rng(seed)
    masks = np.zeros((count, side, side), np.uint8)
    for mask in masks:
        top = generator.integers(10, 40)
        mask[top : top + generator.integers(8, 40), columns] = 1
    return masks


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masks")
    masks = [
        *blocks(0, 7, slice(8, 40)),
        *blocks(1, 6, slice(55, 90)),
        *blocks(2, 4, slice(30, 60)),
        np.zeros((SIDE, SIDE)),
    ]
    reports = [LEFT] * 7 + [RIGHT] * 6 + [RARE] * 3 + [FREE, None]
    cases = []
    for place, (mask, report) in enumerate(zip(masks, reports, strict=True)):
        path = folder / f"m{place}.png"
        write_mask(path, mask.astype(np.uint8))
        cases.append(Case(f"f{place}", folder / "no film is read.png", path, report, None))
    return cases, np.array(masks, np.uint8)


def dice(first, second):
    both = first.sum() + second.sum()
    return 2 * (first & second).sum() / both if both else 1.0


def best_cut(groups):
    """Return the cut with the best mean Dice over the masks of all groups, each against its own mean."""
    means = [
        np.mean([dice(group.mean(axis=0) >= cut - 1e-9, mask.astype(bool)) for group in groups for mask in group])
        for cut in CUTS
    ]
    return CUTS[int(np.argmax(np.round(means, 6)))]


def test_means_and_cuts_are_those_of_numpy(images):
    cases, masks = images
    progress = Steps()
    found = fit_mean_masks(cases, "lesion", progress=progress)
    assert found.num_images == 18
    assert progress.steps == [(number, 18) for number in range(1, 19)]
    assert found.constant == pytest.approx(masks.mean(axis=0), abs=1e-6)
    assert set(found.of_report) == {LEFT, RIGHT}  # others are told of fewer than five images, or in free text
    assert found.of_report[LEFT] == pytest.approx(masks[:7].mean(axis=0), abs=1e-6)
    assert found.of_report[RIGHT] == pytest.approx(masks[7:13].mean(axis=0), abs=1e-6)
    assert found.constant_threshold == pytest.approx(best_cut([masks]))
    assert found.report_threshold == pytest.approx(best_cut([masks[:7], masks[7:13]]))


def test_masks_are_cut_in_the_size_of_the_image(images):
    cases, masks = images
    found = fit_mean_masks(cases, "lesion")
    assert (found.constant_mask((SIDE, SIDE)) == (masks.mean(axis=0) >= found.constant_threshold - 1e-6)).all()
    assert (found.mask_of(LEFT, (SIDE, SIDE)) == (masks[:7].mean(axis=0) >= found.report_threshold - 1e-6)).all()
    for report in (RARE, FREE, None, Report(number=4)):
        assert (found.mask_of(report, (50, 70)) == found.constant_mask((50, 70))).all()
    large = found.constant_mask((2 * SIDE, 3 * SIDE))
    assert large.dtype == np.uint8
    expected = cv2.resize(masks.mean(axis=0).astype(np.float32), (3 * SIDE, 2 * SIDE), interpolation=cv2.INTER_LINEAR)
    assert (large == (expected >= found.constant_threshold)).mean() > 0.999


def test_the_mask_that_was_chosen_is_the_one_that_is_given(tmp_path):
    """Means such as 3 of 20 lie on a cut; whether they count must not differ between choosing and giving."""
    for on in (3, 7, 10, 12, 14):
        cases = []
        for place in range(20):
            mask = np.zeros((SIDE, SIDE), np.uint8)
            mask[: SIDE // 2, : SIDE // 2] = place < on
            mask[-4:, -4:] = 1
            write_mask(tmp_path / f"{on}-{place}.png", mask)
            cases.append(Case(f"{place}", tmp_path / "x.png", tmp_path / f"{on}-{place}.png", LEFT, None))
        found = fit_mean_masks(cases, "lesion")
        with_block, without = ((SIDE // 2) ** 2 + 16, 16)
        worth_it = on * 1.0 + (20 - on) * 2 * without / (with_block + without)  # the block drawn
        leave = on * 2 * without / (with_block + without) + (20 - on) * 1.0
        drawn = bool(found.constant_mask((SIDE, SIDE))[0, 0])
        assert drawn == (worth_it > leave) or worth_it == pytest.approx(leave), on
        assert bool(found.mask_of(LEFT, (SIDE, SIDE))[0, 0]) == drawn


def test_masks_of_any_size_and_of_classes_count_as_lesion(tmp_path):
    labels = np.zeros((48, 24), np.uint8)
    labels[:24, :12], labels[24:, 12:] = 1, 2
    write_labels(tmp_path / "classes.png", labels)
    case = Case("a", tmp_path / "x.png", tmp_path / "classes.png", LEFT, None)
    found = fit_mean_masks([case], "labels")
    half = SIDE // 2
    expected = np.zeros((SIDE, SIDE))
    expected[:half, :half] = expected[half:, half:] = 1
    assert (found.constant == expected).all()
    assert not found.of_report
    assert (found.mask_of(LEFT, (48, 24)) == (labels > 0)).all()


def test_images_without_a_mask_do_not_count(images):
    cases, masks = images
    blank = [dataclasses.replace(case, mask=None) for case in cases]
    found = fit_mean_masks([*cases[:MIN_IMAGES], *blank], "lesion")
    assert found.num_images == MIN_IMAGES
    assert found.constant == pytest.approx(masks[:MIN_IMAGES].mean(axis=0), abs=1e-6)
    assert set(found.of_report) == {LEFT}
    with pytest.raises(ValueError, match="no training image has a mask"):
        fit_mean_masks(blank, "lesion")
