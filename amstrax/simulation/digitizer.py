"""Digitizer: from analogue signals to pulses of ADC counts, and their fragments as of redax.

Positions are in samples since the start of the run.
"""

import math
from typing import Any, NamedTuple

import numba
import numpy as np
import strax

from amstrax.processing.compiled import check_bounds, sort_by_time
from amstrax.redax import DEAD_TIME_CHANNELS
from amstrax.simulation.detector import Detector, Rng
from amstrax.simulation.light import join
from amstrax.simulation.sensors import PHASES, Signals, base_gain, pulse_shapes


class Pulses(NamedTuple):
    """Pulses of a block of time, in any order."""

    channel: np.ndarray  # shape (n,)
    start: np.ndarray  # first sample
    length: np.ndarray  # samples
    offset: np.ndarray  # index of its first sample in `samples`
    samples: np.ndarray  # ADC counts of all pulses, shape (sum of lengths,)


class Digitizer:
    """Self-triggered digitizer: a pulse starts where the signal of a channel reaches the threshold.

    Signals are added in any order: `digitize` takes those whose neighbours are known, and keeps the
    rest. `rng` gives the noise.
    """

    def __init__(self, detector: Detector, rng: Rng):
        self.detector = detector
        self.lost_pulses = 0
        #: All pulses that start before this [ns] have been returned
        self.complete_until = -math.inf
        self._rng = rng
        self._waiting = Signals.none()
        #: First sample at which each channel can trigger again
        self._free = dict.fromkeys(detector.channels, -(2**62))
        #: Charge that the base of each PMT lacks [PE], and the time of that [ns]
        self._lacking = dict.fromkeys(detector.tpc_channels, (0.0, 0.0))
        #: First and last (excluded) sample of busy stretches of the digitizer, shape (n, 2)
        self._busy = np.zeros((0, 2), dtype=np.int64)
        self._marked = 0
        #: Samples in the memory of the board, and the time of that
        self._memory = np.zeros(2)

    def add(self, signals: Signals) -> None:
        """Add signals, in any order."""
        self._waiting = join(self._waiting, signals)

    def digitize(self, known_until: float) -> Pulses:
        """Return the pulses that signals from `known_until` [ns] on cannot change."""
        detector, parts, kept = self.detector, [], []
        trigger = (
            *(detector.threshold, detector.pre_trigger, detector.post_trigger),
            *(detector.length_multiple, detector.dead_samples),
        )
        self.complete_until = math.inf
        for channel in detector.channels:
            signals, inputs = self._of_channel(self._waiting, channel)
            if channel in self._lacking:
                gain, lacking = base_gain(*signals[::2], self._lacking[channel], detector)
                inputs[1][:] *= gain
            n_done, *columns, self._free[channel] = _digitize(
                self._rng,
                *inputs,
                known_until / detector.dt,
                self._free[channel],
                self._analogue(channel),
                trigger,
            )
            if channel in self._lacking and n_done:
                self._lacking[channel] = lacking[n_done - 1], signals.time[n_done - 1]
            channels = np.full(len(columns[0]), channel, dtype=np.int16)
            parts.append(Pulses(channels, *columns))
            kept.append(Signals(*(column[n_done:] for column in signals)))
            # A pulse starts this many samples before its first signal at the most
            lead = detector.pre_trigger + detector.length_multiple - inputs[-1] + 1
            complete = min([known_until, *kept[-1].time[:1]]) - lead * detector.dt
            self.complete_until = min(self.complete_until, complete)
        self._waiting = join(*kept)
        return self._read_out(_join(parts))

    def windows(self, starts: np.ndarray, length: int, signals: Signals) -> Pulses:
        """Return pulses of `length` samples from each of `starts` on, in every PMT of the TPC."""
        parts = []
        lengths, offsets = np.full(len(starts), length), np.arange(len(starts)) * length
        for channel in self.detector.tpc_channels:
            _, inputs = self._of_channel(signals, channel)
            samples = _windows(self._rng, *inputs, starts, length, self._analogue(channel))
            channels = np.full(len(starts), channel, dtype=np.int16)
            parts.append(Pulses(channels, starts, lengths, offsets, samples))
        return _join(parts)

    def _of_channel(
        self, signals: Signals, channel: int
    ) -> tuple[Signals, tuple[np.ndarray, np.ndarray, np.ndarray, int]]:
        """Return sorted signals of a channel, and their positions, areas, and pulse shapes."""
        own = np.flatnonzero(signals.channel == channel)
        own = own[np.argsort(signals.time[own])]
        signals = Signals(*(column[own] for column in signals))
        position = signals.time / self.detector.dt
        area = signals.charge * self.detector.unit_area(channel)
        return signals, (position, area, *pulse_shapes(self.detector, channel))

    def _analogue(self, channel: int) -> tuple[float, float, int, int, int]:
        """Return baseline, noise, sign of the signal, lowest and highest count of a channel."""
        sign = 1 if channel == self.detector.sipm_channel else -1
        baseline, lowest, highest = self.detector.baselines[channel], 0, 2**self.detector.adc_bits
        if not self.detector.adc_saturates:
            # Records hold counts below the baseline as 16-bit integers
            lowest, highest = math.ceil(baseline) - (2**15 - 1), 2**15
        return baseline, self.detector.noise, sign, lowest, highest - 1

    def _read_out(self, pulses: Pulses) -> Pulses:
        """Return the pulses for which the board has memory left; the others are lost."""
        order = np.argsort(pulses.start, kind="stable")
        kept = _fits_memory(
            pulses.start[order],
            pulses.length[order],
            self._memory,
            self.detector.board_memory,
            self.detector.readout_rate * self.detector.dt,
        )
        self.lost_pulses += int(np.count_nonzero(~kept))
        if self.detector.busy_rate > 0:
            kept &= ~self._is_busy(pulses.start[order], pulses.length[order])
        columns = (column[order[kept]] for column in pulses[:-1])
        return Pulses(*columns, samples=pulses.samples)  # type: ignore[misc]

    def _is_busy(self, start: np.ndarray, length: np.ndarray) -> np.ndarray:
        """Return which pulses, sorted, overlap with stretches in which the digitizer is busy."""
        horizon = self.complete_until / self.detector.dt
        known = horizon if math.isfinite(horizon) else 0
        known = max(known, start[-1] + length.max() if len(start) else 0)
        per_sample = self.detector.busy_rate * self.detector.dt / 1e9
        busy: list[Any] = list(self._busy)
        while not busy or busy[-1][0] < known:
            gap = 1 + int(self._rng.exponential(1 / per_sample))
            begin = (busy[-1][1] if busy else 0) + gap
            busy.append((begin, begin + max(int(self.detector.busy_time / self.detector.dt), 1)))
        self._busy = np.array(busy, dtype=np.int64)
        ended = np.searchsorted(self._busy[:, 1], start, side="right")
        # The last stretch begins after all pulses
        return self._busy[np.minimum(ended, len(busy) - 1), 0] < start + length

    def dead_time(self, until: float) -> np.ndarray:
        """Return new fragments that mark busy stretches that begin before `until` [ns]."""
        n = np.searchsorted(self._busy[:, 0], until / self.detector.dt)
        new, self._marked = self._busy[self._marked : n], max(int(n), self._marked)
        length = new[:, 1] - new[:, 0]
        offset = np.cumsum(length) - length
        nothing = np.zeros(int(length.sum()), dtype=np.int16)
        pulses = Pulses(np.zeros(len(new), np.int16), new[:, 0], length, offset, nothing)
        result = fragments(pulses, self.detector)
        result["channel"], result["baseline"] = DEAD_TIME_CHANNELS[-1], 0
        return result


def fragments(pulses: Pulses, detector: Detector) -> np.ndarray:
    """Return fragments of `strax.raw_record_dtype`, sorted by time, in ns since the start."""
    n_channels, n_samples = len(detector.baselines), len(pulses.samples)
    check_bounds("channel", pulses.channel, 0, n_channels, "give baselines one for each")
    for name, edge in (("start", pulses.offset), ("end", pulses.offset + pulses.length)):
        check_bounds(f"{name} of pulse", edge, 0, n_samples + 1, "its samples are missing")
    size = detector.fragment_samples
    per_pulse = -(-pulses.length // size)
    pulse = np.repeat(np.arange(len(per_pulse)), per_pulse)
    first = np.cumsum(per_pulse) - per_pulse
    result = np.zeros(len(pulse), dtype=strax.raw_record_dtype(size))
    result["record_i"] = np.arange(len(pulse)) - first[pulse]
    before = result["record_i"].astype(np.int64) * size
    result["time"] = (pulses.start[pulse] + before) * detector.dt
    result["length"] = np.minimum(size, pulses.length[pulse] - before)
    result["pulse_length"] = pulses.length[pulse]
    result["channel"] = pulses.channel[pulse]
    result["dt"] = detector.dt
    result["baseline"] = np.array(detector.baselines, dtype=np.int16)[result["channel"]]
    _copy_samples(result["data"], result["length"], pulses.offset[pulse] + before, pulses.samples)
    return sort_by_time(result)


def _join(parts: list[Pulses]) -> Pulses:
    shifts = np.cumsum([0, *(len(part.samples) for part in parts[:-1])])
    moved = [
        part._replace(offset=part.offset + shift) for part, shift in zip(parts, shifts, strict=True)
    ]
    return join(*moved)


@numba.njit(cache=True, nogil=True)
def _add_pulse(buffer, buffer_start, position, area, shapes, first):
    """Add a pulse of `area` at `position` [samples] to a buffer."""
    sample = int(np.floor(position))
    phase = min(int((position - sample) * PHASES), PHASES - 1)
    begin = sample + first - buffer_start
    for k in range(shapes.shape[1]):
        if 0 <= begin + k < len(buffer):
            buffer[begin + k] += area * shapes[phase, k]


@numba.njit(cache=True, nogil=True)
def _to_counts(rng, buffer, counts, analogue):
    """Digitize: baseline, noise, and the ends of the ADC's range."""
    baseline, noise, sign, lowest, highest = analogue
    for k in range(len(buffer)):
        value = np.floor(baseline + sign * buffer[k] + noise * rng.standard_normal() + 0.5)
        counts[k] = np.int16(min(max(value, lowest), highest))


@numba.njit(cache=True, nogil=True)
def _cluster_end(position, i, first, n_shape, margin):
    """Return the first signal after the stretch that signal `i` begins, and the stretch's end.

    Signals nearer than `margin` samples are in one stretch.
    """
    end = np.floor(position[i]) + first + n_shape
    j = i + 1
    while j < len(position) and np.floor(position[j]) + first <= end + margin:
        end = max(end, np.floor(position[j]) + first + n_shape)
        j += 1
    return j, int(end)


@numba.njit(cache=True, nogil=True)
def _digitize(rng, position, area, shapes, first, known_until, free, analogue, trigger):
    """Digitize stretches around the sorted signals of one channel.

    A stretch that signals from `known_until` on could belong to, and all after it, are left.
    """
    baseline, _, sign, _, _ = analogue
    threshold, pre, post, multiple, dead = trigger
    n_shape = shapes.shape[1]
    around = pre + post + 2 * multiple
    # Room for all stretches, and for all pulses: each has at least post + 1 samples
    capacity, n_stretches, n_done = 0, 0, 0
    while n_done < len(position):
        j, end = _cluster_end(position, n_done, first, n_shape, around)
        if end + around >= np.floor(known_until) + first:
            break
        capacity += end - int(np.floor(position[n_done])) - first + 2 * around
        n_done = j
        n_stretches += 1
    samples = np.empty(capacity, dtype=np.int16)
    most = capacity // (post + 1) + n_stretches + 1
    start = np.empty(most, dtype=np.int64)
    length = np.empty(most, dtype=np.int64)
    offset = np.empty(most, dtype=np.int64)
    n, used = 0, 0

    i = 0
    while i < n_done:
        j, end = _cluster_end(position, i, first, n_shape, around)
        buffer_start = max(int(np.floor(position[i])) + first - pre - multiple, free)
        buffer = np.zeros(max(end + post + multiple - buffer_start, 0))
        for s in range(i, j):
            _add_pulse(buffer, buffer_start, position[s], area[s], shapes, first)
        i = j
        counts = np.empty(len(buffer), dtype=np.int16)
        _to_counts(rng, buffer, counts, analogue)
        level = int(np.floor(baseline + 0.5))
        # Samples before a pulse are read out, unless the pulse before has just ended
        k = pre if buffer_start > free else 0
        while k < len(counts):
            if sign * (counts[k] - level) < threshold:
                k += 1
                continue
            begin = max(k - pre, free - buffer_start)
            last = k
            while k < min(last + post + 1, len(counts)):
                if sign * (counts[k] - level) >= threshold:
                    last = k
                k += 1
            size = last + 1 + post - begin
            size = min(-(-size // multiple) * multiple, len(counts) - begin)
            start[n] = buffer_start + begin
            length[n] = size
            offset[n] = used
            samples[used : used + size] = counts[begin : begin + size]
            used += size
            n += 1
            k = begin + size + dead
            free = buffer_start + k
    return n_done, start[:n], length[:n], offset[:n], samples[:used], free


@numba.njit(cache=True, nogil=True)
def _windows(rng, position, area, shapes, first, starts, length, analogue):
    samples = np.empty(len(starts) * length, dtype=np.int16)
    n_shape = shapes.shape[1]
    i = 0
    for w in range(len(starts)):
        while i < len(position) and position[i] + first + n_shape < starts[w]:
            i += 1
        buffer = np.zeros(length)
        s = i
        while s < len(position) and position[s] + first <= starts[w] + length:
            _add_pulse(buffer, starts[w], position[s], area[s], shapes, first)
            s += 1
        counts = samples[w * length : (w + 1) * length]
        _to_counts(rng, buffer, counts, analogue)
    return samples


@numba.njit(cache=True, nogil=True)
def _fits_memory(start, length, memory, capacity, rate):
    """Return which of the sorted pulses fit into a memory that empties by `rate` a sample."""
    kept = np.zeros(len(start), dtype=np.bool_)
    for i in range(len(start)):
        level = max(memory[0] - (start[i] - memory[1]) * rate, 0.0)
        kept[i] = level + length[i] <= capacity
        if kept[i]:
            level += length[i]
        memory[0], memory[1] = level, start[i]
    return kept


@numba.njit(cache=True, nogil=True)
def _copy_samples(data, length, offset, samples):
    for i in range(len(data)):
        data[i, : length[i]] = samples[offset[i] : offset[i] + length[i]]
