"""What tests need besides amstrax, and the remedy; pytest lists at its start what is missing."""

import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
CHROMIUM = Path("/usr/bin/chromium-headless-shell")
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
#: Folder of HTCondor, as `.ci/condor-root` makes it
CONDOR = Path(
    os.environ.get("AMSTRAX_TEST_CONDOR")
    or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "amstrax-test/condor").expanduser()
)


def daemon_path(name: str) -> str | None:
    """Return the path of a program, also from the folders of daemons in Debian."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _package(name: str) -> Callable[[], bool]:
    return lambda: find_spec(name) is not None


#: Name -> whether it is there, and what to say if not
NEEDS: dict[str, tuple[Callable[[], bool], str]] = {
    "shared": (
        lambda: (SHARED / "parity").is_dir(),
        f"needs the project's shared data, which is not at {SHARED}",
    ),
    "pidfd": (
        lambda: hasattr(os, "pidfd_open"),
        "needs Linux, as the engine local, which watches processes through /proc and pidfd",
    ),
    "make": (lambda: shutil.which("make") is not None, "needs make: apt-get install make"),
    "git": (lambda: shutil.which("git") is not None, "needs git: apt-get install git"),
    "sshd": (lambda: daemon_path("sshd") is not None, "needs sshd: apt-get install openssh-server"),
    "rsync": (lambda: shutil.which("rsync") is not None, "needs rsync: apt-get install rsync"),
    "faketime": (FAKETIME.exists, "needs libfaketime: apt-get install faketime"),
    "slurm": (
        lambda: all(map(daemon_path, ("munged", "slurmctld", "slurmd", "sbatch"))),
        "needs Slurm: apt-get install slurm-wlm munge",
    ),
    "condor": (
        lambda: (CONDOR / "usr/sbin/condor_master").is_file(),
        f"needs HTCondor in {CONDOR}: as root, .ci/condor-root",
    ),
    "chromium": (CHROMIUM.exists, f"needs {CHROMIUM}: apt-get install chromium-headless-shell"),
    "playwright": (_package("playwright"), "needs Playwright: pip install 'amstrax[test]'"),
    "nestpy": (_package("nestpy"), "needs nestpy: pip install 'amstrax[simulation]'"),
    "docs": (
        lambda: all(map(find_spec, ("grandalf", "nbclient", "nbformat", "yaml"))),
        "needs packages of the documentation: pip install 'amstrax[docs]'",
    ),
    "root": (lambda: os.getuid() == 0, "needs root, to mount small disks and to be another user"),
}


def need(there: bool, reason: str) -> None:
    """Skip the test, or in CI fail it, unless something is there."""
    if there:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def need_all(*names: str) -> None:
    """Skip the test, or in CI fail it, unless all of these rows of `NEEDS` are there."""
    for name in names:
        there, reason = NEEDS[name]
        need(there(), reason)


def missing() -> list[str]:
    """Return what to say of each row of `NEEDS` that is missing."""
    return [reason for there, reason in NEEDS.values() if not there()]
