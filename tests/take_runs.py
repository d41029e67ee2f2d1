"""A DAQ in a process of its own: takes simulated runs in real time, and keeps their documents.

Usage: take_runs.py LIVE_FOLDER KEPT_FOLDER NUMBER_OF_RUNS SPEED. Of each run a copy is kept before
anybody is told that it has ended.
"""

import shutil
import sys
import threading
import time
from pathlib import Path

from amstrax import simulation
from amstrax.exceptions import RunDatabaseError
from amstrax.rundb import get_mongo_collection, transfer


def main(live: Path, kept: Path, n_runs: int, speed: float) -> None:
    """Take runs 1 to `n_runs`."""
    done = [threading.Event() for _ in range(n_runs)]
    clerk = threading.Thread(target=register, args=(live, kept, done))
    clerk.start()
    for i in range(n_runs):
        simulation.simulate(
            f"{i + 1:06d}", live, rate=20, duration=1, seed=i, yields="simple", realtime=speed
        )
        done[i].set()
    clerk.join()


def register(live: Path, kept: Path, done: list[threading.Event]) -> None:
    """Add the document of each run when it begins, and its end when it has ended."""
    runs = get_mongo_collection("xams")
    for i, ended in enumerate(done):
        name = f"{i + 1:06d}"
        file = live / f"rundoc_{name}.json"
        while not file.exists():
            time.sleep(0.02)
        [document] = transfer.documents_in(str(file))
        document["data"] = [{"type": "live", "host": "daq", "location": str(live)}]
        end = document.pop("end", None)
        if end is None:
            persist(lambda new=document: transfer.add_run(runs, new | {"end": None}))
        ended.wait()
        [document] = transfer.documents_in(str(file))
        end = {"$set": {"end": document["end"]}}
        shutil.copytree(live / name, kept / name)
        if not persist(lambda n=i + 1, end=end: runs.update_one({"number": n}, end)).matched_count:
            document["data"] = [{"type": "live", "host": "daq", "location": str(live)}]
            persist(lambda new=document: transfer.add_run(runs, new))


def persist(function):
    """Return what a function returns; try again while the run database is away."""
    while True:
        try:
            return function()
        except RunDatabaseError as error:
            print(error, flush=True)
            time.sleep(0.2)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
