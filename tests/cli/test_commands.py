import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from c2fvl.cli.main import main
from c2fvl.files.images import read_mask

SENTENCE = "Unilateral pulmonary infection, one infected area, upper left lung."


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["models"], ["models", "c2fvl"], ["presets"], ["settings"], ["check", "--help"]]
)
def test_light_commands_answer_without_torch(arguments):
    code = (
        "import sys, contextlib; from c2fvl.cli.main import main\n"
        f"with contextlib.suppress(SystemExit): main({arguments!r})\n"
        "heavy = {'torch', 'accelerate', 'matplotlib', 'rich', 'transformers'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert "c2fvl" in done.stdout or "data.root" in done.stdout


def test_help_takes_less_than_half_a_second():
    """Of the processor, so that what else the machine does is not counted."""

    def seconds():
        began = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
        subprocess.run([sys.executable, "-m", "c2fvl", "--help"], capture_output=True, check=True)
        return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - began

    assert min(seconds() for _ in range(3)) < 0.5


def test_importing_the_package_is_light():
    code = "import sys, c2fvl; c2fvl.parse_report; sys.exit(bool({'torch', 'cv2', 'numpy'} & set(sys.modules)))"
    assert python(code).returncode == 0


def test_train_evaluate_predict_from_the_command_line(phantom_root, tmp_path, capsys):
    from support.tiny_runs import TINY

    run = str(tmp_path / "run")
    assert main(["train", "debug", *TINY, "train.epochs=1", f"data.root={phantom_root}", "--run-dir", run]) == 0
    assert "Best validation Dice per image" in capsys.readouterr().out
    assert main(["train", "train.patience=9", "--resume", run, "train.epochs=2"]) == 0
    assert "epochs = 2" in Path(run, "config.toml").read_text()  # the next resume keeps to it
    capsys.readouterr()
    assert main(["evaluate", run, str(phantom_root), "--json", "--report", "shuffled"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["text"]["kind"] == "shuffled"
    assert main(["evaluate", run, str(phantom_root)]) == 0
    printed = capsys.readouterr().out
    assert "Dice per image" in printed
    assert str(tmp_path / "run" / "evaluation-val" / "right" / "evaluation.html") in printed
    image = next((phantom_root / "Test_Folder" / "img").iterdir())
    assert (
        main(["predict", str(image), "--model", run, "--report", SENTENCE, "--out", str(tmp_path / "out"), "--json"])
        == 0
    )
    record = json.loads(capsys.readouterr().out)
    assert record["report"]["zones"] == ["image_left_upper"]
    assert (tmp_path / "out" / f"{image.stem}.png").is_file()


def test_predict_says_of_each_image_what_became_of_it(phantom_root, tmp_path, capsys):
    images = sorted((phantom_root / "Test_Folder" / "img").iterdir())[:2]
    broken = tmp_path / "broken.png"
    broken.write_bytes(images[0].read_bytes()[:200])
    out = tmp_path / "out"
    assert main(["predict", *map(str, [images[0], broken, images[1]]), "--out", str(out)]) == 1
    said = capsys.readouterr()
    lines = [line for line in said.out.splitlines() if not line.startswith("  ")]
    for image, line in zip(images, lines, strict=True):
        mask = read_mask(out / f"{image.stem}.png")
        assert line.startswith(f"{out / image.stem}.png: Lesion: {100 * mask.mean():.1f} % of the image.")
    assert f"{broken}: " in said.err and "1 of 3 images failed" in said.err
    assert main(["predict", str(images[0]), "--out", str(out)]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "give a preset"),
        (["train", "phantm"], "did you mean phantom"),
        (["train", "debug", "train.epoch=1"], "did you mean train.epochs"),
        (["train", "debug", "data.root=/nowhere"], "/nowhere"),
        (["train", "debug", "--resume", "x"], "leave out the preset"),
        (["evaluate", "/nowhere", "/nowhere"], "no model folder"),
        (["predict", "/nowhere.png", "--model", "x", "--out", "y"], "matches no file or folder"),
        (["check", "/nowhere"], "/nowhere"),
        (["convert", "/nowhere", "x", "--model", "c2fvl"], "nowhere"),
        (["models", "c2fv"], "did you mean c2fvl"),
        (["models", "smal"], "did you mean small"),
        (["predict", "x.png", "--report", " "], "--report is empty"),
        (["predict", "x.png", "--report", __file__], "is a file; give its content"),
        (["check", __file__], "is no data set"),
        (["presets", "nothing"], "See `c2fvl presets`"),
        (["phantom", "/proc/x"], "/proc"),
    ],
)
def test_wrong_calls_end_with_one_clear_line(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_report_that_cannot_be_read_writes_nothing(tiny_run, phantom_root, tmp_path, capsys):
    image = next((phantom_root / "Test_Folder" / "img").iterdir())
    assert (
        main(["predict", str(image), "--model", str(tiny_run), "--report", "hello", "--out", str(tmp_path / "out")])
        == 2
    )
    assert "names no side and no zone" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_check_exits_with_one_where_something_is_wrong(phantom_root, tmp_path, capsys):
    import shutil

    assert main(["check", str(phantom_root)]) == 0
    capsys.readouterr()
    shutil.copytree(phantom_root, tmp_path / "set")
    mask = next((tmp_path / "set" / "Train_Folder" / "labelcol").iterdir())
    mask.unlink()
    assert main(["check", str(tmp_path / "set")]) == 1
    assert mask.name.removeprefix("mask_") in capsys.readouterr().out


def test_captions_are_made_from_masks(phantom_root, tmp_path, capsys):
    import shutil

    from c2fvl.data.scan import scan

    root = tmp_path / "set"
    shutil.copytree(phantom_root, root, ignore=shutil.ignore_patterns("*.xlsx"))
    table = root / "Val_Folder" / "Val_text.xlsx"
    assert main(["captions", str(root), str(table), "--split", "val"]) == 0
    made, drawn = scan(root, "val"), scan(phantom_root, "val")
    assert [case.id for case in made] == [case.id for case in drawn]
    assert [case.report.number for case in made] == [case.report.number for case in drawn]
    assert main(["captions", str(root), str(table), "--split", "val"]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["models", "--unknown"], ["presets", "debug", "a.b=1"], ["train", "debug", "--x=1"]]
)
def test_arguments_that_are_not_known_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err


def test_a_mistyped_option_is_told_the_nearest_and_the_help_of_its_command(capsys):
    with pytest.raises(SystemExit):
        main(["predict", "x.png", "--modle", "x"])
    assert capsys.readouterr().err.endswith("did you mean --model or --text-model? See `c2fvl predict --help`.\n")


def test_a_trained_model_is_described(capsys):
    assert main(["models", "default"]) == 0
    said = capsys.readouterr().out
    assert "weights/small" in said and "MB" in said and "The network `filmfirst`" in said


def test_without_a_command_the_help_is_printed(capsys):
    assert main([]) == 0
    assert "Segment images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "x.png", "--trust", "2"], "--trust must be between 0 and 1, got 2."),
        (
            ["predict", "x.png", "--device", "tpu"],
            "--device must be auto, cpu, gpu, cuda, cuda:NUMBER or mps, got tpu.",
        ),
        (["evaluate", "x", "y", "--batch-size", "0"], "--batch-size must be a whole number of at least 1, got 0."),
        (["evaluate", "x", "y", "--spacing", "1,-2"], "--spacing must be MM or MM,MM"),
        (["export", "x", "y", "--dtype", "fp8"], "--dtype must be one of fp32, fp16, int8; got 'fp8'."),
        (["evaluat"], "there is no command 'evaluat'; did you mean evaluate?"),
    ],
)
def test_an_error_of_the_call_is_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and message in error and error.count("\n") == 1


def test_reports_of_a_table_that_cannot_be_read_are_said_and_counted(phantom_root, tmp_path, capsys):
    first, second, third = sorted((phantom_root / "Test_Folder" / "img").iterdir())[:3]
    table = tmp_path / "films.csv"
    table.write_text(
        f"image,report\n{first},Infiltrat im linken Unterlappen\n"
        f"{second},Consolidation in the left lower zone.\n{third},\n"
    )
    assert main(["predict", "--csv", str(table), "--out", str(tmp_path / "out")]) == 0
    errors = capsys.readouterr().err
    assert f"{first}: the report is not used: " in errors
    assert f"{second}: the report" not in errors
    assert "1 of 2 reports could not be read and were not used" in errors


def test_a_part_of_a_run_is_not_resumed(tiny_run, capsys):
    for part in ("best", "last"):
        assert main(["train", "--resume", str(tiny_run / part)]) == 2
        assert f"give the run folder, {tiny_run}" in capsys.readouterr().err
