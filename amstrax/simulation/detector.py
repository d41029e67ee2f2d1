"""The numbers of simulated detectors: a frozen dataclass, with values for each."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, NamedTuple, TypeVar, get_args

import numpy as np
from immutabledict import immutabledict

from amstrax import _legacy
from amstrax.common import XAMS_VOLUME, XAMSL_VOLUME
from amstrax.exceptions import InvalidOption, did_you_mean

T = TypeVar("T")
Rng = np.random.Generator


class _Bound(NamedTuple):
    """Bound of a number, or of each of a list of numbers."""

    text: str
    holds: Callable[[float], bool]


Positive = Annotated[T, _Bound("it must be above 0", lambda value: value > 0)]
NotNegative = Annotated[T, _Bound("it must not be negative", lambda value: value >= 0)]
Share = Annotated[T, _Bound("it is a share: 0 to 1", lambda value: 0 <= value <= 1)]


@dataclass(frozen=True)
class Detector:
    """A dual-phase time projection chamber with its sensors and digitizer.

    Lengths are in mm, times in ns, energies in keV, areas in ADC counts x samples, heights in ADC
    counts. z is 0 at the gate and negative below. Comments name the source of each default;
    "assumed" are round numbers without a measurement in the project's data.
    """

    # --- identity
    name: str = "xams"
    context: str = "xams"  # context of amstrax that processes its runs
    led_context: str | None = "xams_led"
    board_type: str = "V1724"

    # --- the drift volume
    # Sources are in amstrax.common; drift times are to the middle of the S2's light
    radius: Positive[float] = XAMS_VOLUME.radius
    gate_cathode_distance: Positive[float] = XAMS_VOLUME.depth
    drift_time_gate: Positive[float] = 5_000.0  # published corrections v0 to v2 and ONLINE
    drift_time_cathode: float = float(XAMS_VOLUME.drift_time_cathode)
    # Published elife_v0.json: 275 us up to run 6875, 300 us from run 7000 on
    electron_lifetime: Positive[float] = 300_000.0
    # [mm^2/ns]; 25.7 +- 4.6 cm^2/s at 500 V/cm, O. Njoya et al., arXiv:1911.11580
    diffusion_longitudinal: NotNegative[float] = 2.6e-6
    # [mm^2/ns]; 55 +- 4 cm^2/s at 380 V/cm, EXO-200, arXiv:1609.04467
    diffusion_transverse: NotNegative[float] = 5.5e-6
    drift_field: Positive[float] = 500.0  # [V/cm], for the yields; assumed
    xenon_density: Positive[float] = 2.86  # [g/cm^3] at 177 K, NIST
    multiple_scatters: bool = True  # does a photon go on after its first deposit?
    # Share of electrons that drift from deposits at the wall, and at the cathode; assumed
    wall_charge_share: Share[float] = 0.3
    cathode_charge_share: Share[float] = 0.5
    below_cathode: Positive[float] = 5.0  # depth of the xenon below the cathode; assumed

    # --- scintillation: decay times, and the share of light from singlets
    # Usual values, as of A. Hitachi et al., PRB 27 (1983) 5279 (read: abstract): intensity ratio
    # 0.05 for electrons, 0.45 for alphas
    singlet_time: Positive[float] = 2.2
    triplet_time: Positive[float] = 27.0
    singlet_share_electrons: Share[float] = 0.05 / 1.05
    singlet_share_alphas: Share[float] = 0.45 / 1.45
    # NEST 2.4 for 20 keV at 500 V/cm, a fit to arXiv:1803.07935: ratio 0.16 * 20^0.16 = 0.26
    singlet_share_recoils: Share[float] = 0.26 / 1.26

    # --- light patterns
    light_map: str = "xams"  # one of optics.GEOMETRIES, or the file of a light map

    # --- S1 light; s1_..., s2_area_fraction_top and position_polynomials are for optics
    # "inverse_of_reconstruction" only
    g1: Share[float] = 0.10  # photoelectrons per photon, mean over z; assumed
    # Relative S1 light at depth z is a + b z: default of s1_naive_z_correction (corrected_areas)
    s1_light_at_gate: float = 700.0
    s1_light_slope: float = -7.69  # [1/mm]
    # share of S1 light in the top PMTs for z = 0; assumed
    s1_area_fraction_top_gate: Share[float] = 0.25
    s1_area_fraction_top_cathode: Share[float] = 0.10  # and at the cathode; assumed
    # 1: top PMTs share S1 light like S2 light, 0: evenly; assumed
    s1_position_contrast: Share[float] = 0.3

    # --- S2 light
    # At 5 kV/cm in the liquid; assumed. It still rises at 7.1 kV/cm (B. Edwards, arXiv:1710.11032)
    extraction_efficiency: Share[float] = 0.95
    se_gain: Positive[float] = 10.0  # in all PMTs of the TPC; assumed
    # standard deviation / mean of the light of an electron, besides photon statistics: that of
    # NEST's default s2Fano = 3.61 (nestpy 2) if PMTs see 10 % of the photons, which is assumed
    se_gain_spread: NotNegative[float] = 0.16
    # an electron gives light for so long; 5 mm at 2.5 mm/us
    gas_transit_time: Positive[float] = 2_000.0
    s2_area_fraction_top: Share[float] = 0.5  # assumed
    # x and y as a polynomial of the share of light in one half of the top PMTs: default of
    # pos_rec_params (peak_positions), a fit to the lab's data. The model uses its inverse.
    position_polynomials: tuple[tuple[float, ...], ...] = (
        (212.89988642, -320.95097295, 198.71830514, -46.03953999),
        (211.40051359, -319.83147964, 198.69552524, -46.23585688),
    )

    # --- electrons after S1s and S2s
    # electrons that impurities set free per photoelectron that PMTs see. XENON100, J. Phys. G 41
    # (2014) 035201, sees them after S1s and S2s in proportion to the light; the number is assumed
    photoionisation_probability: Share[float] = 2e-4
    # electrons that come later for each one of an S2, with a rate that falls like t^-a; numbers
    # assumed. Effect: LUX, arXiv:2004.07791, and XENON1T, arXiv:2112.12116
    delayed_electron_probability: Share[float] = 0.001
    delayed_electron_exponent: NotNegative[float] = 1.1  # a
    delayed_electron_first: Positive[float] = 50_000.0  # after the S2; about the longest drift
    delayed_electron_last: Positive[float] = 1e8  # assumed: beyond, they are few

    # --- PMTs of the TPC
    bottom_channels: tuple[int, ...] = (0,)
    top_channels: tuple[int, ...] = (1, 2, 3, 4)
    # Mean area of a photoelectron, by channel from 0: 1 / published gain_to_pe_array_v0.json
    photoelectron_areas: Positive[tuple[float, ...]] = (125.4, 166.9, 141.5, 155.2, 142.2)
    # 18 to 24 % at 175 nm; C. Faham et al., JINST 10 (2015) P09010 (arXiv:1506.08748)
    dpe_probability: Share[float] = 0.2
    # standard deviation / mean of the full-size ones; assumed
    photoelectron_spread: NotNegative[float] = 0.35
    # share with an exponential spectrum of small ones; assumed
    photoelectron_small: Share[float] = 0.05
    # their mean / mean of the full-size ones; assumed
    photoelectron_small_size: Positive[float] = 0.35
    transit_time_spread: NotNegative[float] = 1.5  # standard deviation; assumed
    # standard deviation of the Gaussian of a pulse; about that of run 100001
    pmt_rise: Positive[float] = 9.0
    # decay time of the exponential that it is convolved with; assumed
    pmt_fall: Positive[float] = 6.0
    afterpulse_probability: Share[float] = 0.005  # per photoelectron; assumed
    # Mean delay, its standard deviation, share: helium and heavier ions; assumed
    afterpulse_delays: tuple[tuple[float, float, float], ...] = (
        (500.0, 60.0, 0.4),
        (1_800.0, 250.0, 0.6),
    )
    dark_rate: NotNegative[float] = 30.0  # [Hz] per PMT, cold; assumed
    # The gain is halved when the base's capacitors lack the charge of so many photoelectrons:
    # assumed 10 nF at 80 V and 2e6 electrons a photoelectron, of which 40 % are gone
    pmt_saturation_charge: Positive[float] = 1e6
    # time in which these are charged again: 10 nF through 1 MOhm; assumed
    pmt_recovery_time: Positive[float] = 1e7

    # --- NaI detector next to the TPC; None: without
    external_channel: int | None = 5
    external_area_per_kev: Positive[float] = 56.2  # 1 / published gain of channel 5
    # standard deviation / mean at 511 keV: usual for NaI
    external_resolution: NotNegative[float] = 0.035
    # after the TPC's light: cables; the lab looks up to 100 ns late
    external_delay: NotNegative[float] = 40.0
    external_rise: Positive[float] = 15.0  # as pmt_rise
    external_fall: Positive[float] = 230.0  # decay time of NaI(Tl), Saint-Gobain data sheet
    external_acceptance: Share[float] = 0.3  # share of 511-keV pairs whose partner it sees; assumed
    external_photopeak: Share[float] = 0.6  # share of these with all of the energy; assumed
    external_rate: NotNegative[float] = 20.0  # [Hz] of background in it; assumed
    # end of that background, flat from 30 keV; assumed
    external_max_energy: Positive[float] = 1_500.0

    # --- SiPM in the TPC, of positive polarity; None: without
    sipm_channel: int | None = 6
    sipm_share: Share[float] = 0.01  # of the light that the PMTs see; assumed
    sipm_area: Positive[float] = 60.0  # mean area of a photoelectron; assumed
    sipm_spread: NotNegative[float] = 0.08  # standard deviation / mean of it; assumed
    sipm_crosstalk: Share[float] = 0.15  # probability that an avalanche starts another; assumed
    sipm_dark_rate: NotNegative[float] = 100.0  # [Hz], cold; assumed
    sipm_rise: Positive[float] = 8.0  # as pmt_rise
    sipm_fall: Positive[float] = 80.0  # recharging of a cell; assumed

    # --- digitizer
    dt: Positive[int] = 10  # V1724: 100 MHz
    adc_bits: Positive[int] = 14
    adc_saturates: bool = True  # do counts end at the range of these bits?
    # Channel by channel from 0; those of run 100001, and low for the SiPM that goes up
    baselines: tuple[float, ...] = (15800.0, 15837.0, 15874.0, 15911.0, 15948.0, 15985.0, 400.0)
    polarity_registers: bool = True  # does the run document name the channels' polarities?
    noise: NotNegative[float] = 1.5  # standard deviation; that of run 100001
    # a pulse starts where the signal reaches it; the hit finder's default
    threshold: Positive[int] = 15
    pre_trigger: Positive[int] = 30  # samples before; as in run 100001
    post_trigger: Positive[int] = 60  # samples after the last over threshold; as in run 100001
    # a pulse's length is a multiple of so many samples; as in run 100001
    length_multiple: Positive[int] = 2
    #: how often the digitizers are busy, for busy_time: no pulses, and fragments in the dead-time
    #: channel of redax [Hz]; 0: no such fragments either
    busy_rate: NotNegative[float] = 0.0
    busy_time: Positive[float] = 100_000.0  # [ns]
    dead_samples: NotNegative[int] = 2  # a channel cannot start a pulse sooner after one; assumed
    # A board that has no memory left loses pulses until it has been read out
    board_memory: Positive[int] = (
        8 * 512 * 1024
    )  # [samples]; CAEN V1724: 512 kS in each of 8 channels
    readout_rate: Positive[float] = 0.04  # [samples/ns]; optical link, 80 MB/s
    fragment_samples: Positive[int] = 110  # redax's strax_fragment_payload_bytes / 2
    chunk_length: Positive[int] = 5_000_000_000  # redax's default
    chunk_overlap: Positive[int] = 500_000_000  # redax's default

    # --- LED runs: external trigger, pulses of fixed length
    led_rate: Positive[float] = 200.0  # [Hz]; that of run 100007
    led_samples: Positive[int] = 220  # two fragments, as in run 100007
    led_sample: NotNegative[float] = 92.0  # time of the flash [samples]; the lab looks at 80 to 110
    led_width: NotNegative[float] = 10.0  # standard deviation of the flash [ns]; assumed

    #: Options of the context for such runs, besides the gains
    processing_options: Mapping[str, Any] = immutabledict(
        # The published corrections version ONLINE
        {
            "s1_min_area": 1,
            "s2_min_area": 100,
            "s2_min_width": 600,
            "s1_max_width": 140,
            "s1_max_area_fraction_top": 1,
            "s1_min_channels": 1,
            "s2_min_channels": 1,
            "left_event_extension": 50_000,
            "right_event_extension": 50_000,
            "max_drift_length": 52,
            "electron_drift_velocity": 0.00104,
        }
    )

    def __post_init__(self) -> None:
        """Raise InvalidOption for impossible values."""
        for field in fields(self):
            self._check_kind(field.name, getattr(self, field.name), field.default)
        for field in fields(self):
            for bound in get_args(field.type)[1:]:
                if isinstance(bound, _Bound) and not all(
                    map(bound.holds, _numbers(getattr(self, field.name)))
                ):
                    self._refuse(field.name, bound.text)
        self._check_physics()
        self._check_sensors()

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Detectors pickled with old names: a missing number would silently be the default
        self.__dict__.update(_legacy.detector_numbers(state))

    def _check_kind(self, name: str, value: Any, default: Any) -> None:
        """Check that a value is of the kind of the field's default."""
        if value is None and name in ("led_context", "external_channel", "sipm_channel"):
            return
        if isinstance(default, (str, bool, Mapping)):
            kind = Mapping if isinstance(default, Mapping) else type(default)
            if not isinstance(value, kind):
                self._refuse(name, f"it must be a {kind.__name__}")
            return
        is_list = isinstance(default, tuple)
        if is_list != isinstance(value, tuple) or not all(map(_is_number, _numbers(value))):
            self._refuse(name, f"it must be a {'list of numbers' if is_list else 'number'}")
        if value == ():
            self._refuse(name, "it must not be empty")
        if not all(map(math.isfinite, _numbers(value))):
            self._refuse(name, "it must be finite")
        if all(isinstance(number, int) for number in _numbers(default)):
            if not all(number == int(number) for number in _numbers(value)):
                self._refuse(name, "it must be a whole number")
            if not isinstance(value, tuple):
                object.__setattr__(self, name, int(value))

    def _check_physics(self) -> None:
        """Check drift, light and positions."""
        if self.drift_time_gate < self.gas_transit_time / 2:
            self._refuse("drift_time_gate", "half of gas_transit_time is part of it")
        if self.delayed_electron_last <= self.delayed_electron_first:
            self._refuse("delayed_electron_last", "it must be after delayed_electron_first")
        if self.drift_time_cathode <= self.drift_time_gate:
            self._refuse("drift_time_cathode", "electrons drift upwards: over drift_time_gate")
        if self.s1_light(-self.gate_cathode_distance) <= 0 or self.s1_light_at_gate <= 0:
            self._refuse("s1_light_slope", "there must be light at every depth")
        share = np.linspace(0, 1, 101)
        for polynomial in self.position_polynomials:
            if not np.all(np.diff(np.polyval(polynomial, share)) > 0):
                self._refuse("position_polynomials", "positions must rise with the share of light")
        if len(self.position_polynomials) != 2:
            self._refuse("position_polynomials", "there must be one for x and one for y")

    def _check_sensors(self) -> None:
        """Check PMTs, other sensors, and the digitizer."""
        if self.sipm_crosstalk == 1:
            self._refuse("sipm_crosstalk", "one avalanche would start others without end")
        for name in ("pmt_rise", "external_rise", "sipm_rise"):
            if getattr(self, name) < self.dt / 2:
                self._refuse(name, f"pulses are wider than half a sample, {self.dt / 2} ns")
        for delay in self.afterpulse_delays:
            if not isinstance(delay, tuple) or len(delay) != 3 or min(delay) < 0 or delay[2] == 0:
                self._refuse("afterpulse_delays", "it is a list of mean, spread and share")
        if len(self.bottom_channels) != 1 or len(self.top_channels) not in (1, 4):
            self._refuse("top_channels", "the model has one bottom PMT, and one or four top PMTs")
        for name in ("bottom_channels", "top_channels", "external_channel", "sipm_channel"):
            value = getattr(self, name)
            own = value if isinstance(value, tuple) else () if value is None else (value,)
            if any(not 0 <= channel < 16 or self.channels.count(channel) > 1 for channel in own):
                self._refuse(name, "a board has channels 0 to 15, each used once")
        if len(self.photoelectron_areas) <= max(self.tpc_channels):
            self._refuse("photoelectron_areas", f"channel {max(self.tpc_channels)} needs one")
        if len(self.baselines) <= max(self.channels):
            self._refuse("baselines", f"channel {max(self.channels)} needs one")
        if not all(0 <= baseline < 2**self.adc_bits for baseline in self.baselines):
            self._refuse("baselines", f"the ADC has {self.adc_bits} bits")
        if self.adc_bits > 15:
            self._refuse("adc_bits", "fragments hold 16-bit integers with a sign")
        if self.led_rate * (self.led_samples + 1) * self.dt >= 1e9:
            self._refuse("led_rate", f"pulses of {self.led_samples} samples would overlap")
        if self.length_multiple > self.post_trigger:
            self._refuse("length_multiple", "it must not be over post_trigger")

    def _refuse(self, name: str, why: str) -> None:
        value = getattr(self, name)
        raise InvalidOption(f"{name} of detector {self.name} cannot be {value!r}: {why}")

    def with_values(self, **values: Any) -> "Detector":
        """Return this detector with other values for some fields.

        Raises InvalidOption for an unknown field, or an impossible value.
        """
        known = {field.name for field in fields(self)}
        values = _legacy.detector_numbers(values)
        for name in values:
            if name not in known:
                raise InvalidOption(
                    f"detector {self.name} has no number {name!r}{did_you_mean(name, known)}"
                )
        return replace(self, **values)

    @property
    def tpc_channels(self) -> tuple[int, ...]:
        """Channels of the PMTs, bottom first."""
        return self.bottom_channels + self.top_channels

    @property
    def channels(self) -> tuple[int, ...]:
        """All channels with a sensor."""
        others = (self.external_channel, self.sipm_channel)
        return self.tpc_channels + tuple(channel for channel in others if channel is not None)

    @property
    def drift_velocity(self) -> float:
        """Velocity of electrons below the gate [mm/ns]."""
        return self.gate_cathode_distance / (self.drift_time_cathode - self.drift_time_gate)

    @property
    def surface(self) -> float:
        """Height of the liquid's surface: electrons drift to it as fast as below the gate [mm]."""
        return (self.drift_time_gate - self.gas_transit_time / 2) * self.drift_velocity

    def s1_light(self, z):
        """Relative S1 light at depth `z` [mm], not normalised."""
        return self.s1_light_at_gate + self.s1_light_slope * z

    def unit_area(self, channel: int) -> float:
        """Area of a photoelectron, or of a keV in the NaI detector."""
        if channel == self.external_channel:
            return self.external_area_per_kev
        if channel == self.sipm_channel:
            return self.sipm_area
        return self.photoelectron_areas[channel]

    def options(self) -> dict[str, Any]:
        """Return options for the context that processes the simulated runs.

        For XAMS, gains, electron lifetime and drift are those of the simulation.
        """
        result = dict(self.processing_options)
        if self.context == "xams":
            result["gain_to_pe_array"] = tuple(
                1 / self.unit_area(channel) if channel in self.channels else 1.0
                for channel in range(len(self.baselines))
            )
            result.setdefault("elife", self.electron_lifetime)
            for option in ("drift_time_gate", "drift_time_cathode", "gate_cathode_distance"):
                result.setdefault(option, getattr(self, option))
        return result


def _numbers(value: Any) -> Iterator[Any]:
    """Yield a value, or the items of nested tuples."""
    if isinstance(value, tuple):
        for item in value:
            yield from _numbers(item)
    else:
        yield value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


XAMS = Detector()

XAMSL = Detector(
    name="xamsl",
    context="xams_little",
    led_context=None,
    board_type="V1730",
    radius=XAMSL_VOLUME.radius,
    gate_cathode_distance=XAMSL_VOLUME.depth,
    drift_time_gate=float(XAMSL_VOLUME.drift_time_gate),
    drift_time_cathode=float(XAMSL_VOLUME.drift_time_cathode),
    # Assumed, after E. Hogenbirk et al., NIM A 840 (2016) 87, which could not be read
    electron_lifetime=400_000.0,
    g1=0.116,  # from the area of alphas in run 999999, for `photoelectron_areas`
    light_map="xamsl",
    s1_light_slope=-3.5,  # assumed
    bottom_channels=(0,),
    top_channels=(1,),
    # Within a factor of two, from run 999999: fluctuations in the tail of S1s of alphas, as far as
    # they are those of numbers of photoelectrons (`amstrax alphas --gains`: 1.8 and 1.5). It is a
    # gain of 3e4, as PMTs have at this run's -560 and -555 V; runs at -850 V have far more
    photoelectron_areas=(1.0, 1.0),
    # 40 % of 10 nF at 56 V, as for XAMS, and the 3e4 electrons of a photoelectron; assumed
    pmt_saturation_charge=5e7,
    pmt_rise=2.0,  # these two: fits to mean S1s of alphas in run 999999
    pmt_fall=6.5,
    external_channel=None,
    sipm_channel=None,
    dt=2,  # V1730: 500 MHz
    baselines=(8_240, 8_182),  # those of run 999999
    polarity_registers=False,  # run 999999's document names none
    noise=1.9,  # that of run 999999
    threshold=30,  # that in run 999999's document
    pre_trigger=50,  # as in run 999999
    post_trigger=440,  # pulses of run 999999 have at least 500 samples
    length_multiple=10,  # as in run 999999
    board_memory=8 * 5_120 * 1024,  # CAEN V1730: 5.12 MS in each of 8 channels
    processing_options=immutabledict({}),
)

#: The detectors by name
DETECTORS: Mapping[str, Detector] = immutabledict({d.name: d for d in (XAMS, XAMSL)})


def find(name: str) -> Detector:
    """Return the detector called `name`; raises InvalidOption for another name."""
    if name not in DETECTORS:
        raise InvalidOption(f"no detector {name!r}{did_you_mean(name, DETECTORS)}")
    return DETECTORS[name]
