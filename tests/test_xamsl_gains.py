"""Gains of XAMSL: areas in PE, thresholds in ADC counts, lineage, and `amstrax alphas`."""

import json
import logging

import numpy as np
import pytest
from make_runs import RUN_ID, context, load, pulses, write_run

from amstrax import cli, contexts, simulation
from amstrax.analyses.loading import area_unit
from amstrax.corrections import check
from amstrax.exceptions import InvalidOption

RUN = "000230"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder with live data of radon and its daughters, some 400 alphas."""
    folder = tmp_path_factory.mktemp("radon")
    simulation.simulate(
        RUN,
        folder,
        simulation.DETECTORS["xamsl"],
        "rn_chain",
        80,
        7,
        3,
        show_progress=False,
    )
    return folder


def two_peaks(folder, **config):
    """Return a context with a run of two peaks."""
    write_run(folder, pulses([1_000_000, 1_200_000], range(2), dt=2, width=40))
    return context(folder, "xams_little", **config)


def test_areas_are_in_pe(tmp_path):
    """Peaks are the same with gains, with each channel's area times its gain."""
    gains = (0.5, 0.25, 1, 1)
    without = load(two_peaks(tmp_path / "a"), "radon_peaks")
    st = two_peaks(tmp_path / "b", xamsl_gain_to_pe_array=gains)
    peaks = load(st, "radon_peaks")
    assert len(peaks) == len(without) == 2
    np.testing.assert_array_equal(peaks["n_hits"], without["n_hits"])
    np.testing.assert_allclose(
        peaks["area_per_channel"], without["area_per_channel"] * gains, rtol=1e-5
    )
    np.testing.assert_allclose(peaks["area"], peaks["area_per_channel"].sum(axis=1), rtol=1e-5)
    assert area_unit(st, RUN_ID, "radon_peak_basics") == "PE"
    config = {"peak_min_area": float(without["area"][0]) * 0.6}
    assert len(load(two_peaks(tmp_path / "c", **config), "radon_peaks")) == 2
    config["xamsl_gain_to_pe_array"] = gains  # the option is then in PE
    assert not len(load(two_peaks(tmp_path / "d", **config), "radon_peaks"))


def test_lineage_and_caution(tmp_path, caplog):
    default = two_peaks(tmp_path / "a")
    again = two_peaks(tmp_path / "b", xamsl_gain_to_pe_array=None)
    st = two_peaks(tmp_path / "c", xamsl_gain_to_pe_array=(0.5,) * 4)
    for data_type, same in (("radon_records", True), ("radon_peaks", False)):
        keys = [x.key_for(RUN_ID, data_type).lineage_hash for x in (default, again, st)]
        assert keys[0] == keys[1] and (keys[0] == keys[2]) is same
    with caplog.at_level(logging.WARNING):
        load(st, "radon_peaks")
    assert "has no gains" not in caplog.text
    with pytest.raises(InvalidOption, match="at least 4 finite numbers"):
        load(two_peaks(tmp_path / "d", xamsl_gain_to_pe_array=(0.5,)), "radon_peaks")


def arguments(folder, tmp_path):
    return [
        *("alphas", RUN, f"--live_data_dir={folder}", f"--output_folder={folder / 'processed'}"),
        *("--testing_rundoc", str(folder / f"rundoc_{RUN}.json")),
        *('--context_kwargs={"init_rundb": false}', "--no-progress"),
    ]


def test_alphas(made, tmp_path, capsys):
    folder, found, plot = tmp_path / "c", tmp_path / "a.json", tmp_path / "a.png"
    path = folder / "xamsl_gain_to_pe_array" / "xamsl_gain_to_pe_array_v1.json"
    path.parent.mkdir(parents=True)
    more = [f"--json={found}", f"--plot={plot}", f"--write={path}"]
    more += ["--from-run", "000200", "--to-run", "000299"]
    assert cli.main([*arguments(made, tmp_path), *more]) == 0
    rows = {row["name"]: row for row in json.loads(found.read_text())}
    assert "alphas in the fit" in capsys.readouterr().out
    assert plot.read_bytes().startswith(b"\x89PNG")
    scale = rows["energy_scale"]
    assert scale["unit"] == "keV/(ADC counts x samples)"
    assert rows["position Po-214"]["value"] * scale["value"] == pytest.approx(7686.8, rel=0.03)
    (gains,) = json.loads(path.read_text()).values()
    assert len(gains) == 4 and gains[2:] == [1, 1]
    for channel in (0, 1):
        own = rows[f"photoelectron_area {channel}"]
        assert gains[channel] == pytest.approx(1 / own["value"], rel=1e-5)
        error = (own["upper"] - own["lower"]) / 2
        assert own["value"] == pytest.approx(1, abs=4 * error)
    assert check.check_folder(folder).problems == []


def test_wrong_use_and_too_few(made, tmp_path, capsys):
    for wrong, message in (
        (["--tail", "90", "30"], "give the lower end first"),
        (["--excess", "0"], "above 0"),
    ):
        with pytest.raises(SystemExit, match="2"):
            cli.main([*arguments(made, tmp_path), *wrong])
        assert message in capsys.readouterr().err
    assert cli.main([*arguments(made, tmp_path), "--min_area", "1e6"]) == 1


def test_plot(made, tmp_path):
    assert cli.main(arguments(made, tmp_path)) == 0
    st = contexts.xams_little(output_folder=made / "processed", init_rundb=False)
    spectrum, light = st.plot_alphas(RUN).axes
    assert "ADC counts x samples" in spectrum.get_xlabel() and len(spectrum.lines) == 4
    assert len(light.collections) == 1
    spectrum, _ = st.plot_alphas(RUN, longest=5.0).axes
    assert "no lines: 0 S1s" in spectrum.texts[0].get_text()
