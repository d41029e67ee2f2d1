"""Workflows of GitHub are well-formed, and call what there is: nothing here can run them."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml", reason="needs PyYAML, which the extra `docs` brings")

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / ".github/workflows").glob("*.yml"))
# In an archive of the source there are none
pytestmark = [
    pytest.mark.smoke,
    pytest.mark.skipif(not FILES, reason="needs .github, which the repository has"),
]


def load(path: Path) -> dict:
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    # To YAML 1.1, `on` is a truth value
    return {("on" if key is True else key): value for key, value in workflow.items()}


def steps(workflow: dict) -> list[dict]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_there_is_one_for_tests_docs_and_pypi():
    assert [path.stem for path in FILES] == ["docs", "pypi", "tests"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_workflow_is_well_formed(path):
    workflow = load(path)
    assert set(workflow) <= {"name", "on", "permissions", "concurrency", "jobs"}
    assert workflow["name"] == path.stem
    # No step gets more rights than it needs: these are those of jobs that say nothing
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert job["runs-on"], name
        needed = job.get("needs", [])
        for other in [needed] if isinstance(needed, str) else needed:
            assert other in workflow["jobs"], name
    for step in steps(workflow):
        assert ("run" in step) != ("uses" in step), step
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", step["uses"]), step


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_commands_exist(path):
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M)
    for step in steps(load(path)):
        if "run" not in step:
            continue
        checked = subprocess.run(
            ["bash", "-n", "-c", step["run"]], capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, f"{step['run']}: {checked.stderr}"
        for line in step["run"].splitlines():
            command, *arguments = shlex.split(line)
            if command == "make":
                assert arguments[0] in targets, line
            elif command == "bash":
                assert (ROOT / arguments[0]).is_file(), line
            else:
                assert command in ("grep", "pipx"), f"{line}: say here what is to be there"


def test_versions_of_python_are_those_of_the_package():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    versions = re.findall(r"Programming Language :: Python :: (3\.\d+)", setup)
    tests = load(ROOT / ".github/workflows/tests.yml")
    matrix = tests["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix == {"os": ["ubuntu-latest", "macos-latest"], "python": versions}


def test_only_a_tag_is_published_without_a_password():
    workflow = load(ROOT / ".github/workflows/pypi.yml")
    assert workflow["on"] == {"push": {"tags": ["v*"]}}
    publish = workflow["jobs"]["publish"]
    assert publish["needs"] == "build"
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["environment"] == {"name": "pypi"}
    assert "secrets." not in (ROOT / ".github/workflows/pypi.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize(("tag", "fits"), [("", True), (".1", False)])
def test_tag_of_another_version_is_refused(tag, fits):
    import amstrax

    workflow = load(ROOT / ".github/workflows/pypi.yml")
    (command,) = [step["run"] for step in steps(workflow) if "GITHUB_REF_NAME" in str(step)]
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "GITHUB_REF_NAME": f"v{amstrax.__version__}{tag}"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode == 0) == fits
