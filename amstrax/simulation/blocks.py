"""Simulation of a run in memory: all steps in order, block by block of time."""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from amstrax.exceptions import InvalidOption
from amstrax.simulation import digitizer, effects, light, sensors, sources, yields
from amstrax.simulation.detector import Detector
from amstrax.simulation.writer import TRUTH_DTYPE

log = logging.getLogger(__name__)

BLOCK = 500_000_000  # length of a block [ns]
_EDGE = 100_000  # time without events at the start of a run [ns]
_EARLY = 1_000  # most time of a signal before its event [ns]
MOST_LIGHT = 50_000.0  # rate of events above which pulses would hardly ever end [Hz]


class Block(NamedTuple):
    """Data of a stretch of time, with times from the start of the run."""

    records: np.ndarray  # fragments of `strax.raw_record_dtype`
    truth: np.ndarray  # rows of `TRUTH_DTYPE`
    complete_until: float  # no later block has fragments that start before this [ns]


@dataclass(frozen=True)
class Settings:
    """Settings of a simulated run."""

    detector: Detector
    source: str = "kr83m"  #: one of `sources.SOURCES`
    rate: float = 5.0  #: of events in the xenon [Hz]
    duration: float = 60.0  #: of the run [s]
    seed: int = 0  #: the same seed gives the same run
    energy_range: tuple[float, float] | None = None  #: for the source ``flat`` [keV]
    occupancy: float = 0.1  #: mean photoelectrons of a PMT in a flash of an LED run
    yields: str = "nest"  #: one of `yields.MODELS`
    without: tuple[str, ...] = ()  #: effects to leave out, of `effects.EFFECTS`

    def __post_init__(self) -> None:
        """Raise InvalidOption for impossible values."""
        found = sources.source(self.source, self.energy_range)
        if not 0 <= self.rate <= MOST_LIGHT:
            raise InvalidOption(f"the rate cannot be {self.rate} Hz: take 0 to {MOST_LIGHT:.0f}")
        if not 0 < self.duration < math.inf:
            raise InvalidOption(f"a run cannot take {self.duration} s: take more than 0")
        if not (isinstance(self.seed, int) and self.seed >= 0):
            raise InvalidOption(f"the seed cannot be {self.seed!r}: take a whole number from 0 on")
        if not 0 <= self.occupancy <= 1000:
            raise InvalidOption(
                f"the occupancy cannot be {self.occupancy}: take 0 to 1000 photoelectrons"
            )
        if self.yields not in yields.MODELS:
            raise InvalidOption(
                f"yields cannot come from {self.yields!r}: take one of {', '.join(yields.MODELS)}"
            )
        if found.model is None and self.detector.led_context is None:
            raise InvalidOption(f"no LED runs of {self.detector.name}: take another source")
        effects.check(self.without)

    @cached_property
    def acting(self) -> Detector:
        """The detector without the effects that are left out."""
        return effects.switch_off(self.detector, self.without)

    @property
    def is_led(self) -> bool:
        """Whether this is an LED calibration run."""
        return sources.SOURCES[self.source].model is None

    @property
    def nanoseconds(self) -> int:
        """Length of the run [ns]."""
        return round(self.duration * 1e9)


def blocks(settings: Settings) -> Iterator[Block]:
    """Simulate a run, block by block; memory does not grow with its length.

    Raises NotAvailable at once when nestpy is missing and the yields come from it.
    """
    seeds = np.random.SeedSequence(settings.seed)
    if settings.is_led:
        return _led_blocks(settings, seeds)
    detector = settings.acting
    model = yields.model(settings.yields, detector.xenon_density, detector.drift_field)
    return _xenon_blocks(settings, model, seeds)


def _xenon_blocks(
    settings: Settings, model: yields.Yields, seeds: np.random.SeedSequence
) -> Iterator[Block]:
    detector, end = settings.acting, settings.nanoseconds
    board = digitizer.Digitizer(detector, _generator(seeds))
    n_events = 0
    for start in range(0, end, BLOCK):
        stop = min(start + BLOCK, end)
        signals, truth = _signals(settings, model, _generator(seeds), start, stop)
        truth["event_number"] += n_events
        n_events += len(truth)
        board.add(signals)
        is_last = stop == end
        # The spread in time can move light of the next block before its start
        pulses = board.digitize(math.inf if is_last else stop - _EARLY)
        records = digitizer.fragments(pulses, detector)
        records = records[records["time"] < end]
        yield Block(records, truth, end if is_last else board.complete_until)
    if board.lost_pulses:
        log.warning(
            "%d pulses were lost because the memory of the digitizer was full: the rate of data is "
            "higher than it can send",
            board.lost_pulses,
        )


def _signals(
    settings: Settings, model: yields.Yields, rng: np.random.Generator, start: int, stop: int
) -> tuple[sensors.Signals, np.ndarray]:
    """Return the signals and the truth of the events from `start` to `stop`."""
    detector = settings.acting
    last = settings.nanoseconds - 2 * detector.drift_time_cathode - _EDGE
    start = max(start, _EDGE)
    times = sources.event_times(rng, settings.rate, start, min(stop, last))
    source = sources.source(settings.source, settings.energy_range)
    deposits, external = sources.deposits(rng, source, times, detector)
    photons, freed = model.quanta(rng, deposits)
    drift = light.drift_times(deposits.z, detector)
    in_gas = light.extracted(rng, light.surviving(rng, freed, drift, detector), detector)
    s1 = light.s1_photoelectrons(rng, deposits, photons, detector)
    s2 = light.s2_photoelectrons(
        rng,
        light.arrival_times(rng, deposits.time, drift, in_gas, detector),
        in_gas,
        np.arange(len(deposits.event)),
        light.mean_positions(rng, deposits.x, drift, in_gas, detector),
        light.mean_positions(rng, deposits.y, drift, in_gas, detector),
        detector,
    )
    all_light = light.join(s1, s2, sensors.dark_counts(rng, detector, start, stop))
    all_light = light.join(all_light, sensors.afterpulses(rng, all_light, detector))
    if detector.external_channel is not None:
        background = sources.external_background(rng, detector, start, stop)
        external = light.join(external, background)
    nai, measured = sensors.external_signals(rng, external, detector)
    signals = light.join(sensors.charges(rng, all_light, detector), nai)
    truth = _truth(times, deposits, photons, freed, s1, s2, detector)
    own = external.event >= 0
    truth["external_energy"][external.event[own]] = measured[own]
    return signals, truth


def _truth(
    times: np.ndarray,
    deposits: sources.Deposits,
    photons: np.ndarray,
    freed: np.ndarray,
    s1: light.Light,
    s2: light.Light,
    detector: Detector,
) -> np.ndarray:
    """Return a row for each event, times from the start of the run."""
    n = len(times)
    truth = np.zeros(n, dtype=TRUTH_DTYPE)
    truth["time"] = times
    truth["event_number"] = np.arange(n)
    first = np.searchsorted(deposits.event, np.arange(n))
    for axis in ("x", "y", "z"):
        truth[axis] = getattr(deposits, axis)[first]
    event = deposits.event
    truth["energy"] = np.bincount(event, deposits.energy, n)
    truth["photons"] = np.bincount(event, photons, n)
    truth["electrons"] = np.bincount(event, freed, n)
    truth["n_deposits"] = np.bincount(event, minlength=n)
    last = truth["time"].copy()
    for name, part in (("s1", s1), ("s2", s2)):
        seen = np.isin(part.channel, detector.tpc_channels)
        of_event = part.event(deposits)
        event, count = of_event[seen], part.n_pe[seen]
        total = np.bincount(event, count, n)
        # Relative to the event, since sums of times are too large for exact floats
        moment = np.bincount(event, count * (part.time[seen] - times[event]), n)
        truth[f"{name}_pe"] = total
        found = total > 0
        center = truth[f"{name}_center_time"]
        center[:] = -1
        center[found] = (times + moment / np.maximum(total, 1))[found]
        np.maximum.at(last, of_event, part.time.astype(np.int64))
    truth["endtime"] = last + 1
    both = (truth["s1_pe"] > 0) & (truth["s2_pe"] > 0)
    truth["drift_time"] = np.where(both, truth["s2_center_time"] - truth["s1_center_time"], np.nan)
    return truth


def _led_blocks(settings: Settings, seeds: np.random.SeedSequence) -> Iterator[Block]:
    detector, end = settings.acting, settings.nanoseconds
    board = digitizer.Digitizer(detector, _generator(seeds))
    # The first flash is an interval after the start
    interval = round(1e9 / detector.led_rate / detector.dt)  # [samples]
    last = (end - detector.led_samples * detector.dt) // detector.dt
    for start in range(0, end, BLOCK):
        stop = min(start + BLOCK, end)
        rng = _generator(seeds)
        first = max(-(-start // detector.dt // interval), 1)
        triggers = np.arange(first, -(-stop // detector.dt // interval)) * interval
        triggers = triggers[triggers < last]
        flashes = _led_light(rng, triggers, settings)
        all_light = light.join(flashes, sensors.dark_counts(rng, detector, start, stop))
        all_light = light.join(all_light, sensors.afterpulses(rng, all_light, detector))
        signals = sensors.charges(rng, all_light, detector)
        pulses = board.windows(triggers, detector.led_samples, signals)
        truth = _led_truth(triggers, flashes, detector)
        truth["event_number"] += first - 1
        yield Block(digitizer.fragments(pulses, detector), truth, stop)


def _led_light(rng: np.random.Generator, triggers: np.ndarray, settings: Settings) -> light.Light:
    """Return the photoelectrons of flashes; `Light.deposit` counts the flashes of this block."""
    detector = settings.acting
    channels = np.array(detector.tpc_channels, dtype=np.int16)
    counts = rng.poisson(settings.occupancy, size=(len(triggers), len(channels)))
    flash, column = np.divmod(np.repeat(np.arange(counts.size), counts.ravel()), len(channels))
    mean = (triggers[flash] + detector.led_sample) * detector.dt
    times = rng.normal(mean, detector.led_width)
    return light.Light.single(times, channels[column], light.Origin.LED, flash)


def _led_truth(triggers: np.ndarray, flashes: light.Light, detector: Detector) -> np.ndarray:
    """Return a row for each flash: its photoelectrons are in ``s1_pe``."""
    truth = np.zeros(len(triggers), dtype=TRUTH_DTYPE)
    truth["time"] = triggers * detector.dt
    truth["endtime"] = truth["time"] + detector.led_samples * detector.dt
    truth["event_number"] = np.arange(len(triggers))
    truth["s1_pe"] = np.bincount(flashes.deposit, flashes.n_pe, len(triggers))
    truth["s1_center_time"] = truth["time"] + round(detector.led_sample * detector.dt)
    truth["s2_center_time"] = -1
    truth["drift_time"] = np.nan
    return truth


def _generator(seeds: np.random.SeedSequence) -> np.random.Generator:
    return np.random.default_rng(seeds.spawn(1)[0])
