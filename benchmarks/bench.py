#!/usr/bin/env python
"""Compare the working tree with another commit: CPU seconds, wall, memory, instructions.

Both sides run in turns, each in processes of their own with their own cache of numba, so that other
load on the machine meets both alike. The exit status is 1 only if a process failed.
"""

import argparse
import contextlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from common import RUN_ID, machine, measured, simulated_run

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
#: Number of loaded runs
N_RUNS = 200


class Case(NamedTuple):
    """A row of the table: function of cases.py, its arguments, and number of calls in a process.

    With one call the whole process is measured, else the calls after the first.
    """

    title: str
    function: str
    arguments: tuple[str, ...]
    times: int = 1


class Used(NamedTuple):
    """What a process used: CPU and wall [s], largest resident memory [MiB]."""

    cpu: float
    wall: float
    memory: float


class Side:
    """A source tree to measure, with its own cache of numba."""

    def __init__(self, name: str, tree: Path, work: Path):
        self.name = name
        self.failed: list[str] = []
        #: Text in the arguments of cases -> what it stands for on this side
        self.folders: dict[str, str] = {}
        self._environment = {"PYTHONPATH": str(tree), "PYTHONHASHSEED": "0"}
        self._cache = work / f"{name} numba"

    def run(self, case: Case, times: int, prefix: tuple[str, ...] = (), **more: str) -> Used | None:
        """Run a case in a process; None if it failed, which is reported."""
        command = [*prefix, sys.executable, "-W", "ignore", str(HERE / "cases.py")]
        arguments = (self.folders.get(argument, argument) for argument in case.arguments)
        command += [case.function, str(times), *arguments]
        cache = {"NUMBA_CACHE_DIR": f"{self._cache}{len(more)}"}
        done = measured(command, **self._environment | cache | more)
        if done.status:
            last = (done.errors.strip() or "no output").splitlines()[-1]
            print(f"{case.title}, {self.name}: failed: {last}", file=sys.stderr)
            self.failed.append(case.title)
            return None
        if case.times == 1:
            return Used(done.cpu_seconds, done.seconds, done.mebibytes)
        calls = [[float(x) for x in line.split()[:2]] for line in done.output.splitlines()]
        # The first call compiles, or loads what is compiled
        middle = map(statistics.median, zip(*(calls[1:] or calls), strict=True))
        return Used(*middle, done.mebibytes)

    def instructions(self, case: Case) -> float | None:
        """Return the instructions of a case, of its second call if it has several."""
        counts = [self._count(case, times) for times in ((1,) if case.times == 1 else (1, 2))]
        return None if None in counts else counts[-1] - (counts[0] if len(counts) > 1 else 0)

    def _count(self, case: Case, times: int) -> float | None:
        with tempfile.NamedTemporaryFile("r") as log:
            if has_counters():
                prefix = ("perf", "stat", "-x,", "-e", "instructions:u", "-o", log.name)
                more = {}
            else:
                prefix = ("valgrind", "--tool=cachegrind", "--cache-sim=no")
                prefix += ("--cachegrind-out-file=/dev/null", f"--log-file={log.name}")
                # valgrind does not know the newest instructions
                more = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
                self.run(case, times, **more)
            if self.run(case, times, prefix, **more) is None:
                return None
            found = re.search(r"I\s+refs:\s+([\d,]+)|^(\d+),,instructions", log.read(), re.M)
            return float((found[1] or found[2]).replace(",", "")) if found else None


def has_counters() -> bool:
    """Return whether the processor counts instructions here; virtual ones often do not."""
    with contextlib.suppress(OSError):
        command = ["perf", "stat", "-x,", "-e", "instructions:u", "true"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return re.search(r"^\d+,,instructions", done.stderr, re.M) is not None
    return False


@contextlib.contextmanager
def checkout(commit: str, folder: Path) -> Iterator[Path]:
    """Provide a work tree of a commit."""
    git = ["git", "-C", str(ROOT)]
    subprocess.run([*git, "worktree", "add", "--quiet", "--detach", folder, commit], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "worktree", "remove", "--force", folder], check=True)


def default_base() -> str:
    """Return HEAD if the working tree differs from it, else the commit before it."""
    changed = subprocess.run(["git", "-C", str(ROOT), "diff", "--quiet", "HEAD"], check=False)
    return "HEAD" if changed.returncode else "HEAD~1"


def report(sides: list[Side], cases: list[Case], rounds: int, count: bool) -> None:
    """Measure cases in turns, and print a table."""
    columns = ("CPU [s]", "wall [s]", "memory [MiB]", "10^9 instructions")
    print(f"{'':34s}{''.join(f'{name:>18s}' for name in columns)}")
    for case in cases:
        print(case.title)
        pairs = []
        for i in range(rounds):
            turn = sides[:: 1 if i % 2 else -1]
            found = {side: side.run(case, case.times) for side in turn}
            pairs.append([found[side] for side in sides])
        good = [pair for pair in pairs if None not in pair]
        if not good:
            print("  failed")
            continue
        counted: list[float | None] = [None for _ in sides]
        if count:
            with ThreadPoolExecutor(len(sides)) as pool:
                counted = list(pool.map(Side.instructions, sides, [case] * len(sides)))
        for side, used, n in zip(sides, zip(*good, strict=True), counted, strict=True):
            middle = map(statistics.median, zip(*used, strict=True))
            _print_row(side.name, [*middle, n and n / 1e9], 3)
        # Each pair ran one after the other, and met the same other load
        ratios = [statistics.median(new[k] / old[k] for old, new in good) for k in range(3)]
        of_counts = counted[1] / counted[0] if None not in counted else None
        _print_row("new / old, median of pairs", [*ratios, of_counts], 2)


def _print_row(name: str, values: list[float | None], digits: int) -> None:
    texts = ["missing" if value is None else f"{value:.{digits}f}" for value in values]
    print(f"  {name:32s}{''.join(f'{text:>18s}' for text in texts)}", flush=True)


def main() -> int:
    """Measure, and print a table; 1 if a process failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", nargs="?", help="commit to compare with (default: the last one)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each case (%(default)s)")
    parser.add_argument("--rate", type=float, default=75, help="events/s of the run (%(default)s)")
    parser.add_argument(
        "--valgrind",
        action="store_true",
        help="count instructions with valgrind, which takes minutes, where the processor cannot",
    )
    args = parser.parse_args()
    base = args.base or default_base()
    count = has_counters() or (args.valgrind and shutil.which("valgrind") is not None)
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        work = Path(name)
        run = simulated_run(work / "run", rate=args.rate)
        short = simulated_run(work / "short", seconds=5, rate=args.rate)
        print(f"run of {run.seconds} s: {run.megabytes:.1f} MB, {run.n_records} raw records")
        old = Side(f"old, {base}", stack.enter_context(checkout(base, work / "old")), work)
        sides = [old, Side("new, working tree", ROOT, work)]
        job = tuple(run.options())
        process = partial(Case, function="process")
        cases = [
            Case("import strax", "imports", ("strax",)),
            Case("import amstrax.contexts", "imports", ("amstrax.contexts",)),
            process("job, fresh process", arguments=job),
            process("warm process, 1 worker", arguments=job, times=5),
            process("warm process, 2 workers", arguments=tuple(run.options(2)), times=5),
            process(
                "warm process, improved reconstruction",
                arguments=(*job, "--reconstruction=improved"),
                times=5,
            ),
        ]
        report(sides, [process("job, nothing compiled", arguments=job)], 1, False)
        # Each side loads what it has made, since lineages may differ
        for side in sides:
            folder = str(work / f"{side.name} made")
            side.run(
                Case("copies", "copies", (RUN_ID, folder, str(N_RUNS), *short.options()[1:])), 1
            )
            side.folders["{made}"] = folder
        config = str(short.folder / f"config_{RUN_ID}.json")
        loading = ("{made}", config)
        cases += [
            Case("import, and event_info of one run", "load", (*loading, "1")),
            Case(f"event_info of {N_RUNS} runs, warm", "load", (*loading, str(N_RUNS)), 4),
        ]
        report(sides, cases, args.rounds, count)
        floors = {
            "decompress, sort, compress the run": ("floor_of_chain", str(run.folder / RUN_ID)),
            f"read {N_RUNS} runs": ("floor_of_loading", sides[1].folders["{made}"]),
        }
        for title, (function, folder) in floors.items():
            floor = sides[1].run(Case(title, function, (folder,), 6), 6)
            print(f"floor, CPU [s]: {title:30s}{floor.cpu if floor else float('nan'):8.3f}")
    if not count:
        print("Instructions are missing: no perf counters on this machine; see --valgrind")
    return 1 if any(side.failed for side in sides) else 0


if __name__ == "__main__":
    sys.exit(main())
