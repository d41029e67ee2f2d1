"""The plugin with another baseline: beside the usual one, on live data."""

import numpy as np
import pytest
from make_runs import RUN_ID, context, load, pulses, write_run

import amstrax
from amstrax.commands.base import CONTEXTS

TYPES = ("records_alt_bl", "hits_alt_bl")


@pytest.fixture
def run(tmp_path):
    """A context that has both, and a run with pulses of two fragments in two channels."""
    rng = np.random.default_rng(1)
    records = pulses(np.arange(1, 60) * 90_000_000, (0, 3), n_fragments=2, height=500)
    noise = np.round(rng.normal(0, 1.5, records["data"].shape))
    drift = 0.1 * (np.arange(110) + 110 * records["record_i"][:, np.newaxis])
    records["data"] += (noise + drift).astype(np.int16)
    write_run(tmp_path, records)
    st = context(tmp_path)
    st.register(amstrax.PulseProcessingAltBaseline)
    return st


def test_is_not_registered_by_default():
    for name in CONTEXTS:
        st = getattr(amstrax.contexts, name)(init_rundb=False, storage=[])
        assert not set(TYPES) & set(st._plugin_class_registry), name


def test_beside_the_other(run):
    """Both can be made in one context, and the usual one is as it was without the other."""
    plain = amstrax.contexts.xams(init_rundb=False, storage=[])
    for data_type in ("records", "peaks"):
        assert run.lineage(RUN_ID, data_type) == plain.lineage(RUN_ID, data_type)
    usual, records, hits = (load(run, d) for d in ("records", *TYPES))
    assert len(records) == len(usual) == 59 * 2 * 2
    for field in ("time", "length", "channel", "record_i", "pulse_length"):
        np.testing.assert_array_equal(records[field], usual[field])
    # 500 counts high and 20 samples wide, with 0.1 to 1 of that at the start and at the end
    true_area = 500 * 2 * np.linspace(0.1, 1, 10).sum()
    first = records["record_i"] == 0
    assert np.median(records["area"][first]) == pytest.approx(true_area, rel=0.02)
    # A hit a pulse; all that is outside is blanked, while the fixed baseline runs off by then
    big = hits[hits["height"] > 300]
    assert len(big) == 59 * 2
    assert len(hits) < 59 * 2 * 1.2
    assert np.median(abs(records["area"][~first])) < 20
    assert np.median(usual["area"][~first]) < -1000
    assert (hits["threshold"] > 4).all()


def test_options(run):
    st = run.new_context()
    st.set_config({"alt_hit_threshold": 200.0, "save_outside_hits": (0, 0)})
    records, hits = (load(st, d) for d in TYPES)
    assert 0 < len(hits) <= 59 * 2
    assert ((records["data"] != 0).sum(axis=1) <= 20).all()
    assert st.key_for(RUN_ID, TYPES[0]) != run.key_for(RUN_ID, TYPES[0])


def test_run_without_pulses(tmp_path):
    write_run(tmp_path, pulses(np.zeros(1, dtype=np.int64))[:0])
    st = context(tmp_path)
    st.register(amstrax.PulseProcessingAltBaseline)
    for data_type in TYPES:
        assert len(load(st, data_type)) == 0


def test_on_simulated_data(tmp_path):
    """Areas of pulses of a simulated run agree with those of the usual records."""
    from amstrax import contexts, rundoc, simulation

    folder = tmp_path / "live"
    simulation.simulate(RUN_ID, folder, source="flat", rate=20, duration=3, yields="simple")
    st = contexts.xams(
        output_folder=tmp_path / "out", init_rundb=False, config={"live_data_dir": str(folder)}
    )
    st.register(amstrax.PulseProcessingAltBaseline)
    document = rundoc.from_json(str(folder / f"rundoc_{RUN_ID}.json"))
    contexts.context_for_daq_reader(st, RUN_ID, run_doc=document)
    usual, records = (load(st, d) for d in ("records", TYPES[0]))
    large = (usual["area"] > 2000) & (usual["record_i"] == 0) & (usual["pulse_length"] <= 110)
    assert large.sum() > 20
    ratio = records["area"][large] / usual["area"][large]
    assert np.median(ratio) == pytest.approx(1, abs=0.03)
