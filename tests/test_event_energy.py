"""The data type event_energy: formula, lineage, and errors without g1 and g2."""

import numpy as np
import pytest

from amstrax import contexts
from amstrax.exceptions import InvalidOption
from amstrax.processing.events import combined_energy

OPTIONS = {"g1": 0.1, "g2": 10.0}


def xams(release="2.1", **config):
    return contexts.xams(init_rundb=False, storage=[], release=release, config=config)


def test_energy_of_quanta():
    """Quanta of 13.7 eV each, and NaN without a signal."""
    light, charge, both = combined_energy([100, np.nan], [5000, 5000.0], 0.1, 10.0, 13.7)
    np.testing.assert_allclose(light, [13.7, np.nan])
    np.testing.assert_allclose(charge, [6.85, 6.85])
    np.testing.assert_allclose(both, [20.55, np.nan])


@pytest.mark.parametrize("release", ["2.1", "2.2"])
def test_lineage(release):
    """The options are in the lineage of event_energy, and change no other."""
    plain, with_g = xams(release), xams(release, **OPTIONS)
    differing = {
        name
        for name in plain._plugin_class_registry
        if plain.key_for("0", name).lineage_hash != with_g.key_for("0", name).lineage_hash
    }
    assert differing == {"event_energy"}
    other = xams(release, **OPTIONS, w_value=11.5)
    hashes = {st.key_for("0", "event_energy").lineage_hash for st in (plain, with_g, other)}
    assert len(hashes) == 3


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (OPTIONS | {"g1": 0}, "g1=0: give a number above 0"),
        (OPTIONS | {"g2": "ten"}, "g2='ten': give a number above 0"),
        (OPTIONS | {"w_value": -1.0}, "w_value=-1.0: give a number above 0"),
        (OPTIONS | {"g2": float("nan")}, "g2=nan"),
    ],
)
def test_unusable_options(config, text):
    with pytest.raises(InvalidOption, match=text):
        xams(**config).get_single_plugin("0", "event_energy")


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({}, r"event_energy has no g1 \[PE/photon\]: set the option.*amstrax energy"),
        ({"g1": 0.1}, r"event_energy has no g2 \[PE/electron\]"),
    ],
)
def test_no_energy_without_g1_and_g2(config, text):
    """The plugin can be looked at, and computes nothing, also of no events."""
    plugin = xams(**config).get_single_plugin("0", "event_energy")
    dtype = [("time", "i8"), ("endtime", "i8"), ("cs1", "f4"), ("cs2", "f4")]
    for n in (0, 3):
        with pytest.raises(InvalidOption, match=text):
            plugin.compute(np.zeros(n, dtype))
    found = xams(**OPTIONS).get_single_plugin("0", "event_energy").compute(np.ones(2, dtype))
    np.testing.assert_allclose(found["e_ces"], [0.13837] * 2, rtol=1e-5)
