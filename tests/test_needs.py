"""Tests say what they lack: at the start all of it, and each test that is skipped for it."""

import subprocess
import sys
from pathlib import Path

import needs
import pytest
from _pytest.outcomes import Failed, Skipped

PROGRAMS = ("make", "git", "sshd", "rsync", "slurm")


def test_all_that_is_missing_is_listed_at_the_start(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", __file__],
        env={"PATH": str(tmp_path), "AMSTRAX_TEST_CONDOR": str(tmp_path), "HOME": str(tmp_path)},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
    )
    header = done.stdout[: done.stdout.index("collected ")]
    assert "tests that need what is missing here are skipped" in header
    assert "needs rsync: apt-get install rsync" in header
    assert f"needs HTCondor in {tmp_path}" in header


@pytest.mark.parametrize(("ci", "outcome"), [("", Skipped), ("true", Failed)])
@pytest.mark.parametrize("name", PROGRAMS)
def test_tests_without_a_program_are_skipped_and_in_ci_fail(
    monkeypatch, tmp_path, name, ci, outcome
):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(needs, "daemon_path", lambda name: None)
    with pytest.raises(outcome, match="apt-get install"):
        needs.need_all(name)
    assert any(name in line.lower() for line in needs.missing())


def test_what_is_there_is_not_missing(monkeypatch):
    monkeypatch.setattr(needs, "NEEDS", {"this": (lambda: True, "needs this")})
    needs.need_all("this")
    assert needs.missing() == []
