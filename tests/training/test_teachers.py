"""Distillation: the target is the mean of mask and teachers, teachers get both reports, and others are refused."""

import dataclasses

import numpy as np
import pytest
import torch

from c2fvl.checkpoints.trained_model import load_model, save_model
from c2fvl.config_files import load_config, override
from c2fvl.data.batches import collate, without_reports
from c2fvl.data.on_device import DeviceData
from c2fvl.inference.torch_engine import probabilities
from c2fvl.models import build_model
from c2fvl.reports.findings import TRUST
from c2fvl.training.loop import train
from c2fvl.training.setup import set_up
from c2fvl.training.teachers import load_teachers

CPU = torch.device("cpu")
SMALL = ("data.image_size=32", "model.arguments.widths=[8,8,16,16]", "train.threads=1", "train.device=cpu")


def config_of(phantom_root, *more):
    return load_config("filmfirst_phantom", [f'data.root="{phantom_root}"', *SMALL, "train.epochs=1", *more])


def teacher_at(folder, phantom_root, *, seed=0, more=()):
    """Write an untrained FilmFirst whose output depends on image and report; return its folder."""
    config = config_of(phantom_root, "data.text=findings", *more)
    torch.manual_seed(seed)
    network = build_model("filmfirst", config.model.arguments)
    for weights in network.parameters():
        torch.nn.init.normal_(weights, std=0.2)
    save_model(folder, network, config, {"epoch": 1})
    return folder


@pytest.fixture
def teachers(phantom_root, tmp_path):
    return [teacher_at(tmp_path / f"teacher-{seed}", phantom_root, seed=seed) for seed in (1, 2)]


def named(paths, fraction=0.5):
    return (f"train.teachers={[str(path) for path in paths]}".replace("'", '"'), f"train.distillation={fraction}")


def batch_of(phantom_root):
    run = set_up(config_of(phantom_root), phantom_root)
    return collate([run.train_data[0, index] for index in range(3)])


def test_the_target_is_the_mean_of_the_mask_and_the_teachers_with_both_reports(phantom_root, teachers):
    batch = batch_of(phantom_root)
    config = override(config_of(phantom_root), named(teachers, 0.25))
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, text="findings"))
    target = load_teachers(config, CPU).soften(batch)
    right = batch.findings[:, None].clone()
    right[..., TRUST] = 1.0
    means = []
    for path in teachers:
        network = load_model(path).network
        with torch.no_grad():
            given = [network(batch.image, text) for text in (without_reports(batch).text, right)]
        pair = [probabilities(output) for output in given]
        assert not torch.allclose(*pair)
        means += pair
    expected = 0.75 * batch.mask + 0.25 * torch.stack(means).mean(0)
    torch.testing.assert_close(target, expected, atol=1e-5, rtol=1e-4)


def test_a_teacher_of_another_size_is_resized(phantom_root, tmp_path):
    larger = teacher_at(tmp_path / "larger", phantom_root, more=("data.image_size=64",))
    config = override(config_of(phantom_root, "data.text=findings"), named([larger], 1.0))
    target = load_teachers(config, CPU).soften(batch_of(phantom_root))
    assert target.shape == (3, 32, 32)
    assert 0 <= target.min() < target.max() <= 1


def test_a_run_learns_from_its_teachers_the_same_from_a_loader_and_from_the_device(phantom_root, teachers, tmp_path):
    losses = []
    for extra in (("data.on_device=no",), ("data.on_device=yes",)):
        settings = (*named(teachers), "data.augmentation=none", "data.image_size=64", *extra)
        run = set_up(override(config_of(phantom_root), settings), tmp_path)
        batch = collate([run.train_data[0, 0]])
        if run.device_train is not None:
            assert isinstance(run.device_train, DeviceData)
            batch = next(run.device_train.val_batches(1))
        losses.append(run.teachers.soften(batch))
    torch.testing.assert_close(losses[0], losses[1], atol=1e-3, rtol=1e-3)


def test_training_with_teachers_changes_the_weights_and_resumes_only_with_the_same(phantom_root, teachers, tmp_path):
    base = config_of(phantom_root)
    plain = train(base, run=tmp_path / "plain")
    taught = train(override(base, named(teachers)), run=tmp_path / "taught")
    before, after = (load_model(result.run).network.state_dict() for result in (plain, taught))
    assert any(not torch.equal(before[name], after[name]) for name in before)
    train(resume=tmp_path / "taught", overrides=("train.epochs=2",))
    teacher_at(teachers[0], phantom_root, seed=9)
    with pytest.raises(ValueError, match="are not those that"):
        train(resume=tmp_path / "taught", overrides=("train.epochs=3",))


def test_the_folds_of_a_cross_validation_teach_together(phantom_root, tmp_path):
    for number in (1, 2, 3):
        teacher_at(tmp_path / "cv" / f"fold-{number}" / "best", phantom_root, seed=number)
    config = override(config_of(phantom_root, "data.text=findings"), named([tmp_path / "cv"]))
    found = load_teachers(config, CPU)
    assert len(set(found.checksums)) == 3


def test_teachers_that_do_not_fit_are_refused(phantom_root, teachers, tmp_path):
    other = teacher_at(tmp_path / "bgr", phantom_root, more=("data.channel_order=bgr",))
    with pytest.raises(ValueError, match="channel order"):
        load_teachers(override(config_of(phantom_root), named([other])), CPU)
    attributes = load_config("debug", [f'data.root="{phantom_root}"', *named(teachers), "data.text=attributes"])
    with pytest.raises(ValueError, match="it reads reports as findings, and this network as attributes"):
        load_teachers(attributes, CPU)
    with pytest.raises(FileNotFoundError, match="no model folder"):
        load_teachers(override(config_of(phantom_root), named([tmp_path / "nothing"])), CPU)
    assert load_teachers(override(config_of(phantom_root), named(teachers, 0.0)), CPU) is None


def test_the_last_model_is_kept_where_that_is_asked_for(phantom_root, tmp_path):
    result = train(override(config_of(phantom_root), ["train.best=last", "train.epochs=3"]), run=tmp_path / "run")
    assert result.best_epoch == 3
    assert load_model(result.run).metrics["epoch"] == 3
    assert np.isfinite(result.best_dice)
