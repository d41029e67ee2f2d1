"""Compilation: once, kept where it can be kept, and by `amstrax warmup` for all jobs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from make_runs import options, pulses, write_run

import amstrax
from amstrax.auto_processing import warmup

_COUNT_COMPILATIONS = """
import sys
from numba.core import event
with event.install_recorder("numba:compile") as recorder:
    {code}
print(*(e.data["dispatcher"] for _, e in recorder.buffer if e.is_start), sep="\\n")
"""

_JOB = _COUNT_COMPILATIONS.format(
    code="from amstrax.auto_processing import amstraxer; assert amstraxer.main(sys.argv[1:]) == 0"
)
#: A kernel that is compiled quickly, and where it is kept
_KERNEL = (
    _COUNT_COMPILATIONS.format(
        code="from amstrax.processing import live_data; live_data._first_damaged.compile()"
    )
    + "print(live_data._first_damaged.cache_folder())"
)


def start(*arguments, folder=None, **environment):
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=os.environ | environment,
    )


def output_of(process) -> tuple[str, str]:
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out, err


@pytest.mark.slow
def test_after_warmup_no_job_compiles(tmp_path):
    """In a cache of its own; whatever a context makes, strax's functions included."""
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "numba")}
    command = ["-m", "amstrax.cli", "warmup"]
    out, err = output_of(start(*command, **cache))
    assert "functions compiled" in out
    assert str(tmp_path / "numba") in out
    assert err.count("compiling functions") == 1
    write_run(tmp_path, pulses(np.arange(1, 100) * 100_000_000, range(7)), 2)
    write_run(tmp_path / "little", pulses([1_000_000, 2_000_000], (0, 1), dt=2))
    cases = (
        (
            tmp_path,
            "xams",
            "event_info event_waveform event_area_per_channel peak_basics_ext hits lone_hits "
            "peak_basics_sipm event_coincidences peak_coincidences records",
        ),
        (tmp_path / "little", "xams_little", "radon_peak_basics radon_hits radon_records"),
        (tmp_path, "xams_led", "led_calibration"),
    )
    # At once, as jobs start
    jobs = [
        start(
            "-c",
            _JOB,
            *options(folder, f"--context={name}", "--target", *targets.split()),
            f"--output_folder={tmp_path / name}",
            **cache,
        )
        for folder, name, targets in cases
    ]
    for job in jobs:
        out, err = output_of(job)
        assert out == "\n"
        assert "compiling" not in err
    out, err = output_of(start(*command, "--context", "xams_led", **cache))
    assert out.startswith("all was compiled already")


def test_processes_that_compile_at_once_keep_it(tmp_path):
    cache = {"NUMBA_CACHE_DIR": str(tmp_path)}
    for process in [start("-c", _KERNEL, **cache) for _ in range(3)]:
        compiled, _, folder = output_of(process)[0].rstrip().rpartition("\n")
        # The last may find what the first has kept
        assert "_first_damaged" in compiled or not compiled
        assert Path(folder).is_relative_to(tmp_path)
    assert output_of(start("-c", _KERNEL, **cache))[0] == f"\n{folder}\n"


def test_installation_that_cannot_be_written(tmp_path):
    """It is kept in the user's cache folder, and found there."""
    package = tmp_path / "installed/amstrax"
    shutil.copytree(
        Path(amstrax.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    # Nobody, not even root, can write into this folder
    (package / "processing/__pycache__").touch()
    environment = {
        "PYTHONPATH": str(tmp_path / "installed"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "NUMBA_CACHE_DIR": "",
    }
    outputs = [
        output_of(start("-c", _KERNEL, folder=tmp_path, **environment))[0].split("\n")
        for _ in range(2)
    ]
    assert "_first_damaged" in outputs[0][0]
    assert outputs[1][0] == ""
    for *_, folder, _ in outputs:
        assert Path(folder).is_relative_to(tmp_path / "cache")


def test_wrong_use(capsys):
    with pytest.raises(SystemExit) as error:
        warmup.main(["--context", "xenon"])
    assert error.value.code == 2
    assert "xenon" in capsys.readouterr().err
    with pytest.raises(SystemExit) as error:
        warmup.main(["--help"])
    assert error.value.code == 0
