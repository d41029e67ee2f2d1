"""Process several runs, one after the other, so that a run that crashes costs only itself.

The tool that was started, the parent, supervises a child process, which works on the list of runs
and reports each. If the child dies, the run that it was at has failed, and a new child continues
with the next run. The parent imports neither strax nor numpy. The child is a new process, not a
fork, since forks of processes with threads may hang.

Both processes may get a signal, as from a batch system, or only one. The parent passes a stop on;
a child whose parent dies stops too, after its chunk.

This file is also the program of the child: its argument is the descriptor of a socket.
"""

import argparse
import gc
import logging
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from importlib import import_module
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__" and not __package__:
    # Run as a file: import the amstrax that this file belongs to
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from amstrax.auto_processing.engines import base as engines
from amstrax.commands import base
from amstrax.exceptions import AlreadyAtWork, Postponed, UsageError
from amstrax.rundb.leases import Stop

log = logging.getLogger("amstrax.supervision")

#: Interval at which the parent looks whether it is to stop [s]
_LOOK_EVERY = 0.5
_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
#: What a child reports of a run, besides an exit status for the run
_BEGUN, _POSTPONED, _RECORDED = "begun", "postponed", "recorded"


class _Run(NamedTuple):
    run_id: str
    attempt: str | None = None
    #: Whether it was postponed, and may be waited for now
    waits: bool = False


class _Task(NamedTuple):
    """What a child gets: module of the tool, its options, runs to process, runs that crashed."""

    module: str
    args: argparse.Namespace
    runs: list[_Run]
    crashed: list[tuple[_Run, str]]


def supervise(module: str, args: argparse.Namespace, logger: logging.Logger) -> int:
    """Process ``args.run_id`` and ``args.more_runs`` in child processes; return the exit status.

    It is 0 when all runs are done, 1 when one has failed or was not begun, 2 when all were refused
    for wrong use, and else 75 when another process has a run.

    `module` is the name of the module of the tool. Its functions get the options of the tool for
    one run: ``process_one(args, stop)`` processes it, and raises `Postponed` instead of waiting
    unless ``args.waits``; ``record_crash(args, reason)`` and ``give_back(args, reason)``, if there
    are any, record that the process which worked on it has died, and that it was not begun.
    ``args.attempt``, if there is one, has an attempt for each run.
    """
    base.log_to_console(args.debug)
    stop = Stop()
    with base.stop_on_signals(stop):
        return _Parent(module, args, logger, stop).run()


def _runs_of(args: argparse.Namespace, logger: logging.Logger) -> list[_Run]:
    names = [args.run_id, *args.more_runs]
    attempts = getattr(args, "attempt", None) or [None] * len(names)
    runs: dict[str, _Run] = {}
    for run_id, attempt in zip(names, attempts, strict=True):
        if run_id in runs:
            logger.warning("run %s is named more than once: it is processed once", run_id)
        runs.setdefault(run_id, _Run(run_id, attempt))
    return list(runs.values())


class _Parent:
    """Starts children until all runs have been processed."""

    def __init__(self, module: str, args: argparse.Namespace, logger: logging.Logger, stop: Stop):
        self._module, self._args, self._log, self._stop = module, args, logger, stop
        #: Runs that are left, in their order
        self._left = {run.run_id: run for run in _runs_of(args, logger)}
        self._n_runs = len(self._left)
        self._crashed: list[tuple[_Run, str]] = []
        self._statuses: dict[str, int] = {}

    def run(self) -> int:
        """Process all runs, and return the exit status."""
        while self._crashed or (self._left and not self._stop.event.is_set()):
            if not self._run_child():
                break
        counts = [list(self._statuses.values()).count(status) for status in (0, 75)]
        failed = len(self._statuses) - sum(counts)
        self._log.info(
            "%d runs: %d done, %d failed, %d left to another process, %d not begun",
            *(self._n_runs, counts[0], failed, counts[1], len(self._left)),
        )
        return self._exit_status()

    def _exit_status(self) -> int:
        found = {*self._statuses.values(), *([1] if self._left else [])}
        if found - {0, base.LEFT_TO_ANOTHER}:
            return 2 if found == {2} else 1
        return base.LEFT_TO_ANOTHER if base.LEFT_TO_ANOTHER in found else 0

    def _run_child(self) -> bool:
        """Run a child to its end; return whether another one may continue."""
        ours, its = Pipe()
        task = _Task(self._module, self._args, list(self._left.values()), self._crashed)
        command = [sys.executable, str(Path(__file__)), str(its.fileno())]
        # Until the child has handlers: else it could not give back its runs
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            with its:
                child = subprocess.Popen(command, pass_fds=[its.fileno()])
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        with ours:
            reports, run_id = self._follow(ours, task)
        status = child.wait()
        end = engines.killed(-status) if status < 0 else engines.exited(status)
        if run_id is not None:
            how = f"was {end.reason}" if status < 0 else end.reason or "ended without a result"
            reason = f"the process that worked on it {how}"
            self._log.error("run %s: %s", run_id, reason)
            self._crashed.append((self._left.pop(run_id), reason))
            self._statuses[run_id] = 1
            return True
        if status and not self._stop.event.is_set():
            self._log.error(
                "the process that works on the runs, between two of them: %s", end.reason
            )
        return bool(status and reports)

    def _follow(self, connection: Connection, task: _Task) -> tuple[int, str | None]:
        """Follow a child; return the number of its reports, and the run that it was at, if any."""
        reports, at = 0, None
        is_told = False
        try:
            connection.send(task)
            while True:
                if self._stop.event.is_set() and not is_told:
                    is_told = True
                    connection.send(self._stop.reason)
                if not connection.poll(_LOOK_EVERY):
                    continue
                word, run_id = connection.recv()
                reports += 1
                at = self._note(word, run_id)
        except (EOFError, OSError):
            # The child has ended, or is about to
            return reports, at

    def _note(self, word: str | int, run_id: str) -> str | None:
        """Note a report; return the run that the child is at now, if any."""
        if word == _BEGUN:
            return run_id
        if word == _POSTPONED:
            # Behind all others
            self._left[run_id] = self._left.pop(run_id)._replace(waits=True)
        elif word == _RECORDED:
            self._crashed = [(run, why) for run, why in self._crashed if run.run_id != run_id]
        elif isinstance(word, int):
            del self._left[run_id]
            self._statuses[run_id] = word
        return None


def _collect_garbage() -> None:
    """Free what a run leaves behind, contexts and plugins that refer to each other (1 MB).

    The first time, what stays is hidden from the garbage collector: it belongs to modules, is never
    freed, and would be visited each time, for 0.2 s.
    """
    gc.collect()
    if not gc.get_freeze_count():
        gc.freeze()


class _Child:
    """Processes runs, and reports each to the parent."""

    def __init__(self, connection: Connection, task: _Task, module: Any):
        self._connection, self._task, self._tool, self._log = connection, task, module, module.log

    def run(self, stop: Stop) -> None:
        """Process the runs until `stop` is set, and give back those that are left."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        threading.Thread(target=self._stop_with_parent, args=[stop], daemon=True).start()
        for run, reason in self._task.crashed:
            self._try("record_crash", run, reason)
            self._report(_RECORDED, run)
        runs = deque(self._task.runs)
        while runs and not stop.event.is_set():
            run = runs.popleft()
            self._report(_BEGUN, run)
            outcome = self._process(run, stop)
            self._report(outcome, run)
            if outcome == _POSTPONED:
                runs.append(run._replace(waits=True))
            _collect_garbage()
            stop.reset()
        for run in runs:
            self._try("give_back", run, f"not begun: its job was stopped by {stop.reason}")

    def _stop_with_parent(self, stop: Stop) -> None:
        """Stop when the parent says so, or dies."""
        try:
            reason = self._connection.recv()
        except (EOFError, OSError):
            reason = "the death of its parent process"
        if not stop.ending:
            stop.end(str(reason))

    def _report(self, word: str | int, run: _Run) -> None:
        try:
            self._connection.send((word, run.run_id))
        except OSError:
            # The parent is dead: `_stop_with_parent` stops
            self._log.debug("no parent to report to")

    def _args(self, run: _Run) -> argparse.Namespace:
        own: dict[str, Any] = {"run_id": run.run_id, "more_runs": [], "waits": run.waits}
        return argparse.Namespace(**vars(self._task.args) | own | {"attempt": run.attempt})

    def _process(self, run: _Run, stop: Stop) -> str | int:
        """Process a run, log a failure, and return what to report."""
        try:
            self._tool.process_one(self._args(run), stop)
        except Postponed as error:
            self._log.info("run %s: %s: after the other runs", run.run_id, error)
            return _POSTPONED
        except AlreadyAtWork as error:
            self._log.warning("%s", error)
            return base.LEFT_TO_ANOTHER
        except Exception as error:
            message = stop.message()
            if not stop.reason:
                args = self._task.args
                where = args.output_folder or "the folder for data"
                message = base.describe_failure(
                    error, args, f"run {run.run_id}", where, "--output_folder"
                )
            self._log.error("run %s: %s", run.run_id, message, exc_info=self._task.args.debug)
            return 2 if isinstance(error, UsageError) else 1
        return 0

    def _try(self, change: str, run: _Run, reason: str) -> None:
        """Record something about a run; a failure of that does not stop the others."""
        try:
            if hasattr(self._tool, change):
                getattr(self._tool, change)(self._args(run), reason)
        except Exception as error:
            self._log.error(
                "run %s: %r is not recorded: %s", run.run_id, reason, base.describe_error(error)
            )


def main(argv: Sequence[str]) -> int:
    """Do the task that the parent sends, and return the exit status."""
    with Connection(int(argv[0])) as connection:
        task: _Task = connection.recv()
        tool = import_module(task.module)
        from amstrax.auto_processing import job  # imports strax, which the parent does not

        child = _Child(connection, task, tool)
        return job.run_strax_tool(
            task.args, tool.log, child.run, "the list of runs", "its folder", "--output_folder"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
