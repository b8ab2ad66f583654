import json
import time
import tomllib

import pytest

from c2fvl.config_files import load_config, parse_config
from c2fvl.files.parsing import MAX_KEY_PARTS, parse_json, parse_toml


def test_json_and_toml_are_read():
    assert parse_json(b'{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}
    assert parse_toml('a.b.c = "x.y.z.w"\n[d]\ne = [1, 2]') == {"a": {"b": {"c": "x.y.z.w"}}, "d": {"e": [1, 2]}}


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, "[" * 100_000 + "]" * 100_000])
def test_json_nested_too_deeply_is_an_error_in_words(content):
    with pytest.raises(json.JSONDecodeError, match="nested too deeply"):
        parse_json(content)


def test_toml_nested_too_deeply_is_an_error_in_words():
    with pytest.raises(tomllib.TOMLDecodeError, match="nested too deeply"):
        parse_toml("a = " + "[" * 50_000 + "]" * 50_000)


@pytest.mark.parametrize("form", ["{} = 1", "[{}]", "x = 1\n  {} = 2"])
def test_a_key_of_very_many_parts_is_refused_at_once(form):
    began = time.process_time()
    with pytest.raises(tomllib.TOMLDecodeError, match=f"more than {MAX_KEY_PARTS} parts"):
        parse_toml(form.format(".".join(["a"] * 100_000)))
    assert time.process_time() - began < 5  # reading it would take a minute and more


def test_numbers_and_texts_with_many_dots_are_no_long_keys():
    text = 'a = "' + "x." * 50 + '"\nb = [\n' + "1.5, " * 30 + "]\n# " + "." * 40
    assert len(parse_toml(text)) == 2


def test_settings_nested_too_deeply_or_too_large_name_the_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("preset = " + "[" * 20_000, encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine\.toml is not valid TOML: nested too deeply"):
        load_config(str(path))
    with pytest.raises(ValueError, match=r"image_size is 65536; expected at most 4096"):
        parse_config("[data]\nimage_size = 65536")
