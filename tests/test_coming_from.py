"""docs/coming_from.md answers every name of the three repositories, with settings and presets that are there.

The names are facts of C2FVL 0e13054, LViT a9b0b41 and UCTransNet 493bd81.
"""

import re
from pathlib import Path

import pytest

from c2fvl.cli.main import command_parsers, parser
from c2fvl.config import Config
from c2fvl.config_files import load_config, override, preset_names
from c2fvl.models.registry import NETWORKS, arguments_of

PAGE = (Path(__file__).parents[1] / "docs" / "coming_from.md").read_text(encoding="utf-8")
PROSE = re.sub(r"^```.*?^```$", "", PAGE, flags=re.M | re.S)
CONFIG = re.findall(
    r"\S+",
    """
    save_model tensorboard CUDA_VISIBLE_DEVICES use_cuda seed PYTHONHASHSEED cosineLR n_channels n_labels
    epochs img_size print_frequency save_frequency vis_frequency early_stopping_patience pretrain task_name
    learning_rate batch_size model_name train_dataset val_dataset test_dataset task_dataset session_name
    save_path model_path tensorboard_folder logger_path visualize_path test_session get_CTranS_config
    """,
)
TRANSFORMER = re.findall(
    r"\S+",
    """
    KV_size transformer.num_heads transformer.num_layers expand_ratio transformer.embeddings_dropout_rate
    transformer.attention_dropout_rate transformer.dropout_rate patch_sizes base_channel n_classes
    """,
)
TASKS = ["QaTa_COVID", "MosMedData+", "Covid19", "MoNuSeg", "GlaS"]
MODELS = ["C2FVL", "LViT", "UCTransNet", "LViT_pretrain", "UCTransNet_pretrain", "C2FVL_pretrain"]
FOLDERS = re.findall(
    r"\S+",
    """
    QaTa-COVID QaTa-Covid19 MosMedDataPlus Train_Folder Val_Folder Test_Folder img labelcol Train_text.xlsx
    Val_text.xlsx Test_text.xlsx Train_Val_text.xlsx models tensorboard_logs visualize_val LV_loss.xlsx
    """,
)
FILES = ["train_model.py", "test_model.py", "Config.py", "requirements.txt"]
VALUES = {
    "seed": "train.seed=666", "epochs": "train.epochs=2000", "img_size": "data.image_size=224",
    "learning_rate": "optimizer.learning_rate=1e-3", "batch_size": "train.batch_size=4",
    "model_name": "model.name=c2fvl",
    "cosineLR": "optimizer.schedule=cosine_restarts", "early_stopping_patience": "train.patience=51",
}  # fmt: skip


def rows(title):
    """Return the rows, as lists of cells, of the tables under a heading."""
    text = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", PAGE, re.M | re.S)[1]
    cells = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("|")
    ]
    return [row for row in cells if not set(row[0]) <= {"-", "|"}]


@pytest.mark.parametrize("name", [*CONFIG, *TRANSFORMER])
def test_every_name_of_their_settings_is_answered(name):
    if name == "get_CTranS_config":
        assert "`get_CTranS_config()`" in PAGE
        return
    (row,) = (row for row in rows("Names of Config.py") if f"`{name}`" in row[0])
    answer = " ".join(row[1:])
    assert row[1] and (row[1] != "–" or (len(row) > 2 and row[2])), f"{name} has no answer: {answer}"


@pytest.mark.parametrize("name", [*TASKS, *MODELS, *FOLDERS, *FILES])
def test_every_task_model_folder_and_script_is_named(name):
    assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", " ".join(re.findall(r"`([^`\n]+)`", PROSE))), name


def test_values_are_those_of_the_published_recipe():
    paper = load_config("c2fvl_qata_paper")
    answers = {row[0]: row[1] for row in rows("Names of Config.py")}
    for name, setting in VALUES.items():
        (answer,) = (answer for there, answer in answers.items() if f"`{name}`" in there)
        assert f"`{setting}`" in answer
        assert override(paper, [setting]) == paper, f"{setting} is not that of the preset"


def test_every_setting_option_and_preset_on_the_page_exists():
    sections = [name for name in vars(Config()) if name != "preset"]
    settings = set(re.findall(rf"`((?:{'|'.join(sections)})\.[\w.]+(?:=[^`]+)?)`", PAGE))
    assert len(settings) > 30
    arguments = {
        line.split(":")[0].strip() for name in NETWORKS for line in arguments_of(name) if line.startswith("  ")
    }
    for setting in settings:
        name, _, value = setting.partition("=")
        section, _, key = name.partition(".")
        if key.startswith("arguments."):
            assert key.removeprefix("arguments.") in arguments, setting
        else:
            assert hasattr(getattr(Config(), section), key), setting
            if value and not value.isupper():
                override(Config(), [setting])
    options = {
        option for each in command_parsers(parser()).values() for one in each._actions for option in one.option_strings
    }
    assert set(re.findall(r"`(--[\w-]+)", PAGE)) <= options
    presets = set(re.findall(r"`(\w+_(?:qata|mosmed|monuseg)_paper|c2fvl_qata)`", PAGE))
    assert presets and presets <= set(preset_names())
