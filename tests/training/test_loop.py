import copy
import dataclasses
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.networks import TINY as TINY_NETWORKS
from support.power_loss import every_power_loss
from support.same_runs import assert_same_run, log_of
from support.tiny_runs import TINY

from c2fvl.checkpoints.trained_model import load_model
from c2fvl.config import ModelConfig, OptimizerConfig
from c2fvl.config_files import load_config, override, preset_names
from c2fvl.data.batches import EpochBatches
from c2fvl.data.dataset import CaseDataset
from c2fvl.data.phantom.draw import write_phantom
from c2fvl.data.scan import scan
from c2fvl.files import storage
from c2fvl.files.images import write_image, write_mask
from c2fvl.inference.cases import NETWORK, predict_cases, score_prediction
from c2fvl.metrics.overlap import summarise
from c2fvl.models import build_model
from c2fvl.training.callbacks import Observer
from c2fvl.training.loop import fit, train
from c2fvl.training.optimizers import build_optimizer, learning_rate
from c2fvl.training.random_state import generator_states, restore_generators, seed_everything
from c2fvl.training.resume_state import ResumeState, load_state, save_state
from c2fvl.training.run_folder import is_begun
from c2fvl.training.saving import restore_run
from c2fvl.training.setup import set_up
from c2fvl.training.steps import StreamedSteps


class StopAfter(Observer):
    """Sends this process a signal at a given step."""

    def __init__(self, steps, number=signal.SIGTERM):
        self.left, self.number = steps, number

    def step(self, epoch, batch, num_batches, loss, images_per_second):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)


RICH = ("train.ema=0.9", "optimizer.clip_norm=1", "optimizer.schedule=one_cycle", "data.report_dropout=0.3",
        "train.accumulation=2", "optimizer.min_rate=0")  # fmt: skip


@pytest.mark.parametrize("extra", [(), RICH], ids=["plain", "everything on"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_saves_and_resuming_equals_not_stopping(tiny_config, tmp_path, extra, number):
    config = override(tiny_config, extra)
    whole = train(config, run=tmp_path / "whole")
    assert whole.finished
    result = train(config, run=tmp_path / "parts", observer=StopAfter(3, number))
    assert not result.finished
    assert signal.Signals(number).name in result.reason
    assert load_state(tmp_path / "parts" / "last").progress["batches"] in (3, 4)
    torch.rand(7)  # whatever happened to the generators in between
    np.random.rand(7)  # noqa: NPY002
    random.random()
    middle = train(resume=tmp_path / "parts", observer=StopAfter(6, number))  # in the second epoch
    assert not middle.finished
    assert len(log_of(tmp_path / "parts")) == 1
    assert train(resume=tmp_path / "parts").finished
    assert_same_run(whole.run, tmp_path / "parts")


def test_workers_change_nothing(tiny_config, tmp_path):
    train(tiny_config, run=tmp_path / "none")
    train(override(tiny_config, ["data.workers=2"]), run=tmp_path / "two")
    assert_same_run(tmp_path / "none", tmp_path / "two")


SCRIPT = "import sys; from c2fvl.cli.main import main; sys.exit(main(sys.argv[1:]))"


def start(*arguments, **keywords):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **keywords,
    )


@pytest.mark.slow(like="test_a_signal_saves_and_resuming_equals_not_stopping")
def test_ctrl_c_in_a_terminal_saves_while_other_processes_read(phantom_root, tmp_path):
    """A terminal sends SIGINT to every process of the group, the readers too."""
    overrides = [*TINY, f'data.root="{phantom_root}"', "train.epochs=500", "data.workers=2", "train.patience=0"]
    run = tmp_path / "run"
    process = start("train", "debug", *overrides, "--run-dir", run, start_new_session=True)
    deadline = time.monotonic() + 300
    while not (run / "log.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 130, output
    assert f"Resume with: c2fvl train --resume {run}" in output
    assert "Traceback" not in output
    load_state(run / "last")


@pytest.mark.slow(like="test_power_loss_at_every_step_of_a_save_loses_nothing")
def test_six_random_kills_lose_nothing(phantom_root, tiny_config, tmp_path):
    """SIGKILL at any moment, also within a save; the run goes on from its last whole state and ends the same."""
    config = override(tiny_config, ["train.epochs=6", "train.save_minutes=0.001"])
    whole = train(config, run=tmp_path / "whole")
    overrides = [*TINY, f'data.root="{phantom_root}"', "train.epochs=6", "train.save_minutes=0.001"]
    run = tmp_path / "killed"
    generator, kills = random.Random(5), 0
    for _ in range(40):
        resumable = (run / "last").is_dir() and any(entry.name.isdecimal() for entry in (run / "last").iterdir())
        if resumable:
            process = start("train", "--resume", run)
        else:
            if run.exists():  # killed before its first state: a newcomer starts anew under another name
                run = tmp_path / f"killed-{kills}"
            process = start("train", "debug", *overrides, "--run-dir", run)
        if kills < 6:
            deadline = time.monotonic() + 300
            before = set((run / "last").iterdir()) if (run / "last").is_dir() else set()
            while process.poll() is None and time.monotonic() < deadline:
                now = set((run / "last").iterdir()) if (run / "last").is_dir() else set()
                if now - before:  # it is under way: strike within the next moments, saves among them
                    time.sleep(generator.uniform(0, 0.25))
                    break
                time.sleep(0.01)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
        output, _ = process.communicate(timeout=300)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, output
    assert kills == 6
    assert_same_run(whole.run, run)


def state(number):
    network = torch.nn.Linear(3, 2)
    with torch.no_grad():
        network.weight.fill_(number)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return ResumeState(
        network.state_dict(), optimizer.state_dict(), {"epoch": number}, {"0.torch": torch.get_rng_state()}
    )


def test_power_loss_at_every_step_of_a_save_loses_nothing(tmp_path):
    states = {number: state(number) for number in (1, 2, 3, 4)}

    def prepare(fail_at, undo):
        folder = tmp_path / f"{fail_at}-{undo}"
        for number in (1, 2, 3):
            save_state(folder, states[number])
        return folder

    found = set()
    for folder, finished in every_power_loss(lambda folder: save_state(folder, states[4]), prepare):
        loaded = load_state(folder)
        number = loaded.progress["epoch"]
        assert number in (3, 4)
        assert number == 4 or not finished
        assert torch.equal(loaded.weights["weight"], states[number].weights["weight"])
        assert torch.equal(loaded.optimizer["state"][0]["exp_avg"], states[number].optimizer["state"][0]["exp_avg"])
        found.add(number)
        save_state(folder, states[4])  # and the next save works
        assert load_state(folder).progress["epoch"] == 4
    assert found == {3, 4}


def test_damaged_states_are_passed_over_and_said(tmp_path, caplog):
    for number in (1, 2, 3):
        save_state(tmp_path, state(number))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["000002", "000003"]
    newest = tmp_path / "000003" / "weights.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert load_state(tmp_path).progress["epoch"] == 2
    assert "000003" in caplog.text
    (tmp_path / "000002" / "state.json").write_text("{}")
    with pytest.raises(ValueError, match="every saved state"):
        load_state(tmp_path)
    with pytest.raises(FileNotFoundError, match="no saved state"):
        load_state(tmp_path / "none")


@pytest.mark.slow(like="test_learns_a_few_images_by_heart[c2fvl]")
def test_one_batch_overfits(phantom_root, tiny_config):
    """Above Dice 0.99 on four images: the network, the loss and the gate can learn what they are shown."""
    images = CaseDataset(scan(phantom_root, "train"), dataclasses.replace(tiny_config.data, image_size=64))
    with_lesion = [index for index in range(len(images)) if images[0, index].mask.sum() > 40][:4]
    from c2fvl.data.batches import collate
    from c2fvl.training.losses import build_loss

    batch = collate([images[0, index] for index in with_lesion])
    torch.manual_seed(0)
    network = build_model("c2fvl", base_width=16, image_size=64, dropout=0.0, gate="bounded")
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    loss = build_loss(dataclasses.replace(tiny_config.loss, side_maps=0.0))
    for _ in range(300):
        output = network(batch.image, batch.text)
        terms = loss(output, batch.mask)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        found = output.logits[:, 0].detach() >= 0
        dice = 2 * (found * batch.mask).sum((1, 2)) / (found.sum((1, 2)) + batch.mask.sum((1, 2)))
        if dice.min() > 0.99:
            break
    assert dice.min() > 0.99, dice


TWO_PROCESSES = """
import sys, json, torch
torch.set_num_threads(1)
from accelerate import Accelerator
from c2fvl.config_files import parse_config
from c2fvl.training.processes import end_processes
from c2fvl.training.saving import restore_run
from c2fvl.training.setup import set_up
from c2fvl.training.validate import validate
from pathlib import Path
config = parse_config(Path(sys.argv[1]).read_text())
run = set_up(config, Path(sys.argv[2]), resumed=True)
restore_run(run)
if run.rank:  # as after training, when each process has seen other images
    for tensor in [*run.network.buffers(), *run.ema.module.buffers()]:
        tensor.add_(1)
scores = validate(run)
if run.is_main:
    print("SCORES" + json.dumps({"scores": scores, "processes": run.world}))
end_processes()
"""


def run_processes(count, script, *arguments):
    command = [sys.executable]
    if count > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    path = Path(arguments[1]).parent / "script.py"
    path.write_text(script)
    done = subprocess.run(
        [*command, str(path), *map(str, arguments)], capture_output=True, text=True, timeout=600, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow(like="test_scoring_batches_hold_every_image_once_and_training_ones_are_even")
def test_two_processes_score_as_one(tiny_config, tmp_path):
    """On gloo, to the last digit, a trained network, and a number of batches that two processes do not share evenly."""
    cases = scan(tiny_config.data.root, "val")
    assert -(-len(cases) // 2) % 2 == 1, "batches of two must not be shared evenly"
    run = train(override(tiny_config, ["train.batch_size=2", "train.ema=0.5"]), run=tmp_path / "run").run
    state = load_state(run / "last")
    state.generators |= {name.replace("0.", "1.", 1): value for name, value in state.generators.items()}
    found = {}
    for count in (1, 2):
        state.progress["num_processes"] = count
        save_state(run / "last", state)
        output = run_processes(count, TWO_PROCESSES, run / "config.toml", run)
        found[count] = json.loads(output.partition("SCORES")[2])
    assert (found[1]["processes"], found[2]["processes"]) == (1, 2)
    assert found[1]["scores"] == found[2]["scores"]
    assert found[1]["scores"]["num_cases"] == len(cases)
    assert found[1]["scores"]["dice_per_image"] == log_of(run)[-1]["val_dice_per_image"]


@pytest.mark.slow(like="test_a_signal_saves_and_resuming_equals_not_stopping")
def test_two_processes_train_and_resume_to_the_bit(phantom_root, tmp_path):
    """Whole and in two parts, with averaged weights; and what was scored is what was saved."""
    script = SCRIPT.replace("; ", "\n")
    overrides = [*TINY, f'data.root="{phantom_root}"', "train.device=auto", "train.ema=0.8"]
    output = run_two(tmp_path, script, ["train", "debug", *overrides, "--run-dir", str(tmp_path / "whole")])
    assert output.count("Finished") == 1
    run_two(tmp_path, script, ["train", "debug", *overrides, "train.epochs=1", "--run-dir", str(tmp_path / "parts")])
    run_two(tmp_path, script, ["train", "--resume", str(tmp_path / "parts"), "train.epochs=2"])
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    model = load_model(tmp_path / "whole")
    images = CaseDataset(scan(phantom_root, "val"), model.config.data)
    scores = [
        score_prediction(found, scorings=(NETWORK,)).overlaps[NETWORK] for found in predict_cases(model.network, images)
    ]
    assert summarise(scores)["dice_per_image"] == model.metrics["val_dice_per_image"]
    with pytest.raises(ValueError, match="resume it with 2"):
        train(resume=tmp_path / "whole", overrides=("train.epochs=3",))


def run_two(folder, script, arguments):
    path = folder / "script.py"
    path.write_text(script)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(path), *arguments],
        capture_output=True, text=True, timeout=600, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("length", "batch_size", "world"), [(5, 2, 2), (7, 3, 2), (8, 2, 3), (1, 4, 2), (6, 2, 1)])
def test_scoring_batches_hold_every_image_once_and_training_ones_are_even(length, batch_size, world):
    scored = [
        index
        for rank in range(world)
        for batch in EpochBatches(length, batch_size, rank=rank, world=world)
        for _, index in batch
    ]
    assert sorted(scored) == list(range(length))
    fractions = [
        list(EpochBatches(length, batch_size, epoch=3, seed=1, rank=rank, world=world)) for rank in range(world)
    ]
    assert len({len(fraction) for fraction in fractions}) == 1
    trained = {key for fraction in fractions for batch in fraction for key in batch}
    assert trained == {(3, index) for index in range(length)}


def test_epochs_are_shuffled_by_seed_and_epoch():
    def order(seed, epoch):
        return [index for batch in EpochBatches(30, 4, epoch=epoch, seed=seed) for _, index in batch]

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_published_schedule_by_hand():
    config = OptimizerConfig(learning_rate=1e-3, schedule="cosine_restarts", period=10, min_rate=1e-4)
    rates = [learning_rate(config, 2 * epoch + 1, 2, 100) for epoch in range(21)]
    assert rates[0] == rates[10] == rates[20] == pytest.approx(1e-3)
    assert rates[5] == pytest.approx(5.5e-4)
    assert min(rates) == pytest.approx(1e-4 + 9e-4 * (1 + np.cos(0.9 * np.pi)) / 2)
    torch_rates = []
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=10, eta_min=1e-4)
    for _ in range(21):
        torch_rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx(torch_rates)


def test_one_cycle_rises_and_falls():
    config = OptimizerConfig(learning_rate=1e-2, schedule="one_cycle", min_rate=1e-5)
    rates = [learning_rate(config, step, 2, 10) for step in range(20)]
    assert max(rates) == pytest.approx(1e-2)
    assert rates.index(max(rates)) == 2
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert learning_rate(config, 20, 2, 10) == pytest.approx(1e-5)


def test_poly_falls_behind_each_step_as_published():
    config = OptimizerConfig(name="sgd", learning_rate=0.01, schedule="poly")
    rates = [learning_rate(config, step, 5, 4) for step in range(20)]
    assert rates[0] == rates[1] == 0.01
    assert rates[2] == pytest.approx(0.01 * (1 - 1 / 20) ** 0.9)
    assert rates[19] == pytest.approx(0.01 * (1 - 18 / 20) ** 0.9)


def test_sgd_has_its_momentum():
    optimizer = build_optimizer(torch.nn.Linear(2, 1), OptimizerConfig(name="sgd", momentum=0.7, weight_decay=1e-4))
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["momentum"] == 0.7
    assert optimizer.defaults["weight_decay"] == 1e-4


def test_frozen_parameters_wait_for_their_epoch_and_resume_does_not_change_it(tiny_config, tmp_path):
    settings = [
        "optimizer.frozen=^gates", "optimizer.frozen_epochs=1", "optimizer.weight_decay=0.1", "train.best_from_epoch=1"
    ]  # fmt: skip
    config = override(tiny_config, [*settings, "train.epochs=2"])
    torch.manual_seed(0)
    whole = train(config, run=tmp_path / "whole")
    one = train(override(config, ["train.epochs=1"]), run=tmp_path / "parts")
    seed_everything(config.train.seed)
    start = build_model("c2fvl", config.model.arguments).state_dict()
    after_one = load_state(one.run / "last").weights
    assert all(torch.equal(after_one[key], start[key]) for key in start if key.startswith("gates"))
    assert not torch.equal(after_one["encoder.stem.convolution.weight"], start["encoder.stem.convolution.weight"])
    train(resume=one.run, overrides=("train.epochs=2",))
    after_two = load_state(one.run / "last").weights
    assert any(not torch.equal(after_two[key], start[key]) for key in start if key.startswith("gates"))
    for key, value in load_state(whole.run / "last").weights.items():
        assert torch.equal(value, after_two[key]), key


@pytest.mark.parametrize(("pattern", "message"), [("nothing", "found in no parameter"), ("(", "no regular expression")])
def test_a_pattern_that_freezes_nothing_is_refused(tiny_config, tmp_path, pattern, message):
    config = override(tiny_config, [f"optimizer.frozen={pattern}", "optimizer.frozen_epochs=1"])
    with pytest.raises(ValueError, match=message):
        train(config, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_names_the_images_and_keeps_the_state(tiny_config, tmp_path, monkeypatch):
    first = train(override(tiny_config, ["train.epochs=1"]), run=tmp_path / "run")
    before = load_state(first.run / "last").weights
    real = CaseDataset.__getitem__

    def poisoned(self, key):
        item = real(self, key)
        image = item.image.copy()
        image.flat[0] = np.nan
        return dataclasses.replace(item, image=image)

    monkeypatch.setattr(CaseDataset, "__getitem__", poisoned)
    with pytest.raises(ValueError, match=r"the loss is nan in epoch 2, batch 1, with the images sub-"):
        train(resume=first.run, overrides=("train.epochs=2",))
    after = load_state(first.run / "last").weights
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_early_stop_and_best_from_epoch(tiny_config, tmp_path):
    config = override(
        tiny_config, ["train.epochs=9", "train.patience=2", "train.best_from_epoch=2", "optimizer.learning_rate=0"]
    )
    config = override(config, ["optimizer.min_rate=0"])
    result = train(config, run=tmp_path / "run")
    assert result.finished
    assert "no better Dice in 2 epochs" in result.reason
    assert result.best_epoch == 2
    assert len(log_of(result.run)) == 4


def test_bf16_and_deterministic_and_tensorboard(tiny_config, tmp_path):
    config = override(
        tiny_config,
        ["train.precision=bf16", "train.deterministic=true", "train.trackers=tensorboard", "train.epochs=1"],
    )
    try:
        result = train(config, run=tmp_path / "run")
    finally:
        torch.use_deterministic_algorithms(False)
    assert list(result.run.rglob("events.out.tfevents*"))
    assert log_of(result.run)[0]["train_loss"] > 0


def test_processes_that_do_not_know_each_other_are_refused(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="each would train alone"):
        train(tiny_config, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_paper_presets_validate_on_the_published_mask(phantom_root, tmp_path):
    """The mask of 64 pixels brought to 32 grows by the published rule, so the figures differ from the exact ones."""
    extra = [
        *TINY,
        f'data.root="{phantom_root}"',
        "train.epochs=1",
        "optimizer.learning_rate=0",
        "optimizer.min_rate=0",
    ]
    found = {}
    for rule in ("exact", "published"):
        result = train(load_config("debug", [*extra, f"data.resize={rule}"]), run=tmp_path / rule)
        found[rule] = log_of(result.run)[0]["val_dice_pooled"]
    assert found["published"] != found["exact"]


def test_time_is_up_saves(tiny_config, tmp_path):
    result = train(override(tiny_config, ["train.max_hours=1e-7"]), run=tmp_path / "run")
    assert not result.finished
    assert "max_hours" in result.reason
    assert load_state(result.run / "last").progress["batches"] == 1


def test_wrong_calls_write_nothing(tiny_config, tmp_path, tiny_run):
    with pytest.raises(ValueError, match=r"data\.root is not set"):
        train(override(tiny_config, ["data.root="]), run=tmp_path / "run")
    with pytest.raises(ValueError, match="base_width"):
        train(override(tiny_config, ["model.arguments.base_width=20"]), run=tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="not a run folder"):
        train(resume=tmp_path / "run")
    with pytest.raises(FileExistsError, match="nothing in it is overwritten"):
        train(tiny_config, run=tiny_run)
    with pytest.raises(ValueError, match="cannot change when a run is resumed"):
        train(resume=tiny_run, overrides=("optimizer.learning_rate=1",))
    with pytest.raises(ValueError, match="wandb, which is not installed"):
        train(override(tiny_config, ["train.trackers=wandb"]), run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_image_without_report_is_refused_or_allowed_as_set(phantom_root, tiny_config):
    cases = [dataclasses.replace(case, report=None) for case in scan(phantom_root, "val")]
    with pytest.raises(ValueError, match=r"have no report with attributes.*data\.missing_reports=allow"):
        CaseDataset(cases, dataclasses.replace(tiny_config.data, missing_reports="error"))
    images = CaseDataset(cases, tiny_config.data)
    assert np.isnan(images[0, 0].text).all()
    assert CaseDataset(cases, dataclasses.replace(tiny_config.data, text="none"))[0, 0].text is None


def test_reports_that_cannot_be_read_are_counted_and_named_before_a_training(tiny_config, tmp_path, caplog):
    rows = ["image,mask,report,split"]
    for number in range(6):
        write_image(tmp_path / f"f{number}.png", np.full((32, 32, 3), 40 * number, np.uint8))
        write_mask(tmp_path / f"m{number}.png", np.eye(32, k=number, dtype=np.uint8))
        report = "Unilateral pulmonary infection, upper left lung." if number == 1 else "Follow-up."
        rows.append(f'f{number}.png,m{number}.png,"{report if number else ""}",{"train" if number < 5 else "val"}')
    (tmp_path / "table.csv").write_text("\n".join(rows))
    set_up(
        override(tiny_config, [f'data.root="{tmp_path / "table.csv"}"', "data.missing_reports=allow"]), tmp_path / "run"
    )
    said = [record.getMessage() for record in caplog.records if "cannot be read" in record.getMessage()]
    assert said == [
        f"{tmp_path / 'table.csv'} (train): 3 of 4 reports cannot be read and are not used: those of f2, f3, f4",
        f"{tmp_path / 'table.csv'} (val): 1 of 1 reports cannot be read and are not used: those of f5",
    ]


@pytest.fixture(scope="module")
def few_images(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "few"
    write_phantom(root, num_cases=12, seed=1, size=112)
    return root


def tiny_preset(name, root):
    """Return a preset at a tiny size; it reads words where it would read the features of a language model."""
    config = load_config(name, [f'data.root="{root}"', "train.epochs=1", "data.workers=0", "train.threads=1"])
    tiny = next(tiny for tiny in TINY_NETWORKS.values() if tiny.name == config.model.name)
    own = {key: value for key, value in config.model.arguments.items() if key in ("gate", "num_classes")}
    arguments = {key: value for key, value in tiny.arguments.items() if not key.startswith("text")} | own
    return dataclasses.replace(
        config,
        data=dataclasses.replace(
            config.data, image_size=tiny.size[0], text="auto", text_model="", missing_reports="allow"
        ),
        model=ModelConfig(config.model.name, arguments),
    )


PRESETS = [name for name in preset_names() if "_mosmed" not in name]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_set_up(name, few_images, tmp_path):
    """With data, network, optimizer and a first case through the loss; nothing is trained."""
    run = set_up(tiny_preset(name, few_images), tmp_path / "run")
    assert run.config.preset == name


@pytest.mark.parametrize(
    "name",
    [
        name
        if name.endswith("_qata")
        else pytest.param(name, marks=pytest.mark.slow(like="test_every_preset_trains[unet_qata]"))
        for name in PRESETS
    ],
)
def test_every_preset_trains(name, few_images, tmp_path):
    config = tiny_preset(name, few_images)
    result = train(config, run=tmp_path / "run")
    assert result.finished
    assert len(log_of(result.run)) == 1
    if config.train.best_from_epoch == 1:
        assert load_model(result.run).config.preset == name


class GradientsOnly:
    """Collects the gradients at every step of the optimiser, which then leaves the weights alone."""

    def __init__(self, monkeypatch):
        self.steps = []

        def step(optimizer, *arguments, **keywords):
            self.steps.append([p.grad.clone() for group in optimizer.param_groups for p in group["params"]])

        monkeypatch.setattr(torch.optim.Adam, "step", step)


def gradients(config, folder):
    with pytest.MonkeyPatch.context() as monkeypatch:
        seen = GradientsOnly(monkeypatch)
        train(override(config, ["train.epochs=1", "model.arguments.dropout=0.0"]), run=folder)
    return seen.steps


def test_accumulation_is_the_mean_of_the_gradients_of_its_batches(tiny_config, tmp_path):
    """28 images in 7 batches: three steps of two and, at the epoch's end, one of a single batch."""
    single = gradients(tiny_config, tmp_path / "single")
    double = gradients(override(tiny_config, ["train.accumulation=2"]), tmp_path / "double")
    assert (len(single), len(double)) == (7, 4)
    for place, step in enumerate(double):
        parts = single[2 * place : 2 * place + 2]
        for number, found in enumerate(step):
            expected = sum(part[number] for part in parts) / len(parts)
            assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_clipping_bounds_the_norm_of_the_gradient(tiny_config, tmp_path):
    def norms(steps):
        return [torch.stack([part.norm() for part in step]).norm().item() for step in steps]

    free = norms(gradients(tiny_config, tmp_path / "free"))
    clipped = norms(gradients(override(tiny_config, ["optimizer.clip_norm=0.01"]), tmp_path / "clipped"))
    assert min(free) > 0.01
    assert clipped == pytest.approx([0.01] * len(free), rel=1e-3)


def test_the_best_model_is_the_averaged_one(tiny_config, tmp_path):
    run = train(override(tiny_config, ["train.ema=0.9", "train.epochs=1"]), run=tmp_path / "run").run
    state, best = load_state(run / "last"), load_file(run / "best" / "model.safetensors")
    assert all(torch.equal(value, state.average[f"module.{name}"]) for name, value in best.items())
    assert any(not torch.equal(value, state.weights[name]) for name, value in best.items())


def test_the_average_of_a_short_training_is_not_its_beginning(tiny_config, tmp_path):
    long = train(override(tiny_config, ["train.ema=0.999", "train.epochs=2"]), run=tmp_path / "long").run
    state = load_state(long / "last")
    start = load_state(train(override(tiny_config, ["train.epochs=1"]), run=tmp_path / "one").run / "last").weights
    name = "head.weight" if "head.weight" in start else next(name for name in start if name.endswith("weight"))
    last, averaged = state.weights[name], state.average[f"module.{name}"]
    assert (averaged - last).norm() < 0.6 * (start[name] - last).norm()


def test_all_generators_are_restored(tiny_config, tmp_path):
    run = train(override(tiny_config, ["train.epochs=1"]), run=tmp_path / "run").run

    def draws():
        numpy = np.random.rand(), np.random.randn()  # noqa: NPY002
        return random.random(), random.gauss(0, 1), numpy, torch.rand(1).item()

    found = []
    for _ in range(2):
        restore_run(set_up(load_config(run / "config.toml"), run, resumed=True))
        found.append(draws())
        draws()
    assert found[0] == found[1]


@pytest.mark.parametrize("gauss", [False, True])
def test_generators_are_restored_to_what_they_were(gauss):
    """Asked of the generators themselves: their whole state, and the next numbers that they draw.

    Python and NumPy keep the second of two normal numbers that were drawn together.
    """
    device = torch.device("cpu")
    seed_everything(3)
    random.random()
    np.random.rand(5)  # noqa: NPY002 - leaves NumPy at a position within its block
    torch.rand(5)
    if gauss:
        random.gauss(0, 1)
        np.random.randn()  # noqa: NPY002
    python, numpy, pytorch = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    assert (python[2] is not None, numpy[3]) == (gauss, int(gauss))
    assert numpy[2] not in (0, 624)
    saved = generator_states(device)
    assert np.array_equal(saved["numpy"].numpy()[:-2], numpy[1])
    assert saved["numpy"].tolist()[-2:] == [numpy[2], numpy[3]]

    def draws():
        own = random.random(), random.gauss(0, 1), random.gauss(0, 1), np.random.rand(), np.random.randn()  # noqa: NPY002
        return *own, np.random.randn(), torch.rand(3).tolist(), torch.randn(3).tolist()  # noqa: NPY002

    expected = draws()
    seed_everything(4)
    restore_generators(saved, device)
    assert random.getstate() == python
    assert torch.equal(torch.get_rng_state(), pytorch)
    for ours, theirs in zip(np.random.get_state(), numpy, strict=True):  # noqa: NPY002
        assert np.array_equal(ours, theirs)
    assert draws() == expected


def test_all_of_a_run_is_restored_to_what_was_saved(tiny_config, tmp_path):
    """Compared with the running objects at the moment of the save, not with another resume."""
    config = override(tiny_config, [*RICH, "train.epochs=4"])
    prepared = set_up(config, tmp_path / "run")
    assert not fit(prepared, StopAfter(3)).finished
    before = copy.deepcopy({
        "weights": prepared.network.state_dict(), "average": prepared.ema.state_dict(),
        "optimizer": prepared.optimizer.state_dict(), "progress": dataclasses.asdict(prepared.progress),
    })  # fmt: skip
    position, generators = before["progress"]["batches"], generator_states(torch.device("cpu"))
    assert 0 < position < prepared.batches_per_epoch
    restored = set_up(load_config(tmp_path / "run" / "config.toml"), tmp_path / "run", resumed=True)
    restore_run(restored)
    for name, value in generator_states(torch.device("cpu")).items():
        assert torch.equal(value.nan_to_num(), generators[name].nan_to_num()), name
    for part, found in (("weights", restored.network.state_dict()), ("average", restored.ema.state_dict())):
        for name, value in found.items():
            assert torch.equal(value, before[part][name]), (part, name)
    found = restored.optimizer.state_dict()
    assert found["param_groups"] == before["optimizer"]["param_groups"]
    assert found["state"].keys() == before["optimizer"]["state"].keys()
    for number, entry in found["state"].items():
        for name, value in entry.items():
            assert torch.equal(value, before["optimizer"]["state"][number][name]), (number, name)
    assert dataclasses.asdict(restored.progress) == before["progress"]
    steps = StreamedSteps(restored)
    steps.start_epoch()
    keys = EpochBatches(len(restored.train_data), config.train.batch_size, epoch=0, seed=config.train.seed).batches
    assert before["progress"]["epoch"] == 0
    assert next(steps._batches).ids == [restored.train_data.cases[index].id for _, index in keys[position]]


@pytest.mark.parametrize("threads", [1, 2])
def test_another_number_of_threads_is_said(tiny_config, tmp_path, caplog, threads):
    run = train(override(tiny_config, ["train.epochs=1", "train.threads=1"]), run=tmp_path / "run").run
    try:
        restore_run(set_up(override(load_config(run / "config.toml"), [f"train.threads={threads}"]), run, resumed=True))
    finally:
        torch.set_num_threads(1)
    said = [record.getMessage() for record in caplog.records if "threads" in record.getMessage()]
    if threads == 1:
        assert not said
    else:
        assert len(said) == 1
        assert re.search(r"with 1 threads and goes on with 2, .* resume with train.threads=1", said[0])


def test_a_stop_is_granted_where_an_epoch_is_one_step(tiny_config, tmp_path):
    config = override(tiny_config, ["train.batch_size=64", "train.epochs=6"])
    result = train(config, run=tmp_path / "run", observer=StopAfter(1))
    assert not result.finished
    assert len(log_of(result.run)) == 1
    limited = train(override(config, ["train.max_hours=1e-9"]), run=tmp_path / "limited")
    assert not limited.finished
    whole = train(config, run=tmp_path / "whole")
    train(resume=result.run)
    assert_same_run(whole.run, result.run)


def test_other_data_are_refused_on_resume_and_a_moved_set_is_not(tiny_config, phantom_root, tmp_path):
    run = train(override(tiny_config, ["train.epochs=1"]), run=tmp_path / "run").run
    write_phantom(tmp_path / "other", num_cases=40, seed=2, size=64)
    with pytest.raises(ValueError, match="not those that"):
        train(resume=run, overrides=(f'data.root="{tmp_path / "other"}"', "train.epochs=2"))
    shutil.copytree(phantom_root, tmp_path / "moved")
    assert train(resume=run, overrides=(f'data.root="{tmp_path / "moved"}"', "train.epochs=2")).finished


def test_a_run_killed_before_its_first_epoch_can_be_resumed(tiny_config, tmp_path):
    class Fall(Observer):
        def step(self, *arguments):
            raise MemoryError

    with pytest.raises(MemoryError):
        train(tiny_config, run=tmp_path / "run", observer=Fall())
    whole = train(tiny_config, run=tmp_path / "whole")
    train(resume=tmp_path / "run")
    assert_same_run(whole.run, tmp_path / "run")


class KilledError(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("again", ["resume", "same folder"])
@pytest.mark.parametrize(
    ("killed_at", "left"),
    [
        ("config.toml", []),
        ("environment.json", ["config.toml"]),
        ("000001", ["config.toml", "environment.json", "last"]),
    ],
)
def test_a_run_killed_before_its_first_state_begins_again(
    tiny_config, tmp_path, monkeypatch, caplog, killed_at, left, again
):
    whole = train(tiny_config, run=tmp_path / "whole")

    def kill(source, target):
        if Path(target).name == killed_at:
            raise KilledError
        os.replace(source, target)

    run = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(storage, "_replace", kill)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # nothing cleans up after a kill
        train(tiny_config, run=run)
    assert sorted(entry.name for entry in run.iterdir()) == left
    result = train(resume=run) if again == "resume" and left else train(tiny_config, run=run)
    assert result.finished
    assert f"{run}: the run ended before its first state was saved, so it begins again" in caplog.text
    assert_same_run(whole.run, run)
    assert not [entry for entry in run.rglob("*") if entry.name.startswith(".c2fvl")]


def test_only_what_a_run_leaves_before_its_first_state_counts_as_new(tmp_path):
    assert not is_begun(tmp_path / "none")
    assert not is_begun(tmp_path)
    (tmp_path / "last").mkdir()
    for name in ("config.toml", "environment.json", ".c2fvl-partial-x", "last/.c2fvl-partial-y"):
        (tmp_path / name).write_text("")
    assert not is_begun(tmp_path)
    for name in ("log.jsonl", "notes.txt", "last/000001"):
        (tmp_path / name).write_text("")
        assert is_begun(tmp_path), name
        (tmp_path / name).unlink()
    assert is_begun(tmp_path / "config.toml")


def test_a_folder_in_which_another_process_trained_meanwhile_is_not_overwritten(tiny_config, tmp_path):
    prepared = set_up(tiny_config, tmp_path / "run")
    (tmp_path / "run" / "last" / "000001").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="nothing in it is overwritten"):
        fit(prepared, Observer())


def test_two_trainings_do_not_share_a_run_folder(tiny_config, tmp_path):
    class Second(Observer):
        def epoch(self, line, best):
            with pytest.raises(ValueError, match="another process is training"):
                train(resume=tmp_path / "run", overrides=("train.epochs=9",))

    train(override(tiny_config, ["train.epochs=1"]), run=tmp_path / "run", observer=Second())
    assert load_config(tmp_path / "run" / "config.toml").train.epochs == 1


@pytest.mark.parametrize(
    "item",
    [
        "model.arguments.in_channels=1",
        "model.arguments.num_classes=3",
        "data.image_size=50",
        "model.arguments.base_width=x",
        "model.arguments.num_heads=0",
        "train.ema=1",
        "data.report_dropout=7",
        "train.seed=99999999999999999999",
    ],
)
def test_settings_that_do_not_fit_leave_nothing(item, tiny_config, tmp_path):
    with pytest.raises(ValueError, match=r"\w"):
        train(tiny_config, run=tmp_path / "run", overrides=(item,))
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="all weights of the loss are 0"):
        train(override(tiny_config, ["loss.dice=0", "loss.cross_entropy=0", "loss.side_maps=0"]), run=tmp_path / "run")


def test_trying_one_image_leaves_no_trace(tiny_config, tmp_path):
    prepared = set_up(tiny_config, tmp_path / "run")
    found = torch.get_rng_state()
    torch.manual_seed(tiny_config.train.seed * 1000)
    assert torch.equal(found, torch.get_rng_state())
    counters = [value for name, value in prepared.network.named_buffers() if name.endswith("num_batches_tracked")]
    assert counters
    assert all(value == 0 for value in counters)


@pytest.mark.parametrize(("has", "expected"), [(True, "bf16"), (False, "fp32")])
def test_the_precision_auto_is_settled_by_the_device_and_kept(tiny_config, tmp_path, monkeypatch, has, expected):
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: has)
    run = train(override(tiny_config, ["train.precision=auto", "train.epochs=1"]), run=tmp_path / "run").run
    assert f'precision = "{expected}"' in (run / "config.toml").read_text()
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: not has)
    train(resume=run, overrides=("train.epochs=2",))  # on another processor the run stays what it was
    assert f'precision = "{expected}"' in (run / "config.toml").read_text()


@pytest.mark.parametrize("emulated", [True, False])
def test_a_precision_that_the_processor_lacks_is_said(tiny_config, tmp_path, monkeypatch, caplog, emulated):
    monkeypatch.setattr("c2fvl.training.setup.is_emulated", lambda device, precision: emulated and precision == "bf16")
    train(override(tiny_config, ["train.precision=bf16", "train.epochs=1"]), run=tmp_path / "run")
    assert ("train.precision=fp32 is faster here" in caplog.text) == emulated
