"""Which options and corrections would be applied to a run, and which versions cover it."""

import pytest
from corrections_files import ELIFE, write_files

from amstrax import contexts
from amstrax.corrections import lookup
from amstrax.exceptions import CorrectionNotFound


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Corrections v1, which cover runs up to 20, and v2, without a file."""
    write_files(
        tmp_path,
        _global_v1={"elife": "elife_v1.json", "electron_drift_velocity": 0.0013},
        _global_v2={"elife": "elife_v2.json"},
        elife_v1=ELIFE,
    )
    monkeypatch.setenv("AMSTRAX_CORRECTIONS_FOLDER", str(tmp_path))
    return tmp_path


def test_options(folder):
    st = contexts.xams(init_rundb=False, storage=[], corrections_version="v1")
    options = {option.name: option for option in lookup.options_of(st, "000012")}
    elife = options["elife"]
    assert (elife.value, elife.source, elife.runs) == (2000.0, "elife_v1.json", "000011-000020")
    assert elife.is_set and "corrected_areas" in elife.types and not elife.problem
    assert not options["hit_min_amplitude"].is_set
    beyond = {option.name: option for option in lookup.options_of(st, "000021")}["elife"]
    assert beyond.value is None and "000021" in beyond.problem


def test_versions(folder):
    assert lookup.known_versions() == ["v1", "v2"]
    assert lookup.missing("v1", "000005") == {}
    assert "000021" in lookup.missing("v1", "000021")["elife"]
    assert "elife_v2.json" in lookup.missing("v2", "000005")["elife"]
    with pytest.raises(CorrectionNotFound):
        lookup.missing("v3", "000005")
