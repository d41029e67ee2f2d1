"""The pictures and numbers of the page "From pulse to event"."""

import re
import sys
from pathlib import Path

import matplotlib.image
import pytest

SOURCE = Path(__file__).resolve().parents[1] / "docs/source"
PAGE = SOURCE / "from_pulse_to_event.rst"


@pytest.fixture(scope="module")
def page():
    """The module that draws."""
    sys.path.insert(0, str(SOURCE))
    try:
        import make_pulse_pictures

        yield make_pulse_pictures
    finally:
        sys.path.remove(str(SOURCE))
        sys.modules.pop("make_pulse_pictures", None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def numbers(page, folder):
    """Numbers without the real run, as where ../shared is not."""
    return page.write(folder, folder / "nowhere")


def test_each_step_has_a_picture_that_is_not_empty(page, folder, numbers):
    shown = re.findall(r"_static/pulse_(\w+)\.png", PAGE.read_text(encoding="utf-8"))
    assert shown == list(page.STEPS)
    for step in shown:
        picture = matplotlib.image.imread(folder / f"_static/pulse_{step}.png")
        colored = (picture[..., :3] < 0.9).any(axis=2)
        # Ink in both halves: each panel has content
        half = colored.shape[1] // 2
        assert colored[:, :half].mean() > 0.01 and colored[:, half:].mean() > 0.01, step


def test_page_and_numbers_name_each_other(page, folder, numbers):
    text = (folder / "pulse_numbers.inc").read_text()
    defined = re.findall(r"^\.\. \|(\w+)\| replace:: (\S+)$", text, re.MULTILINE)
    used = set(re.findall(r"\|(\w+)\|", PAGE.read_text(encoding="utf-8")))
    assert used <= {name for name, _ in defined} == set(numbers)
    assert "nan" not in {value for _, value in defined}
    assert "was not at hand" in text


def test_numbers_agree_with_the_truth(page, numbers):
    n = numbers
    # Only the lab's reconstruction drops samples below the threshold
    assert 0.86 < n["pe_lab"] < 0.92 and n["pe_improved"] == pytest.approx(1, abs=0.02)
    assert n["seen_lab"] <= n["seen_improved"] < 1
    assert n["electron_lab"] < n["electron_improved"] <= 1.15 * n["electron_true"]
    assert n["large_s2_lab"] < 0.8 and n["large_s2_improved"] == pytest.approx(1, abs=0.06)
    assert n["off_improved"] < n["off_lab"]
    assert n["small_s2_lab"] < n["small_s2_improved"]
    for chain in page.CHAINS:
        assert n[f"s1_area_{chain}"] == pytest.approx(n["s1_charge"], rel=0.05)
        assert n[f"s2_area_{chain}"] == pytest.approx(n["s2_charge"], rel=0.02)
        assert n[f"drift_{chain}"] == pytest.approx(n["drift_true"], abs=0.05)
        assert n[f"z_{chain}"] == pytest.approx(n["z_true"], abs=0.5)


def test_real_run_beside_the_simulated_one(page, tmp_path, shared):
    real, run = page.real_run(shared / "data", tmp_path), page.simulated(tmp_path)
    panels = {step: len(draw(run, real).axes) for step, draw in page.STEPS.items()}
    # The real run has neither S2s nor pairs of S1s
    assert {step for step, n in panels.items() if n == 3} == {
        *("hit", "groups", "sum", "saturated", "types")
    }
    assert set(panels.values()) == {2, 3}
    peak = real["peak"]
    assert peak["n_channels"] == 2 and peak["type"] == 1
    # The simulated photoelectron has as many lines: counts, baseline and threshold
    assert all(len(axes.lines) >= 3 for axes in page.STEPS["raw"](run, real).axes)
