"""Small runs of XAMS, XAMSL and an LED run, processed once, for tests of what draws them."""

import numpy as np
import pytest
from make_jobs import made_once, store_apart
from make_runs import RUN_ID, context, pulses, write_run

from amstrax import contexts
from amstrax.processing.compiled import sort_by_time

CONFIG = {
    "gain_to_pe_array": (0.0142857,) * 7,
    "s1_min_area": 1,
    "s2_min_area": 100,
    "s2_min_width": 600,
    "s1_max_width": 240,
    "s1_max_area_fraction_top": 1,
    "s1_min_channels": 1,
    "s2_min_channels": 1,
    "left_event_extension": 50_000,
    "right_event_extension": 50_000,
    "max_drift_length": 52,
    "electron_drift_velocity": 0.00104,
}
N_EVENTS = 40
_TARGETS = {
    "xams": (
        "raw_records", "records", "peaks", "peak_basics", "event_info", "event_waveform",
        "event_area_per_channel", "event_kr83m", "records_sipm", "peaks_sipm",
        "peak_basics_sipm",
        "single_electrons",
    ),
    "xams_little": ("raw_records_v1730", "radon_records", "radon_peaks", "radon_peak_basics"),
    "xams_led": ("raw_records", "records_led", "led_calibration"),
}  # fmt: skip


def _signals(name):
    rng = np.random.default_rng(8)
    dt = 2 if name == "xams_little" else 10
    parts = []
    for i in range(N_EVENTS):
        time = 20_000_000 + i * 110_000_000
        drift = int(rng.integers(4_000, 38_000))
        share = rng.dirichlet([4, 4, 4, 4])
        size = rng.uniform(0.3, 1)
        for channel in (0, 1) if name == "xams_little" else range(7):
            part = 1 if channel in (0, 5, 6) else share[channel - 1]
            s1 = 6_000 * size * (part if part == 1 else 0.2)
            s2 = 3_000 * size * part
            parts.append(pulses(time, channel, dt=dt, height=s1))
            parts.append(pulses(time + drift, channel, n_fragments=4, dt=dt, height=s2, width=380))
    return sort_by_time(np.concatenate(parts))


def _flashes():
    """LED pulses of no photoelectron or one, in five channels."""
    rng = np.random.default_rng(9)
    times = 10_000_000 + np.arange(300) * 15_000_000
    records = pulses(times, range(5), n_fragments=2, height=0)
    noise = np.rint(rng.normal(0, 1.5, records["data"].shape)).astype(np.int16)
    records["data"] += noise
    lit = (records["record_i"] == 0) & (rng.random(len(records)) < 0.3)
    light = np.rint(40 * np.exp(-0.5 * ((np.arange(110) - 95) / 3) ** 2)).astype(np.int16)
    records["data"][lit] -= light
    return records


def _analyse(folder):
    """Store the targets of each context in a folder of its own."""
    for name, targets in _TARGETS.items():
        write_run(folder / name, _flashes() if name == "xams_led" else _signals(name))
        st = context(folder / name, name, **(CONFIG if name == "xams" else {}))
        for target in targets:
            st.make(RUN_ID, target, save=target, progress_bar=False)


@pytest.fixture(scope="session")
def analysed(tmp_path_factory):
    """Contexts by name, in which run RUN_ID is stored; no others have options for live data.

    What is made on demand is stored for this worker.
    """
    folder = made_once(tmp_path_factory, "analysed", _analyse)
    result = {}
    for name in _TARGETS:
        st = getattr(contexts, name)(
            output_folder=folder / name / "out",
            init_rundb=False,
            config=dict(CONFIG if name == "xams" else {}),
        )
        store_apart(st, tmp_path_factory.mktemp(name))
        result[name] = st
    return result
