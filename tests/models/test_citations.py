"""What is to be cited: an entry for every network and data set, with the papers that the networks name."""

import re
from pathlib import Path

import pytest

from c2fvl.cli.main import main
from c2fvl.models.citations import OF_DATA_SETS, OF_NETWORKS, bibtex
from c2fvl.models.registry import NETWORKS
from c2fvl.version import __version__

PROJECT = Path(__file__).parents[2]


def test_every_network_and_every_data_set_has_entries():
    assert set(OF_NETWORKS) == set(NETWORKS)
    for name in (*OF_NETWORKS, *OF_DATA_SETS):
        assert bibtex(name).count("@") == len((OF_NETWORKS | OF_DATA_SETS)[name])


@pytest.mark.parametrize("name", [name for name, entry in NETWORKS.items() if entry.published])
def test_the_entry_is_that_of_the_paper_of_the_network(name):
    entry, network = bibtex(name), NETWORKS[name]
    assert re.findall(r"eprint = \{([\d.]+)\}", entry) == [network.published.rpartition("/")[2]]
    assert f"year = {{{network.year}}}" in entry
    assert network.paper.split()[0] in entry


def test_entries_are_whole_and_their_keys_differ():
    entries = bibtex().split("\n\n")
    keys = [re.match(r"@\w+\{(\w+),\n", entry)[1] for entry in entries]
    assert len(set(keys)) == len(keys)
    for entry in entries:
        assert entry.count("{") == entry.count("}")
        assert {"title", "author", "year"} <= set(re.findall(r"^  (\w+) = ", entry, re.M))
    assert set(keys) == {key for found in (OF_NETWORKS | OF_DATA_SETS).values() for key in found}


def test_the_version_is_that_of_the_package():
    assert f"version = {{{__version__}}}" in bibtex("filmfirst")
    assert f"version: {__version__}\n" in (PROJECT / "CITATION.cff").read_text(encoding="utf-8")


def test_the_command_prints_entries(capsys):
    assert main(["models", "lvit", "--cite"]) == 0
    assert capsys.readouterr().out == bibtex("lvit") + "\n"
    assert main(["models", "default", "--cite"]) == 0
    assert "@software{c2fvl," in capsys.readouterr().out
    assert main(["models", "qata", "--cite"]) == 0
    assert "OSegNet" in capsys.readouterr().out
    assert main(["models", "--cite"]) == 0
    assert capsys.readouterr().out == bibtex() + "\n"
    assert main(["models", "lvitt", "--cite"]) == 2
    assert "did you mean lvit" in capsys.readouterr().err
