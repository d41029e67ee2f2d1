#!/usr/bin/env python
"""Compare the simulation with NEST and with a real run, for the page "Checks of the simulation".

Writes simulation_yields.inc and simulation_run.inc beside this file, and the picture of the latter.
The real run, 999999, is in ../shared beside the repository. Without nestpy, or that run, the page
says so.
"""

import json
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from amstrax import contexts, simulation
from amstrax.analyses import pulses
from amstrax.exceptions import NotAvailable
from amstrax.simulation import sources, yields
from amstrax.simulation.detector import XAMS, XAMSL

SOURCE = Path(__file__).parent
REAL = SOURCE.resolve().parents[2] / "shared/data"
RUN_ID, SIMULATED_ID = "999999", "100999"
PICTURE = "_static/simulation_run.png"
GAMMA = sources.Interaction.PHOTOABSORPTION
#: Events of each source, and length of the simulated run [s]
N_EVENTS, DURATION = 2000, 16.0
#: Pulses of alphas in the real run are higher [ADC counts]
ALPHA_HEIGHT = 600.0

DIFFERENCES = """How the numbers of XAMSL come from this run: the area of a photoelectron from
fluctuations in the tail of S1s of alphas (1 ADC count x sample, within a factor of two:
:doc:`calibration_lines`), ``g1`` from their median area, the shape of pulses from their mean. Only
the product of the first two is measured well. The area is a gain of 3 x 10\\ :sup:`4` (V1730 of 2 V
and 14 bits, 2 ns, 50 Ohm, no amplifier), low since the lab's list of runs has -560 and -555 V for
the PMTs in this run, and up to -850 V in others.

The run does not test S2s: it has none. Its longest pulse takes {longest:.1f} us, and an S2 more
than 2 us in the simulation. Simulated S2s of alphas have the light of XAMS (``se_gain`` 10,
assumed) and 1 ADC count x sample for each photoelectron, so they barely reach the threshold of 15
ADC counts: ``amstrax validate --detector xamsl --source rn222`` finds S2s about half too small, and
6 % too small with ``--set photoelectron_areas=[20,20]``. So the loss comes from the voltage of this
run, and is not to be expected at higher ones.

Differences, and what they come from:

- The run has {more:.1f} times as many pulses in channel 0: {low:.0f} Hz more of low ones, mostly in
  both channels at once. They may be photons, from outside or after beta decays, which this
  simulated run lacks.
- The share of channel 1 is lower in the simulation ({simulated_share:.0%} of the area,
  {real_share:.0%} in the run), and lines of alphas are wider: the light map is less even than the
  detector, the PMTs differ in gain, or light met no surface of the liquid, which reflects most of
  it, as in a detector that is filled to the top.
- The board of the run gives windows of 500 samples, of which the signal is a part. Simulated pulses
  end ``post_trigger`` samples after the signal.
- Baselines of the run wander, and noise differs between channels. In the simulation both are
  constant.
"""


def write(folder: Path = SOURCE) -> None:
    """Write both parts of the page into `folder`."""
    (folder / "simulation_yields.inc").write_text(yields_part(), encoding="utf-8")
    (folder / "simulation_run.inc").write_text(run_part(folder), encoding="utf-8")


def yields_part() -> str:
    """Return a table of yields of each source, of the simulation and of nestpy."""
    try:
        import nestpy
    except ImportError:
        return "nestpy is not installed where this page was built: no table.\n"
    interactions = nestpy.interactions
    models = {
        GAMMA: interactions.gammaRay,
        sources.Interaction.COMPTON: interactions.beta,
        sources.Interaction.BETA: interactions.beta,
        sources.Interaction.NUCLEAR_RECOIL: interactions.NR,
    }
    nest = nestpy.NESTcalc(nestpy.detectors.VDetector())
    at = XAMS.xenon_density, XAMS.drift_field

    def mean(kind: int, energy: float, delay: float) -> tuple[float, float]:
        if kind == sources.Interaction.ALPHA:
            found = nest.GetYields(interactions.ion, energy, *at, 4.0, 2.0)
        elif kind in (sources.Interaction.KR83M_FIRST, sources.Interaction.KR83M_SECOND):
            found = nest.GetYieldKr83m(energy, *at, delay + 1, max(delay - 1, 0))
        else:
            found = nest.GetYields(models[kind], energy, *at)
        return found.PhotonYield, found.ElectronYield

    rows = []
    model = yields.model("nest", *at)
    for name, source in sources.SOURCES.items():
        if source.model is None or name == "gas":
            continue
        rng = np.random.default_rng(1)
        found, _ = sources.deposits(rng, source, np.arange(N_EVENTS) * 1e6, XAMS)
        photons, electrons = model.quanta(rng, found)
        columns = (found.kind.tolist(), found.energy.tolist(), found.delay.tolist())
        direct = np.sum([mean(*row) for row in zip(*columns, strict=True)], axis=0)
        as_gamma = sum(mean(GAMMA, energy, 0.0)[0] for energy in columns[1])
        energy = found.energy.sum()
        numbers = (photons.sum(), direct[0], electrons.sum(), direct[1], as_gamma)
        is_electronic = not np.isin(found.kind, (1, 5)).any()
        last = f"{as_gamma / energy:.1f}" if is_electronic else "-"
        rows.append((f"``{name}``", *(f"{n / energy:.1f}" for n in numbers[:-1]), last))
    header = (
        "Source",
        "photons/keV",
        "of NEST",
        "electrons/keV",
        "of NEST",
        "photons/keV, all as photoabsorption",
    )
    version = "nestpy " + _version("nestpy")
    text = f"{N_EVENTS} events of each source, at {at[1]:.0f} V/cm and {at[0]} g/cm3, {version}. "
    text += f"{_resolution(model):.1%} is the resolution (sigma/E) of 662 keV that follows from "
    text += "photoelectrons and electrons in the gas in XAMS, of photons that are absorbed at once."
    return f"{text}\n\n{_table(header, rows)}"


def _resolution(model: yields.Yields, n: int = 4000) -> float:
    """Return sigma / E of photoabsorbed 662 keV, from detected photons and extracted electrons."""
    rng = np.random.default_rng(1)
    places = sources.in_liquid(rng, n, XAMS)
    kinds = np.full(n, sources.Interaction.PHOTOABSORPTION, dtype=np.int8)
    zero = np.zeros(n)
    found = sources.Deposits(np.arange(n), zero, np.full(n, 661.66), kinds, zero, *places)
    photons, electrons = model.quanta(rng, found)
    seen = rng.binomial(photons, XAMS.g1 / (1 + XAMS.dpe_probability))
    out = rng.binomial(electrons, XAMS.extraction_efficiency)
    light = rng.poisson(out * XAMS.se_gain)
    energy = seen * (1 + XAMS.dpe_probability) / XAMS.g1
    energy = energy + light / XAMS.se_gain / XAMS.extraction_efficiency
    return float(energy.std() / energy.mean())


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def run_part(folder: Path) -> str:
    """Return a table of pulses of the real and a simulated run of XAMSL, and draw their spectra."""
    document = REAL / f"rundoc_{RUN_ID}.json"
    if not document.exists():
        return f"Run {RUN_ID} is not there where this page was built: no comparison.\n"
    with tempfile.TemporaryDirectory() as work:
        real = _pulses(RUN_ID, REAL / "live_data", document, Path(work, "real"))
        seconds = float(np.ptp(real.time)) / 1e9
        # Alphas as often as in the run: three of the chain's four decays that give events have one.
        # It has no S2, so that no electrons come out of the liquid
        rate = len(real.above(ALPHA_HEIGHT).of(0).time) / seconds * 4 / 3
        simulated = _simulated(rate, Path(work))
    runs = {f"run {RUN_ID}": (real, seconds), "simulated": (simulated, DURATION)}
    figure = pulses.plot_pulses(runs)
    (folder / PICTURE).parent.mkdir(exist_ok=True)
    figure.savefig(folder / PICTURE, dpi=80)
    numbers = list(pulses.pulse_numbers(runs, ALPHA_HEIGHT))
    rows = [
        (str(n.channel), n.text, *map(_short, n.values), _short(n.values[1] / n.values[0]))
        for n in numbers
    ]
    header = ("Channel", "Pulses", *runs, "ratio")
    text = (
        f"Run {RUN_ID} ({seconds:.1f} s of it), beside {DURATION:.0f} s of ``rn_chain`` at "
        f"{rate:.0f} Hz in XAMSL, with ``extraction_efficiency`` 0:"
    )
    differences = DIFFERENCES.format(
        longest=real.length.max() / 1000,
        more=_rate(real, seconds) / _rate(simulated, DURATION),
        low=_rate(real, seconds, below=True) - _rate(simulated, DURATION, below=True),
        real_share=_share_of_top(real),
        simulated_share=_share_of_top(simulated),
    )
    return f"{text}\n\n{_table(header, rows)}\n{differences}\n.. image:: {PICTURE}\n"


def _rate(found: pulses.Pulses, seconds: float, below: bool = False) -> float:
    """Return the rate of pulses of channel 0 [Hz], all or those `below` `ALPHA_HEIGHT`."""
    height = found.of(0).height
    return float(np.sum(height < ALPHA_HEIGHT) if below else len(height)) / seconds


def _share_of_top(found: pulses.Pulses) -> float:
    """Return the share of channel 1 in the area of all pulses."""
    return float(found.of(1).area.sum() / found.area.sum())


def _simulated(rate: float, folder: Path) -> pulses.Pulses:
    detector = XAMSL.with_values(extraction_efficiency=0.0)
    simulation.simulate(
        SIMULATED_ID, folder / "live", detector, "rn_chain", rate, DURATION, yields=_best_yields()
    )
    document = folder / f"live/rundoc_{SIMULATED_ID}.json"
    return _pulses(SIMULATED_ID, folder / "live", document, folder / "simulated")


def _best_yields() -> str:
    try:
        yields.model("nest", XAMSL.xenon_density, XAMSL.drift_field)
    except NotAvailable:
        return "simple"
    return "nest"


def _pulses(run_id: str, live_data: Path, document: Path, output: Path) -> pulses.Pulses:
    st = contexts.xams_little(
        output_folder=output, init_rundb=False, config={"live_data_dir": str(live_data)}
    )
    run_doc = json.loads(document.read_text(encoding="utf-8"))
    st = contexts.context_for_daq_reader(st, run_id, run_doc=run_doc)
    return pulses.pulses_of(st.get_array(run_id, "raw_records_v1730", progress_bar=False))


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in (header, *rows):
        lines += [f"   {'*' if i == 0 else ' '} - {cell}" for i, cell in enumerate(row)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    write()
