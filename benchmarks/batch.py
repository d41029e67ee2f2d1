#!/usr/bin/env python
"""Measure batch processing: rounds of the loop, submission, start of jobs, runs an hour.

With the local engine, and a real Slurm that the tests' own helpers start, where it is installed.
Times depend on the machine and on what else it does.
"""

import argparse
import contextlib
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote_plus

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pending", type=int, default=1000, help="pending runs (%(default)s)")
    parser.add_argument("--jobs", type=int, default=100, help="jobs to submit (%(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="runs to wait for (%(default)s)")
    parser.add_argument("--repeat", type=int, default=5, help="rounds to measure (%(default)s)")
    parser.add_argument(
        "--short_runs",
        type=int,
        metavar="N",
        help="measure only runs an hour: N runs of 5 s to event_info, in 2 jobs at once",
    )
    parser.add_argument(
        "--runs_per_job", type=int, nargs="+", default=[1, 20], metavar="N", help="%(default)s"
    )
    args = parser.parse_args()
    if args.short_runs:
        for engine, n in itertools.product(("local", "slurm"), args.runs_per_job):
            with tempfile.TemporaryDirectory() as folder, lab(Path(folder), engine, 2) as work:
                if work is not None:
                    runs_an_hour(engine, work, args.short_runs, n)
        return 0
    for engine in ("local", "slurm"):
        with tempfile.TemporaryDirectory() as folder, lab(Path(folder), engine) as work:
            if work is None:
                print(f"{engine}: not installed here, left out")
                continue
            submission(engine, work, args.jobs)
            from_end_to_job(engine, work, args.runs)
    for store in ("embedded store", "MongoDB"):
        with tempfile.TemporaryDirectory() as folder, lab(Path(folder), "local") as work:
            assert work is not None
            with server(work) if store == "MongoDB" else contextlib.nullcontext():
                rounds(store, work, args.pending, args.repeat)
    return 0


@contextlib.contextmanager
def lab(work: Path, engine: str, slots: int = 16) -> Iterator[Path | None]:
    """Set up a machine with folders and an engine; None where that is not installed."""
    settings = {
        "AMSTRAX_CONFIG": os.devnull,
        "AMSTRAX_RUNDB_PATH": work / "runs.sqlite",
        "AMSTRAX_LOCAL_FOLDER": work / "engine",
        # Jobs here wait for live data that does not come
        "AMSTRAX_LOCAL_JOBS": slots,
        "AMSTRAX_JOB_FOLDER": work / "jobs",
        "AMSTRAX_LOG_FOLDER": work / "logs",
        "AMSTRAX_ENGINE": engine,
        "AMSTRAX_JOB_MEMORY": "100",
        "AMSTRAX_HOST": "here",
        "XAMS_LIVE_DATA": work / "live",
    }
    (work / "live").mkdir()
    os.environ |= {name: str(value) for name, value in settings.items()}
    if engine != "slurm":
        yield work
        return
    from batch_servers import SlurmCluster

    if not shutil.which("sbatch"):
        yield None
        return
    (work / "slurm").mkdir()
    cluster = SlurmCluster(work / "slurm")
    cluster.start()
    os.environ |= cluster.environment
    try:
        yield work
    finally:
        cluster.stop()


@contextlib.contextmanager
def server(work: Path) -> Iterator[None]:
    """Keep run documents in a server that speaks MongoDB's protocol."""
    from servers import LOCALHOST, MONGO_USERS, MongoServer

    (work / "mongo").mkdir()
    mongo = MongoServer(work / "mongo")
    password = quote_plus(MONGO_USERS["writer"][0])
    os.environ["AMSTRAX_MONGO_URI"] = f"mongodb://writer:{password}@{LOCALHOST}:{mongo.port}"
    try:
        yield
    finally:
        del os.environ["AMSTRAX_MONGO_URI"]
        mongo.kill()


def add_runs(work: Path, numbers: range, ended: bool = True) -> None:
    """Add runs, with folders of live data."""
    from amstrax.rundb import get_mongo_collection

    example = json.loads((ROOT.parent / "shared/data/rundoc_999999.json").read_text())
    start = datetime(2023, 1, 1, tzinfo=UTC)
    documents = []
    for number in numbers:
        name = f"{number:06d}"
        (work / "live" / name).mkdir()
        own = {"number": number, "name": name, "start": start + timedelta(hours=number)}
        own["end"] = own["start"] + timedelta(minutes=50) if ended else None
        live = [{"type": "live", "host": "here", "location": str(work / "live")}]
        rest = {key: value for key, value in example.items() if key != "_id"}
        documents.append(rest | own | {"data": live})
    get_mongo_collection("xams").insert_many(documents)


def report(what: str, values: list[float], unit: str = "ms", scale: float = 1e3) -> None:
    """Print a line: median, and the range."""
    low, middle, high = (
        scale * f(values)
        for f in (min, statistics.median, max)  # type: ignore[operator]
    )
    print(f"{what:58s} {middle:8.1f} {unit}   ({low:.1f} to {high:.1f})", flush=True)


def submission(engine: str, work: Path, n_jobs: int) -> None:
    """Submit jobs that do nothing."""
    from amstrax.auto_processing import submit_stbc

    script = work / "nothing"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    add_runs(work, range(n_jobs))
    took = []
    for number in range(n_jobs):
        began = time.perf_counter()
        submit_stbc.submit_job(
            f"{number:06d}",
            "raw_records",
            "xams",
            "xams",
            work / "jobs",
            work / "logs",
            script=script,
        )
        took.append(time.perf_counter() - began)
    report(f"{engine}: to submit one of {n_jobs} jobs", took)


def from_end_to_job(engine: str, work: Path, n_runs: int) -> None:
    """End runs while the loop runs; look when their jobs begin to work."""
    from amstrax.auto_processing import engines
    from amstrax.rundb import documents, get_mongo_collection

    first = 900_000
    add_runs(work, range(first, first + n_runs), ended=False)
    collection = get_mongo_collection("xams")
    command = [sys.executable, "-m", "amstrax.auto_processing.auto_processing", "--pause=1"]
    command += ["--target=raw_records", f"--min_run_number={first}"]
    with (work / "said").open("w") as said:
        loop = subprocess.Popen(command, stdout=said, stderr=said)
    try:
        while "processing runs" not in (work / "said").read_text():
            time.sleep(0.1)
        submitted, running = [], []
        for number in range(first, first + n_runs):
            began = time.perf_counter()
            collection.update_one({"number": number}, {"$set": {"end": datetime.now(UTC)}})
            for times, words in ((submitted, ("pending",)), (running, ("pending", "submitted"))):
                while documents.status_of(documents.find_run(collection, number)).status in words:
                    time.sleep(0.01)
                times.append(time.perf_counter() - began)
    finally:
        loop.terminate()
        loop.wait()
        its_engine = engines.get(engine)
        for job in its_engine.jobs():
            its_engine.cancel(job.job_id)
    report(f"{engine}: from a run's end to its submission, --pause 1", submitted, "s ", 1)
    report(f"{engine}: from a run's end to a job at work, --pause 1", running, "s ", 1)


def runs_an_hour(engine: str, work: Path, n_runs: int, per_job: int) -> None:
    """Submit copies of a simulated run of 5 s, and wait until all are done."""
    from amstrax import simulation
    from amstrax.auto_processing import engines, submitting
    from amstrax.auto_processing.amstraxer import ProcessingOptions
    from amstrax.rundb import documents, get_mongo_collection, transfer

    live, collection = work / "live", get_mongo_collection("xams")
    simulation.simulate("000001", live, source="kr83m", duration=5, rate=20, yields="simple")
    [document] = transfer.documents_in(str(live / "rundoc_000001.json"))
    names = [f"{number:06d}" for number in range(1, n_runs + 1)]
    for name in names:
        if name != names[0]:
            shutil.copytree(live / names[0], live / name, copy_function=os.link)
        collection.insert_one(document | {"number": int(name), "name": name})
    # Of the machine of the tests' Slurm, whose 4000 MB two of these fill
    template = submitting.make_job_template(
        ProcessingOptions(("event_info",), output_folder=work / "out"),
        *(work / "jobs", work / "logs"),
        memory=2000,
    )
    groups = [names[i : i + per_job] for i in range(0, n_runs, per_job)]
    began = time.perf_counter()
    submitting.submit_groups(template, groups, collection, engines.get(engine))
    submitted = time.perf_counter() - began
    while collection.count_documents(documents.has_status("done")) < n_runs:
        time.sleep(1)
        failed = documents.read(collection, documents.has_status("failed"), ["processing_status"])
        assert not failed, failed
    took = time.perf_counter() - began
    print(
        f"{engine}: {n_runs} runs of 5 s, {per_job} a job, 2 jobs at once: {took:.0f} s, "
        f"{3600 * n_runs / took:.0f} runs an hour ({submitted:.1f} s to submit); load "
        f"{os.getloadavg()[0]:.1f}",
        flush=True,
    )


def rounds(store: str, work: Path, n_pending: int, repeat: int) -> None:
    """Measure rounds of the loop that find many runs, and show what they would submit."""
    from amstrax.auto_processing import auto_processing, submitting

    add_runs(work, range(n_pending))
    args = auto_processing.parse_args(["--target=raw_records", "--max_jobs=10", "--dry_run"])
    loop = auto_processing.Loop(auto_processing.LoopOptions.of(args, submitting.find_work(args)))
    took = []
    for _ in range(repeat):
        began = time.perf_counter()
        loop.round()
        took.append(time.perf_counter() - began)
    assert loop.waiting == n_pending
    report(f"{store}: a round with {n_pending} pending runs", took)


if __name__ == "__main__":
    sys.exit(main())
