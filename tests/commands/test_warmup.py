"""Compilation: once, kept where it can be kept, and by `amstrax warmup` for all jobs."""

import importlib
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
import strax
from make_jobs import Child, made_once
from make_runs import options, pulses, write_run
from numba.core import event

import amstrax
from amstrax.commands import warmup

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
#: Compile a kernel of the package, and print where it is kept
_KERNEL = (
    _COUNT_COMPILATIONS.format(
        code="from amstrax.processing import live_data; live_data._first_damaged.compile()"
    )
    + "print(live_data._first_damaged.cache_folder())"
)
#: A module with a kernel that is compiled quickly
_SMALL = """
from amstrax.processing.compiled import I64, kernel

@kernel(I64)
def add_one(x):
    return x + 1
"""


def start(*arguments, folder=None, **environment):
    """Start Python; functions are compiled with few optimizations, which takes half the time."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=os.environ | {"NUMBA_OPT": "1"} | environment,
    )


def output_of(process) -> tuple[str, str]:
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out, err


_WARMUP = ("-m", "amstrax.cli", "warmup")
#: Warm up, and take what is asked for from the cache of the tests, but for functions of some files
_WARMUP_WITH_CACHE = """
import sys
from pathlib import Path
import strax
import amstrax
from amstrax import cli
from numba.core import caching, config

FRESH = ("general.", "led.", "live_data.")
File, subfolder = caching.IndexDataCacheFile, caching._CacheLocator.get_suitable_cache_subpath
files = [f for p in (amstrax, strax) for f in Path(p.__file__).parent.rglob("*.py")]
usual = {str(Path(config.CACHE_DIR, subfolder(str(f)))): f.parent / "__pycache__" for f in files}
own = File.load

def load(self, key):
    data, name = own(self, key), self._index_name
    if data is None and not name.startswith(FRESH):
        data = own(File(str(usual[self._cache_path]), name[:-4], self._source_stamp), key)
        if data is not None:
            self.save(key, data)
    return data

File.load = load
sys.exit(cli.main(["warmup"]))
"""


@pytest.fixture(scope="module")
def warm_cache(tmp_path_factory):
    """Cache that `amstrax warmup` made, with its two outputs in files; to be copied.

    It compiles some functions, and asks for all: those that the tests have compiled are copied.
    """

    def make(folder):
        command = ("-c", _WARMUP_WITH_CACHE)
        out, err = output_of(start(*command, NUMBA_CACHE_DIR=str(folder / "numba")))
        (folder / "out").write_text(out)
        (folder / "err").write_text(err)

    return made_once(tmp_path_factory, "warm_cache", make)


@pytest.mark.slow
def test_after_warmup_no_job_compiles(tmp_path, warm_cache):
    """Whatever a context makes, strax's functions included."""
    assert "functions compiled" in (warm_cache / "out").read_text()
    assert str(warm_cache / "numba") in (warm_cache / "out").read_text()
    assert (warm_cache / "err").read_text().count("compiling functions") == 1
    shutil.copytree(warm_cache / "numba", tmp_path / "numba")
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "numba")}
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
    out, err = output_of(start(*_WARMUP, "--context", "xams_led", **cache))
    assert out.startswith("all was compiled already")


def compile_small(arguments) -> int:
    """Compile the kernel of `_SMALL` in a folder, with a folder for the cache."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s", force=True)
    folder, numba.config.CACHE_DIR = arguments
    sys.path.insert(0, folder)
    with event.install_recorder("numba:compile") as recorder:
        small = importlib.import_module("small_kernel_of_warmup")
        small.add_one.compile()
    n_compiled = sum(e.is_start for _, e in recorder.buffer)
    print(json.dumps({"compiled": n_compiled, "folder": small.add_one.cache_folder()}))
    return 0


class SmallKernel:
    """The kernel of `_SMALL`, compiled in processes that need not import numba first."""

    def __init__(self, folder: Path):
        self.folder, self._n_logs = folder, 0
        (folder / "small_kernel_of_warmup.py").write_text(_SMALL)

    def start(self, cache: Path) -> Child:
        self._n_logs += 1
        arguments = str(self.folder), str(cache)
        return Child(compile_small, arguments, self.folder / f"log_{self._n_logs}")

    def result(self, process: Child) -> tuple[bool, str, list[str]]:
        """Return whether it compiled the kernel, where that is kept, and the warnings."""
        assert process.result() == 0, process.text()
        *warnings, last = process.text().splitlines()
        found = json.loads(last)
        return found["compiled"] > 0, found["folder"], warnings


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return SmallKernel(tmp_path_factory.mktemp("small"))


def test_processes_that_compile_at_once_keep_it(small, tmp_path):
    for process in [small.start(tmp_path) for _ in range(3)]:
        # The last may find what the first has kept
        _, folder, warnings = small.result(process)
        assert Path(folder).is_relative_to(tmp_path) and not warnings
    assert small.result(small.start(tmp_path)) == (False, folder, [])


@pytest.mark.slow
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


_STRAX_FUNCTION = "import numpy, strax; strax.diff(numpy.zeros(3, dtype=strax.time_fields)); "


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.unlink()
    if how == "folder":
        path.mkdir()
    else:
        path.write_bytes({"empty": b"", "cut": content[:-1], "garbage": b"\x00garbage"}[how])


@pytest.fixture(scope="module")
def compiled_kernel(tmp_path_factory, small):
    """Cache of the small kernel, to be copied."""
    folder = tmp_path_factory.mktemp("kernel")
    small.result(small.start(folder))
    return folder


@pytest.mark.parametrize("how", ["empty", "cut", "garbage", "folder"])
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_damaged_cache_of_a_kernel(compiled_kernel, small, tmp_path, how, suffix):
    """It is compiled again, which one warning says, and kept if that is possible."""
    shutil.copytree(compiled_kernel, tmp_path, dirs_exist_ok=True)
    (path,) = tmp_path.glob(f"*/*{suffix}")
    damage(path, how)
    compiled, _, warnings = small.result(small.start(tmp_path))
    assert compiled and len(warnings) == 1 and str(path) in warnings[0]
    compiled, _, warnings = small.result(small.start(tmp_path))
    assert (compiled, str(path) in "".join(warnings)) == (how == "folder", how == "folder")


def test_index_of_another_version(compiled_kernel, small, tmp_path):
    shutil.copytree(compiled_kernel, tmp_path, dirs_exist_ok=True)
    (path,) = tmp_path.glob("*/*.nbi")
    path.write_bytes(pickle.dumps("0.1") + b"what that version had")
    for is_compiled in (True, False):
        compiled, _, warnings = small.result(small.start(tmp_path))
        assert (compiled, warnings) == (is_compiled, [])


@pytest.mark.slow
@pytest.mark.parametrize("how", ["empty", "garbage"])
def test_job_repairs_the_cache(tmp_path, warm_cache, how):
    """Also that of strax's functions, at which numba fails wherever strax calls them."""
    shutil.copytree(warm_cache / "numba", tmp_path / "numba")
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "numba")}
    write_run(tmp_path, pulses([1_000_000], range(7)), 2)
    arguments = options(tmp_path, "--target", "raw_records")
    job = "import sys; from amstrax.auto_processing import amstraxer; "
    job += "status = amstraxer.main(sys.argv[1:]); assert status == 0; " + _STRAX_FUNCTION

    def paths():
        return sorted((tmp_path / "numba").glob("*/*.nb[ic]"))

    def is_kept():
        kept = {path.name.partition("-")[0] for path in paths()}
        return {"general.diff", "live_data._first_damaged"} <= kept

    damaged = paths()
    assert is_kept()
    for path in damaged:
        damage(path, how)
    out, err = output_of(start("-c", job, *arguments, **cache))
    (line,) = (line for line in err.splitlines() if "WARNING" in line)
    assert f"{damaged[0]} and {len(damaged) - 1} more; the functions" in line
    assert is_kept()
    shutil.rmtree(tmp_path / "out")
    out, err = output_of(start("-c", job, *arguments, **cache))
    assert "WARNING" not in err


@pytest.mark.slow
def test_damaged_cache_that_cannot_be_removed(tmp_path):
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "numba")}
    write_run(tmp_path, pulses([1_000_000], range(7)), 2)
    output_of(start("-c", _STRAX_FUNCTION, **cache))
    (path,) = (tmp_path / "numba").glob("*/general.diff*.nbi")
    damage(path, "folder")
    process = start("-m", "amstrax.auto_processing.amstraxer", *options(tmp_path), **cache)
    _, err = process.communicate()
    assert process.returncode == 1
    assert f"{path} of numba's cache is damaged, and cannot be removed" in err
    assert "NUMBA_CACHE_DIR" in err


@pytest.mark.slow
def test_warmup_repairs_the_cache(tmp_path, warm_cache):
    """Of a kernel, and of a function of strax."""
    shutil.copytree(warm_cache / "numba", tmp_path, dirs_exist_ok=True)
    for name in ("live_data._first_damaged", "general.diff"):
        (path,) = tmp_path.glob(f"*/{name}-*.nbi")
        damage(path, "empty")
    cache = {"NUMBA_CACHE_DIR": str(tmp_path)}
    _, err = output_of(start(*_WARMUP, "--context", "xams_led", **cache))
    assert err.count("damaged in numba's cache") == 1
    assert (
        output_of(start("-c", _COUNT_COMPILATIONS.format(code=_STRAX_FUNCTION), **cache))[1] == ""
    )
    assert output_of(start("-c", _KERNEL, **cache))[0].startswith("\n")


def test_nowhere_to_keep_compiled_functions(tmp_path):
    """numba fails then while strax is imported."""
    packages = tmp_path / "installed"
    for module in (amstrax, strax):
        folder = Path(module.__file__).parent
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(folder, packages / folder.name, ignore=ignore)
    (packages / "strax/processing/__pycache__").touch()
    (tmp_path / "home").touch()
    nowhere = dict.fromkeys(("HOME", "XDG_CACHE_HOME"), str(tmp_path / "home"))
    process = start(
        "-m",
        "amstrax.auto_processing.amstraxer",
        "1",
        folder=tmp_path,
        PYTHONPATH=str(packages),
        NUMBA_CACHE_DIR="",
        **nowhere,
    )
    _, err = process.communicate()
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith("numba cannot keep compiled functions anywhere")
    assert "Traceback" not in err


def test_wrong_use(capsys):
    with pytest.raises(SystemExit) as error:
        warmup.main(["--context", "xenon"])
    assert error.value.code == 2
    assert "xenon" in capsys.readouterr().err
    with pytest.raises(SystemExit) as error:
        warmup.main(["--help"])
    assert error.value.code == 0
