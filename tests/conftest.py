"""What tests share: the data in ../shared, and runs written for a test."""

import contextlib
import gc
import json
import logging
import os
import random
import signal
import sys
import threading
from pathlib import Path

import fork_server
import pytest
from batch_servers import slurm, slurm_cluster  # noqa: F401
from condor_pool import condor, condor_pool  # noqa: F401
from make_jobs import live_runs, made_once, runs, start_tool, store_apart  # noqa: F401
from needs import SHARED, missing, need_all
from servers import (  # noqa: F401
    mongo_collection,
    mongo_server,
    run_database_settings,
    ssh_server,
)

from amstrax import settings

#: What takes minutes is begun with, so that no worker is left alone with it at the end
LONGEST = ("test_day.py", "test_dashboard_browser.py", "test_documentation.py")


@pytest.fixture(scope="session", autouse=True)
def own_type_numbers():
    """Let each worker number numba's types differently.

    numba numbers record types in each process, and names compiled functions after these numbers. If
    two processes compile a function of strax for two dtypes under one number, a third that loads
    both from the cache calls one for the other. Kernels of amstrax take columns, not records.
    """
    from numba.core.types import abstract

    number, offset = abstract._autoincr, random.randrange(1, 2**10) << 20
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(abstract, "_autoincr", lambda: number() + offset)
        yield


def pytest_configure():
    """Undo nohup, which would let processes of tests ignore SIGHUP."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config, specs):
    """Let the workers fork from the server, which has imported what they need."""
    if not hasattr(os, "pidfd_open"):
        return
    os.environ["MPLBACKEND"] = "agg"  # as in the server
    # Private, but what pytest-xdist uses as well
    folder = made_once(config._tmp_path_factory, "server", fork_server.start)
    for spec in specs:
        spec.python = str(folder / "bin/python")


def pytest_report_header() -> list[str]:
    """List what is missing on this machine; in CI, tests that need it fail."""
    lines = missing()
    verb = "fail" if os.environ.get("CI") == "true" else "are skipped"
    return [f"tests that need what is missing here {verb}:", *lines] if lines else []


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection(session):
    """Collect without the garbage collector, which would look at ever more modules."""
    gc.disable()
    try:
        compile_share(session)
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def compile_share(session) -> None:
    """Let each worker compile its share of all test files, which the others then read."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    paths = [session.config.invocation_params.dir / path for path in session.config.args]
    if worker is None or sys.dont_write_bytecode or paths != [Path(__file__).parent]:
        return
    files = sorted(Path(__file__).parent.rglob("test_*.py"), key=lambda path: path.stat().st_size)
    n_workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    for path in files[int(worker.removeprefix("gw")) :: n_workers]:
        # An error is told when the file's turn comes
        with contextlib.suppress(pytest.Collector.CollectError):
            pytest.Module.from_parent(session, path=path).obj  # noqa: B018


def pytest_collection_modifyitems(items):
    """Put the longest tests first; all others stay in their order."""
    rank = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real and simulated runs, reference values and specifications."""
    need_all("shared")
    return SHARED


@pytest.fixture(autouse=True)
def no_settings(monkeypatch, tmp_path):
    """Keep the settings of this machine, and its user, away from tests."""
    monkeypatch.setenv("AMSTRAX_CONFIG", os.devnull)
    for detector in ("XAMS", "XAMSL"):
        for kind in ("LIVE", "RAW", "PROCESSED"):
            monkeypatch.delenv(f"{detector}_{kind}_DATA", raising=False)
    tables = (settings.RUN_DATABASE, settings.CORRECTIONS, settings.BATCH, settings.COPY)
    tables += (settings.CONTEXTS, settings.DASHBOARD)
    for name in (name for table in tables for name in table):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setenv("AMSTRAX_SSH_CONFIG", os.devnull)
    # Where a run database is that nothing else is said of
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "user_data"))
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_CACHE", str(tmp_path / "corrections_cache"))
    # As in the process from which served commands fork; there is no display
    monkeypatch.setenv("MPLBACKEND", "agg")
    # Where the local engine keeps track of its jobs
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "user_state"))


@pytest.fixture(autouse=True)
def no_console():
    """Remove the handler of a tool's main: its stream is that of this test, and is closed then."""
    yield
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if type(handler) is logging.StreamHandler:
            root.removeHandler(handler)


@pytest.fixture
def logging_as_before():
    """Restore handlers and level, which the main of a tool replaces."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory) -> Path:
    """Folder of ``amstrax demo`` of 10 s, which pages and their tests copy."""

    def make(folder: Path) -> None:
        from amstrax import cli

        options = ["--output", str(folder), "--duration", "10", "--no-progress"]
        assert cli.main(["demo", *options]) == 0

    return made_once(tmp_path_factory, "demo", make)


@pytest.fixture(scope="session")
def served_scripts(tmp_path_factory) -> Path:
    """Folder with ``python`` and the console scripts, whose processes fork from a server."""
    return made_once(tmp_path_factory, "server", fork_server.start) / "bin"


@pytest.fixture(scope="session")
def online_config(shared) -> dict:
    """Options with which the reference of run 100001 was made."""
    from amstrax.auto_processing.amstraxer import to_dict_tuple

    return to_dict_tuple(json.loads((shared / "parity/run_100001_config.json").read_text()))


def _simulated(tmp_path_factory, run_id: str, **settings):
    """Return a context for a short simulated run, with its truth."""
    from amstrax import contexts
    from amstrax.simulation import simulate
    from amstrax.simulation.run import SimulatedRun

    def context(folder: Path):
        st = contexts.xams(folder / "out", init_rundb=False, simulation_truth=folder / run_id)
        st.set_config({"live_data_dir": str(folder)})
        document = SimulatedRun.at(folder / run_id).document()
        # What workers share may be stored already
        return contexts.context_for_daq_reader(st, run_id, run_doc=document, check_exists=False)

    def make(folder: Path) -> None:
        without = ("afterpulses", "delayed_electrons", "photoionisation")
        simulate(run_id, folder, without=without, **settings)
        st = context(folder)
        for target in ("event_info", "event_kr83m", "event_cuts", "truth_events", "truth_deposits"):
            st.make(run_id, target, save=target, progress_bar=False)

    st = context(made_once(tmp_path_factory, f"run_{run_id}", make))
    store_apart(st, tmp_path_factory.mktemp(f"run_{run_id}"))
    return st


@pytest.fixture(scope="session")
def kr83m_run(tmp_path_factory):
    """Context for run 100001, 8 s at 100 Hz of Kr-83m, with truth."""
    return _simulated(tmp_path_factory, "100001", source="kr83m", rate=100, duration=8, seed=4)


@pytest.fixture(scope="session")
def flat_run(tmp_path_factory):
    """Context for run 100002, 3 s at 100 Hz of 20 to 60 keV, with truth; digitizers are busy."""
    from dataclasses import replace

    from amstrax.simulation.detector import find

    detector = replace(find("xams"), busy_rate=100.0, busy_time=1e6)
    return _simulated(
        tmp_path_factory, "100002", source="flat", energy_range=(20, 60), rate=100, duration=4,
        seed=5, detector=detector,
    )  # fmt: skip
