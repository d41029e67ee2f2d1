"""Divide runs among jobs: a number of runs a job, or as many as a job can process in a time.

The time that a run takes is its amount of data times the time per MB that recent jobs took. Both
come from run documents: sizes of raw or live data, and ``processing_history``.
"""

import argparse
import contextlib
import itertools
import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from amstrax import rundoc, settings
from amstrax.auto_processing.process_run import Plan, plan_with_nai
from amstrax.commands import base as commands
from amstrax.exceptions import InvalidRunDocument
from amstrax.rundb import documents, stored

log = logging.getLogger(__name__)

#: Largest number of runs of one job
MOST_RUNS = 500
#: Time per MB where no run document tells [s/MB]: five times that on the machine of
#: benchmarks/RESULTS.md
ASSUMED = 0.1
#: Time per run besides that for its data: claim, context, checks, registration [s]
PER_RUN = 1.0
#: Number of recent runs to measure the rate with
_MEASURED_RUNS = 50
# Rates already reported
_said: dict[Plan, str] = {}
_FIELDS = ("name", "number", *(f"data.{x}" for x in ("type", "size_mb", "host", "location")))


class Rate(NamedTuple):
    """Time per MB of raw data [s/MB], and the number of runs that it was measured with."""

    seconds_per_mb: float
    n_runs: int


@dataclass(frozen=True)
class Grouping:
    """Limits on the runs of a job: their number, and the time that they take [min].

    Without either each run has its own job. A run that takes longer than the time has one too.
    """

    runs_per_job: int | None = None
    job_minutes: float | None = None

    @property
    def most(self) -> int:
        """Largest number of runs of a job."""
        if self.runs_per_job is None:
            return 1 if self.job_minutes is None else MOST_RUNS
        return self.runs_per_job

    def groups(self, run_ids: Sequence[str], collection: Any, plan: Plan) -> list[list[str]]:
        """Return the runs of each job, in the order of the runs."""
        times = dict.fromkeys(run_ids, 0.0)
        if self.job_minutes is not None and run_ids:
            times |= estimated_times(run_ids, collection, plan)
        groups: list[list[str]] = []
        seconds = 0.0
        for run_id in run_ids:
            seconds += times[run_id]
            is_over = self.job_minutes is not None and seconds > 60 * self.job_minutes
            if not groups or is_over or len(groups[-1]) >= self.most:
                groups.append([])
                seconds = times[run_id]
            groups[-1].append(run_id)
        return groups


ONE_RUN_A_JOB = Grouping()


def add_grouping(parser: argparse.ArgumentParser) -> None:
    """Add the options that `Grouping` has."""
    parser.add_argument(
        "--runs_per_job",
        type=commands.positive_integer,
        metavar="N",
        help="process up to N runs in one job, one after the other (default: one run a job)",
    )
    parser.add_argument(
        "--job_minutes",
        type=commands.positive_number,
        metavar="M",
        help="process as many runs in one job as take M minutes, by the time per MB that recent "
        "runs took (default: one run a job)",
    )


def estimated_times(run_ids: Sequence[str], collection: Any, plan: Plan) -> dict[str, float]:
    """Return the time that processing each run should take [s], and log the rate used.

    A run of unknown size counts as one of mean size, or of 100 MB if all are unknown. Runs that
    are not in the run database are included, so that submitting them reports the error.
    """
    rate = measured_rate(collection, plan)
    text = f"no run document tells how long that takes: {ASSUMED} s per MB is assumed"
    if rate.n_runs:
        text = f"{rate.seconds_per_mb:.2g} s per MB, measured with {rate.n_runs} runs"
    if _said.get(plan) != text:
        _said[plan] = text
        log.info("jobs to %s: %s", ", ".join(plan.targets), text)
    sizes: dict[str, float | None] = dict.fromkeys(run_ids)
    asked = [one for run_id in run_ids for one in documents.run_filters(run_id)]
    for document in documents.read(collection, {"$or": asked}, _FIELDS) if asked else ():
        name = documents.name_of(document)
        if name in sizes:
            sizes[name] = megabytes_of(document, plan)
    known = [size for size in sizes.values() if size is not None]
    mean = statistics.fmean(known) if known else 100.0
    return {
        run_id: PER_RUN + rate.seconds_per_mb * (mean if size is None else size)
        for run_id, size in sizes.items()
    }


def megabytes_of(document: Mapping[str, Any], plan: Plan) -> float | None:
    """Return the size of a run's raw data, or else of its live data [MB]; None if it is unknown.

    It is the one in the run document or, for live data on this machine, that of its files, in the
    folder of the settings or the one that the document names.
    """
    for kinds in (plan.raw_types, ("live",)):
        entries = [entry for kind in kinds for entry in documents.data_of(document, type=kind)]
        sizes = [size for entry in entries if (size := documents.megabytes_of(entry))]
        if sizes:
            # Several raw data types are parts of a run; several copies are not
            return sum(sizes) if kinds != ("live",) else max(sizes)
    here = documents.data_of(document, type="live", host=documents.this_host())
    registered = (rundoc.check_location(entry.get("location")) for entry in here)
    with contextlib.suppress(InvalidRunDocument):
        name = rundoc.check_run_name(documents.name_of(document))
        for folder in itertools.chain([settings.live_data(plan.detector)], registered):
            if folder is not None and (n_bytes := stored.size_of(str(folder / name))):
                return n_bytes / 1e6
    return None


def measured_rate(collection: Any, plan: Plan) -> Rate:
    """Return the median time per MB that recent runs took to the targets of a plan.

    Runs with the NaI detector count, although they have more targets. It is `ASSUMED`, of 0 runs,
    if no run document has both the time and the size of the raw data.
    """
    targets = [list(each.targets) for each in (plan, plan_with_nai(plan))]
    alike = {"processing_job.context": plan.context, "processing_job.targets": {"$in": targets}}
    found = documents.read(
        collection,
        {"$and": [documents.has_status("done"), alike]},
        [*_FIELDS, "processing_history"],
        sort=[("processing_status.time", -1)],
        limit=_MEASURED_RUNS,
    )
    rates = []
    for document in found:
        megabytes, last = megabytes_of(document, plan), last_processing(document)
        if megabytes and last is not None and last[1] > 0:
            rates.append(last[1] / megabytes)
    return Rate(statistics.median(rates or [ASSUMED]), len(rates))


def last_processing(document: Mapping[str, Any]) -> tuple[datetime, float] | None:
    """Return end and length [s] of the last processing of a run that has ended well."""
    history = document.get("processing_history")
    begin, found = None, None
    for entry in history if isinstance(history, list) else ():
        if not isinstance(entry, Mapping):
            continue
        time, action = documents.utc_time_of(entry, "time"), entry.get("action")
        if action == "process_run_start":
            begin = time
        elif action == "process_run_end" and begin and time:
            if entry.get("status") == "done":
                found = time, (time - begin).total_seconds()
            begin = None
    return found
