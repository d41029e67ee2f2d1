"""Detectors: what numbers they cannot have, and what follows from those that they have."""

import pickle
from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amstrax.exceptions import InvalidOption
from amstrax.plugins import event_processing, peak_processing
from amstrax.simulation import detector as module
from amstrax.simulation.detector import DETECTORS, XAMS, XAMSL, Detector

PROPERTY = settings(max_examples=50, deadline=None, database=None)

NUMBERS = [
    field.name
    for field in fields(Detector)
    if isinstance(getattr(XAMS, field.name), int | float)
    and field.name != "polarity_registers"
    and not field.name.endswith("_channel")
]
FLOATS = [name for name in NUMBERS if isinstance(getattr(XAMS, name), float)]
MAY_BE_0 = {
    "diffusion_longitudinal",
    "diffusion_transverse",
    "singlet_share_electrons",
    "singlet_share_alphas",
    "singlet_share_recoils",
    "wall_charge_share",
    "busy_rate",
    "cathode_charge_share",
    "g1",
    "s1_light_slope",
    "s1_area_fraction_top_gate",
    "s1_area_fraction_top_cathode",
    "s1_position_contrast",
    "extraction_efficiency",
    "s2_area_fraction_top",
    "se_gain_spread",
    "photoionisation_probability",
    "delayed_electron_probability",
    "delayed_electron_exponent",
    "dpe_probability",
    "photoelectron_spread",
    "photoelectron_small",
    "transit_time_spread",
    "afterpulse_probability",
    "dark_rate",
    "external_resolution",
    "external_delay",
    "external_acceptance",
    "external_photopeak",
    "external_rate",
    "sipm_share",
    "sipm_spread",
    "sipm_crosstalk",
    "sipm_dark_rate",
    "noise",
    "dead_samples",
    "led_sample",
    "led_width",
}
SHARES = {
    name
    for name in MAY_BE_0
    if "share" in name
    or name
    in {
        "g1",
        "s1_area_fraction_top_gate",
        "s1_area_fraction_top_cathode",
        "s2_area_fraction_top",
        "s1_position_contrast",
        "extraction_efficiency",
        "photoionisation_probability",
        "delayed_electron_probability",
        "dpe_probability",
        "photoelectron_small",
        "afterpulse_probability",
        "external_acceptance",
        "external_photopeak",
        "sipm_crosstalk",
    }
}


def refusal(detector=XAMS, **values):
    """Return the message with which values are refused, the same by both ways to give them."""
    with pytest.raises(InvalidOption) as error:
        detector.with_values(**values)
    with pytest.raises(InvalidOption) as other:
        replace(detector, **values)
    assert str(other.value) == str(error.value)
    return str(error.value)


@pytest.mark.parametrize("detector", DETECTORS.values(), ids=list(DETECTORS))
@pytest.mark.parametrize("name", NUMBERS)
def test_negative_numbers(name, detector):
    if name == "s1_light_slope":
        assert detector.with_values(s1_light_slope=-1.0).s1_light_slope == -1
        return
    # light at the gate is refused together with its slope
    field = "s1_light_slope" if name == "s1_light_at_gate" else name
    assert f"{field} of detector {detector.name} cannot be " in refusal(detector, **{name: -1})
    if field == name:
        assert "cannot be -1: " in refusal(detector, **{name: -1})


@pytest.mark.parametrize("name", NUMBERS)
def test_zero(name):
    if name in MAY_BE_0:
        assert getattr(XAMS.with_values(**{name: 0}), name) == 0
    else:
        field = "s1_light_slope" if name == "s1_light_at_gate" else name
        assert f"{field} of detector xams cannot be " in refusal(**{name: 0})


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_are_finite(name, value):
    assert refusal(**{name: value}) == (
        f"{name} of detector xams cannot be {value!r}: it must be finite"
    )


@pytest.mark.parametrize("name", sorted(SHARES))
def test_shares(name):
    assert refusal(**{name: 1.01}) == (
        f"{name} of detector xams cannot be 1.01: it is a share: 0 to 1"
    )
    if name != "sipm_crosstalk":
        assert getattr(XAMS.with_values(**{name: 1.0}), name) == 1


@pytest.mark.parametrize(
    ("values", "name", "why"),
    [
        ({"sipm_crosstalk": 1.0}, "sipm_crosstalk", "without end"),
        ({"gas_transit_time": 10_001.0}, "drift_time_gate", "half of gas_transit_time"),
        ({"delayed_electron_last": 5e4}, "delayed_electron_last", "after delayed_electron_first"),
        ({"drift_time_gate": 39_500.0}, "drift_time_cathode", "over drift_time_gate"),
        ({"s1_light_slope": 14.0}, "s1_light_slope", "light at every depth"),
        ({"bottom_channels": (0, 7)}, "top_channels", "one bottom PMT"),
        ({"bottom_channels": ()}, "bottom_channels", "not be empty"),
        ({"pmt_rise": 4.9}, "pmt_rise", "half a sample, 5.0 ns"),
        ({"afterpulse_delays": ()}, "afterpulse_delays", "not be empty"),
        ({"afterpulse_delays": ((1.0, 2.0),)}, "afterpulse_delays", "mean, spread and share"),
        ({"afterpulse_delays": ((1.0, -2.0, 1.0),)}, "afterpulse_delays", "mean, spread and share"),
        (
            {"position_polynomials": ((1.0, 0.0),)},
            "position_polynomials",
            "one for x and one for y",
        ),
        ({"position_polynomials": ((-1.0, 0.0),) * 2}, "position_polynomials", "must rise"),
        ({"position_polynomials": ((float("nan"), 0.0),) * 2}, "position_polynomials", "finite"),
        ({"top_channels": (1, 1, 1, 1)}, "top_channels", "each used once"),
        ({"external_channel": -1}, "external_channel", "each used once"),
        ({"external_channel": 6}, "external_channel", "each used once"),
        ({"external_channel": 16}, "external_channel", "channels 0 to 15"),
        ({"led_rate": 500_000.0}, "led_rate", "would overlap"),
        ({"photoelectron_areas": (0.0,) * 5}, "photoelectron_areas", "above 0"),
        ({"top_channels": (1, 2, 3, 9)}, "photoelectron_areas", "channel 9 needs one"),
        ({"top_channels": (1, 2, 3)}, "top_channels", "one or four top PMTs"),
        ({"photoelectron_areas": (100.0,) * 4}, "photoelectron_areas", "channel 4 needs one"),
        ({"baselines": (15_000.0,) * 6}, "baselines", "channel 6 needs one"),
        ({"sipm_channel": 7}, "baselines", "channel 7 needs one"),
        ({"baselines": (16_384.0,) * 7}, "baselines", "14 bits"),
        ({"baselines": (-1.0,) * 7}, "baselines", "14 bits"),
        ({"adc_bits": 10}, "baselines", "10 bits"),
        ({"adc_bits": 16}, "adc_bits", "16-bit integers"),
        ({"length_multiple": 61}, "length_multiple", "not be over post_trigger"),
        ({"baselines": (15_000.0,) * 6 + (float("nan"),)}, "baselines", "finite"),
        ({"photoelectron_areas": (float("inf"),) * 5}, "photoelectron_areas", "finite"),
    ],
)
def test_numbers_that_do_not_go_together(values, name, why):
    message = refusal(**values)
    shown = values.get(name, getattr(XAMS, name))
    assert message.startswith(f"{name} of detector xams cannot be {shown!r}: ")
    assert why in message


def test_at_the_edge_of_what_goes_together():
    XAMS.with_values(gas_transit_time=10_000.0, drift_time_cathode=5_000.1, length_multiple=60)
    XAMS.with_values(baselines=(16_383.0,) * 7)
    XAMS.with_values(top_channels=(1,), s1_light_slope=13.8, adc_bits=15)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"radus": 30.0}, r"detector xams has no number 'radus'; did you mean radius.*\?"),
        ({"radius": "30"}, "radius of detector xams cannot be '30': it must be a number"),
        ({"radius": None}, "radius of detector xams cannot be None: it must be a number"),
        ({"radius": True}, "radius of detector xams cannot be True: it must be a number"),
        ({"radius": (1.0,)}, r"radius of detector xams cannot be \(1.0,\): it must be a number"),
        (
            {"threshold": 15.5},
            "threshold .* cannot be 15.5: it must be a whole number",
        ),
        (
            {"external_channel": "5"},
            "external_channel .* cannot be '5': it must be a number",
        ),
        ({"name": 5}, "name of detector 5 cannot be 5: it must be a str"),
        ({"polarity_registers": "no"}, "polarity_registers of detector xams cannot be 'no'"),
        ({"processing_options": 3}, "processing_options of detector xams cannot be 3"),
        ({"baselines": ("a",) * 7}, "baselines of detector xams cannot be .*: it must be a list"),
        (
            {"baselines": 15_000.0},
            "baselines .* cannot be 15000.0: it must be a list of numbers",
        ),
        (
            {"top_channels": [1, 2, 3, 4]},
            r"top_channels .* cannot be \[1, 2, 3, 4\]: it must be a list",
        ),
    ],
)
def test_values_of_another_kind(values, message):
    with pytest.raises(InvalidOption, match=message):
        XAMS.with_values(**values)


@pytest.mark.parametrize("name", ["threshold", "dt"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_whole_numbers_are_finite(name, value):
    with pytest.raises(InvalidOption, match=f"{name} of detector xams"):
        XAMS.with_values(**{name: value})


def test_with_values():
    changed = XAMS.with_values(radius=40, threshold=20, baselines=(1_000.0,) * 7)
    assert (changed.radius, changed.threshold, changed.baselines) == (40, 20, (1_000.0,) * 7)
    assert (XAMS.radius, XAMS.threshold) == (31, 15)
    assert changed.with_values(radius=31.0, threshold=15, baselines=XAMS.baselines) == XAMS
    assert XAMS.with_values() == XAMS
    with pytest.raises(FrozenInstanceError):
        XAMS.radius = 5.0


def test_channels():
    assert XAMS.tpc_channels == (0, 1, 2, 3, 4)
    assert XAMS.channels == (0, 1, 2, 3, 4, 5, 6)
    assert XAMS.with_values(external_channel=None).channels == (0, 1, 2, 3, 4, 6)
    assert XAMS.with_values(sipm_channel=None).tpc_channels == XAMS.tpc_channels
    assert XAMSL.channels == XAMSL.tpc_channels == (0, 1)


def test_drift_velocity():
    assert XAMS.drift_velocity == pytest.approx(50.5 / 34_500)
    assert XAMSL.drift_velocity == pytest.approx(1.6e-3, rel=0.01)  # 1.6 mm/us


@PROPERTY
@given(st.floats(0, 100))
def test_s1_light(depth):
    assert XAMS.s1_light(-depth) == pytest.approx(700 + 7.69 * depth)
    assert XAMS.s1_light(np.array([-depth, 0.0]))[1] == 700


def test_unit_areas_and_gains():
    assert [XAMS.unit_area(channel) for channel in XAMS.channels] == [
        *(125.4, 166.9, 141.5, 155.2, 142.2),
        56.2,
        60.0,
    ]
    gains = XAMS.options()["gain_to_pe_array"]
    areas = np.array([XAMS.unit_area(channel) for channel in XAMS.channels])
    np.testing.assert_allclose(gains * areas, 1)
    without = XAMS.with_values(external_channel=None)
    assert without.options()["gain_to_pe_array"][5] == 1
    assert XAMS.options()["s2_min_area"] == 100
    assert XAMSL.options() == {}
    slow = XAMS.with_values(electron_lifetime=1e5, drift_time_cathode=45_000.0)
    drift = ("elife", "drift_time_gate", "drift_time_cathode", "gate_cathode_distance")
    assert [slow.options()[name] for name in drift] == [1e5, 5_000, 45_000, 50.5]
    # they are a new dictionary
    XAMS.options()["s2_min_area"] = 0
    assert XAMS.options()["s2_min_area"] == 100


@pytest.mark.parametrize(
    ("plugin", "option", "value"),
    [
        (event_processing.EventPositions, "gate_cathode_distance", XAMS.gate_cathode_distance),
        (event_processing.EventPositions, "drift_time_cathode", XAMS.drift_time_cathode),
    ],
)
def test_numbers_that_are_defaults_of_options(plugin, option, value):
    assert plugin.takes_config[option].default == value


def test_shapes_that_are_defaults_of_options():
    line = event_processing.CorrectedAreas.takes_config["s1_naive_z_correction"].default
    assert line[2:] == (XAMS.s1_light_at_gate, XAMS.s1_light_slope)
    polynomials = peak_processing.PeakPositions.takes_config["pos_rec_params"].default
    np.testing.assert_array_equal(np.array(polynomials), np.array(XAMS.position_polynomials))


def test_find():
    assert module.find("xams") is XAMS
    assert module.find("xamsl") is XAMSL
    with pytest.raises(InvalidOption, match="no detector 'xamsx'; did you mean xams"):
        module.find("xamsx")


@pytest.mark.parametrize("old", module._legacy.DETECTOR_NUMBERS)
def test_old_names(old):
    new = module._legacy.DETECTOR_NUMBERS[old]
    with pytest.warns(DeprecationWarning, match=f"{old} of a simulated detector is now {new}"):
        assert getattr(XAMS.with_values(**{old: 0.5}), new) == 0.5


@pytest.mark.parametrize("old", module._legacy.DETECTOR_NUMBERS)
def test_pickled_with_old_names(old):
    new = module._legacy.DETECTOR_NUMBERS[old]
    state = dict(vars(XAMS))
    del state[new]
    detector = object.__new__(type(XAMS))
    with pytest.warns(DeprecationWarning, match=f"now {new}"):
        detector.__setstate__(state | {old: 0.5})
    assert getattr(detector, new) == 0.5 and old not in vars(detector)
    assert pickle.loads(pickle.dumps(detector)) == detector
