"""Numbers follow the rules of the specification where the reference runs have no example.

The reference runs have one S1 and one S2 in nearly each event, or no event. Here a dense run has
all kinds of events, with default and other options, and is compared with `plain_rules`.
"""

from types import SimpleNamespace

import numpy as np
import plain_rules
import pytest
import strax
from hypothesis import given, settings
from hypothesis import strategies as st
from make_runs import RUN_ID, START, THREADS, context, load, pulses, rundoc

from amstrax import contexts, redax
from amstrax.processing import events as kernels

#: Arguments of the functions of `amstrax.contexts`, one set a release
RELEASES = [pytest.param({}, id="2.1")]
CHUNKS = (600_000_000, 10_000_000)  #: Duration of chunks and overlaps [ns]
N_CHUNKS = 4
#: Between a signal and the next [ns]: in one event or another, with any options below
GAPS = (6_000, 20_000, 45_000, 90_000, 300_000, 560_000, 1_500_000)

ANY_ORDER = {
    "allow_posts2_s1s": True,
    "force_main_before_alt": True,
    "force_alt_s2_in_max_drift_time": False,
    "default_reconstruction_algorithm": "cgr",
    "left_event_extension": 30_000,
    "right_event_extension": 500_000,
}
COINCIDENT = {
    "tight_coincidence_window": 50,
    "event_s1_min_coincidence": 4,
    "max_drift_length": 0.05,  # 31 us with the default velocity
}
OPTIONS = {"default": {}, "reference": None, "any order": ANY_ORDER, "coincident": COINCIDENT}


def dense_signals(name):
    """Return fragments of S1s, S2s and others, and of external ones at the same time.

    They are at random, but for S2s without a gap for over a second, whose events of a second
    overlap, and one at the very start of the run.
    """
    rng = np.random.default_rng(17)
    dt = 2 if name == "xams_little" else 10
    gaps = rng.choice(GAPS, size=1500)
    chain = np.full(2400, 450_000)
    starts = 100_000 + np.cumsum(np.concatenate([gaps[:700], chain, gaps[700:]]))
    in_chain = np.zeros(len(starts), dtype=bool)
    in_chain[700:3100] = True
    template = rng.integers(0, 60, size=len(starts))
    template[in_chain] = rng.integers(30, 60, size=in_chain.sum())
    parts = [pulses(100_000, range(5), 4, height=700, width=380)]
    for i in np.unique(template):
        times = starts[template == i]
        width, n_fragments, low, high = (20, 1, 60, 900) if i < 30 else (380, 4, 90, 1500)
        if i % 15 == 0:
            width = 60  # too wide or too narrow, depending on options
        size = rng.uniform(low, high)
        # S1s are mostly seen below, S2s above; some channels see nothing
        share = np.array([rng.uniform(0.78, 0.9) if i < 30 else 0.2, 0, 0, 0, 0])
        share[1:] = (1 - share[0]) * rng.dirichlet([5, 5, 5, 5])
        if i % 10 == 1:
            share[rng.integers(1, 5)] = 0
        for channel in range(2) if name == "xams_little" else range(5):
            if share[channel]:
                height = max(size * share[channel] * 5, 18)
                parts.append(pulses(times, channel, n_fragments, dt, height, width))
        if name == "xams":
            # About 511 with gains of 1, and with those of the reference
            for channel in (5, 6):
                chosen = times[rng.random(len(times)) < 0.3] + rng.choice([0, 30, 90, 150])
                height = rng.choice([44, 48, 3150, 3250, 2000])
                parts.append(pulses(chosen, channel, height=height))
    return strax.sort_by_time(np.concatenate(parts))


@pytest.fixture(scope="module")
def dense_run(tmp_path_factory):
    """Return a function that returns the folder of the dense run of a context."""
    folders = {}

    def write(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            records = dense_signals(name)
            for i in range(N_CHUNKS):
                redax.write_chunk(folders[name] / RUN_ID, i, records, THREADS, *CHUNKS)
            redax.write_end(folders[name] / RUN_ID, THREADS)
        return folders[name]

    return write


def dense_context(folder, name, release, **options):
    length, overlap = (duration / 1e9 for duration in CHUNKS)
    document = rundoc(strax_chunk_length=length, strax_chunk_overlap=overlap)
    return context(folder, name, document, **options)
