from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from c2fvl.config import DataConfig
from c2fvl.data.cases import Case
from c2fvl.data.dataset import CaseDataset
from c2fvl.data.transforms import (
    AUGMENTATIONS,
    Augmentation,
    Sample,
    apply,
    draw_consistent,
    draw_published,
    draw_strong,
    in_channel_order,
    resize,
    resize_image,
    resize_mask,
)
from c2fvl.reports.report import Report
from c2fvl.reports.zones import ZONES


def sample(height=12, width=10, seed=0):
    generator = np.random.default_rng(seed)
    image = generator.random((height, width, 3), dtype=np.float32)
    return Sample(image, (generator.random((height, width)) > 0.5).astype(np.uint8))


reports = st.builds(
    Report,
    side=st.sampled_from(["bilateral", "unilateral"]),
    number=st.integers(1, 9),
    zones=st.frozensets(st.sampled_from(ZONES), min_size=1),
)


@given(reports, st.integers(0, 1000))
def test_mirroring_twice_is_the_identity_for_image_mask_and_report(report, seed):
    before = sample(seed=seed)
    after = apply(Augmentation(mirror=True), apply(Augmentation(mirror=True), before))
    assert np.array_equal(after.image, before.image)
    assert np.array_equal(after.mask, before.mask)
    assert report.mirrored().mirrored() == report


def test_a_lesion_on_the_left_with_its_report_goes_to_the_right():
    image, mask = np.zeros((6, 8, 3), np.float32), np.zeros((6, 8), np.uint8)
    image[1, 2], mask[1, 2] = 1, 1
    after = apply(Augmentation(mirror=True), Sample(image, mask))
    assert np.argwhere(after.mask).tolist() == [[1, 5]]
    assert after.image[1, 5, 0] == 1
    report = Report(side="unilateral", number=1, zones=frozenset({"lupper"}))
    case = Case("a", Path("a.png"), Path("mask_a.png"), report, None)
    found = set()
    for augmentation in ("mirror", "paper"):
        config = DataConfig(augmentation=augmentation, text="attributes", image_cache="none")
        dataset = CaseDataset([case], config, num_classes=1, augment=True)
        for epoch in range(60):
            draw = dataset.draw_case(epoch, 0)
            given = report.mirrored() if draw.augmentation.mirror and augmentation == "mirror" else report
            assert np.array_equal(draw.text, dataset.encoder.encode(given))
            found.add((augmentation, draw.augmentation.mirror))
    assert len(found) == 4


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_consistent_moves_image_and_mask_alike(seed):
    """An image that is its own mask stays it: where the image is clearly lit, the mask is set."""
    mask = np.zeros((40, 40), np.uint8)
    mask[8:20, 6:16] = 1
    image = np.repeat(mask[:, :, None], 3, axis=2).astype(np.float32)
    after = apply(draw_consistent(np.random.default_rng(seed)), Sample(image, mask))
    lit = after.image[:, :, 0]
    assert after.mask[lit > 0.9].all()
    assert not after.mask[lit < 0.01].any()
    assert set(np.unique(after.mask)) <= {0, 1}
    assert lit.min() >= 0
    assert lit.max() <= 1


def test_consistent_has_no_quarter_turns_and_mirrors_with_the_report():
    draws = [draw_consistent(np.random.default_rng(seed)) for seed in range(200)]
    assert all(draw.quarter_turns == 0 and not draw.flip_vertical and draw.mirror_report for draw in draws)
    assert 70 < sum(draw.mirror for draw in draws) < 130
    assert max(abs(draw.degrees) for draw in draws) <= 10


def test_published_draws_have_the_published_fractions():
    draws = [draw_published(np.random.default_rng(seed)) for seed in range(4000)]
    flipped = [draw for draw in draws if draw.flip_vertical or draw.mirror]
    rotated = [draw for draw in draws if draw.degrees]
    assert 0.47 < len(flipped) / 4000 < 0.53
    assert 0.21 < len(rotated) / 4000 < 0.29  # a quarter, less the fortieth of it that draws 0 degrees
    assert {draw.quarter_turns for draw in flipped} == {0, 1, 2, 3}
    assert all(draw.flip_vertical != draw.mirror and not draw.mirror_report for draw in flipped)
    assert (min(draw.degrees for draw in rotated), max(draw.degrees for draw in rotated)) == (-20, 19)
    assert not any(draw.smooth for draw in rotated)


def test_quarter_turn_by_hand():
    mask = np.array([[1, 0], [0, 0]], np.uint8)
    turned = apply(Augmentation(quarter_turns=1), Sample(np.zeros((2, 2, 3), np.float32), mask))
    assert turned.mask.tolist() == [[0, 0], [1, 0]]
    flipped = apply(Augmentation(flip_vertical=True), Sample(np.zeros((2, 2, 3), np.float32), mask))
    assert flipped.mask.tolist() == [[0, 0], [1, 0]]


def test_rotation_goes_counter_clockwise_about_the_centre():
    mask = np.zeros((41, 41), np.uint8)
    mask[20, 38] = mask[20, 20] = 1
    turned = apply(Augmentation(degrees=90.0), Sample(np.zeros((41, 41, 3), np.float32), mask))
    assert np.argwhere(turned.mask).tolist() == [[2, 20], [20, 20]]


def test_shift_goes_right_and_down():
    mask = np.zeros((20, 10), np.uint8)
    mask[4, 3] = 1
    moved = apply(Augmentation(shift=(0.2, 0.1)), Sample(np.zeros((20, 10, 3), np.float32), mask))
    assert np.argwhere(moved.mask).tolist() == [[6, 5]]


def test_inputs_are_not_written_to():
    before = sample()
    image, mask = before.image.copy(), before.mask.copy()
    for seed in range(20):
        for draw in AUGMENTATIONS.values():
            apply(draw(np.random.default_rng(seed)), before)
    assert np.array_equal(image, before.image)
    assert np.array_equal(mask, before.mask)


def test_draw_and_application_are_apart():
    augmentation = draw_consistent(np.random.default_rng(3))
    first, second = apply(augmentation, sample()), apply(augmentation, sample())
    assert np.array_equal(first.image, second.image)
    assert augmentation == draw_consistent(np.random.default_rng(3))


def test_strong_draws_change_the_image_as_they_say():
    film = sample()
    brighter = apply(Augmentation(contrast=1.5, brightness=0.05), film).image
    mean = film.image.mean()
    assert np.allclose(brighter, np.clip((film.image - mean) * 1.5 + mean + 0.05, 0, 1), atol=1e-5)
    blurred = apply(Augmentation(blur=1.0), film)
    assert blurred.image.std() < film.image.std()
    assert np.array_equal(blurred.mask, film.mask)
    for seed in range(30):
        drawn = apply(draw_strong(np.random.default_rng(seed)), film)
        assert drawn.image.dtype == np.float32
        assert drawn.image.min() >= 0
        assert drawn.image.max() <= 1
        assert set(np.unique(drawn.mask)) <= {0, 1}


def test_published_masks_grow_and_exact_ones_do_not():
    mask = np.zeros((256, 256), np.uint8)
    mask[100:140, 100:140] = 1
    exact, published = resize_mask(mask, 224, rule="exact"), resize_mask(mask, 224, rule="published")
    assert exact.sum() == pytest.approx(mask.sum() * (224 / 256) ** 2, rel=0.03)
    assert published.sum() > exact.sum()
    assert (published >= exact).all()


def test_published_image_is_resized_on_eight_bits():
    image = np.linspace(0, 1, 256 * 256, dtype=np.float32).reshape(256, 256, 1).repeat(3, axis=2)
    levels = resize_image(image, 224, rule="published") * 255
    assert np.abs(levels - np.rint(levels)).max() < 1e-4


@pytest.mark.parametrize("rule", ["exact", "published"])
def test_resizing_keeps_ranges_and_leaves_the_right_size_alone(rule):
    resized = resize(sample(50, 30), 16, rule=rule)
    assert resized.image.shape == (16, 16, 3)
    assert resized.image.dtype == np.float32
    assert 0 <= resized.image.min() <= resized.image.max() <= 1
    assert set(np.unique(resized.mask)) <= {0, 1}
    same = sample(16, 16)
    assert resize(same, 16, rule=rule).image is same.image


def test_channels_are_in_the_order_of_the_settings():
    image = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    assert np.array_equal(in_channel_order(image, DataConfig(channel_order="rgb")), image)
    blue_first = in_channel_order(image, DataConfig(channel_order="bgr"))
    assert np.array_equal(blue_first[..., 0], image[..., 2])
    assert np.array_equal(blue_first[..., 2], image[..., 0])
    grey = image[..., 0]
    assert in_channel_order(grey, DataConfig(channel_order="bgr")) is grey
