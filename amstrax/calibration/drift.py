"""Drift times from gate and cathode, drift velocity and longitudinal diffusion."""

from typing import NamedTuple

import numpy as np

from amstrax.calibration.result import ONE_SIGMA, Result, interval, minuit
from amstrax.exceptions import NoResult

#: 1 cm2/s
_MM2_PER_NS = 1e-7
#: Least number of events around an edge, and in the plateau of the first guess
FEWEST_EVENTS = 50
#: An edge is fitted to drift times so far from it, as a share of the time from gate to cathode
_WINDOW = 0.15
#: Grid of the likelihood: edges, widths, sharpest edge [ns], largest number of zooms
_EDGES, _WIDTHS, _SHARPEST, _ZOOMS = 31, 16, 2.0, 8
#: Share of the flat background in a window above which that has no edge
_MOST_BACKGROUND = 0.7
_SLICES, _FEWEST_IN_SLICE = 10, 30
#: Fewest electrons of S2s for diffusion, those by which they are too narrow, and its systematic
#: error, see `find_diffusion`
_FEWEST_ELECTRONS, _LOST_ELECTRONS, _SYSTEMATIC = 100, 2.5, 0.015


#: First and last drift time [ns]
Window = tuple[float, float]
#: Edge and width [ns], slope and background, see `Edge`
Parameters = tuple[float, float, float, float]


class Edge(NamedTuple):
    """Edge of the spectrum of drift times: parameters of `edge_density`, and their window."""

    likelihood: Result
    bootstrap: Result | None
    edge: float  #: [ns]
    width: float  #: standard deviation [ns]
    slope: float  #: of the plateau, relative to its height at the edge, over the window
    background: float  #: share of the flat background in the window
    window: Window
    side: int  #: 1: the plateau is at later times (gate), -1: at earlier ones (cathode)
    n_events: int  #: in the window


class Diffusion(NamedTuple):
    """Longitudinal diffusion from widths of S2s: medians in slices of drift time, and the fit."""

    result: Result
    transit_time: float  #: length of the light of an electron in the gas [ns]
    time: np.ndarray  #: mean drift time of each slice [ns], shape (k,)
    width: np.ndarray  #: median of the central 90 % of the S2s [ns]
    width_error: np.ndarray
    fitted: np.ndarray  #: fit to `width`


def first_guess(drift_time: np.ndarray) -> tuple[float, float]:
    """Return rough drift times from gate and cathode: the ends of the densest part [ns].

    Raises NoResult for too few events.
    """
    t = np.sort(drift_time[np.isfinite(drift_time)])
    if len(t) < 2 * FEWEST_EVENTS:
        raise NoResult(
            f"{len(t)} drift times are too few for gate and cathode: take {2 * FEWEST_EVENTS} or "
            "more"
        )
    low, high = np.quantile(t, (0.1, 0.9))
    n_bins = int(np.clip(len(t) / 40, 10, 200))
    width = (high - low) / n_bins
    edges = np.arange(low - 20 * (high - low), high + 20 * (high - low), width)
    counts, edges = np.histogram(t, edges)
    # Height of the bin of a typical event
    height = np.median(counts[np.clip(np.searchsorted(edges, t) - 1, 0, len(counts) - 1)])
    dense = counts > height / 3
    middle = int(np.searchsorted(edges, np.median(t))) - 1
    first, last = middle, middle
    # A single empty bin is no edge
    while dense[first - 1] or dense[first - 2]:
        first -= 1
    while dense[last + 1] or dense[last + 2]:
        last += 1
    return float(edges[first]), float(edges[last + 1])


def find_edges(
    drift_time: np.ndarray,
    guess: tuple[float, float] | None = None,
    n_samples: int = 0,
) -> tuple[Edge, Edge]:
    """Return the edges at gate and cathode, by unbinned likelihood in a window around each.

    The window of an edge is free of the other one, so each is independent of where events are in
    between. The edge of few events is sharp: its likelihood is then no parabola, and may have no
    smooth maximum. So value and interval are median and central 68 % of the likelihood that is
    normalised in the edge (E. Pitman, Biometrika 30 (1939) 391), and averaged over widths with the
    weight width^-2/3. A large width moves the edge into the plateau only, since the events end
    there. So the weight decides a bias: of made-up edges with 17 ns between events, mean and
    width of the pulls towards the plateau are 0.2, 1.0 for an edge of 20 ns, and -0.1, 1.15 for
    one of 60 ns (1/width: 0.1, 1.1 and -0.4, 1.3; width^-1/2 and the mean: 0.3 to 0.5, 0.9).
    Background and slope are those that fit best: they hardly move the edge.

    Raises NoResult for too few events around an edge, or no edge in the window.

    Parameters
    ----------
    drift_time
        Drift times [ns], shape (n,), also of wrong pairs of S1 and S2.
    guess
        Rough drift times from gate and cathode [ns]; None: of `first_guess`.
    n_samples
        Number of samples for the uncertainty by parametric bootstrap (B. Efron, Ann. Statist. 7
        (1979) 1), 0 for none: samples of fitted densities, whose edges and widths are drawn by
        their likelihood. Samples of the events themselves repeat the few that decide where the
        edge is: their interval is wrong, as is that of the best width alone, which may be near 0.
    """
    gate, cathode = first_guess(drift_time) if guess is None else guess
    reach = _WINDOW * (cathode - gate)
    found = []
    for name, place, side in (("gate", gate, 1), ("cathode", cathode, -1)):
        t = drift_time[np.abs(drift_time - place) < reach]
        if len(t) < FEWEST_EVENTS:
            raise NoResult(
                f"{len(t)} events within {reach:.0f} ns of the {name} at about {place:.0f} ns are "
                f"too few: take {FEWEST_EVENTS} or more, or give --guess GATE CATHODE"
            )
        found.append(_fit_edge(t, name, (place - reach, place + reach), side, n_samples))
    return found[0], found[1]


def _fit_edge(t: np.ndarray, name: str, window: Window, side: int, n_samples: int) -> Edge:
    """Return an edge from the drift times in a window [ns]."""
    parameters, place = (0.0, 0.0, 0.0, 0.02), window
    for _ in range(2):
        scan = _scan(t, window, side, parameters, place)
        parameters = (*scan.best, *_plateau(t, *scan.best, window, side))
        place = scan.around(window)
    if scan.is_at_end(window) or parameters[3] > _MOST_BACKGROUND:
        raise NoResult(
            f"no edge of the drift times between {window[0]:.0f} and {window[1]:.0f} ns: look at "
            "the spectrum (--plot), and give --guess GATE CATHODE"
        )
    low, median, high = (scan.quantile(0.5 + share / 2) for share in (-ONE_SIGMA, 0, ONE_SIGMA))
    method, option = "edge of the drift times", f"drift_time_{name}"
    by_likelihood = Result(option, median, low, high, "ns", f"{method}, likelihood")
    by_bootstrap = None
    if n_samples:
        rng = np.random.default_rng(0)
        off = []
        for edge, width in scan.draw(rng, n_samples):
            sample = _sample(rng, len(t), (edge, width, *parameters[2:]), window, side)
            off.append(_scan(sample, window, side, parameters, place).quantile(0.5) - edge)
        low, high = interval(np.array(off))
        ends = median - high, median - low
        by_bootstrap = Result(option, median, *ends, "ns", f"{method}, bootstrap")
    return Edge(by_likelihood, by_bootstrap, *parameters, window, side, len(t))


def _sample(
    rng: np.random.Generator, n: int, parameters: Parameters, window: Window, side: int
) -> np.ndarray:
    """Return drift times drawn from `edge_density` [ns], shape (n,)."""
    # Ten steps for each width around the edge
    near = parameters[0] + parameters[1] * np.linspace(-6, 6, 121)
    inside = near[(near > window[0]) & (near < window[1])]
    grid = np.sort(np.concatenate([np.linspace(*window, 2001), inside]))
    density = edge_density(grid, *parameters, window, side)
    steps = np.diff(grid) * (density[1:] + density[:-1]) / 2
    cumulative = np.concatenate([[0], np.cumsum(steps)])
    return np.interp(rng.random(n) * cumulative[-1], cumulative, grid)


class _Scan(NamedTuple):
    """Likelihood on a grid of edges and widths [ns], times the weights of widths."""

    edges: np.ndarray
    widths: np.ndarray
    weighted: np.ndarray  #: shape (edges, widths)
    best: tuple[float, float]  #: edge and width of the highest likelihood

    def quantile(self, share: float) -> float:
        step = self.edges[1] - self.edges[0]
        cumulative = np.cumsum(self.weighted.sum(axis=1)) / self.weighted.sum()
        return float(np.interp(share, cumulative, self.edges + step / 2))

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Return edges and widths drawn by their weighted likelihood, shape (n, 2)."""
        probability = self.weighted.ravel() / self.weighted.sum()
        i, j = np.divmod(rng.choice(probability.size, n, p=probability), len(self.widths))
        return np.stack([self.edges[i], self.widths[j]], axis=1)

    def around(self, window: Window) -> Window:
        """Return a range three times as long as the grid, within the window."""
        low, high = self.edges[0], self.edges[-1]
        return max(2 * low - high, window[0]), min(2 * high - low, window[1])

    def is_at_end(self, window: Window) -> bool:
        """Return whether the best edge is at an end of the window, or as wide as that."""
        margin = 0.02 * (window[1] - window[0])
        inside = window[0] + margin < self.best[0] < window[1] - margin
        return not inside or self.best[1] > 5 * margin


def _scan(t: np.ndarray, window: Window, side: int, parameters: Parameters, place: Window) -> _Scan:
    """Return the likelihood where it is not negligible, which the grid zooms in on.

    Slope and background are those of `parameters`, `place` is the range to search in.
    """
    widths = np.geomspace(_SHARPEST, (window[1] - window[0]) / 6, _WIDTHS)
    low, high = place
    for _ in range(_ZOOMS):
        edges = np.linspace(low, high, _EDGES)
        log_likelihood = np.array(
            [
                [
                    np.log(edge_density(t, edge, width, *parameters[2:], window, side)).sum()
                    for width in widths
                ]
                for edge in edges
            ]
        )
        likelihood = np.exp(log_likelihood - log_likelihood.max())
        # Steps are equal in ln(width), which alone has the weight 1 / width
        weighted = likelihood * widths ** (1 / 3)
        marginal = weighted.sum(axis=1)
        there = np.flatnonzero(marginal > 1e-4 * marginal.max())
        if len(there) > _EDGES / 3:
            break
        step = edges[1] - edges[0]
        low, high = edges[there[0]] - step, edges[there[-1]] + step
    i, j = np.unravel_index(np.argmax(likelihood), likelihood.shape)
    return _Scan(edges, widths, weighted, (float(edges[i]), float(widths[j])))


def _plateau(
    t: np.ndarray, edge: float, width: float, window: Window, side: int
) -> tuple[float, float]:
    """Return the slope of the plateau and the share of the background around an edge."""
    x = (t - edge) * side
    ends = sorted(((window[0] - edge) * side, (window[1] - edge) * side))
    length = ends[1] - ends[0]
    outside = max(-3 * width - ends[0], 0.05 * length)
    # One event more than there are: a share of 0 would allow no outlier at all
    background = (np.count_nonzero(x < ends[0] + outside) + 1) / (len(t) + 1) * length / outside
    first, last = 3 * width, ends[1]
    inside = x[x > first]
    if last - first < 0.1 * length or len(inside) < FEWEST_EVENTS / 2:
        return 0.0, min(background, 0.9)
    # Mean of a density 1 + slope x / length in (first, last), solved for the slope
    middle, span = (first + last) / 2, last - first
    moved = inside.mean() - middle
    slope = moved * length / (span**2 / 12 - moved * middle)
    return float(np.clip(slope, -0.9, 5.0)), min(background, 0.9)


def edge_density(
    t: np.ndarray,
    edge: float,
    width: float,
    slope: float,
    background: float,
    window: Window,
    side: int,
) -> np.ndarray:
    """Return the probability density at drift times `t` in a window [1/ns].

    A plateau with a linear slope, times an error function at its edge, on a flat background:
    (1 - b) F((t - edge) s / width) (1 + slope (t - edge) / length) / norm + b / length, with F the
    normal distribution, s the side, and the length of the window. Times are in ns.
    """
    from scipy.special import ndtr

    low, high = window
    length = high - low
    x = (np.asarray(t) - edge) * side
    a, b = sorted(((low - edge) * side, (high - edge) * side))
    # The slope is that towards the plateau
    norm = _integral(b, width, slope / length) - _integral(a, width, slope / length)
    plateau = ndtr(x / width) * np.maximum(1 + slope / length * x, 0) / norm
    return (1 - background) * plateau + background / length


def _integral(x: float, width: float, slope: float) -> float:
    """Return the integral of F(x / width) (1 + slope x) from minus infinity to `x`."""
    from scipy.special import ndtr

    u = x / width
    density = np.exp(-u * u / 2) / np.sqrt(2 * np.pi)
    flat = x * ndtr(u) + width * density
    rising = (x * x - width * width) / 2 * ndtr(u) + x * width / 2 * density
    return float(flat + slope * rising)


def velocity(gate: Result, cathode: Result, length: float) -> Result:
    """Return the drift velocity between cathode and gate, `length` mm apart [mm/ns].

    velocity = length / (t_cathode - t_gate); drift times in ns.
    """
    time = cathode.value - gate.value
    value = length / time
    later = np.hypot(cathode.upper - cathode.value, gate.value - gate.lower)
    earlier = np.hypot(cathode.value - cathode.lower, gate.upper - gate.value)
    return Result(
        "electron_drift_velocity",
        value,
        float(length / (time + later)),
        float(length / (time - earlier)),
        "mm/ns",
        f"{length:g} mm between the edges",
    )


def find_diffusion(
    width: np.ndarray,
    drift_time: np.ndarray,
    drift_velocity: float,
    s2_area: np.ndarray | None = None,
    se_gain: float = 10.0,
) -> Diffusion:
    """Return the longitudinal diffusion coefficient from widths of S2s.

    Electrons arrive with a standard deviation sqrt(2 D t) / v (P. Sorensen, NIM A 635 (2011) 41).
    Each then gives light evenly while it is in the gas: the S2 is a box that is convolved with a
    normal distribution. D and the length of the box are fitted to medians in slices of drift time.

    An S2 of N electrons is narrower, as if D were D (1 - 2.5 / N): 1.5 since its electrons also
    decide where its middle is (made-up S2s), the rest by processing, whose thresholds take more of
    the dim ends (fit to 14 simulated runs: 2.4 +- 0.7). With `s2_area` this is in the fit, and
    slices below 100 electrons are left out. Without it, D of short lifetimes is up to 12 % low.
    The interval has a systematic error of 1.5 % of D, added in quadrature.

    Raises NoResult for too few events, or too few with 100 electrons.

    Parameters
    ----------
    width
        Ranges of the central 90 % of S2s [ns], shape (n,), as ``s2_range_90p_area``. That of 50 %
        hardly depends on diffusion, since the ends of the box are far from its quartiles.
    drift_time
        Drift times [ns], shape (n,), within the drift volume.
    drift_velocity
        [mm/ns]
    s2_area
        Uncorrected areas of the S2s [PE], shape (n,); None: of very many electrons.
    se_gain
        Area of an electron [PE].
    """
    good = np.isfinite(width) & np.isfinite(drift_time)
    width, t = width[good].astype(np.float64), drift_time[good].astype(np.float64)
    n_slices = min(_SLICES, len(t) // _FEWEST_IN_SLICE)
    if n_slices < 3:
        raise NoResult(
            f"{len(t)} S2s are too few for diffusion: take {3 * _FEWEST_IN_SLICE} or more"
        )
    slices = np.array_split(np.argsort(t, kind="stable"), n_slices)
    time = np.array([t[rows].mean() for rows in slices])
    median = np.array([np.median(width[rows]) for rows in slices])
    low, high = np.quantile(
        np.concatenate([width[s] - m for s, m in zip(slices, median, strict=True)]), (0.16, 0.84)
    )
    number = np.array([len(rows) for rows in slices])
    error = np.sqrt(np.pi / 2) * max((high - low) / 2, 1e-3) / np.sqrt(number)
    share = np.ones(len(time))
    if s2_area is not None:
        electrons = np.array([np.median(s2_area[good][rows]) for rows in slices]) / se_gain
        enough = electrons >= _FEWEST_ELECTRONS
        if np.count_nonzero(enough) < 3:
            raise NoResult(
                f"S2s of {_FEWEST_ELECTRONS} electrons or more in {np.count_nonzero(enough)} of "
                f"{n_slices} slices of drift time are too few for diffusion: take larger S2s"
            )
        time, median, error = time[enough], median[enough], error[enough]
        share = 1 - _LOST_ELECTRONS / electrons[enough]

    def fitted(diffusion: float, transit_time: float) -> np.ndarray:
        spread = np.sqrt(2 * _MM2_PER_NS * diffusion * time * share) / drift_velocity
        return np.array([central_range(transit_time, s) for s in spread])

    def chi2(diffusion: float, transit_time: float) -> float:
        return float(np.sum(((median - fitted(diffusion, transit_time)) / error) ** 2))

    fit = minuit(
        chi2,
        {"diffusion": 25.0, "transit_time": median[0] / 0.9},
        {"diffusion": (0, 1000), "transit_time": (1, 10 * median.max())},
    )
    fit.errors["diffusion"], fit.errors["transit_time"] = 1.0, 10.0
    fit.migrad()
    if not fit.valid:
        raise NoResult(
            "the widths of S2s do not grow with drift time as by diffusion: choose events of one "
            "deposit (--s2_range)"
        )
    fit.minos("diffusion")
    (value, transit_time), errors = map(float, fit.values), fit.merrors["diffusion"]
    systematic = _SYSTEMATIC * value
    return Diffusion(
        Result(
            "diffusion_longitudinal",
            value,
            value - float(np.hypot(errors.lower, systematic)),
            value + float(np.hypot(errors.upper, systematic)),
            "cm2/s",
            "central 90 % of S2s against drift time",
        ),
        transit_time,
        time,
        median,
        error,
        fitted(value, transit_time),
    )


def central_range(box: float, spread: float, share: float = 0.9) -> float:
    """Return the central range [ns] of a box convolved with a normal distribution.

    `box` is the length of the box, `spread` the standard deviation [ns].
    """
    from scipy.optimize import brentq
    from scipy.special import ndtr

    if spread < 1e-3 * box:
        return share * box

    def integral(u: float) -> float:
        return u * ndtr(u) + np.exp(-u * u / 2) / np.sqrt(2 * np.pi)

    def cumulative(x: float) -> float:
        return (integral((x + box / 2) / spread) - integral((x - box / 2) / spread)) * spread / box

    end = (1 + share) / 2
    return 2 * float(brentq(lambda x: cumulative(x) - end, 0, box / 2 + 10 * spread))
