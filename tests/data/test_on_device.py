"""A data set on a device gives what the loader gives, for every augmentation."""

import dataclasses
import time

import cv2
import numpy as np
import pytest
import torch

from c2fvl.config import DataConfig
from c2fvl.data import batch_transforms, transforms
from c2fvl.data.batches import EpochBatches, collate
from c2fvl.data.dataset import CaseDataset
from c2fvl.data.on_device import DeviceData, bytes_needed
from c2fvl.data.phantom.draw import write_phantom
from c2fvl.data.scan import scan

BORDER = 6
"""Pixels at the edge of an image, and at the edge of what a rotation leaves of it, that need not agree."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("device") / "phantom"
    write_phantom(root, num_cases=24, seed=3, size=96)
    return root


def data(root, *, augment=True, **settings):
    config = DataConfig(
        **{"image_size": 96, "image_cache": "none", "missing_reports": "allow", "text": "findings"} | settings
    )
    return CaseDataset(scan(root, "train"), config, augment=augment, seed=5)


def both_ways(dataset, epoch=2):
    """Return all cases of an epoch as the loader makes them and as the device does, in an order of its own."""
    order = EpochBatches(len(dataset), len(dataset), epoch=epoch, seed=1).batches[0]
    expected = collate([dataset[key] for key in order])
    on_device = DeviceData(dataset, "cpu", threads=2)
    draws = on_device.draw_epoch(epoch, [index for _, index in order])
    return expected, on_device.batch(draws, torch.arange(len(dataset))), draws


def same(left, right):
    return (left is None) == (right is None) and (
        left is None or torch.equal(left.nan_to_num(-7), right.nan_to_num(-7))
    )


def edges(mask):
    """Return where a mask has both values within a pixel, and the border that a rotation draws."""
    kernel = np.ones((3, 3), np.uint8)
    return cv2.dilate(mask, kernel) != cv2.erode(mask, kernel)


def inside(expected):
    """Return which pixels (B, S, S) lie inside the image and away from what was moved in from outside."""
    filled = (expected.image.amax(1) > 0).numpy().astype(np.uint8)
    filled[:, [0, -1]] = filled[:, :, [0, -1]] = 0
    return torch.from_numpy(np.stack([cv2.erode(plane, np.ones((2 * BORDER + 1,) * 2)) for plane in filled])) > 0


@pytest.mark.parametrize("augmentation", transforms.AUGMENTATIONS)
def test_every_augmentation_agrees_with_the_loader(root, augmentation):
    dataset = data(root, augmentation=augmentation, report_dropout=0.3, report_noise=0.6, partial_reports=0.3)
    expected, found, draws = both_ways(dataset)
    assert same(expected.text, found.text)
    assert same(expected.findings, found.findings)
    assert found.image.shape == expected.image.shape
    assert found.image.is_contiguous(memory_format=torch.channels_last)
    difference = (found.image - expected.image).abs().amax(1)
    assert difference[inside(expected)].mean() < 1 / 255
    for row, index in enumerate(draws.order):
        drawn = dataset.draw_case(2, index).augmentation
        mask, truth = found.mask[row].numpy(), expected.mask[row].numpy()
        if drawn.degrees or drawn.scale != 1 or drawn.shift != (0, 0):
            assert (mask == truth)[~edges(truth.astype(np.uint8))].all()
        else:
            assert np.array_equal(mask, truth)
            if not (drawn.blur or drawn.gamma != 1):
                assert difference[row].max() < 1e-6


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("flip", ["", "mirror", "flip_vertical"])
def test_turns_and_flips_are_exact(turns, flip):
    drawn = transforms.Augmentation(quarter_turns=turns, **{flip: True} if flip else {})
    random = np.random.default_rng(0)
    image, mask = random.integers(0, 256, (32, 32, 3), np.uint8), random.integers(0, 5, (32, 32), np.uint8)
    expected = transforms.apply(drawn, transforms.Sample(image.astype(np.float32) / 255, mask))
    found, moved = batch_transforms.augment(
        batch_transforms.stack([drawn], 32), torch.from_numpy(image)[None], torch.from_numpy(mask)[None],
        torch.tensor([0]), blurs=False,
    )  # fmt: skip
    assert np.array_equal(moved[0].numpy(), expected.mask)
    assert np.abs(found[0].permute(1, 2, 0).numpy() - expected.image).max() < 1e-6


@pytest.mark.parametrize("std", [0.0, 0.3, 0.5, 0.8, 1.2])
def test_a_blur_is_that_of_opencv(std):
    image = np.random.default_rng(1).integers(0, 256, (40, 40), np.uint8)
    drawn = transforms.Augmentation(blur=std)
    expected = transforms.apply(drawn, transforms.Sample(image.astype(np.float32) / 255, None)).image
    found, _ = batch_transforms.augment(
        batch_transforms.stack([drawn], 40), torch.from_numpy(image)[None], None, torch.tensor([0])
    )
    assert np.abs(found[0, 0].numpy() - expected).max() < 1e-5


def test_a_wider_blur_is_refused():
    with pytest.raises(ValueError, match=r"blurs by 3 pixels, but at most 1\.2"):
        batch_transforms.stack([transforms.Augmentation(blur=3.0)], 40)


@pytest.mark.parametrize("rule", ["exact", "published"])
def test_resized_images_agree(root, rule):
    expected, found, _ = both_ways(data(root, augmentation="none", image_size=64, resize=rule))
    assert torch.equal(found.mask, expected.mask)
    assert (found.image - expected.image).abs().max() <= 0.5 / 255 + 1e-6  # eight bits are kept


def test_classes_change_places_in_a_mirror(root):
    names = ("left lung", "right lung")
    config = DataConfig(
        image_size=96, image_cache="none", mask="labels", augmentation="mirror", text="none",
        class_names=names, mirrored_classes=names,
    )  # fmt: skip
    dataset = CaseDataset(scan(root, "train"), config, num_classes=3, augment=True)
    dataset._check_labels = lambda mask, path: None
    stored = dataset.stored
    dataset.stored = lambda index: dataclasses.replace(
        stored(index), mask=np.random.default_rng(index).integers(0, 3, (96, 96), np.uint8)
    )
    expected, found, _ = both_ways(dataset)
    assert torch.equal(found.mask, expected.mask)


def test_grey_and_colour_together_keep_their_channels(root):
    dataset = data(root, augmentation="none", channel_order="bgr")
    stored = dataset.stored
    coloured = np.random.default_rng(0).integers(0, 256, (96, 96, 3)).astype(np.float32) / 255
    dataset.stored = lambda index: dataclasses.replace(stored(index), image=coloured) if index == 1 else stored(index)
    expected, found, _ = both_ways(dataset)
    assert (found.image - expected.image).abs().max() < 1e-6


def test_validation_gives_every_case_once_with_its_name_and_mask(root):
    dataset = data(root, augment=False)
    on_device = DeviceData(dataset, "cpu")
    shares = [list(on_device.val_batches(3, rank=rank, world=2)) for rank in (0, 1)]
    ids = [name for share in shares for batch in share for name in batch.ids]
    assert sorted(ids) == [case.id for case in dataset.cases]
    expected = collate([dataset[0, index] for index in range(3)])
    first = shares[0][0]
    assert same(first.text, expected.text)
    assert torch.equal(first.image, expected.image)
    assert torch.equal(first.mask, expected.mask)
    assert all(map(np.array_equal, first.original_masks, expected.original_masks))


def test_draws_of_the_next_epoch_overwrite_the_last_in_place(root):
    on_device = DeviceData(data(root), "cpu")
    order = list(range(len(on_device)))
    first = on_device.draw_epoch(0, order)
    kept = first.augmentation.matrix.clone()
    on_device.prepare_epoch(1, order)
    second = on_device.draw_epoch(1, order)
    assert second.augmentation.matrix.data_ptr() == first.augmentation.matrix.data_ptr()
    assert not torch.equal(second.augmentation.matrix, kept)
    again = DeviceData(data(root), "cpu").draw_epoch(1, order)
    assert all(same(left.float(), right.float()) for left, right in zip(second.tensors(), again.tensors(), strict=True))


def test_memory_is_reported_before_anything_is_read(root):
    dataset = data(root, text="attributes")
    on_device = DeviceData(dataset, "cpu")
    kept = on_device.images.nbytes + on_device.masks.nbytes
    assert kept <= bytes_needed(dataset) <= kept + 2 * 4 * 8 * len(dataset)


def test_an_epoch_of_qata_is_drawn_within_a_second(root):
    """5712 cases; drawn as a tenth of them, the fastest of three, so that a busy machine does not decide."""
    dataset = data(root, augmentation="strong", report_dropout=0.35, report_noise=0.6, partial_reports=0.2)
    on_device = DeviceData(dataset, "cpu")
    order = [index % len(dataset) for index in range(571)]
    times = []
    for epoch in range(3):
        began = time.process_time()
        on_device.draw_epoch(epoch, order)
        times.append(time.process_time() - began)
    assert min(times) < 0.1
