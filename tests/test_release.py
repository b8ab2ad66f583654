"""The files around the code: versions agree, and what workflows call is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
WORKFLOWS = sorted((PROJECT / ".github" / "workflows").glob("*.yml"))


def release(*arguments):
    code = f"import sys; sys.path.insert(0, {str(PROJECT / 'tools')!r}); import release; print(release.{arguments[0]})"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_version_is_the_same_everywhere_and_its_changes_are_written():
    done = release("checked_version(None)")
    assert done.returncode == 0, done.stderr
    version = done.stdout.strip()
    assert release(f"checked_version('v{version}')").returncode == 0
    wrong = release("checked_version('v9.9.9')")
    assert wrong.returncode == 1 and f"expected the tag v{version}" in wrong.stderr
    assert f"## {version}" in release(f"changes_of({version!r})").stdout
    assert "has no section" in release("changes_of('9.9.9')").stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_call_what_there_is(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.M))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert all("run" in step or "uses" in step for step in steps)
    for step in steps:
        called = re.match(r"make ([a-z-]+)", step.get("run", ""))
        assert called is None or called[1] in targets
        for script in re.findall(r"python (\S+\.py)", step.get("run", "")):
            assert (PROJECT / script).is_file()
    assert set(workflow["permissions"]) == {"contents"}
