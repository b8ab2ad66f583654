"""The documentation builds, its links lead somewhere, its commands parse, its Python runs, its tables are complete."""

import contextlib
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import c2fvl
from c2fvl.cli.main import command_parsers, main, parser
from c2fvl.config import Config
from c2fvl.config_files import load_config, override, parse_config, preset_names
from c2fvl.data.perturbations import perturbations

PROJECT = Path(__file__).parents[1]
DOCS = PROJECT / "docs"
README = PROJECT / "README.md"
PAGES = [README, *sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)]
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.M | re.S)
REPORT = "Unilateral pulmonary infection, one infected area, upper left lung."
FILES_WITHOUT_ENDING = {"LICENSE", "NOTICE", "Makefile"}


def blocks(path, *languages):
    found = BLOCK.findall(path.read_text(encoding="utf-8"))
    return [content for _, language, content in found if language in languages]


def commands_in(block):
    """Yield the arguments of every c2fvl command of a shell block."""
    for line in block.replace("\\\n", " ").splitlines():
        with contextlib.suppress(ValueError):  # a drawing, a table: no shell line
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if "-m" in words and words[words.index("-m") :][1:2] == ["c2fvl"]:
                words = words[words.index("-m") + 1 :]
            if words[:1] == ["c2fvl"]:
                end = next((place for place, word in enumerate(words) if word in (">", "|", "&&")), None)
                yield words[1:end]


def commands(path):
    """Return the arguments of every c2fvl command in a page's shell blocks."""
    return [words for block in blocks(path, "sh", "bash", "console", "") for words in commands_in(block)]


def commands_of_the_demo():
    """Return the arguments of every c2fvl command of `make demo`, with a file for what the shell would list."""
    recipe = (PROJECT / "Makefile").read_text(encoding="utf-8").partition("\ndemo:")[2].partition("\n\n")[0]
    for line in re.findall(r"^\t@?\$\(BIN\)/c2fvl (.*)$", recipe, re.M):
        words = re.sub(r"\$\$\([^)]*\)", "image.png", line.replace("$(DEMO)", "demo"))
        yield shlex.split(words.partition("|")[0])


ALL_COMMANDS = [
    pytest.param(words, id=f"{name}: {' '.join(words)}")
    for name, found in [*((path.name, commands(path)) for path in PAGES), ("Makefile", list(commands_of_the_demo()))]
    for words in found
]


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of the built pages, read only."""
    for module in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    folder = tmp_path_factory.mktemp("docs")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", str(folder / "trees"),
         str(DOCS), str(folder / "site")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "site"


def test_the_pages_build_without_a_warning(site):
    start = (site / "index.html").read_text(encoding="utf-8")
    assert f"c2fvl {c2fvl.__version__}" in start
    assert 'action="search.html"' in start
    tutorial = (site / "tutorial.html").read_text(encoding="utf-8")
    assert 'class="next-page"' in tutorial and 'class="prev-page"' in tutorial


def widest_elements(browser, pages, width):
    """Return the elements that reach beyond the window, by page, and those pages that ask for anything remote."""
    wide, remote = {}, set()
    context = browser.new_context(viewport={"width": width, "height": 844})
    tab = context.new_page()
    tab.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else remote.add(request.url))
    for page in pages:
        tab.goto(page.as_uri())
        if tab.evaluate("document.documentElement.scrollWidth") > width:
            wide[page.name] = tab.evaluate(
                "width => [...document.querySelectorAll('article *')]"
                ".filter(each => each.getBoundingClientRect().right > width + 1)"
                ".map(each => `${each.tagName} ${each.textContent.slice(0, 50)}`).slice(-3)",
                width,
            )
    context.close()
    return wide, remote


def test_a_page_is_no_wider_than_a_telephone(site, browser):
    """The pages with the widest tables; the slow test takes all of them."""
    pages = [site / f"{name}.html" for name in ("index", "settings", "presets", "api")]
    assert widest_elements(browser, pages, 390) == ({}, set())


@pytest.mark.slow(like="test_a_page_is_no_wider_than_a_telephone")
def test_no_page_is_wider_than_a_telephone(site, browser):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    assert widest_elements(browser, pages, 390) == ({}, set())


def test_every_public_name_is_on_the_page_of_the_api(site):
    page = (site / "api.html").read_text(encoding="utf-8")
    for name in c2fvl.__all__:
        assert name == "__version__" or f'id="c2fvl.{name}"' in page, f"docs/api.md lacks c2fvl.{name}"


def script(name):
    """Return a script of the documentation as a module."""
    specification = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_picture_of_the_packages_is_up_to_date():
    make_architecture = script("make_architecture")
    found = make_architecture.PICTURE.read_text(encoding="utf-8")
    assert found == make_architecture.picture(), "run python docs/make_architecture.py"
    packages = {path.parent.name for path in (PROJECT / "src" / "c2fvl").glob("*/__init__.py")}
    assert set(make_architecture.TITLES) == packages


def test_pages_made_from_the_program_are_up_to_date():
    made = script("make_reference").pages()
    for name, text in made.items():
        written = (DOCS / name).read_text(encoding="utf-8")
        assert written == text, f"docs/{name} is out of date; run python docs/make_reference.py"
    of_networks = {path.relative_to(DOCS).as_posix() for path in (DOCS / "presets").glob("*.md")}
    assert of_networks == {name for name in made if "/" in name}


def test_the_blocks_of_the_presets_pages_are_the_presets():
    shown = {}
    for path in (DOCS / "presets").glob("*.md"):
        for block in blocks(path, "toml"):
            config = parse_config(block, where=path.name)
            shown[config.preset] = config
    assert shown == {name: load_config(name) for name in preset_names()}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_relative_links_lead_to_files(path):
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:|#", target):
            assert (path.parent / target.partition("#")[0]).exists(), f"{path.name} links to {target}"


def test_there_are_commands_to_check():
    assert len(ALL_COMMANDS) >= 30


@pytest.mark.parametrize("words", ALL_COMMANDS)
def test_commands_parse(words):
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options, rest = parser().parse_known_args(words)
    except SystemExit as error:
        pytest.fail(f"c2fvl {' '.join(words)}: {said.getvalue() or error}")
    assert not rest or hasattr(options, "overrides"), f"not understood: {rest}"
    assert all("=" in item and not item.startswith("-") for item in rest), f"not understood: {rest}"
    preset = getattr(options, "preset", None)
    overrides = [*getattr(options, "overrides", []), *rest]
    if preset is not None and "=" in preset:  # after --resume the first override stands where a preset would
        overrides.insert(0, preset)
    elif preset is not None and not preset.endswith(".toml"):
        assert preset in preset_names()
    if hasattr(options, "preset"):
        override(Config(), overrides)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_settings_in_pages_are_valid(path):
    for block in blocks(path, "toml"):
        parse_config(block, where=path.name)


@pytest.fixture
def demo(tiny_run, phantom_root, tmp_path, monkeypatch):
    """A folder in which the files of `make demo` are that README and the tutorial name."""
    (tmp_path / "demo").mkdir()
    shutil.copytree(tiny_run, tmp_path / "demo" / "run")
    (tmp_path / "demo" / "phantom").symlink_to(phantom_root, target_is_directory=True)
    image = sorted((phantom_root / "Test_Folder" / "img").iterdir())[0]
    (tmp_path / "demo" / "example.png").symlink_to(image)
    (tmp_path / "demo" / "example_report.txt").write_text(REPORT + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", [README, DOCS / "tutorial.md"], ids=lambda path: path.name)
def test_python_blocks_run(path, demo):
    found = blocks(path, "python")
    assert found
    said = io.StringIO()
    namespace = {}
    for block in found:
        with contextlib.redirect_stdout(said):
            exec(compile(block, path.name, "exec"), namespace)
    assert said.getvalue()


def test_the_lines_of_the_first_page_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["demo"]) == 0
    monkeypatch.chdir("c2fvl-demo")
    report = Path("film_2.txt").read_text().strip()
    for words in commands(DOCS / "index.md"):
        if words != ["demo"]:
            assert main([report if word == "$(cat film_2.txt)" else word for word in words]) == 0, capsys.readouterr()
    assert {path.name for path in Path("predictions").glob("*_overlay.png")} == {
        "film_1_overlay.png", "film_2_overlay.png",
    }  # fmt: skip
    capsys.readouterr()
    for block in blocks(DOCS / "index.md", "python"):
        exec(compile(block, "index.md", "exec"), {})
    assert "(512, 512)" in capsys.readouterr().out


def test_commands_of_the_tutorial_run(demo, phantom_root, capsys):
    image = sorted((phantom_root / "Test_Folder" / "img").iterdir())[0]
    ran = []
    for words in commands(DOCS / "tutorial.md"):
        if words[0] not in ("check", "evaluate", "predict"):
            continue  # the others make what the fixtures have made, at a size that takes minutes
        named = [re.sub(r"sub-S\d+_run-\d+\.png", image.name, word) for word in words]
        assert main(named) == 0, capsys.readouterr().err
        ran.append(words[0])
    assert ran == ["check", "evaluate", "evaluate", "predict", "predict", "predict"]
    assert (demo / "demo" / "with-report" / "evaluation.html").is_file()
    assert (demo / "demo" / "one" / f"{image.stem}_overlay.png").is_file()


def block_after_the_demo():
    """Return the shell block of README whose commands need nothing but what `make demo` leaves."""
    (found,) = (block for block in blocks(README, "sh") if "demo/example.png" in block)
    return found


def test_commands_of_readme_run(demo, capsys):
    """In this process; those that translate and measure take longer, and are typed into a shell in the next test."""
    ran = []
    for words in commands_in(block_after_the_demo()):
        if words[0] not in ("export", "compare") and "demo/network.onnx" not in words:
            typed = [REPORT if word == "$(cat demo/example_report.txt)" else word for word in words]
            assert main(typed) == 0, capsys.readouterr().err
            ran.append(words[0])
    assert {"predict", "check", "evaluate", "audit", "models"} <= set(ran)
    assert (demo / "demo" / "two" / "example_overlay.png").is_file()


@pytest.mark.slow(like="test_commands_of_readme_run")
def test_readme_can_be_typed_after_the_demo(demo):
    """With the command on the path, as after `. .venv/bin/activate`, and a shell that stops at the first failure."""
    command = demo / "bin" / "c2fvl"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m c2fvl "$@"\n')
    command.chmod(0o755)
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-e", "-c", block_after_the_demo()], capture_output=True, text=True, check=False, cwd=demo,
        env={**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for folder in ("one", "two", "three"):
        assert (demo / "demo" / folder / "example.png").is_file()


@pytest.mark.slow(like="test_commands_parse")
def test_the_example_of_the_demo_is_a_test_image_with_a_report(tmp_path):
    (name,) = re.findall(r"^EXAMPLE := (.+)$", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.M)
    words = next(iter(commands_of_the_demo()))
    assert words[0] == "phantom"
    assert main(["phantom", str(tmp_path / "data"), *words[2 : words.index("--size")], "--size", "32"]) == 0
    folder = tmp_path / "data" / "Test_Folder"
    assert (folder / "img" / f"{name}.png").is_file()
    assert re.search(rf"{name}\.png,\"(.+)\"", (folder / "Test_films.csv").read_text(encoding="utf-8"))


def tree_entries(text):
    """Return the paths of an annotated tree: indentation is depth, what follows two spaces or a # is a remark."""
    folders = []  # (indentation, path)
    entries = []
    for line in text.splitlines():
        bare = line.lstrip(" │├└─|`-")
        indentation = len(line) - len(bare)
        names = []
        for word in re.split(r"\s{2,}|\s#", bare)[0].replace(",", " ").split():
            is_name = word.endswith("/") or word in FILES_WITHOUT_ENDING or re.search(r"\.[a-z]+$", word)
            if not is_name:
                break
            names.append(word)
        if not names:
            continue
        while folders and folders[-1][0] >= indentation:
            folders.pop()
        parent = folders[-1][1] if folders else Path()
        if names == ["c2fvl/"] and not entries and not folders:
            folders.append((indentation, Path()))  # the root by its name
            continue
        entries += [parent / name for name in names]
        if names[0].endswith("/"):
            folders.append((indentation, parent / names[0]))
    return entries


def test_the_tree_in_readme_is_true():
    trees = [block for block in blocks(README, "", "text") if re.search(r"^\W*src/", block, re.M)]
    assert len(trees) == 1, "README shows one annotated tree, with a line for src/"
    entries = tree_entries(trees[0])
    assert len(entries) >= 10
    missing = [str(entry) for entry in entries if not list(PROJECT.glob(str(entry)))]
    assert not missing


def keys_of(value, prefix=""):
    for key, item in value.items():
        yield prefix + key
        if isinstance(item, dict) and key in ("report", "model"):
            yield from keys_of(item, f"{prefix}{key}.")


def test_the_page_of_files_names_every_key_and_file(demo, tiny_run, phantom_root, capsys):
    page = (DOCS / "formats.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([^`]+)`", page))
    image = sorted((phantom_root / "Test_Folder" / "img").iterdir())[0]
    assert main(["predict", str(image), "--model", "demo/run", "--report", REPORT, "--out", "out", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert set(keys_of(record)) - {"model"} <= named
    assert set(record["area_per_third"]) <= named

    assert main(["evaluate", "demo/run", "demo/phantom", "--out", "scores", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert set(summary) | {key for row in summary["scores"] for key in row} <= named
    parts = ("model", "data", "text", "unit", "statistics", "calibration", "software")
    assert {key for part in parts for key in summary[part]} <= named
    assert main(["audit", "demo/run", "demo/phantom", "--out", "scores", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["audit"]
    rows = [row for part in ("changes", "headline", "baselines", "remarks") for row in found[part]]
    assert set(found) | {key for row in rows for key in row} <= named
    assert {entry.name.removesuffix("/") for entry in Path("scores").iterdir()} <= {name.rstrip("/") for name in named}
    assert set(Path("scores/cases.csv").read_text().splitlines()[0].split(",")) <= named
    options = command_parsers(parser())["evaluate"]._actions
    (report,) = (action for action in options if action.dest == "report")
    assert set(report.choices) == {change.name for change in perturbations(None)}
    assert set(report.choices) <= set(
        re.findall(r"^\| `(\w+)`", (DOCS / "scores.md").read_text(encoding="utf-8"), re.M)
    )

    for line in (tiny_run / "log.jsonl").read_text().splitlines():
        assert set(json.loads(line)) <= named
    assert set(json.loads((tiny_run / "environment.json").read_text())) <= named
    assert {entry.name for entry in (tiny_run / "best").iterdir()} <= named
    assert {entry.name for entry in next((tiny_run / "last").iterdir()).iterdir()} <= named


def test_the_page_of_files_names_what_a_network_that_reads_images_adds(phantom_root, tmp_path, capsys):
    named = set(re.findall(r"`([^`]+)`", (DOCS / "formats.md").read_text(encoding="utf-8")))
    image = sorted((phantom_root / "Test_Folder" / "img").iterdir())[0]
    report = "Consolidation in the left upper zone."
    assert main(["predict", str(image), "--report", report, "--out", str(tmp_path / "out"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert set(record["ood"]) | set(record["predicted_findings"]) <= named
    assert main(["evaluate", "default", str(phantom_root), "--out", str(tmp_path / "scores"), "--json"]) == 0
    reading = json.loads(capsys.readouterr().out)["predicted_findings"]
    assert set(reading) | set(next(iter(reading["zones"].values()))) | set(reading["number"]) <= named


def test_every_direct_dependency_is_accounted_for():
    import tomllib

    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    page = (DOCS / "dependencies.md").read_text(encoding="utf-8")
    rows = " ".join(row.split("|")[1] for row in page.splitlines() if row.startswith("| "))
    for requirement in (item for group in groups for item in group):
        name = re.match(r"[\w-]+", requirement)[0]
        if name == project["name"]:  # one of its own extras
            continue
        assert re.search(rf"(?<![\w-]){name}(?![\w-])", rows), f"{name} is missing from docs/dependencies.md"


def test_the_messages_of_the_faq_are_those_of_the_program():
    rows = re.findall(r"^\| `([^`]+)` \|", (DOCS / "faq.md").read_text(encoding="utf-8"), re.M)
    source = "".join(path.read_text(encoding="utf-8") for path in (PROJECT / "src").rglob("*.py"))
    joined = re.sub(r'"\s*\n\s*f?"', "", source)  # a message over several lines
    messages = [row for row in rows if not row.startswith("c2fvl:")]
    assert len(messages) >= 10
    assert not [message for message in messages if message not in joined]


def test_the_presets_named_in_the_explanation_do_what_it_says():
    paper, corrected = load_config("c2fvl_qata_paper"), load_config("c2fvl_qata")
    assert (paper.data.resize, corrected.data.resize) == ("published", "exact")
    assert (paper.data.augmentation, corrected.data.augmentation) == ("paper", "consistent")
    assert (paper.model.arguments.get("gate", "published"), corrected.model.arguments["gate"]) == (
        "published",
        "bounded",
    )
    assert (paper.loss.alignment, corrected.loss.alignment) == (1.0, 0.0)
    assert (paper.train.best_from_epoch, corrected.train.best_from_epoch) == (6, 1)
