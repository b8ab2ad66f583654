import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from c2fvl.config import Config, DataConfig, ModelConfig
from c2fvl.config_files import load_config, override, parse_config, preset_names, settings_table, to_toml
from c2fvl.data.transforms import AUGMENTATIONS
from c2fvl.models import build_model
from c2fvl.training.losses import build_loss

EXPECTED = {
    "debug", "phantom", "c2fvl_qata_paper", "c2fvl_qata", "c2fvl_qata_small", "c2fvl_mosmed_paper", "c2fvl_mosmed",
}  # fmt: skip


def test_the_presets_are_there():
    assert set(preset_names()) >= EXPECTED


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_every_preset_loads_and_builds(name):
    config = load_config(name)
    assert config.preset == name
    build_model(config.model.name, {**config.model.arguments, "base_width": 8})
    build_loss(config.loss)
    assert config.data.augmentation in AUGMENTATIONS
    assert config.model.arguments.get("image_size", 224) == config.data.image_size
    assert parse_config(to_toml(config)) == config


@pytest.mark.parametrize("name", ["c2fvl_qata_paper", "c2fvl_mosmed_paper"])
def test_paper_presets_repeat_the_published_recipe(name):
    config = load_config(name)
    assert config.model.arguments == {}
    assert (config.loss.dice, config.loss.cross_entropy, config.loss.alignment) == (0.5, 0.5, 1.0)
    assert (config.optimizer.name, config.optimizer.learning_rate, config.optimizer.weight_decay) == ("adam", 1e-3, 0)
    assert (config.optimizer.schedule, config.optimizer.period, config.optimizer.min_rate) == (
        "cosine_restarts",
        10,
        1e-4,
    )
    assert (config.train.batch_size, config.train.epochs, config.train.seed) == (4, 2000, 666)
    assert (config.train.best_from_epoch, config.train.patience) == (6, 51)
    assert (config.data.image_size, config.data.resize, config.data.channel_order) == (224, "published", "bgr")
    assert (config.data.augmentation, config.data.report_dropout) == ("paper", 0.0)


def test_overrides_are_typed():
    config = load_config(
        "debug", ["train.epochs=7", "optimizer.learning_rate=1", "data.root=a folder/x", "train.ema=1e-1"]
    )
    assert (config.train.epochs, config.optimizer.learning_rate) == (7, 1.0)
    assert (config.data.root, config.train.ema) == ("a folder/x", 0.1)
    config = override(
        config, ["model.arguments.base_width=8", "train.deterministic=True", "train.trackers=tensorboard"]
    )
    assert config.model.arguments["base_width"] == 8
    assert config.train.deterministic is True
    assert config.train.trackers == ("tensorboard",)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("train.epoch=3", "did you mean train.epochs"),
        ("trian.epochs=3", "did you mean train"),
        ("train.epochs", "section.key=value"),
        ("epochs=3", "section.key=value"),
        ("train.epochs=many", "expected a whole number"),
        ("train.epochs=0", "at least 1"),
        ("train.epochs=2.5", "expected a whole number"),
        ("train.deterministic=1", "true or false"),
        ("train.precision=fp8", "one of auto, fp32, bf16, fp16"),
        ("optimizer.learning_rate=nan", "finite"),
        (f"optimizer.learning_rate=1{400 * chr(48)}", "finite"),
        ("optimizer.learning_rate=-1", "at least 0"),
        ("model.arguments.base_width=[{a=1}]", "plain values"),
        ("data.root.sub=1", "holds no further"),
    ],
)
def test_wrong_overrides_say_what_is_wrong(item, message):
    with pytest.raises(ValueError, match=message):
        load_config("debug", [item])


def test_wrong_files_say_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match="did you mean phantom"):
        load_config("phanton")
    with pytest.raises(FileNotFoundError, match="no settings file"):
        load_config(tmp_path / "none.toml")
    for name, content, message in [
        ("a.toml", b"[train\n", "not valid TOML"),
        ("b.toml", b"[train]\nepoch = 3\n", r"b\.toml: train\.epoch: this is not a setting; did you mean train.epochs"),
        ("c.toml", b"\xff\xfe", "not UTF-8"),
        ("d.toml", b"train = 3\n", "no section 'train'"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load_config(tmp_path / name)


def test_a_file_of_ones_own_is_named_after_itself(tmp_path):
    (tmp_path / "mine.toml").write_text("[train]\nepochs = 3\n")
    config = load_config(tmp_path / "mine.toml")
    assert config == dataclasses.replace(Config(preset="mine"), train=config.train)
    assert config.train.epochs == 3


@given(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.floats(0, 1),
    st.dictionaries(
        st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.integers() | st.booleans() | st.text("ab\"'\\\n\x7f")
    ),
)
def test_toml_round_trip(root, dropout, arguments):
    config = Config(data=DataConfig(root=root, report_dropout=dropout), model=ModelConfig(arguments=arguments))
    assert parse_config(to_toml(config)) == config


def test_every_setting_has_help():
    described = settings_table()
    assert len(described) > 35
    assert all(len(meaning) > 10 for _, _, meaning in described)


def test_another_network_begins_without_the_arguments_of_the_one_before():
    config = load_config("debug", ["model.arguments.base_width=32", "model.name=unet"])
    assert config.model.arguments == {"base_width": 32}
    same = load_config("debug", ["model.name=c2fvl", "model.arguments.base_width=32"])
    assert same.model.arguments == load_config("debug").model.arguments | {"base_width": 32}
