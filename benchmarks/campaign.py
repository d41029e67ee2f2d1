"""Load of a campaign on the run database and on file systems, and what becomes of it when killed.

``operations`` counts the commands that the loop and the jobs of a campaign send to the run
database, and with strace the file-system calls of a job, and scales both to many runs and cores.
``kills`` runs a campaign while jobs, their machine, the loop and the run database are killed, and
checks that each run was processed once, to equal data. Both use simulated runs, in a temporary
folder, and the servers of the tests.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.parse import quote_plus

import psutil
from bson import decode, json_util

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from batch_servers import SlurmCluster  # noqa: E402
from servers import LOCALHOST, MONGO_USERS, MongoServer  # noqa: E402

from amstrax import contexts, simulation  # noqa: E402
from amstrax.rundb import documents, get_mongo_collection, transfer  # noqa: E402

SOURCE = "000001"
_OP_MSG = 2013
#: Commands that only keep a connection
_IDLE = ("ismaster", "isMaster", "ping", "saslStart", "saslContinue", "endSessions")


class CountingProxy:
    """Passes connections on to a MongoDB server, and counts commands by sender and name.

    Senders are ``job`` and ``loop``, by the command line of the process.
    """

    def __init__(self, port: int):
        self._target = port
        self.counts: Counter[tuple[str, str]] = Counter()
        self._listener = socket.create_server((LOCALHOST, 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, (_, port) = self._listener.accept()
            server = socket.create_connection((LOCALHOST, self._target))
            ends = (client, server, _sender(port))
            threading.Thread(target=self._requests, args=ends, daemon=True).start()
            threading.Thread(target=self._answers, args=(server, client), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket, sender: str) -> None:
        stream = client.makefile("rb")
        try:
            while head := stream.read(16):
                length, _, _, code = struct.unpack("<iiii", head)
                body = stream.read(length - 16)
                if code == _OP_MSG and body[4] == 0:
                    size = struct.unpack_from("<i", body, 5)[0]
                    name = next(iter(decode(body[5 : 5 + size])))
                    if name not in _IDLE:
                        self.counts[sender, name] += 1
                server.sendall(head + body)
        except (OSError, struct.error):
            pass
        finally:
            server.close()

    def _answers(self, server: socket.socket, client: socket.socket) -> None:
        try:
            while part := server.recv(65536):
                client.sendall(part)
        except OSError:
            pass
        finally:
            client.close()


def _sender(port: int) -> str:
    """Return what sends from a local port."""
    for connection in psutil.net_connections("tcp"):
        if connection.laddr and connection.laddr.port == port and connection.pid:
            words = psutil.Process(connection.pid).cmdline()
            return "loop" if "amstrax.cli" in words else "job"
    return "job"


class Lab:
    """Folders, settings and run database for a campaign of copies of one simulated run."""

    def __init__(self, folder: Path, duration: float):
        self.folder = folder
        self.live, self.processed = folder / "live", folder / "processed"
        for place in (self.live, self.processed, folder / "database"):
            place.mkdir()
        self.server = MongoServer(folder / "database")
        self.environment = {
            "AMSTRAX_HOST": "lab",
            "AMSTRAX_SSH_CONFIG": os.devnull,
            "AMSTRAX_RUNDB_TIMEOUT": "20",
            "AMSTRAX_LOCAL_FOLDER": str(folder / "engine"),
            "AMSTRAX_LOG_FOLDER": str(folder / "logs"),
            "AMSTRAX_JOB_FOLDER": str(folder / "jobs"),
            "XDG_DATA_HOME": str(folder / "data"),
            "MPLBACKEND": "agg",
        }
        self.use(self.server.port)
        os.environ.update(self.environment)
        os.environ["AMSTRAX_MONGO_URI"] = self.uri(self.server.port)
        simulation.simulate(SOURCE, folder / "sim", rate=20, duration=duration, yields="simple")

    @staticmethod
    def uri(port: int) -> str:
        """Return the address of the run database at a port."""
        return f"mongodb://writer:{quote_plus(MONGO_USERS['writer'][0])}@{LOCALHOST}:{port}/"

    def use(self, port: int) -> None:
        """Let jobs use the run database at a port."""
        path = self.folder / "config"
        lines = [
            "[default]",
            f"AMSTRAX_MONGO_URI = {self.uri(port)}",
            f"XAMS_LIVE_DATA = {self.live}",
            f"XAMS_PROCESSED_DATA = {self.processed}",
        ]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        path.chmod(0o600)
        self.environment["AMSTRAX_CONFIG"] = str(path)

    def add_runs(self, first: int, n: int) -> None:
        """Add runs that are copies of the simulated one."""
        base = json.loads((self.folder / f"sim/rundoc_{SOURCE}.json").read_text())
        base.pop("_id", None)
        runs = get_mongo_collection("xams")
        for number in range(first, first + n):
            name = f"{number:06d}"
            (self.live / name).symlink_to(self.folder / "sim" / SOURCE)
            place = {"type": "live", "host": "lab", "location": str(self.live)}
            new = base | {"number": number, "name": name, "data": [place]}
            transfer.add_run(runs, json_util.loads(json.dumps(new)))

    def campaign(self, *arguments: str, **more: str) -> subprocess.Popen:
        """Start ``amstrax campaign``, with more environment variables."""
        with (self.folder / "campaign.log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "amstrax.cli", "campaign", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=os.environ | self.environment | more,
            )

    def run(self, *arguments: str, **more: str) -> None:
        """Run ``amstrax campaign`` to its end."""
        if self.campaign(*arguments, **more).wait() != 0:
            sys.exit((self.folder / "campaign.log").read_text()[-3000:])

    def end(self) -> None:
        """End all processes of this lab."""
        self.server.kill()
        for process in psutil.process_iter(["cmdline"]):
            is_of_lab = any(str(self.folder) in part for part in process.info["cmdline"] or ())
            if is_of_lab or _is_job(process, self):
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue


def operations(lab: Lab, args: argparse.Namespace) -> None:
    """Print the operations of a campaign on database and files, for a run and for many."""
    proxy = CountingProxy(lab.server.port)
    address = {"AMSTRAX_MONGO_URI": lab.uri(proxy.port)}
    lab.use(proxy.port)
    first = 1
    database: dict[int, tuple[float, float]] = {}
    for per_job in (1, args.runs_per_job):
        lab.add_runs(first, args.runs)
        name, selection = f"c{per_job}", f"{first}-{first + args.runs - 1}"
        proxy.counts.clear()
        lab.run(name, "plan", selection, "--target", args.target, **address)
        n_plan = proxy.counts.total() / args.runs
        proxy.counts.clear()
        began = time.monotonic()
        options = ("--no-progress", "--pause=10", f"--runs_per_job={per_job}")
        lab.run(name, "run", *options, **address)
        seconds = time.monotonic() - began
        sums = {
            sender: sum(n for (by, _), n in proxy.counts.items() if by == sender)
            for sender in ("loop", "job")
        }
        database[per_job] = (sums["loop"] / args.runs, sums["job"] / args.runs)
        print(
            f"{per_job} runs a job: plan {n_plan:.2f}, loop {database[per_job][0]:.1f}, job "
            f"{database[per_job][1]:.1f} commands a run; {args.runs} runs in {seconds:.0f} s\n"
            f"  {dict(proxy.counts)}",
            flush=True,
        )
        first += args.runs
    lab.use(lab.server.port)
    calls = {}
    for n in (1, 1 + args.traced):
        lab.add_runs(first, n)
        calls[n] = traced(lab, [f"{first + i:06d}" for i in range(n)], args.target)
        first += n
    each = {
        key: (calls[1 + args.traced][key] - calls[1][key]) / args.traced
        for key in calls[1 + args.traced]
    }
    print("file-system calls (strace), where, what: of a process before its first run, and a run")
    for key in sorted(each, key=str):
        print(f"  {key[0]:10s} {key[1]:16s} {calls[1][key] - each[key]:8.0f} {each[key]:8.1f}")
    scale(args, database, calls[1], each)


_CALL = re.compile(r'^\d+ +(\w+)\((?:AT_FDCWD, )?(?:\d+<?[^,"]*, )?"([^"]*)"(.*)$')


def traced(lab: Lab, names: list[str], target: str) -> Counter:
    """Return the numbers of file-system calls of one job for some runs, by place and kind."""
    output = lab.folder / "strace"
    subprocess.run(
        [
            *(
                "strace",
                "-f",
                "-qq",
                "-s",
                "300",
                "-o",
                str(output),
                "-e",
                "trace=%file,getdents64",
            ),
            *(sys.executable, "-m", "amstrax.auto_processing.process_run", *names),
            *("--target", target),
        ],
        env=os.environ | lab.environment,
        cwd=lab.folder,
        check=True,
        capture_output=True,
    )
    found: Counter = Counter()
    for line in output.read_text(errors="replace").splitlines():
        match = _CALL.match(line)
        if match is None:
            continue
        name, path, rest = match.groups()
        data = (str(lab.processed), str(lab.live), str(lab.folder / "sim"))
        where = "data" if path.startswith(data) else "system"
        if sys.prefix in path or "site-packages" in path or str(ROOT) in path:
            where = "packages"
        if name in ("open", "openat", "creat"):
            kind = "created" if "O_CREAT" in rest else "opened"
            found[where, kind if "ENOENT" not in rest else "opened, missing"] += 1
        elif "stat" in name or name in ("access", "faccessat", "faccessat2"):
            found[where, "stat'ed"] += 1
        elif name.startswith(("rename", "mkdir", "unlink", "rmdir")):
            found[where, "renamed, removed"] += 1
    return found


def scale(args: argparse.Namespace, database: dict, start: Counter, each: dict) -> None:
    """Print what many runs on many cores ask of database and file systems."""
    for per_job, (loop, job) in database.items():
        seconds = args.start_seconds / per_job + args.run_seconds
        rate = args.cores / seconds
        data = sum(n for (where, _), n in each.items() if where == "data")
        others = sum(n for (where, _), n in each.items() if where != "data")
        at_start = sum(start.values()) - data - others
        print(
            f"{args.all_runs} runs on {args.cores} cores, {per_job} runs a job: "
            f"{args.all_runs / rate / 60:.1f} min, {rate:.0f} runs/s, {rate / per_job:.1f} jobs/s; "
            f"{args.all_runs} claims, {(loop + job) * args.all_runs:.3g} commands, "
            f"{(loop + job) * rate:.0f} a second; data: {data * rate:.0f} file-system calls a "
            f"second; packages and system: {(others + at_start / per_job) * rate:.0f} a second"
        )


def kills(lab: Lab, args: argparse.Namespace) -> None:
    """Run a campaign while everything is killed, and check what it has made."""
    slurm = None
    if args.engine == "slurm":
        (lab.folder / "slurm").mkdir()
        slurm = SlurmCluster(lab.folder / "slurm")
        slurm.start()
        os.environ.update(slurm.environment)
    try:
        _kills(lab, args, slurm)
    finally:
        if slurm is not None:
            slurm.stop()


def _kills(lab: Lab, args: argparse.Namespace, slurm: SlurmCluster | None) -> None:
    lab.add_runs(1, args.runs)
    lab.run("kills", "plan", f"1-{args.runs}", "--target", args.target, "--max_failures=100")
    options = [
        *("kills", "run", "--no-progress", "--pause=1", "--retry_pause=1", "--mem=600"),
        *(f"--engine={args.engine}", f"--runs_per_job={args.runs_per_job}", "--max_jobs=3"),
    ]
    chance, counts = random.Random(args.seed), Counter()
    loop, began = lab.campaign(*options), time.monotonic()
    next_kill = began + args.every
    while loop.poll() is None:
        time.sleep(0.2)
        if slurm is not None:
            slurm.resume()
        if time.monotonic() < next_kill:
            continue
        next_kill = time.monotonic() + args.every
        victim = chance.choice(["job", "job", "loop", "database", "node"])
        if victim == "loop":
            loop.kill()
            loop.wait()
            loop = lab.campaign(*options)
        elif victim == "database":
            lab.server.kill()
            time.sleep(chance.uniform(0.3, 2))
            lab.server.start()
        elif victim == "node" and slurm is not None:
            slurm.kill("slurmd")
            time.sleep(1)
            slurm.daemons["slurmd"].start()
        else:
            jobs = [p for p in psutil.process_iter(["cmdline"]) if _is_job(p, lab)]
            if not jobs:
                continue
            # A node without batch system: all jobs at once
            for process in jobs if victim == "node" else [chance.choice(jobs)]:
                try:
                    os.kill(process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        counts[victim] += 1
    seconds = time.monotonic() - began
    status = loop.wait()
    _check(lab, args)
    print(
        f"{args.runs} runs on {args.engine}, {args.runs_per_job} a job, in {seconds:.0f} s, seed "
        f"{args.seed}, exit status {status}; killed: {dict(counts)}; all done once, equal data"
    )


def _is_job(process: psutil.Process, lab: Lab) -> bool:
    try:
        is_of_lab = process.environ().get("AMSTRAX_CONFIG") == lab.environment["AMSTRAX_CONFIG"]
        return is_of_lab and any("process_run" in word for word in process.cmdline())
    except psutil.Error:
        return False


def _check(lab: Lab, args: argparse.Namespace) -> None:
    """Check that each run was processed once, with data once, which is that of all others."""
    runs = get_mongo_collection("xams")
    data, failures, ends = set(), 0, Counter()
    for number in range(1, args.runs + 1):
        document = documents.find_run(runs, number)
        assert documents.status_of(document).status == "done", document
        failures += documents.failures_of(document)
        assert len(documents.data_of(document, type=args.target)) == 1, document
        history = document["processing_history"]
        ends[sum(e["action"] == "process_run_end" and e["status"] == "done" for e in history)] += 1
        st = contexts.xams(output_folder=lab.processed, init_rundb=False)
        st.set_run_document(f"{number:06d}", document)
        data.add(st.get_array(f"{number:06d}", args.target, progress_bar=False).tobytes())
    assert len(data) == 1 and ends == {1: args.runs}, (len(data), ends)
    folders = [p.name for p in lab.processed.iterdir() if p.is_dir() and p.name[0] != "."]
    assert len(folders) == len({name.rpartition("-")[0] for name in folders})
    assert not [name for name in folders if name.endswith("_temp")]
    print(f"{failures} failed attempts between")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("operations", "kills"))
    parser.add_argument("--runs", type=int, default=20, help="runs of each campaign")
    parser.add_argument("--runs_per_job", type=int, default=10)
    parser.add_argument("--duration", type=float, default=5.0, help="of a run [s]")
    parser.add_argument("--target", default="event_info")
    parser.add_argument("--engine", choices=("local", "slurm"), default="local")
    parser.add_argument("--every", type=float, default=10.0, help="time between kills [s]")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--traced", type=int, default=5, help="runs in the traced job, but one")
    parser.add_argument("--all_runs", type=int, default=7000)
    parser.add_argument("--cores", type=int, default=500)
    parser.add_argument("--run_seconds", type=float, default=1.0, help="of a run in a job")
    parser.add_argument("--start_seconds", type=float, default=3.0, help="start of a job")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="campaign_"))
    lab = Lab(folder, args.duration)
    try:
        {"operations": operations, "kills": kills}[args.what](lab, args)
    finally:
        lab.end()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
