"""What tests share: the data in ../shared, and runs written for a test."""

import json
import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real and simulated runs, reference values and specifications."""
    if (SHARED / "parity").is_dir():
        return SHARED
    reason = f"needs the project's shared data, which is not at {SHARED}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch, tmp_path):
    """Keep the settings of this machine, and its user, away from tests."""
    monkeypatch.setenv("AMSTRAX_CONFIG", str(tmp_path / "no_settings"))
    for detector in ("XAMS", "XAMSL"):
        for kind in ("LIVE", "RAW", "PROCESSED"):
            monkeypatch.delenv(f"{detector}_{kind}_DATA", raising=False)


@pytest.fixture(scope="session")
def online_config(shared) -> dict:
    """Options with which the reference of run 100001 was made."""
    from amstrax.auto_processing.amstraxer import to_dict_tuple

    return to_dict_tuple(json.loads((shared / "parity/run_100001_config.json").read_text()))
