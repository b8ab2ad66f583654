"""The model card says what the run and its scores say, and nothing else."""

import json
import shutil

import pytest

from c2fvl.checkpoints.trained_model import load_model
from c2fvl.cli.main import main
from c2fvl.data.part import Part
from c2fvl.evaluation.evaluate import evaluate
from c2fvl.evaluation.pages.model_card import write_card


@pytest.fixture
def run(tiny_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder, ignore=shutil.ignore_patterns("evaluation-*"))
    return folder


def test_a_card_without_scores_says_so(run):
    card = write_card(run).read_text()
    assert "Not scored yet" in card
    assert "Not audited yet" in card
    assert "not for diagnosis" in card
    assert "version unknown" in card
    weights = json.loads((run / "best" / "metrics.json").read_text())["weights_sha256"]
    assert weights in card
    assert "Begun from" not in card
    environment = json.loads((run / "environment.json").read_text())
    environment["begun_from"] = {"setting": "init.model=small", "sha256": "a" * 64}
    (run / "environment.json").write_text(json.dumps(environment))
    assert f"Initial weights: `init.model=small`, a file with the SHA-256 `{'a' * 64}`" in write_card(run).read_text()


def test_a_card_holds_every_number_of_both_kinds_and_the_audit(run, phantom_root, capsys):
    assert main(["audit", str(run), str(phantom_root), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    words = ["--text-version", "phantom, seed 1", "--licence", "CC0", "--data", "films of | nobody"]
    assert main(["card", str(run), *words]) == 0
    card = (run / "best" / "README.md").read_text()
    figures = summary["statistics"]
    for kind in ("per_image", "pooled"):
        for name in ("dice", "iou"):
            assert f"{100 * figures[kind][name]['value']:.2f} ({100 * figures[kind][name]['low']:.2f}" in card
    for row in summary["audit"]["changes"]:
        assert f"| {row['title']} | {100 * row['dice']['value']:.2f}" in card
    assert "version phantom, seed 1" in card
    assert "CC0" in card
    assert r"films of \| nobody" in card
    assert f"{summary['data']['num_cases']} |" in card


def test_scores_of_other_weights_do_not_enter_a_card(run, phantom_root, tmp_path):
    evaluate(load_model(run), Part(phantom_root), out=tmp_path / "scores")
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text())
    summary["model"]["weights_sha256"] = "0" * 64
    (tmp_path / "scores" / "summary.json").write_text(json.dumps(summary))
    card = write_card(run, evaluations=[tmp_path / "scores"]).read_text()
    assert "Not scored yet" in card
    assert "Not used here" in card


def test_what_others_wrote_is_not_overwritten(run, tmp_path, capsys):
    readme = run / "best" / "README.md"
    readme.write_text("# mine\n")
    assert main(["card", str(run)]) == 2
    assert "--replace" in capsys.readouterr().err
    assert readme.read_text() == "# mine\n"
    assert main(["card", str(run), "--replace"]) == 0
    assert main(["card", str(run)]) == 0
    assert main(["card", str(run), "--evaluation", str(tmp_path / "nothing")]) == 2
    assert "c2fvl evaluate" in capsys.readouterr().err
