"""What is killed on the day of test_day.py, and when; imports nothing that takes time."""

import os
import random
from typing import NamedTuple

N_RUNS = int(os.environ.get("AMSTRAX_DAY_RUNS", "8"))
#: How often each of these is killed on a day of 30 runs: nothing but the DAQ itself is spared
KILLS = {
    "a job": 6,
    "auto_processing": 3,
    "copy_live": 3,
    "delete_live": 3,
    "slurmd": 2,
    "slurmctld": 2,
    "sshd": 3,
    "the run database": 3,
}
#: What a run comes to, as the watcher sees it
STEPS = ("taken", "running", "done")


class Kill(NamedTuple):
    """What is killed, when a run has come to a step, and for how long it is down [s]."""

    run: int
    step: str
    victim: str
    down: float


def n_kills(n_runs: int) -> dict[str, int]:
    """Return how often each victim is killed on a day of so many runs."""
    return {victim: max(1, round(n * n_runs / 30)) for victim, n in KILLS.items()}


def plan(seed: int, n_runs: int = N_RUNS) -> list[Kill]:
    """Return what is to be killed on a day, as chosen by seed, run and step, and nothing else."""
    kills = []
    for victim, times in n_kills(n_runs).items():
        steps = ("running",) if victim == "a job" else STEPS
        # Not at the very end, where nothing is left to be disturbed
        moments = [(run, step) for run in range(1, max(n_runs, 2)) for step in steps]
        chosen = random.Random(f"{seed} {victim}").sample(moments, min(times, len(moments)))
        for run, step in chosen:
            down = random.Random(f"{seed} {victim} {run} {step}").uniform(0.3, 2)
            kills.append(Kill(run, step, victim, round(down, 3)))
    return sorted(kills)
