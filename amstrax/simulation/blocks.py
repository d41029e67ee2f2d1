"""Simulation of a run in memory: all steps in order, block by block of time."""

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple, TypeVar

import numpy as np
from immutabledict import immutabledict

from amstrax.exceptions import InvalidOption
from amstrax.processing.compiled import sort_by_time
from amstrax.simulation import digitizer, effects, light, optics, parts, sensors, sources, yields
from amstrax.simulation.detector import Detector, Rng
from amstrax.simulation.writer import TRUTH_DTYPE

log = logging.getLogger(__name__)
T = TypeVar("T")

BLOCK = 500_000_000  # length of a block [ns]
_EDGE = 100_000  # time without events at the start of a run [ns]
_EARLY = 1_000  # most time of a signal before its event [ns]
_HELPERS = 2  # threads that simulate blocks ahead; any number gives the same run
MOST_LIGHT = 50_000.0  # rate of events above which pulses would hardly ever end [Hz]


class Block(NamedTuple):
    """Data of a stretch of time, with times from the start of the run."""

    records: np.ndarray  # fragments of `strax.raw_record_dtype`
    truth: np.ndarray  # rows of `TRUTH_DTYPE`
    deposits: np.ndarray  # rows of `parts.DEPOSIT_DTYPE`
    light: np.ndarray  # rows of `parts.LIGHT_DTYPE`
    complete_until: float  # no later block has fragments that start before this [ns]
    parts_until: int  # nor deposits or light [ns]


@dataclass(frozen=True)
class Settings:
    """Settings of a simulated run."""

    detector: Detector
    source: str = "kr83m"  #: one of `sources.SOURCES`
    rate: float = 5.0  #: of events in the xenon [Hz]
    duration: float = 60.0  #: of the run [s]
    seed: int = 0  #: the same seed gives the same run
    energy_range: tuple[float, float] | None = None  #: of sources with uniform energies [keV]
    #: of a source of photons [mm]; None: from everywhere outside (``am241``: inside)
    source_position: tuple[float, float, float] | None = None
    #: other sources in the run, and their rates [Hz]
    backgrounds: Mapping[str, float] = immutabledict()
    occupancy: float = 0.1  #: mean photoelectrons of a PMT in a flash of an LED run
    yields: str = "nest"  #: one of `yields.MODELS`
    optics: str = "geometry"  #: one of `optics.MODELS`
    without: tuple[str, ...] = ()  #: effects to leave out, of `effects.EFFECTS`

    def __post_init__(self) -> None:
        """Raise InvalidOption for impossible values."""
        found = sources.source(self.source, self.energy_range, self.source_position)
        for name, rate in ((self.source, self.rate), *self.backgrounds.items()):
            if not 0 <= rate <= MOST_LIGHT:
                raise InvalidOption(
                    f"the rate cannot be {rate} Hz, of {name}: take 0 to {MOST_LIGHT:.0f}"
                )
        for name in self.backgrounds:
            if found.model is None or sources.source(name).model is None:
                raise InvalidOption(
                    f"background {name!r} with source {self.source!r}: LED runs have no xenon, "
                    "leave one of them out"
                )
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
        optics.check(self.optics)
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
    if _last_event(settings) <= _EDGE:
        shortest = (_EDGE + settings.nanoseconds - _last_event(settings)) / 1e6
        log.warning(
            "a run of %g ms has no events, for which their light has no time: simulate more than "
            "%.2f ms",
            settings.nanoseconds / 1e6,
            shortest,
        )
    model = yields.model(settings.yields, detector.xenon_density, detector.drift_field)
    patterns = optics.model(settings.optics, detector)
    return _xenon_blocks(settings, model, patterns, seeds)


def _last_event(settings: Settings) -> float:
    """Return the time until which events begin, so that their light is in the run [ns]."""
    return settings.nanoseconds - 2 * settings.acting.drift_time_cathode - _EDGE


def _xenon_blocks(
    settings: Settings,
    model: yields.Yields,
    patterns: optics.Patterns,
    seeds: np.random.SeedSequence,
) -> Iterator[Block]:
    detector, end = settings.acting, settings.nanoseconds
    board = digitizer.Digitizer(detector, _generator(seeds))
    n_events, n_deposits = 0, 0
    for stop, (signals, truth, deposits, bright) in _ahead(
        (
            (stop, partial(_signals, settings, model, patterns, _generator(seeds), start, stop))
            for start, stop in _stretches(end)
        )
    ):
        for table in (truth, deposits, bright):
            table["event_number"][table["event_number"] >= 0] += n_events
        for table in (deposits, bright):
            table["deposit"][table["deposit"] >= 0] += n_deposits
        n_events += len(truth)
        n_deposits += len(deposits)
        board.add(signals)
        is_last = stop == end
        # The spread in time can move light of the next block before its start
        pulses = board.digitize(math.inf if is_last else stop - _EARLY)
        records = digitizer.fragments(pulses, detector)
        if detector.busy_rate > 0:
            dead = board.dead_time(end if is_last else board.complete_until)
            records = sort_by_time(np.concatenate([records, dead]))
        records = records[records["time"] < end]
        complete_until = end if is_last else board.complete_until
        yield Block(records, truth, deposits, bright, complete_until, stop - _EARLY)
    if board.lost_pulses:
        log.warning(
            "%d pulses were lost because the memory of the digitizer was full: the rate of data is "
            "higher than it can send",
            board.lost_pulses,
        )


def _stretches(end: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each block of a run [ns]."""
    for start in range(0, end, BLOCK):
        yield start, min(start + BLOCK, end)


def _ahead(tasks: Iterator[tuple[int, Callable[[], T]]]) -> Iterator[tuple[int, T]]:
    """Yield what tasks return, with their numbers; helper threads do the next ones meanwhile."""
    with ThreadPoolExecutor(_HELPERS, thread_name_prefix="simulation") as helpers:
        waiting: deque[tuple[int, Future[T]]] = deque()
        for number, task in tasks:
            waiting.append((number, helpers.submit(task)))
            if len(waiting) > _HELPERS:
                number, done = waiting.popleft()
                yield number, done.result()
        for number, done in waiting:
            yield number, done.result()


def _signals(
    settings: Settings,
    model: yields.Yields,
    patterns: optics.Patterns,
    rng: Rng,
    start: int,
    stop: int,
) -> tuple[sensors.Signals, np.ndarray, np.ndarray, np.ndarray]:
    """Return signals, truth, deposits and light of the events from `start` to `stop`."""
    detector = settings.acting
    last = _last_event(settings)
    start = max(start, _EDGE)
    deposits, external = _deposits(rng, settings, detector, start, min(stop, last))
    photons, freed = model.quanta(rng, deposits)
    drift = light.drift_times(deposits.z, detector)
    drifting = rng.binomial(freed, deposits.charge)
    in_gas = light.extracted(rng, light.surviving(rng, drifting, drift, detector), detector)
    s1 = light.s1_photoelectrons(rng, deposits, photons, patterns, detector)
    x, y = (
        light.mean_positions(rng, position, drift, in_gas, detector)
        for position in (deposits.x, deposits.y)
    )
    s2 = light.s2_photoelectrons(
        rng,
        light.arrival_times(rng, deposits.time, drift, in_gas, detector),
        np.arange(len(deposits.event)),
        x,
        y,
        patterns,
        detector,
    )
    all_light = light.join(
        *(s1, light.photoionisation(rng, s1, patterns, detector)),
        *(s2, light.photoionisation(rng, s2, patterns, detector)),
        light.delayed_electrons(rng, deposits.time + drift, in_gas, x, y, patterns, detector),
        sensors.dark_counts(rng, detector, start, stop),
    )
    all_light = light.join(all_light, sensors.afterpulses(rng, all_light, detector))
    if detector.external_channel is not None:
        background = sources.external_background(rng, detector, start, stop)
        external = light.join(external, background)
    nai, measured = sensors.external_signals(rng, external, detector)
    signals = light.join(sensors.charges(rng, all_light, detector), nai)
    of_s1, of_s2 = (light.of_deposits(part, deposits, detector) for part in (s1, s2))
    truth = _truth(deposits, photons, freed, of_s1, of_s2)
    own = external.event >= 0
    truth["external_energy"][external.event[own]] = measured[own]
    of_deposits = parts.deposit_table(deposits, photons, freed, in_gas, of_s1.n_pe, of_s2.n_pe)
    bright = parts.light_table(all_light, all_light.event(deposits), detector)
    nai_deposits = parts.external_table(external, measured, detector)
    return signals, truth, of_deposits, np.concatenate([bright, nai_deposits])


def _deposits(
    rng: Rng, settings: Settings, detector: Detector, start: float, stop: float
) -> tuple[sources.Deposits, sources.External]:
    """Return the deposits of the events of all sources from `start` to `stop`."""
    own = sources.source(settings.source, settings.energy_range, settings.source_position)
    rates = [(own, settings.rate)]
    rates += [(sources.source(name), rate) for name, rate in settings.backgrounds.items()]
    found = []
    for source, rate in rates:
        times = sources.event_times(rng, rate, start, stop)
        found.append(sources.deposits(rng, source, times, detector, stop))
    return found[0] if len(found) == 1 else sources.merge(*found)


def _truth(
    deposits: sources.Deposits,
    photons: np.ndarray,
    freed: np.ndarray,
    s1: light.OfDeposits,
    s2: light.OfDeposits,
) -> np.ndarray:
    """Return a row for each event, times from the start of the run."""
    first = np.flatnonzero(np.diff(deposits.event, prepend=-1))
    times = deposits.time[first]
    n = len(times)
    truth = np.zeros(n, dtype=TRUTH_DTYPE)
    truth["time"] = times
    truth["event_number"] = np.arange(n)
    for axis in ("x", "y", "z"):
        truth[axis] = getattr(deposits, axis)[first]
    event = deposits.event
    truth["energy"] = np.bincount(event, deposits.energy, n)
    truth["photons"] = np.bincount(event, photons, n)
    truth["electrons"] = np.bincount(event, freed, n)
    truth["n_deposits"] = np.bincount(event, minlength=n)
    last = truth["time"].copy()
    for name, part in (("s1", s1), ("s2", s2)):
        total = np.bincount(event, part.n_pe, n)
        # Relative to the event, since sums of times are too large for exact floats
        later = deposits.time - times[event]
        moment = np.bincount(event, part.moment + part.n_pe * later, n)
        truth[f"{name}_pe"] = total
        found = total > 0
        center = truth[f"{name}_center_time"]
        center[:] = -1
        center[found] = (times + moment / np.maximum(total, 1))[found]
        np.maximum.at(last, event, part.last.astype(np.int64))
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
    for start, stop in _stretches(end):
        rng = _generator(seeds)
        first = max(-(-start // detector.dt // interval), 1)
        following = max(-(-stop // detector.dt // interval), 1)
        triggers = np.arange(first, following) * interval
        triggers = triggers[triggers < last]
        flashes = _led_light(rng, triggers, settings)
        # From before the first window to before that of the next block: none is cut
        begin, beyond = (n * interval * detector.dt - _EARLY for n in (first, following))
        begin, beyond = begin if start else 0, end if stop == end else beyond
        all_light = light.join(flashes, sensors.dark_counts(rng, detector, begin, beyond))
        all_light = light.join(all_light, sensors.afterpulses(rng, all_light, detector))
        signals = sensors.charges(rng, all_light, detector)
        pulses = board.windows(triggers, detector.led_samples, signals)
        truth = _led_truth(triggers, flashes, detector)
        truth["event_number"] += first - 1
        flash = np.where(all_light.deposit >= 0, all_light.deposit + first - 1, -1)
        nothing = np.full_like(flash, light.NO_DEPOSIT)
        bright = parts.light_table(all_light._replace(deposit=nothing), flash, detector)
        no_deposits = np.zeros(0, dtype=parts.DEPOSIT_DTYPE)
        records = digitizer.fragments(pulses, detector)
        yield Block(records, truth, no_deposits, bright, stop, stop - _EARLY)


def _led_light(rng: Rng, triggers: np.ndarray, settings: Settings) -> light.Light:
    """Return the photoelectrons of flashes; `Light.deposit` counts the flashes of this block."""
    detector = settings.acting
    channels = np.array(detector.tpc_channels, dtype=np.int16)
    counts = rng.poisson(settings.occupancy, size=(len(triggers), len(channels)))
    flash, column = np.divmod(np.repeat(np.arange(counts.size), counts.ravel()), len(channels))
    mean = (triggers[flash] + detector.led_sample) * detector.dt
    times = rng.normal(mean, detector.led_width)
    return light.Light.of(light.Origin.LED, times, channels[column], flash)


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


def _generator(seeds: np.random.SeedSequence) -> Rng:
    return np.random.default_rng(seeds.spawn(1)[0])
