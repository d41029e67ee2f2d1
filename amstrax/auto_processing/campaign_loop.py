"""Run campaigns: submit their runs in waves, follow the jobs, and report."""

import itertools
import logging
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from amstrax.auto_processing import campaign_plan, engines, submitting
from amstrax.auto_processing.engines.base import JobState
from amstrax.auto_processing.grouping import ONE_RUN_A_JOB, Grouping, last_processing
from amstrax.auto_processing.loop import (
    Followed,
    begun_jobs,
    followed_runs,
    job_states,
    live_jobs,
    record_refusal,
    settle,
)
from amstrax.auto_processing.submitting import JobTemplate, Submission
from amstrax.commands import base
from amstrax.exceptions import JobRefused, RunDatabaseError, RunNotReady, UsageError
from amstrax.rundb import campaigns, connection, documents, leases, stored
from amstrax.rundb.campaigns import Campaign, RunState
from amstrax.rundb.leases import Stop
from amstrax.rundb.stored import Stored

log = logging.getLogger(__name__)

#: Interval between two readings of all runs that are not done [s]
REFRESH_EVERY = 300.0
#: The same while another process submits [s]
WATCH_EVERY = 30.0
#: Interval between two lines about the progress [s]
SAY_EVERY = 60.0
#: Number of runs in one call of the engine, more or less
_RUNS_AT_ONCE = 100
#: Reason of runs whose document was removed after the plan
GONE = "no longer in the run database"
#: Rates are those of this time
RATE_WINDOW = timedelta(hours=1)


@dataclass(frozen=True)
class LoopOptions:
    """How a campaign is run: options of ``amstrax campaign NAME run``."""

    engine: str
    max_jobs: int = 10
    grouping: Grouping = ONE_RUN_A_JOB
    retry_pause: float = base.FIRST_BACKOFF
    pause: float = 10.0
    keep_free: float = 1.0
    progress: bool | None = None


class Progress(NamedTuple):
    """Progress of a campaign: numbers of runs by state, rates per second, and the time left [s]."""

    counts: Mapping[str, int]
    runs_rate: float
    mb_rate: float
    left: float | None

    def text(self) -> str:
        """Return the progress in one line."""
        total = sum(self.counts.values())
        done = self.counts[campaigns.DONE] + self.counts[campaigns.STORED]
        parts = [f"{done} of {total} runs done"]
        parts += [
            f"{self.counts[state]} {state}"
            for state in campaigns.STATES
            if self.counts[state] and state not in (campaigns.DONE, campaigns.STORED)
        ]
        if self.runs_rate:
            parts.append(f"{self.runs_rate * 3600:.0f} runs/h, {self.mb_rate:.3g} MB/s")
        if self.left is not None:
            end = datetime.now(UTC) + timedelta(seconds=self.left)
            left = campaign_plan.duration(self.left)
            parts.append(f"{left} left, until {end:%Y-%m-%d %H:%M} UTC")
        return ", ".join(parts)


def progress_of(campaign: Campaign, states: Mapping[str, RunState], now: datetime) -> Progress:
    """Return the progress of a campaign, with rates of the last `RATE_WINDOW`."""
    counts = Counter(state.state for state in states.values())
    n_left = sum(counts[state] for state in campaigns.OPEN_STATES)
    since = max(now - RATE_WINDOW, campaign.time)
    recent = {
        name: state
        for name, state in states.items()
        if state.state == campaigns.DONE and state.time and state.time > since
    }
    if not n_left or not recent:
        return Progress(counts, 0.0, 0.0, None)
    # A campaign that has begun, or gone on, within that time
    begun = min(state.submitted or since for state in recent.values())
    seconds = max((now - max(since, begun)).total_seconds(), 1e-3)
    mb, index = campaign.mb, campaign.index
    mb_rate = sum(mb[index[name]] for name in recent) / seconds
    runs_rate = len(recent) / seconds
    mb_left = sum(mb[index[n]] for n, s in states.items() if s.state in campaigns.OPEN_STATES)
    left = mb_left / mb_rate if mb_rate and mb_left else n_left / runs_rate
    return Progress(counts, runs_rate, mb_rate, left)


def states_of(
    campaign: Campaign,
    runs: Any,
    names: Collection[str] | None = None,
    options: LoopOptions | None = None,
) -> dict[str, RunState]:
    """Return the states of runs of a campaign, by default of all, from their documents now.

    `runs` is the collection of run documents.
    """
    names = campaign.runs if names is None else names
    now = documents.server_time(runs)
    found = campaigns.read_runs(runs, names)
    pause = options.retry_pause if options else 0.0
    gone = RunState(campaigns.FAILED, GONE)
    return {
        name: campaign_plan.state_of(campaign, found[name], now, pause) if name in found else gone
        for name in names
    }


def run(campaign: Campaign, template: JobTemplate, options: LoopOptions, stop: Stop) -> Progress:
    """Run a campaign until all its runs have ended, or `stop` is set; jobs go on then.

    While another process runs the same campaign, this one shows its progress, and takes over when
    that process ends. Raises UsageError when this amstrax makes other data than planned, or the
    campaign is removed.
    """
    stop.remark = "jobs go on; start it again to continue"
    loop = Loop(campaign, template, options, stop)
    campaign_plan.check_lineages(campaign, loop.runs)
    with loop:
        base.run_rounds(
            loop.round,
            options.pause,
            stop,
            log,
            remark=", jobs go on",
            is_fatal=lambda error: isinstance(error, UsageError),
            after=loop.after_round,
            is_finished=loop.is_finished,
        )
    stop.check()
    return loop.progress()


class Loop:
    """State of a campaign between two rounds; what must not be lost is in the run database."""

    def __init__(self, campaign: Campaign, template: JobTemplate, options: LoopOptions, stop: Stop):
        self._stop = stop
        self.campaign, self.template, self.options = campaign, template, options
        self.engine = engines.get(options.engine)
        self.runs = connection.get_mongo_collection(campaign.detector)
        self.campaigns = campaigns.get_collection()
        self.states: dict[str, RunState] = {}
        self.trouble = ""
        self._lease: leases.Lease | None = None
        self._flight: set[str] = set()
        self._backoff = base.RetryBackoff()
        self._refresh_at = self._say_at = 0.0
        self._said = ""
        # What is logged when it begins and ends
        self._waits_for = ""
        self._bar: tqdm | None = None

    def __enter__(self) -> "Loop":
        self._bar = tqdm(
            total=len(self.campaign.runs),
            desc=self.campaign.name,
            unit="run",
            disable=not base.shows_progress(self.options.progress),
        )
        return self

    def __exit__(self, *_error: Any) -> None:
        assert self._bar is not None
        self._bar.close()
        if self._lease is not None:
            self._lease.release()

    def round(self) -> None:
        """Follow jobs, and submit runs if this process is the one that submits."""
        state, by = campaigns.read_state(self.campaigns, self.campaign.name)
        waits_for = ""
        if not self._leads():
            holder = campaigns.claimed_by(self.campaigns, self.campaign.name)
            waits_for = f"{holder or 'another process'} runs it, and this process watches"
            if time.monotonic() >= self._refresh_at:
                self._refresh()
                self._refresh_at = time.monotonic() + WATCH_EVERY
        else:
            alive = self._follow()
            if state == campaigns.PAUSED:
                waits_for = f"paused by {by}: nothing is submitted until it is resumed"
            elif alive < self.options.max_jobs:
                waits_for = self._submit(self.options.max_jobs - alive)
        if waits_for != self._waits_for:
            self._waits_for = waits_for
            log.info("campaign %s: %s", self.campaign.name, waits_for or "going on")

    def _leads(self) -> bool:
        """Return whether this process has the lease of the campaign, and take it if it is free."""
        if self._lease is not None and self._lease.lost.is_set():
            self._lease = None
        if self._lease is None:
            lease = campaigns.lease(self.campaigns, self.campaign.name)
            if not connection.resilient(lease.acquire):
                return False
            self._lease = lease
            self._refresh_at = 0.0
        return True

    def _follow(self) -> int:
        """Settle jobs that have ended, and update states; return the number of live jobs."""
        followed = followed_runs(self.runs, self.engine.name)
        followed = [run_ for run_ in followed if run_.run_id in self.campaign.index]
        found = job_states(self.engine, followed)
        begun = begun_jobs(self.runs, followed, found)
        before, self._flight = self._flight, set()
        for run_ in followed:
            line = self._settle(run_, found[run_.attempt], begun)
            if line is not None:
                log.warning("%s", line)
                before.add(run_.run_id)
                continue
            self._flight.add(run_.run_id)
            self.states[run_.run_id] = RunState(documents.status_of(run_.document).status)
        is_due = time.monotonic() >= self._refresh_at
        is_idle = not self._flight and not self._next(1)
        if is_due or is_idle:
            self._refresh()
            self._refresh_at = time.monotonic() + REFRESH_EVERY
        else:
            not_due = {name for name, state in self.states.items() if not state.is_due}
            self._refresh((before - self._flight) | not_due)
        return len(live_jobs(followed, found))

    def _settle(self, run_: Followed, state: JobState, begun: Collection[str]) -> str | None:
        """Record the end of a job that has not done so; return a line about it."""
        try:
            limit = self.campaign.max_failures
            return settle(self.runs, self.engine, run_, state, limit, begun)
        except RunDatabaseError:
            raise
        except Exception as error:
            self._back_off(run_.run_id, f"its job cannot be followed: {base.describe_error(error)}")
            return None

    def _refresh(self, names: Collection[str] | None = None) -> None:
        """Read the states of runs, by default of all that are not done."""
        if names is None:
            made = {n for n, state in self.states.items() if state.state in campaigns.MADE_STATES}
            names = [name for name in self.campaign.runs if name not in made]
        if not names:
            return
        new = states_of(self.campaign, self.runs, names, self.options)
        for name, state in new.items():
            before = self.states.get(name)
            self.states[name] = state
            is_change = before is not None and before.state != state.state
            if is_change and state.state == campaigns.DONE:
                log.debug("run %s: done", name)
            elif is_change and state.state == campaigns.FAILED:
                log.warning("run %s failed: %s", name, state.reason)

    def _next(self, limit: int) -> list[str]:
        """Return the names of at most `limit` runs to submit now."""
        left = self._backoff.names()
        ready = (
            name
            for name in self.campaign.runs
            if name in self.states and _is_ready(self.states[name]) and name not in left
        )
        return list(itertools.islice(ready, limit))

    def _submit(self, n_jobs: int) -> str:
        """Submit up to so many jobs; return what submission waits for."""
        names = self._next(n_jobs * self.options.grouping.most)
        # Read again: other processes may have changed them
        self._refresh(names)
        names = [name for name in names if _is_ready(self.states[name])]
        if not names:
            return ""
        fitting, lack = self._that_fit(names)
        if not fitting:
            return lack
        grouping, plan = self.options.grouping, self.template.plan
        groups = grouping.groups(fitting, self.runs, plan)[:n_jobs]
        while groups:
            # Some at once, so that the first jobs begin, and a signal is heard
            self._stop.check()
            n = max(1, _RUNS_AT_ONCE // len(groups[0]))
            part, groups = groups[:n], groups[n:]
            names = [name for group in part for name in group]
            new = {name for name in names if self.states[name].is_new}
            results = submitting.submit_groups(self.template, part, self.runs, self.engine, new)
            self._record(names, results)
        return ""

    def _that_fit(self, names: Sequence[str]) -> tuple[list[str], str]:
        """Return the runs whose output fits on the disk, and a text on what it lacks."""
        disk_mb, index = self.campaign.disk_mb, self.campaign.index
        need = sum(disk_mb[index[name]] for name in self._flight)
        places = {place: campaign_plan.free_space(Path(place)) for place in self.campaign.places}
        place, free = min(places.items(), key=lambda item: item[1])
        room = free / 1e6 - self.options.keep_free * 1e3
        fitting = []
        for name in names:
            need += disk_mb[index[name]]
            if need > room:
                break
            fitting.append(name)
        # Without the free space: each change of the text is logged
        return fitting, (
            f"waiting for space: the next run would leave less than {self.options.keep_free:g} GB "
            f"(--keep_free) in {place}"
        )

    def _record(self, names: Sequence[str], results: Sequence[Submission]) -> None:
        refused: list[tuple[str, Exception]] = []
        n_new = 0
        for name, result in zip(names, results, strict=True):
            error = result.error
            if error is None and result.state in ("submitted", "alive already"):
                self._backoff.note(name, failed=False)
                self.states[name] = RunState(campaigns.SUBMITTED)
                self._flight.add(name)
                n_new += 1
            elif error is None or isinstance(error, RunNotReady):
                self._back_off(name, f"not submitted now: {result.text}")
            else:
                refused.append((name, error))
        if refused and not n_new and all(isinstance(error, JobRefused) for _, error in refused):
            # The runs are probably not the cause
            raise JobRefused(f"jobs of {len(refused)} runs are refused: {refused[0][1]}")
        for name, error in refused:
            self._fail(name, error)
        if n_new:
            n_jobs = len({result.job_id for result in results if result.job_id})
            log.info("campaign %s: %d runs in %d jobs", self.campaign.name, n_new, n_jobs)

    def _fail(self, name: str, error: Exception) -> None:
        """Record that a run cannot be submitted as a failure of the run."""
        log.debug("run %s", name, exc_info=error)
        self._backoff.note(name, failed=True)
        text, is_recorded = record_refusal(
            self.runs, name, error, self.campaign.max_failures, self.states[name].is_new
        )
        log.warning("run %s %s", name, text)
        if is_recorded:
            self._refresh([name])

    def _back_off(self, name: str, why: str) -> None:
        """Back off from a run, longer each time, and log why unless it is backed off already."""
        if name not in self._backoff.names():
            log.info("run %s: %s", name, why)
            self._backoff.note(name, failed=True)

    def progress(self) -> Progress:
        """Return the progress by the states that were read last."""
        return progress_of(self.campaign, self.states, datetime.now(UTC))

    def after_round(self, trouble: str) -> None:
        """Show the progress after a round."""
        self.trouble = trouble
        if not self.states:
            return
        now = self.progress()
        assert self._bar is not None
        if not self._bar.disable:
            open_states = {state: now.counts[state] for state in campaigns.OPEN_STATES}
            failed = now.counts[campaigns.FAILED]
            ended = sum(now.counts.values()) - sum(open_states.values())
            self._bar.set_postfix(**open_states, failed=failed, refresh=False)
            self._bar.update(ended - self._bar.n)
            return
        text = now.text()
        if text != self._said and time.monotonic() >= self._say_at:
            self._said, self._say_at = text, time.monotonic() + SAY_EVERY
            log.info("campaign %s: %s", self.campaign.name, text)

    def is_finished(self) -> bool:
        """Return whether no run waits or is being processed."""
        if self.trouble or len(self.states) < len(self.campaign.runs):
            return False
        return not any(state.state in campaigns.OPEN_STATES for state in self.states.values())


def _is_ready(state: RunState) -> bool:
    return state.state == campaigns.WAITING and state.is_due


def retry(
    campaign: Campaign, runs: Any, names: Collection[str], user: str
) -> tuple[list[str], dict[str, str]]:
    """Set failed runs of a campaign pending; return their names, and why others are left alone.

    With `names`, also runs whose job is on a machine that is gone; else all that have failed. A run
    that a process has claimed is left alone. Raises UsageError when a run is not of this campaign.
    """
    for name in names:
        if name not in campaign.index:
            raise UsageError(f"run {name} is not in campaign {campaign.name}")
    states = states_of(campaign, runs, names or None)
    found = campaigns.read_runs(runs, states)
    now = documents.server_time(runs)
    done, left = [], {}
    may = {campaigns.FAILED, *(campaigns.OPEN_STATES if names else ())}
    for name, state in states.items():
        if state.state not in may:
            if names:
                left[name] = f"they are {state.state!r}, not failed"
            continue
        if name not in found:
            left[name] = f"they are {GONE}"
            continue
        reason = f"retry of campaign {campaign.name}, by {user}"
        # Unless a process takes it meanwhile
        same = {documents.PROCESSING_CLAIM: found[name].get(documents.PROCESSING_CLAIM)}
        if leases.is_held(found[name], now) or not documents.set_status(
            runs, found[name], "pending", reason, condition=same
        ):
            left[name] = "a process has them"
            continue
        done.append(name)
    return done, left


class Row(NamedTuple):
    """Row of a report: a run with state, input [MB], time [s], failures, reason and last end."""

    run: str
    state: str
    mb: float
    seconds: float | None
    failures: int
    end: datetime | None
    reason: str


#: Fields of a run document for `report`, in addition to `campaigns.FIELDS`
_HISTORY = tuple(f"processing_history.{name}" for name in ("action", "status", "time"))


def report(campaign: Campaign, runs: Any) -> list[Row]:
    """Return a row for each run of a campaign, from its document now."""
    now = documents.server_time(runs)
    found = campaigns.read_runs(runs, campaign.runs, _HISTORY)
    rows = []
    for name, mb in zip(campaign.runs, campaign.mb, strict=True):
        document = found.get(name)
        if document is None:
            rows.append(Row(name, campaigns.FAILED, mb, None, 0, None, GONE))
            continue
        state = campaign_plan.state_of(campaign, document, now)
        last = last_processing(document)
        is_ours = state.state == campaigns.DONE and last is not None and last[0] > campaign.time
        seconds = last[1] if is_ours and last else None
        failures = documents.failures_of(document) if not state.is_new else 0
        rows.append(Row(name, state.state, mb, seconds, failures, state.time, state.reason))
    return rows


def totals(campaign: Campaign, rows: Iterable[Row]) -> str:
    """Return the totals of a report, in one line for each kind."""
    rows = list(rows)
    counts = Counter(row.state for row in rows)
    lines = [", ".join(f"{counts[state]} {state}" for state in campaigns.STATES if counts[state])]
    done = [row for row in rows if row.state == campaigns.DONE and row.end]
    timed = [row for row in done if row.seconds is not None]
    if timed:
        ends = [row.end for row in timed if row.end]
        begin = min(
            end - timedelta(seconds=row.seconds or 0) for row, end in zip(timed, ends, strict=True)
        )
        seconds = max((max(ends) - begin).total_seconds(), 1e-3)
        mb = sum(row.mb for row in timed)
        work = sum(row.seconds or 0 for row in timed)
        lines.append(
            f"{len(timed)} runs, {mb / 1e3:.3g} GB in {campaign_plan.duration(seconds)}: "
            f"{len(timed) / seconds * 3600:.0f} runs/h, {mb / seconds:.3g} MB/s; processor time "
            f"{campaign_plan.duration(work)}, {work / max(mb, 1e-9):.3g} s/MB"
        )
    return "\n".join(lines)


def old_data(campaign: Campaign, runs: Any) -> list[Stored]:
    """Return older versions of what a campaign has made, on this machine, of runs that are done.

    Raw data is not among them.
    """
    found = campaigns.read_runs(runs, campaign.runs)
    return [
        each
        for name in campaign.runs
        if name in found
        and campaign_plan.state_of(campaign, found[name]).state in campaigns.MADE_STATES
        for each in stored.stored(found[name])
        if each.host == documents.this_host()
        and each.data_type in campaign.kind(name).hashes
        and each.data_type not in campaign.raw_types
        and each.lineage_hash not in ("", campaign.kind(name).hashes[each.data_type])
        and campaign.entry(found[name], each.data_type) is not None
        and Path(each.folder).is_dir()
    ]


def deletion_commands(campaign: Campaign, found: Sequence[Stored]) -> str:
    """Return a script that deletes old data, with a summary in comments."""
    sums: dict[tuple[str, str], list[int]] = {}
    for each in found:
        sums.setdefault((each.data_type, each.lineage_hash), []).append(each.n_bytes or 0)
    lines = ["# Nothing is deleted yet: check the list, and run the lines that you want"]
    lines += [
        f"# {data_type} {lineage_hash}: {len(sizes)} runs, {sum(sizes) / 1e9:.4g} GB"
        for (data_type, lineage_hash), sizes in sorted(sums.items())
    ]
    listed = stored.Storage([], [], [], list(found), 0).commands(campaign.detector)
    return "\n".join([*lines, *listed.get(documents.this_host(), ())])
