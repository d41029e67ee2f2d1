"""A day in fast motion: runs are taken, copied, processed, deleted, and everything is killed.

What is killed when follows from the seed alone, see day_plan.py: AMSTRAX_DAY_SEED repeats a
failure. Tools and jobs fork from a server (fork_server.py). `make test` has a short day, of
AMSTRAX_DAY_RUNS runs, on which each victim is killed; `make soak` a long one.
"""

import collections
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC
from pathlib import Path
from urllib.parse import quote_plus

import psutil
import pytest
from day_plan import KILLS, N_RUNS, STEPS, Kill, n_kills, plan
from live_runs import same
from servers import LOCALHOST, MONGO_USERS, MongoServer, SSHServer

from amstrax import contexts
from amstrax.auto_processing import amstraxer
from amstrax.rundb import documents

SEED = int(os.environ.get("AMSTRAX_DAY_SEED", "20240102"))
#: Runs are of a second, and taken so many times as fast
SPEED = 2.0
#: Data is deleted when its run ended so long ago [days]
MIN_AGE = 1e-5
#: No machine takes longer for all of it [s]
DEADLINE = 1200
RAW = ("raw_records", "raw_records_ext", "raw_records_sipm")


class Day:
    """All that runs on one day, in a folder.

    Parameters
    ----------
    folder
        Folder for it all.
    slurm
        Batch system.
    python
        Interpreter of the tools.
    """

    def __init__(self, folder: Path, slurm, python: Path):
        self.folder, self.slurm, self.python = folder, slurm, python
        names = ("live", "kept", "stbc", "dcache", "raw", "processed", "database", "login")
        self.live, self.kept, self.stbc, self.dcache, self.raw, self.processed, *servers = (
            folder / name for name in names
        )
        for name in names:
            (folder / name).mkdir()
        self.database = MongoServer(servers[0])
        self.sshd = SSHServer(servers[1], self.database.port)
        self.tools: dict[str, subprocess.Popen] = {}
        self.kills: collections.Counter = collections.Counter()
        self.restarts: list[tuple[float, str]] = []
        self._write_settings()

    def _write_settings(self) -> None:
        user, (password, _) = "writer", MONGO_USERS["writer"]
        common = {
            "MONGO_HOST": LOCALHOST,
            "DAQ_HOST": "",
            "AMSTRAX_RUNDB_TIMEOUT": "10",
            "AMSTRAX_LOG_FOLDER": self.folder / "logs",
            "AMSTRAX_JOB_FOLDER": self.folder / "jobs",
        }
        common["AMSTRAX_MONGO_URI"] = (
            f"mongodb://{user}:{quote_plus(password)}@{LOCALHOST}:{self.database.port}/"
        )
        daq = {
            "AMSTRAX_HOST": "daq",
            "XAMS_LIVE_DATA": self.live,
            "XAMS_COPY_TO": f"stbc=login:{self.stbc}, dcache={self.dcache}",
            "AMSTRAX_SSH_CONFIG": self.sshd.client_config(self.folder / "ssh_config"),
        }
        stbc = {
            "AMSTRAX_HOST": "stbc",
            "XAMS_LIVE_DATA": self.stbc,
            "XAMS_RAW_DATA": self.raw,
            "XAMS_PROCESSED_DATA": self.processed,
            "AMSTRAX_ENGINE": "slurm",
            "AMSTRAX_JOB_MEMORY": "600",
        }
        for name, settings in (("daq", daq), ("stbc", stbc)):
            path = self.folder / f"{name}.conf"
            lines = [f"{key} = {value}" for key, value in (common | settings).items()]
            path.write_text("\n".join(["[default]", *lines]) + "\n", encoding="utf-8")
            path.chmod(0o600)

    def start(self, name: str) -> None:
        """Start a tool, or what has been killed, again."""
        if name in self.slurm.daemons:
            self.slurm.daemons[name].start()
            return
        if name == "sshd":
            self.sshd.start()
            return
        if name == "the run database":
            self.database.start()
            return
        module = [self.python, "-m", f"amstrax.auto_processing.{name}"]
        command = {
            "DAQ": [
                *(self.python, Path(__file__).parents[1] / "take_runs.py", self.live, self.kept),
                *(str(N_RUNS), str(SPEED)),
            ],
            "copy_live": [*module, "--production", "--loop", "--pause=0.5", "--workers=2"],
            "delete_live": [
                *(*module, "--production", "--we_are_really_sure", "--loop", "--pause=1"),
                f"--min_age={MIN_AGE}",
            ],
            "auto_processing": [
                *(*module, "--target", "raw_records", "--pause=0.5", "--retry_pause=0.5"),
                *("--max_failures=30", "--max_jobs=3"),
            ],
        }[name]
        config = "stbc" if name == "auto_processing" else "daq"
        with self.log(name).open("a") as log:
            self.tools[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=os.environ
                | self.slurm.environment
                # conftest's setting would hide the one in the file
                | {
                    "AMSTRAX_CONFIG": str(self.folder / f"{config}.conf"),
                    "AMSTRAX_SSH_CONFIG": "",
                },
            )

    def log(self, name: str) -> Path:
        """Return the file for what a tool says."""
        return self.folder / f"said_by_{name}"

    def kill(self, kill: Kill, document: dict) -> bool:
        """Kill -9 something, to be started again later; return False when that cannot be done yet.

        Parameters
        ----------
        kill
            What, and for how long.
        document
            Of the run at whose step it is killed: a job is that run's.
        """
        name = kill.victim
        if name in {waiting for _, waiting in self.restarts}:
            return False
        if name == "a job":
            if documents.status_of(document).status != "running":
                return True  # It has ended by itself
            if not self.slurm_answers():
                return False
            try:
                self.slurm.kill_job(str(documents.job_of(document)["job_id"]))
            except (AssertionError, KeyError):
                return False  # Nobody knows of it yet, or any more
        else:
            if name in self.tools:
                self.tools[name].kill()
                self.tools[name].wait()
            elif name in self.slurm.daemons:
                self.slurm.kill(name)
            else:
                {"sshd": self.sshd, "the run database": self.database}[name].kill()
            self.restarts.append((time.monotonic() + kill.down, name))
        self.kills[name] += 1
        return True

    def slurm_answers(self) -> bool:
        """Return whether Slurm's commands have somebody to ask; without, they wait for long."""
        return not {"slurmctld", "slurmd"} & {name for _, name in self.restarts}

    def start_again(self, all_: bool = False) -> None:
        """Start again what was killed long enough ago, and do what an operator would."""
        due = [x for x in self.restarts if all_ or x[0] <= time.monotonic()]
        self.restarts = [x for x in self.restarts if x not in due]
        for _, name in due:
            self.start(name)
        if self.slurm_answers():
            self.slurm.resume()

    def end(self) -> None:
        """End everything but Slurm."""
        for tool in self.tools.values():
            tool.kill()
            tool.wait()
        self.sshd.kill()
        self.database.kill()
        for process in psutil.process_iter(["cmdline"]):
            # A shared ssh, and rsync, end in their own time
            if any(str(self.folder) in part for part in process.info["cmdline"] or ()):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    def said(self) -> str:
        """Return the end of what each process said."""
        parts = []
        logs = sorted((self.folder / "logs").rglob("*.log"), key=lambda path: path.stat().st_mtime)
        for path in [*self.folder.glob("said_by_*"), *logs[-6:]]:
            text = path.read_text(errors="replace").splitlines()
            parts.append("\n".join([f"--- {path.name}", *text[-25:]]))
        return "\n".join(parts)


class Watcher(threading.Thread):
    """Looks at documents and folders all the time, and notes what should never be so."""

    def __init__(self, day: Day):
        super().__init__(daemon=True)
        self._day = day
        self.faults: list[str] = []
        self.done: dict[int, object] = {}
        self.documents: dict[int, dict] = {}
        self.reached: set[tuple[int, str]] = set()
        self._there: set[str] = set()
        self._ended = threading.Event()

    def run(self) -> None:
        """Look until the end."""
        while not self._ended.is_set():
            try:
                with self._day.database.client() as client:
                    while not self._ended.wait(0.05):
                        self._look_at_folders()
                        self._look_at_documents(client["run"]["runs_gas"])
            except Exception as error:
                if "pymongo" not in type(error).__module__:
                    self.faults.append(f"the watcher failed: {error!r}")
                    return
                self._look_at_folders()
                self._ended.wait(0.05)

    def stop(self) -> None:
        """End."""
        self._ended.set()
        self.join()

    def _look_at_folders(self) -> None:
        there = {path.name for path in self._day.live.iterdir() if path.name.isdigit()}
        for name in self._there - there:
            for copies in (self._day.stbc, self._day.dcache):
                if not same(self._day.kept / name, copies / name):
                    self.faults.append(f"run {name} was deleted before {copies / name} was whole")
        self._there = there

    def _look_at_documents(self, runs) -> None:
        fields = ["number", "end", "data", "deleted_data"]
        fields += ["processing_status", "processing_failed", "processing_job"]
        for document in runs.find({}, fields):
            number = document["number"]
            self.documents[number] = document
            status = documents.status_of(document)
            self.reached |= {(number, step) for step in ("taken", status.status) if step in STEPS}
            if number in self.done and self.done[number] != status.time:
                self.faults.append(f"run {number} was done, and then {status} again")
            if status.status == "done":
                self.done.setdefault(number, status.time)

    def finished(self) -> bool:
        """Return whether all runs are processed, copied and deleted."""
        return len(self.documents) == N_RUNS and all(
            number in self.done and hosts_of(document) == ["dcache", "stbc"]
            for number, document in self.documents.items()
        )

    def progress(self) -> str:
        """Return a line on how far things are."""
        found = self.documents.values()
        words = collections.Counter(documents.status_of(d).status for d in found)
        gone = sum(hosts_of(document) == ["dcache", "stbc"] for document in found)
        return f"{len(found)} runs taken, {dict(words)}, {gone} copied and deleted"


def hosts_of(document: dict) -> list[str]:
    """Return the hosts that have live data of a run, as its document says."""
    return sorted(entry["host"] for entry in documents.data_of(document, type="live"))


#: So Slurm sees soon that jobs are gone of whose end its killed daemons did not hear. It may take a
#: machine that stands still for one that has failed then: one more thing that jobs outlive here
IMPATIENCE = {"SlurmdTimeout": 10, "MessageTimeout": 5, "KillWait": 2}


@pytest.fixture
def day(tmp_path, slurm, served_scripts):
    """A day, whose processes are ended with it."""
    key = f"socket={slurm.daemons['munged'].socket},cred_expire=5"
    with slurm.configured(**IMPATIENCE, AuthInfo=key):
        new = Day(tmp_path, slurm, served_scripts / "python")
        try:
            yield new
        finally:
            new.end()
            slurm.start()
            slurm.cancel_all()


@pytest.mark.slow
def test_choices_follow_from_the_seed():
    """Two processes choose alike; another seed, and another number of runs, choose otherwise."""
    code = "import sys, day_plan; print(day_plan.plan(int(sys.argv[1]), int(sys.argv[2])))"

    def choices(seed, n_runs, hash_seed):
        done = subprocess.run(
            [sys.executable, "-c", code, str(seed), str(n_runs)],
            env=os.environ
            | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[1])},
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    first = choices(5, 30, "1")
    assert first == choices(5, 30, "2") == f"{plan(5, 30)}\n"
    assert first not in (choices(6, 30, "1"), choices(5, 29, "1"))
    assert n_kills(30) == KILLS
    assert all(1 <= n <= KILLS[victim] for victim, n in n_kills(8).items())
    for seed, n_runs in itertools.product(range(20), (8, 30)):
        kills, times = plan(seed, n_runs), n_kills(n_runs)
        assert collections.Counter(kill.victim for kill in kills) == times
        assert len({kill[:3] for kill in kills}) == sum(times.values())
        assert all(1 <= kill.run < n_runs and kill.step in STEPS for kill in kills)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_day_in_fast_motion(day, tmp_path):
    kills = plan(SEED)
    print(f"AMSTRAX_DAY_SEED={SEED} AMSTRAX_DAY_RUNS={N_RUNS} repeat this:", *kills, sep="\n")
    began = time.monotonic()
    watcher = Watcher(day)
    watcher.start()
    tools = ("DAQ", "copy_live", "auto_processing", "delete_live")
    try:
        for name in tools:
            day.start(name)
        while kills and not watcher.finished():
            time.sleep(0.05)
            go_on(day, watcher, began + DEADLINE)
            for kill in [kill for kill in kills if (kill.run, kill.step) in watcher.reached]:
                if day.kill(kill, watcher.documents[kill.run]):
                    kills.remove(kill)
        day.start_again(all_=True)
        wait(watcher.finished, day, watcher, began + DEADLINE)
        took = time.monotonic() - began
        for name in tools[1:]:
            day.tools[name].send_signal(signal.SIGTERM)
        for name in tools:
            status = day.tools[name].wait(240)
            assert status == 0, f"{name} ended with {status}:\n{report(day, watcher)}"
    finally:
        watcher.stop()
    assert not watcher.faults, f"{watcher.faults}\n{report(day, watcher)}"
    assert len(watcher.done) == N_RUNS
    check_documents(watcher)
    check_folders(day)
    check_data(day, tmp_path / "undisturbed")
    failures = sum(documents.failures_of(document) for document in watcher.documents.values())
    print(
        f"\n{N_RUNS} runs in {took:.0f} s, seed {SEED}: all done once, {failures} failed attempts "
        "between; killed were",
        ", ".join(f"{name} {n}x" for name, n in day.kills.items()),
    )


def wait(condition, day, watcher, deadline=None):
    """Wait until something is so; tell how things are when that takes too long."""
    deadline = deadline or time.monotonic() + 240
    while not condition():
        go_on(day, watcher, deadline)
        time.sleep(0.3)


def go_on(day, watcher, deadline):
    """Start again what is due, and see that nothing else has ended or gone wrong."""
    day.start_again()
    assert time.monotonic() < deadline, report(day, watcher)
    assert not watcher.faults, f"{watcher.faults}\n{report(day, watcher)}"
    killed = {name for _, name in day.restarts}
    for name, tool in day.tools.items():
        ended = tool.poll()
        fine = (None, 0) if name == "DAQ" else (None,)
        assert name in killed or ended in fine, f"{name}: {ended}\n{report(day, watcher)}"


def report(day, watcher):
    """Return how things are, and what each process said."""
    left = [
        document
        for document in watcher.documents.values()
        if hosts_of(document) != ["dcache", "stbc"] or document["number"] not in watcher.done
    ]
    seed = f"seed {SEED}, killed {day.kills}"
    return "\n".join([watcher.progress(), seed, *map(str, left), day.said()])


def check_documents(watcher):
    """Check that each document tells of one run that was processed, copied and deleted once."""
    for number, document in watcher.documents.items():
        entries = documents.data_of(document)
        kinds = sorted((entry["type"], entry["host"]) for entry in entries)
        made = [(kind, "stbc") for kind in RAW]
        assert kinds == sorted([("live", "dcache"), ("live", "stbc"), *made]), number
        [deleted] = document["deleted_data"]
        assert (deleted["type"], deleted["host"]) == ("live", "daq")
        for entry in entries:
            if entry["type"] == "live":
                assert entry["time"] < deleted["deleted_at"], number
        end = document["end"].replace(tzinfo=UTC)
        age = deleted["deleted_at"].replace(tzinfo=UTC) - end
        assert age.total_seconds() >= MIN_AGE * 86400 - 0.01, number


def check_folders(day):
    """Check that there is all that should be, and nothing beside it."""
    names = [f"{number + 1:06d}" for number in range(N_RUNS)]
    assert not [path for path in day.live.iterdir() if path.is_dir()]
    for copies in (day.stbc, day.dcache):
        assert sorted(os.listdir(copies)) == names
        for name in names:
            assert same(day.kept / name, copies / name)
    folders = sorted(path.name for path in day.raw.iterdir() if path.is_dir())
    made = sorted(f"{name}-{kind}" for name in names for kind in RAW)
    assert sorted(name.rpartition("-")[0] for name in folders) == made


def check_data(day, folder):
    """Check that data is that of an undisturbed processing."""
    found = contexts.xams(output_folder=str(day.raw), init_rundb=False)
    for number in range(1, N_RUNS + 1):
        name = f"{number:06d}"
        arguments = [
            *(name, "--target", *RAW, "--live_data_dir", str(day.kept)),
            *("--testing_rundoc", str(day.live / f"rundoc_{name}.json")),
            *("--output_folder", str(folder), "--context", "xams"),
        ]
        assert amstraxer.main(arguments) == 0
        undisturbed = contexts.xams(output_folder=str(folder), init_rundb=False)
        for kind in RAW:
            one, other = (
                st.get_array(name, kind, progress_bar=False) for st in (found, undisturbed)
            )
            assert one.tobytes() == other.tobytes(), (name, kind)
            assert kind != "raw_records" or len(one)
