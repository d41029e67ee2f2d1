"""A real HTCondor that tests start, from the folder that .ci/condor-root has made.

Its daemons do not run as root, and it starts no jobs of root. So root starts it where it is another
user to itself, while its files and processes stay root's: in a user namespace, for which no further
right is needed. Everybody else starts it as it is.
"""

import contextlib
import getpass
import os
import pwd
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from batch_servers import CPUS, MEMORY, wait_for
from needs import CONDOR, NEEDS, need, need_all
from servers import LOCALHOST, Server

#: Categories of jobs that the pool takes, as the lab's does
CATEGORIES = ("short", "medium", "long")
#: Whom root is to the pool
OTHER_USER = "daemon"

CONFIG = f"""
use ROLE: CentralManager
use ROLE: Submit
use ROLE: Execute
RELEASE_DIR = {CONDOR}/usr
LIB = {CONDOR}/usr/lib/condor
SHARE = {CONDOR}/usr/share/condor
LOCAL_DIR = {{folder}}
LOCAL_CONFIG_FILE =
LOCAL_CONFIG_DIR =
BIN = {{folder}}/bin
SBIN = {{folder}}/bin
LIBEXEC = {{folder}}/bin
ETC = {{folder}}
LOG = {{folder}}/log
SPOOL = {{folder}}/spool
EXECUTE = {{folder}}/execute
LOCK = {{folder}}/lock
RUN = {{folder}}/run
SEC_TOKEN_DIRECTORY = {{folder}}/tokens
SEC_TOKEN_SYSTEM_DIRECTORY = {{folder}}/tokens
SEC_PASSWORD_DIRECTORY = {{folder}}/tokens
CONDOR_IDS = {{ids}}
CONDOR_HOST = {LOCALHOST}
COLLECTOR_HOST = {LOCALHOST}:{{port}}
SHARED_PORT_PORT = {{port}}
NETWORK_INTERFACE = {LOCALHOST}
ENABLE_IPV6 = False
SEC_DEFAULT_AUTHENTICATION = REQUIRED
SEC_DEFAULT_AUTHENTICATION_METHODS = FS
SEC_CLIENT_AUTHENTICATION_METHODS = FS
ALLOW_READ = *
ALLOW_WRITE = *
ALLOW_DAEMON = *
ALLOW_NEGOTIATOR = *
ALLOW_ADMINISTRATOR = *
ALLOW_ADVERTISE_MASTER = *
ALLOW_ADVERTISE_SCHEDD = *
ALLOW_ADVERTISE_STARTD = *
# Jobs see the machine's own /tmp
MOUNT_UNDER_SCRATCH =
NUM_CPUS = {CPUS}
MEMORY = {MEMORY}
RUNBENCHMARKS = 0
# Faster than a pool of thousands
NEGOTIATOR_INTERVAL = 1
NEGOTIATOR_MIN_INTERVAL = 1
NEGOTIATOR_CYCLE_DELAY = 1
SCHEDD_INTERVAL = 1
SCHEDD_MIN_INTERVAL = 1
UPDATE_INTERVAL = 2
SHADOW_QUEUE_UPDATE_INTERVAL = 1
MASTER_BACKOFF_CONSTANT = 0
MASTER_BACKOFF_CEILING = 1
# Jobs that are lost are given up in seconds, not in 40 minutes
JOB_DEFAULT_LEASE_DURATION = 60
# Longer than anything stands still on a machine with much to do
Q_QUERY_TIMEOUT = 60
# What nobody needs here
ENABLE_URL_TRANSFERS = False
FILETRANSFER_PLUGINS =
MAIL = /bin/true
SUBMIT_REQUIREMENT_NAMES = Category
SUBMIT_REQUIREMENT_Category = JobCategory is undefined || member(JobCategory, {{categories}})
SUBMIT_REQUIREMENT_Category_REASON = strcat("there is no job category ", JobCategory)
"""


class CondorMaster(Server):
    """condor_master, which starts the pool's other daemons, and starts them again."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        master = [str(folder / "bin/condor_master"), "-f"]
        if os.getuid() == 0:
            user = pwd.getpwnam(OTHER_USER)
            namespace = ["unshare", "--user", f"--map-user={user.pw_uid}"]
            namespace.append(f"--map-group={user.pw_gid}")
            works = subprocess.run([*namespace, "true"], capture_output=True).returncode == 0
            need(works, "needs user namespaces, since HTCondor does not run as root")
            master = [*namespace, *master]
        self._command = ["env", f"CONDOR_CONFIG={folder}/condor_config", *master]

    def command(self) -> list[str]:
        """Return the command that starts it."""
        return self._command


class CondorPool:
    """HTCondor with all of its daemons on this machine.

    Attributes
    ----------
    environment
        Variables with which HTCondor's commands, and amstrax, find it.
    folder
        Its logs are in ``log``, its commands in ``bin``.
    """

    def __init__(self, folder: Path):
        there, reason = NEEDS["condor"]
        if not there() and os.getuid() != 0:
            pytest.skip(reason)  # also in CI: only root can make it
        need_all("condor")
        self.folder = folder
        self.environment = {"CONDOR_CONFIG": str(folder / "condor_config")}
        for name in ("bin", "log", "spool", "execute", "lock", "run", "tokens"):
            (folder / name).mkdir(mode=0o700 if name == "tokens" else 0o755)
        self._write_programs()
        self._master = CondorMaster(folder)
        user = pwd.getpwnam(OTHER_USER if os.getuid() == 0 else getpass.getuser())
        categories = ", ".join(f'"{category}"' for category in CATEGORIES)
        config = CONFIG.format(
            folder=folder,
            port=self._master.port,
            ids=f"{user.pw_uid}.{user.pw_gid}",
            categories=f"{{{categories}}}",
        )
        (folder / "condor_config").write_text(config)

    def _write_programs(self) -> None:
        """Write a script for each program, that runs it with the libraries of its own release."""
        (loader,) = (CONDOR / "usr").glob("lib*/ld-linux*.so.*")
        folders = [*(CONDOR / "usr/lib").glob("*-linux-gnu"), CONDOR / "usr/lib"]
        command = [str(loader), "--library-path", ":".join(map(str, folders)), "--argv0"]
        programs = [
            path
            for part in ("bin", "sbin", "libexec/condor")
            for path in (CONDOR / "usr" / part).glob("condor_*")
            if path.is_file()
        ]
        for path in programs:
            script = self.folder / "bin" / path.name
            if path.read_bytes()[:4] == b"\x7fELF":
                text = f'#!/bin/sh\nexec {shlex.join(command)} "$0" {shlex.quote(str(path))} "$@"\n'
            else:
                text = f'#!/bin/sh\nexec {shlex.quote(str(path))} "$@"\n'
            script.write_text(text)
            script.chmod(0o755)

    def run(self, command: str, *options: str) -> str:
        """Run one of HTCondor's commands, and return what it prints."""
        done = self._run(command, *options)
        assert done.returncode == 0, f"{command} {options}: {done.stderr}"
        return done.stdout.strip()

    def _run(self, command: str, *options: str) -> subprocess.CompletedProcess[str]:
        program = [str(self.folder / "bin" / command), *options]
        environment = os.environ | self.environment
        return subprocess.run(program, env=environment, capture_output=True, text=True, timeout=120)

    def start(self) -> None:
        """Start what does not run, and wait until jobs can."""
        if not self._daemons("master"):
            self._master.kill()
            self._master.start()
        for daemon in self._daemons("master"):
            daemon.resume()
        wait_for(self._is_ready, f"HTCondor takes jobs; see {self.folder}/log")

    def _is_ready(self) -> bool:
        machines = self._run("condor_status", "-af", "Name")
        return bool(machines.stdout.strip()) and self._run("condor_q").returncode == 0

    def _daemons(self, name: str) -> list[psutil.Process]:
        """Return the processes of a daemon: master, schedd, startd, collector, shadow, starter."""
        program = str(self.folder / f"bin/condor_{name}")
        return _processes(lambda process: program in process.cmdline())

    def signal(self, name: str, number: int) -> None:
        """Send a signal to all processes of a daemon."""
        for daemon in self._daemons(name):
            daemon.send_signal(number)

    def kill(self, name: str) -> None:
        """Kill -9 all processes of a daemon; the master does not see it before `start`."""
        (master,) = self._daemons("master")
        master.suspend()
        _kill(self._daemons(name))

    def restart(self, name: str) -> None:
        """Kill -9 a daemon, and wait until the master has started it again."""
        self.kill(name)
        self.start()

    def job_of(self, process: psutil.Process) -> str | None:
        """Return the id of the job that a process belongs to."""
        ad = Path(process.environ().get("_CONDOR_JOB_AD") or "/")
        if not ad.is_relative_to(self.folder) or not ad.is_file():
            return None
        return re.search(r"^ClusterId = (\d+)$", ad.read_text(), re.MULTILINE)[1]

    def kill_job(self, job_id: str) -> None:
        """Kill -9 all processes of a job, as the kernel does when memory is short."""
        cluster = job_id.partition("@")[0]
        _kill(_processes(lambda process: self.job_of(process) == cluster))

    def job_ids(self) -> list[str]:
        """Return the ids of jobs that have not ended."""
        return self.run("condor_q", "-allusers", "-af", "ClusterId").split()

    def cancel_all(self) -> None:
        """Cancel all jobs, and wait until they have ended."""
        if self.job_ids():
            self.act("Remove")
            wait_for(lambda: not self.job_ids(), "all jobs have ended")

    def act(self, action: str, constraint: str = "true", reason: str = "by a test") -> None:
        """Hold, Release or Remove jobs.

        Of the commands, root's would be those of a user whom the pool does not know.
        """
        code = "import sys, htcondor2; _, action, *rest = sys.argv; "
        code += "htcondor2.Schedd().act(htcondor2.JobAction[action], rest[0], reason=(rest[1], 1))"
        command = [sys.executable, "-P", "-c", code, action, constraint, reason]
        environment = os.environ | self.environment
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)

    def stop(self) -> None:
        """Cancel all jobs, and end the daemons: in this order, lest jobs outlive them."""
        try:
            self.start()
            self.cancel_all()
        finally:
            self._master.kill()
            programs = str(self.folder / "bin/condor_")
            _kill(_processes(lambda process: any(programs in word for word in process.cmdline())))
            _kill(_processes(self.job_of))


def _processes(condition: Callable[[psutil.Process], object]) -> list[psutil.Process]:
    """Return the processes of which something is so."""
    found = []
    for process in psutil.process_iter():
        # It may be gone by now
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
            if condition(process):
                found.append(process)
    return found


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.fixture(scope="session")
def condor_pool(tmp_path_factory) -> Iterator[CondorPool]:
    """HTCondor, for tests that take care of what they leave behind; see `condor`."""
    pool = CondorPool(tmp_path_factory.mktemp("condor"))
    pool.start()
    yield pool
    pool.stop()


@pytest.fixture
def condor(condor_pool, monkeypatch) -> Iterator[CondorPool]:
    """HTCondor as amstrax finds it: all daemons run, and there are no jobs."""
    for name, value in condor_pool.environment.items():
        monkeypatch.setenv(name, value)
    condor_pool.start()
    yield condor_pool
    condor_pool.start()
    condor_pool.cancel_all()
