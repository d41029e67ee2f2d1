#!/usr/bin/env python
"""Measure the run database with documents of the real one's size.

That is `select_runs()`, one `find`, and what the automatic loop asks in each round when all runs
are done.

Both stores are measured: the embedded one, and SecantusDB (a MongoDB server in Python) through a
tunnel over a real sshd, which the tests' own helpers start. Times depend on the machine and on what
else it does.
"""

import argparse
import contextlib
import copy
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
sys.path.insert(0, str(ROOT / "tests"))


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000, help="run documents (%(default)s)")
    parser.add_argument("--finds", type=int, default=100, help="runs to look up (%(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="take the best of (%(default)s)")
    parser.add_argument(
        "--size", type=float, default=0, help="size of a document, if more than the real one's [kB]"
    )
    parser.add_argument("--no-index", action="store_true", help="no indices on name and number")
    args = parser.parse_args()
    if not (SHARED / "data").is_dir():
        print(f"there is no {SHARED / 'data'}, whose run document this takes", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = list(run_documents(args.runs, work / "data", 1e3 * args.size))
        size = len(json.dumps(data[0], default=str))
        print(f"{args.runs} run documents of {size / 1e3:.1f} kB")
        os.environ["AMSTRAX_CONFIG"] = os.devnull
        os.environ["AMSTRAX_RUNDB_PATH"] = str(work / "runs.sqlite")
        print("\nembedded store")
        measure(work, data, args)
        print("\nMongoDB through the tunnel")
        with servers(work):
            measure(work, data, args)
    return 0


def run_documents(number: int, folder: Path, size: float = 0) -> Iterator[dict[str, Any]]:
    """Yield run documents like the real one, with more entries of data up to a size [bytes]."""
    real = json.loads((SHARED / "data/rundoc_999999.json").read_text())
    del real["_id"]
    processed = [entry for entry in real["data"] if "meta" in entry]
    while len(json.dumps(real)) < size:
        real["data"] += copy.deepcopy(processed[:2])
    start = datetime(2023, 1, 1, tzinfo=UTC)
    for i in range(number):
        document = copy.deepcopy(real)
        document |= {"number": i, "name": f"{i:06d}", "tags": [{"name": "good", "user": "me"}]}
        document["start"] = start + timedelta(hours=i)
        document["end"] = document["start"] + timedelta(minutes=50)
        document["data"][0] |= {"host": os.uname().nodename, "location": str(folder)}
        yield document


@contextlib.contextmanager
def servers(work: Path) -> Iterator[None]:
    """Start servers, and set the way to them."""
    from servers import MongoServer, SSHServer, settings_of

    from amstrax.rundb import connection

    for name in ("mongo", "ssh"):
        (work / name).mkdir()
    mongo = MongoServer(work / "mongo")
    ssh = SSHServer(work / "ssh", mongo.port)
    # To fill it takes a minute
    os.environ.update(settings_of(mongo, ssh) | {"AMSTRAX_RUNDB_TIMEOUT": "600"})
    try:
        yield
    finally:
        connection.close()
        ssh.kill()
        mongo.kill()


def measure(work: Path, data: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Fill a store, and print how long things take with it."""
    import strax

    import amstrax
    from amstrax.rundb import get_mongo_collection

    began = time.perf_counter()
    runs = get_mongo_collection("xams")
    runs.count_documents({})
    report("connect, first call", time.perf_counter() - began)
    began = time.perf_counter()
    if not args.no_index:
        for field in ("name", "number"):
            runs.create_index(field)
    for i in range(0, len(data), 500):
        runs.insert_many(copy.deepcopy(data[i : i + 500]))
    report("fill", time.perf_counter() - began)

    def select() -> int:
        st = amstrax.contexts.xams(output_folder=str(work / "output"))
        return len(st.select_runs())

    for _ in range(args.repeat):
        began = time.perf_counter()
        number = select()
        seconds = time.perf_counter() - began
        report(f"select_runs(), {number} runs", seconds)
    began = time.perf_counter()
    number = len(list(runs.find({}, dict.fromkeys(("name", "number", "start"), 1))))
    report(f"find with a projection, {number} runs", time.perf_counter() - began)
    st = amstrax.contexts.xams(output_folder=str(work / "output"))
    frontend = st.storage[0]
    lookups: dict[str, Callable[[str], Any]] = {
        "find data of a run": lambda run_id: find(
            frontend, strax.DataKey(run_id, "peaks", st.key_for(run_id, "peaks").lineage)
        ),
        "run_metadata, start and end": lambda run_id: frontend.run_metadata(
            run_id, ["start", "end"]
        ),
        "run_metadata, all of it": frontend.run_metadata,
    }
    step = max(1, len(data) // args.finds)
    ids = [f"{i:06d}" for i in range(0, len(data), step)]
    for name, look_up in lookups.items():
        times = []
        for run_id in ids:
            began = time.perf_counter()
            look_up(run_id)
            times.append(time.perf_counter() - began)
        worst = sorted(times)[int(0.95 * len(times))]
        report(name, statistics.median(times), f"95 % within {1e3 * worst:.1f} ms")
    runs.update_many({}, {"$set": {"processing_status": {"status": "done"}}})
    for name, ask in loop_queries(runs).items():
        began = time.perf_counter()
        number = ask()
        report(name, time.perf_counter() - began, f"{number} runs")


def loop_queries(runs: Any) -> dict[str, Callable[[], int]]:
    """Return what the automatic loop asks in a round: each gives a number of runs."""
    from amstrax.auto_processing import loop
    from amstrax.rundb import documents

    wanted = loop.RunSelection("xams", ("event_info",), ("raw_records",))
    return {
        "loop: runs to submit": lambda: len(loop.find_runs(runs, wanted, 10)),
        "loop: count of them": lambda: runs.count_documents(
            wanted.filter(documents.server_time(runs))
        ),
        "loop: runs with a job": lambda: len(loop.followed_runs(runs, "local")),
    }


def find(frontend: Any, key: Any) -> Any:
    """Look for data that is not there; what is asked of the database is the same."""
    import strax

    try:
        return frontend.find(key)
    except strax.DataNotAvailable:
        return None


def report(what: str, seconds: float, more: str = "") -> None:
    """Print a line of the table."""
    amount = f"{seconds:8.2f} s " if seconds > 1 else f"{1e3 * seconds:8.1f} ms"
    print(f"  {what:40s}{amount}  {more}".rstrip(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
