"""Simulation and processing need nothing that only Linux has; tools that do say so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from needs import need_all

from amstrax.auto_processing import rsync
from amstrax.auto_processing.engines import base
from amstrax.auto_processing.engines.local import LocalEngine
from amstrax.exceptions import CopyRefused, JobRefused

#: Names of Python's modules that macOS lacks, as their documentation says; other packages, which
#: have their own ways there, are imported first
_WITHOUT_LINUX = """
import importlib, os, pkgutil, select, signal, socket, sys, time
import matplotlib.pyplot, numba, psutil, pymongo, strax
import amstrax
GONE = {
    os: "eventfd getrandom memfd_create pidfd_open posix_fadvise sched_getaffinity splice",
    select: "epoll",
    signal: "pidfd_send_signal sigtimedwait sigwaitinfo",
    socket: "TCP_KEEPIDLE",
    time: "CLOCK_BOOTTIME",
}
for module, names in GONE.items():
    for name in names.split():
        delattr(module, name)
for module in pkgutil.walk_packages(amstrax.__path__, "amstrax."):
    importlib.import_module(module.name)
from amstrax.cli import main
sys.exit(main(["demo", "--duration", "1", "--output", "demo"]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="removes what only Linux has")
def test_demo_needs_nothing_that_only_linux_has(tmp_path):
    need_all("nestpy")
    pytest.importorskip("bokeh", reason="needs Bokeh: pip install 'amstrax[dashboard]'")
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_LINUX],
        cwd=tmp_path,
        env=os.environ | {"MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(tmp_path.glob("demo/plots/*.png"))


def test_local_engine_elsewhere_is_refused(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    job = base.Job(
        *("000001", ("peaks",), "xams", "xams"),
        script=tmp_path / "job.sh",
        log=tmp_path / "job.log",
        memory=100,
    )
    with pytest.raises(JobRefused, match="needs Linux.*amstraxer"):
        LocalEngine(tmp_path / "state").submit(job)


def test_unknown_mounts_refuse_copies(tmp_path, monkeypatch):
    def unreadable(*_, **__):
        raise FileNotFoundError(2, os.strerror(2))

    monkeypatch.setattr(Path, "read_text", unreadable)
    with pytest.raises(CopyRefused, match="No such file.*on a machine with Linux"):
        rsync.mounted_in(tmp_path)


def test_progress_bars_of_strax_work_in_jupyter():
    """It takes those of notebooks, which need ipywidgets, when an argument names Jupyter."""
    pytest.importorskip("ipywidgets", reason="needs ipywidgets: pip install 'amstrax[notebook]'")
    code = "import sys; sys.argv = ['x', '-f', '/run/jupyter/kernel.json']\n"
    code += "from strax.utils import tqdm; tqdm(total=1).close(); print(tqdm.__module__)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.endswith("tqdm.notebook\n")
