"""Effects that can be switched off: each changes what it should, by as much as its formula says."""

from dataclasses import fields

import numpy as np
import pytest

from amstrax.exceptions import InvalidOption
from amstrax.simulation import effects
from amstrax.simulation.blocks import Settings, blocks
from amstrax.simulation.detector import DETECTORS, XAMS


def run(without=(), detector=XAMS, **options):
    """Return fragments and truth of a short run."""
    options = {"source": "flat", "rate": 40.0, "duration": 0.5, "yields": "simple"} | options
    parts = list(blocks(Settings(detector, without=tuple(without), **options)))
    return tuple(np.concatenate([part[i] for part in parts]) for i in range(2))


@pytest.mark.parametrize("name", effects.EFFECTS)
@pytest.mark.parametrize("detector", DETECTORS.values())
def test_without_an_effect(name, detector):
    """Each has an own number or more, and all numbers without it are possible."""
    without = effects.switch_off(detector, [name])
    changed = {
        f.name for f in fields(detector) if getattr(detector, f.name) != getattr(without, f.name)
    }
    assert changed == set(effects._OFF[name])
    others = [other for other in effects._OFF if other != name]
    assert changed.isdisjoint(number for other in others for number in effects._OFF[other])


def test_without_all_effects():
    records, _ = run(effects.EFFECTS)
    assert len(records)


@pytest.mark.parametrize("name", ["nois", "", 3])
def test_unknown_effects_are_refused(name):
    with pytest.raises(InvalidOption, match="no effect"):
        Settings(XAMS, without=(name,))
    with pytest.raises(InvalidOption, match="did you mean noise?"):
        Settings(XAMS, without=("diffusion", "nois"))
