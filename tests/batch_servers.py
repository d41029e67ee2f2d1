"""Real batch systems that tests start: Slurm (HTCondor: condor_pool.py).

Each runs as this user, listens on 127.0.0.1 alone, and keeps to a folder of its own.
"""

import contextlib
import getpass
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from needs import daemon_path, need_all
from servers import LOCALHOST, Server

#: What the machine of a test's batch system is said to have; memory in MB
CPUS, MEMORY = 8, 4000


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 180) -> None:
    """Wait until something is so; fail the test when it takes too long."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"waited {seconds:g} s until {what}")
        time.sleep(0.05)


class Munged(Server):
    """The daemon that signs Slurm's messages; it listens on a socket in its folder."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.socket = folder / "munge.socket"
        folder.chmod(0o700)
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(64))
        key.chmod(0o400)

    def command(self) -> list[str]:
        """Return the command that starts it."""
        files = {
            "key-file": "munge.key",
            "socket": self.socket.name,
            "pid-file": "munge.pid",
            "log-file": "munge.log",
            "seed-file": "munge.seed",
        }
        program = str(daemon_path("munged"))
        options = [f"--{name}={self.folder / file}" for name, file in files.items()]
        # With force, since it minds that others can write to /tmp, and a socket that kill -9 left
        return [program, "--foreground", "--force", *options]

    def is_up(self) -> bool:
        """Return whether it answers."""
        command = ["munge", "--no-input", "--socket", str(self.socket)]
        return subprocess.run(command, capture_output=True, timeout=60).returncode == 0


class SlurmDaemon(Server):
    """slurmctld, which keeps the queue, or slurmd, which starts jobs.

    The processes in which jobs run (slurmstepd) are no children of it, and go on without it.
    """

    def __init__(self, folder: Path, name: str):
        super().__init__(folder)
        self.name = name
        self.options: list[str] = []

    @property
    def log_path(self) -> Path:
        """File with what it says."""
        return self.folder / f"{self.name}.out"

    def command(self) -> list[str]:
        """Return the command that starts it."""
        program = str(daemon_path(self.name))
        return [program, "-D", "-f", str(self.folder / "slurm.conf"), *self.options]


class SlurmCluster:
    """Slurm with one machine, one partition ("main", and "short": of a minute) and no accounting.

    Attributes
    ----------
    environment
        Variables with which Slurm's commands, and amstrax, find it.
    daemons
        By name (munged, slurmctld, slurmd) in the order in which they are started; each has
        ``start()``, ``kill()`` and ``signal()``.
    """

    def __init__(self, folder: Path):
        need_all("slurm")
        self.folder = folder
        munged = Munged(folder)
        self.daemons: dict[str, Munged | SlurmDaemon] = {"munged": munged}
        self.daemons |= {name: SlurmDaemon(folder, name) for name in ("slurmctld", "slurmd")}
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._munge_socket = munged.socket
        self._write_config()

    @contextlib.contextmanager
    def configured(self, **values: object) -> Iterator[None]:
        """Run with other values for some lines of the configuration, within."""
        self._write_config(**values)
        try:
            self._restart()
            yield
        finally:
            self._write_config()
            self._restart()

    def _restart(self) -> None:
        for name in ("slurmctld", "slurmd"):
            self.kill(name)
        self.start()

    def _write_config(self, **changes: object) -> None:
        host, user = socket.gethostname().partition(".")[0], getpass.getuser()
        ports = {name: daemon.port for name, daemon in self.daemons.items()}
        scheduling = {"batch_sched_delay": 0, "sched_interval": 1, "sched_min_interval": 0}
        lines = {
            "ClusterName": "test",
            "SlurmctldHost": f"{host}({LOCALHOST})",
            "SlurmctldPort": ports["slurmctld"],
            "SlurmdPort": ports["slurmd"],
            "SlurmUser": user,
            "SlurmdUser": user,
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={self._munge_socket},cred_expire=30",
            "CredType": "cred/munge",
            "StateSaveLocation": self.folder / "state",
            "SlurmdSpoolDir": self.folder / "spool",
            "SlurmctldPidFile": self.folder / "slurmctld.pid",
            "SlurmdPidFile": self.folder / "slurmd.pid",
            "SlurmctldLogFile": self.folder / "slurmctld.log",
            "SlurmdLogFile": self.folder / "slurmd.log",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "JobAcctGatherType": "jobacct_gather/linux",
            "JobAcctGatherFrequency": "1",
            "JobAcctGatherParams": "OverMemoryKill",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core_Memory",
            "SchedulerParameters": ",".join(
                f"{name}={value}" for name, value in (scheduling | {"bf_interval": 1}).items()
            ),
            "AccountingStorageType": "accounting_storage/none",
            "JobCompType": "jobcomp/filetxt",
            "JobCompLoc": self.folder / "jobcomp.log",
            "MinJobAge": 300,
            "ReturnToService": 2,
            # Longer than anything stands still on a machine with much to do
            "SlurmdTimeout": 120,
            "MessageTimeout": 30,
            "KillWait": 30,
            "MpiDefault": "none",
            "SlurmdParameters": "config_overrides",
            "DefMemPerCPU": 100,
            "NodeName": f"{host} NodeAddr={LOCALHOST} CPUs={CPUS} RealMemory={MEMORY}",
        }
        partitions = [
            "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
            "PartitionName=short Nodes=ALL MaxTime=1 State=UP",
        ]
        text = [f"{name}={value}" for name, value in (lines | changes).items()]
        (self.folder / "slurm.conf").write_text("\n".join(text + partitions) + "\n")
        for name in ("state", "spool"):
            (self.folder / name).mkdir(exist_ok=True)

    def run(self, *command: str) -> str:
        """Run one of Slurm's commands, and return what it prints."""
        environment = os.environ | self.environment
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def start(self) -> None:
        """Start what does not run, and wait until jobs can."""
        for daemon in self.daemons.values():
            if not daemon.is_up():
                daemon.kill()
                daemon.start()
        waiting_since = time.monotonic()

        def is_ready() -> bool:
            if not self._is_ready() and time.monotonic() > waiting_since + 5:
                # A slurmctld that was killed has forgotten its last jobs, and gives their numbers
                # to others; the machine that still runs them refuses these, and is set aside
                self.resume()
            return self._is_ready()

        wait_for(is_ready, f"Slurm takes jobs; see {self.folder}")

    def resume(self) -> None:
        """Let a machine that was set aside take jobs again, as an operator would."""
        host = socket.gethostname().partition(".")[0]
        command = ["scontrol", "update", f"NodeName={host}", "State=RESUME"]
        environment = os.environ | self.environment
        subprocess.run(command, env=environment, capture_output=True, timeout=120)

    def _is_ready(self) -> bool:
        environment = os.environ | self.environment
        command = ["sinfo", "-h", "-p", "main", "-o", "%T"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        return done.stdout.strip() in ("idle", "mixed", "allocated")

    def kill(self, name: str) -> None:
        """Kill -9 one daemon: munged, slurmctld or slurmd. Jobs that run go on."""
        self.daemons[name].kill()

    def restart(self, name: str) -> None:
        """Kill -9 one daemon, start it again and wait until jobs can run."""
        self.kill(name)
        self.start()

    def save(self, job_id: str) -> None:
        """Make slurmctld write to disk what it knows of a job, and wait until it has.

        By itself it does so after some seconds; what it has not is lost when it is killed, and a
        job that runs may count as pending then.
        """
        now, path = time.time(), self.folder / "state/job_state"
        self.run("scontrol", "update", f"JobId={job_id}", "Comment=to be saved")
        wait_for(lambda: path.exists() and path.stat().st_mtime > now, "slurmctld saves its state")

    def forget_jobs(self) -> None:
        """Make slurmctld forget all jobs; it notes those that have ended in a file before."""
        daemon = self.daemons["slurmctld"]
        daemon.kill()
        daemon.options = ["-c"]
        self.start()
        daemon.options = []

    def job_ids(self) -> list[str]:
        """Return the ids of jobs that have not ended."""
        return self.run("squeue", "-h", "-o", "%i").split()

    def processes(self, job_id: str) -> list[psutil.Process]:
        """Return the processes of a job, its shell first; they may be gone by now."""
        lines = self.run("scontrol", "listpids", job_id).splitlines()[1:]
        found = []
        for pid in sorted(int(line.split()[0]) for line in lines):
            # -1 is for what has not begun yet
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [psutil.Process(pid)] if pid > 0 else []
        return found

    def kill_job(self, job_id: str) -> None:
        """Kill -9 all processes of a job, as the kernel does when memory is short."""
        for process in self.processes(job_id):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def cancel_all(self) -> None:
        """Cancel all jobs, and wait until they have ended."""
        if job_ids := self.job_ids():
            self.run("scancel", "--full", *job_ids)
            wait_for(lambda: not self.job_ids(), "all jobs have ended")

    def stop(self) -> None:
        """Cancel all jobs, and end the daemons: in this order, lest jobs outlive them."""
        try:
            self.start()
            self.cancel_all()
        finally:
            for daemon in reversed(self.daemons.values()):
                daemon.kill()


@pytest.fixture(scope="session")
def slurm_cluster(tmp_path_factory) -> Iterator[SlurmCluster]:
    """Slurm, for tests that take care of what they leave behind; see `slurm`."""
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm"))
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture
def slurm(slurm_cluster, monkeypatch) -> Iterator[SlurmCluster]:
    """Slurm as amstrax finds it: all daemons run, and there are no jobs."""
    for name, value in slurm_cluster.environment.items():
        monkeypatch.setenv(name, value)
    slurm_cluster.start()
    yield slurm_cluster
    slurm_cluster.start()
    slurm_cluster.cancel_all()
