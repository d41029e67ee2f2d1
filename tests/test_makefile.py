"""What the Makefile installs, and when; with a Python that only takes notes."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from needs import need_all

ROOT = Path(__file__).resolve().parents[1]
USERS = "simulation,dashboard,notebook"

# Each call is a line of the log; `-m venv FOLDER` copies the program there, and makes a `jupyter`
_PYTHON = """#!/bin/bash
echo "$*" >> "{log}"
[ -z "${{FAIL:-}}" ] || [[ "$*" != *"$FAIL"* ]] || exit 1
if [[ "$*" == "-m venv --clear "* ]]; then
    rm -rf "$4"
    mkdir -p "$4/bin"
    cp "$0" "$4/bin/python"
    printf '#!/bin/bash\\necho "jupyter $*" >> "{log}"\\n' > "$4/bin/jupyter"
    chmod +x "$4/bin/jupyter"
fi
"""


class Clone:
    """A folder with the Makefile and what it looks at."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.log = folder.parent / "log"
        self.python = folder.parent / "python"
        self.python.write_text(_PYTHON.format(log=self.log))
        self.python.chmod(0o755)
        (folder / "docs/source/tutorials").mkdir(parents=True)
        for name in ("Makefile", "setup.py", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, folder / name)
        (folder / "docs/source/tutorials/first_tour.ipynb").write_text("tour")

    def make(self, *targets: str, fail: str = "") -> list[str]:
        """Run make; return environments that were built, extras installed, calls of Jupyter."""
        self.log.write_text("")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
        done = subprocess.run(
            ["make", *targets, f"PYTHON={self.python}"],
            cwd=self.folder,
            env=environment | {"FAIL": fail},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode == 0) == (not fail), done.stderr
        words = []
        for line in self.log.read_text().splitlines():
            if line.startswith("-m venv"):
                words.append(f"venv {line.split()[-1]}")
            elif "--editable" in line:
                words.append(line.partition("[")[2].rstrip("]"))
            elif line.startswith("jupyter") or "jupyterlab" in line:
                words.append(line.split()[0 if line.startswith("jupyter") else -2])
        return words

    def touch(self, name: str) -> None:
        """Make a file newer than what was built."""
        later = (self.folder / ".venv/.installed").stat().st_mtime + 10
        os.utime(self.folder / name, (later, later))


@pytest.fixture
def clone(tmp_path) -> Clone:
    need_all("make")
    return Clone(tmp_path / "clone")


def test_users_do_not_get_what_developers_need(clone):
    assert clone.make("install") == ["venv .venv", USERS]
    assert clone.make("install") == []
    assert clone.make("dev") == ["dev"]
    assert clone.make("install", "dev") == []


def test_what_is_added_is_kept_up_to_date(clone):
    assert clone.make("dev") == ["venv .venv", USERS, "dev"]
    clone.touch("setup.py")
    assert clone.make("install") == ["dev"]
    (clone.folder / "setup.py").unlink()
    (clone.folder / "setup.py").write_text("")
    os.utime(clone.folder / "setup.py", (0, 0))
    assert clone.make("install", "dev") == []


@pytest.mark.parametrize("target", ["install", "dev"])
def test_interrupted_installation_is_built_anew(clone, target):
    if target == "dev":
        clone.make("install")
    clone.make(target, fail="--editable")
    assert not (clone.folder / ".venv/.installed").exists()
    built = clone.make(target)
    assert built == ["venv .venv", USERS, *(["dev"] if target == "dev" else [])]


def test_moved_folder_is_built_anew_with_what_it_had(clone):
    clone.make("dev")
    clone.folder = clone.folder.rename(clone.folder.with_name("moved"))
    assert clone.make("install") == ["venv .venv", "dev"]
    assert clone.make("dev") == []


def test_notebook_has_an_environment_of_its_own(clone):
    assert clone.make("notebook") == [
        *("venv .venv", USERS),
        *("venv .venv/jupyter", "jupyterlab>=4.4,<5", "jupyter"),
    ]
    assert clone.make("notebook") == ["jupyter"]
    assert clone.make("install", "dev") == ["dev"]


def test_notebook_keeps_changes_of_users(clone):
    clone.make("notebook")
    mine = clone.folder / "notebooks/first_tour.ipynb"
    assert mine.read_text() == "tour"
    mine.write_text("mine")
    clone.make("notebook")
    assert mine.read_text() == "mine"
