"""Runs of several sources: truth and signals of each, in order of time."""

import json

import numpy as np
import pytest

from amstrax.commands.simulate import main
from amstrax.simulation import load_truth, optics
from amstrax.simulation.blocks import BLOCK, Settings, blocks
from amstrax.simulation.detector import DETECTORS, XAMS

#: No light but that of the xenon, no losses but those of a test
QUIET = XAMS.with_values(
    dark_rate=0.0, afterpulse_probability=0.0, dpe_probability=0.0, se_gain=1.0, g1=0.01
)


def truth_of(**options):
    parts = list(
        blocks(
            Settings(options.pop("detector", QUIET), yields="simple", **{"duration": 2.0} | options)
        )
    )
    return np.concatenate([part.truth for part in parts])


def test_truth_of_several_sources_is_in_order():
    backgrounds = {"bipo": 30.0, "wall": 10.0, "na22": 20.0}
    truth = truth_of(source="cs137", rate=20.0, backgrounds=backgrounds)
    assert (np.diff(truth["time"]) >= 0).all()
    assert truth["event_number"].tolist() == list(range(len(truth)))
    assert truth["time"].max() > 3 * BLOCK
    # two events for each decay of bismuth, at one place
    alphas = truth[truth["energy"] == 7686.8]
    assert len(alphas) == pytest.approx(60, abs=31)
    for alpha in alphas:
        same = (truth["x"] == alpha["x"]) & (truth["z"] == alpha["z"])
        assert same.sum() == 2
    assert (truth["energy"] == 5304.3).sum() == pytest.approx(20, abs=18)
    assert truth["n_deposits"].max() > 2
    # partners of 511 keV are with the events of na22
    with_partner = truth["external_energy"] > 0
    assert with_partner.any()
    assert (truth["energy"][with_partner] < 511.01).all()


@pytest.mark.parametrize(
    ("source", "has_s1", "has_s2"),
    [("below_cathode", True, False), ("gas", True, True), ("cathode", True, True)],
)
def test_signals_of_places(source, has_s1, has_s2):
    truth = truth_of(source=source, rate=30.0)
    truth = truth[truth["energy"] > 30]
    assert ((truth["s1_pe"] > 0) == has_s1).mean() > 0.95
    assert ((truth["s2_pe"] > 0) == has_s2).all()
    assert (truth["electrons"] > 0).all()
    if source == "gas":
        # the light of the S2 starts with the S1, and lasts for the way through the gas
        half = XAMS.gas_transit_time / 2
        assert np.nanmedian(truth["drift_time"]) == pytest.approx(half, abs=100)
    if source == "cathode":
        assert np.nanmedian(truth["drift_time"]) == pytest.approx(39_500, abs=100)


@pytest.mark.parametrize("detector", DETECTORS.values(), ids=lambda d: d.name)
def test_light_outside_of_the_drift_volume(detector):
    """In the gas it is shared like that of S2s; below the cathode the bottom PMT sees more."""
    patterns = optics.model("geometry", detector)
    x, y = np.array([0.0, 5.0]), np.array([0.0, -5.0])
    depth = detector.gate_cathode_distance
    gas, s2 = patterns.s1(x, y, np.full(2, detector.surface)), patterns.s2(x, y)
    shares = (found / found.sum(axis=1, keepdims=True) for found in (gas, s2))
    np.testing.assert_allclose(*shares)
    cathode, below = (patterns.s1(x, y, np.full(2, z)) for z in (-depth, -depth - 5.0))
    assert (below[:, 0] > cathode[:, 0]).all()
    assert (below.sum(axis=1) < 1).all()


def test_wall_keeps_electrons():
    whole = truth_of(source="wall", rate=40.0, without=("surface_charge_loss",))
    kept = truth_of(source="wall", rate=40.0)
    per_electron = [np.sum(t["s2_pe"]) / np.sum(t["electrons"]) for t in (whole, kept)]
    assert per_electron[1] / per_electron[0] == pytest.approx(XAMS.wall_charge_share, rel=0.1)


def test_command(tmp_path, capsys):
    arguments = ["77", f"--output={tmp_path}", "--duration=1", "--yields=simple", "--rate=5"]
    more = ["--source=cs137", "--source_position", "60", "0", "-25", "--background", "wall=20"]
    assert main([*arguments, *more]) == 0
    settings = json.loads((tmp_path / "simulation_000077.json").read_text())
    assert settings["backgrounds"] == {"wall": 20.0}
    assert settings["source_position"] == [60, 0, -25]
    energy = load_truth(tmp_path / "truth_000077.npy")["energy"]
    assert (energy == 5304.3).sum() > 5
    assert (energy < 662).any()
    capsys.readouterr()
    assert main([*arguments, "--background", "wall", "--force"]) != 0
    assert "--background wall: write NAME=HZ" in capsys.readouterr().err
