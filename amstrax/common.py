"""Constants of the detectors, and small helpers for notebooks."""

import subprocess
import sys
import warnings
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    import strax

tpc_r = 6.0  #: radius of the XAMS TPC [cm], for old notebooks: see `XAMS_VOLUME`
tpc_z = 10.0  #: height of the XAMS TPC [cm], likewise
n_tpc_pmts = 5  #: XAMS: one PMT at the bottom, four quadrants at the top
n_xamsl_channel = 4  #: XAMSL: channels 0, 1 on the V1730, 2, 3 on the V1724
amstrax_dir = str(Path(__file__).resolve().parent)  #: folder of this package


class _Gains(np.ndarray):
    """Gains of channels, all 1, that act as the number 1 on data without an axis of channels.

    In amstrax 2 they were the number 1.
    """

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        others = [np.shape(x) for x in inputs if not isinstance(x, _Gains)]
        fits = all(shape == () or shape[-1] == len(self) for shape in others)
        arrays = [
            (x.view(np.ndarray) if fits else 1.0) if isinstance(x, _Gains) else x for x in inputs
        ]
        return getattr(ufunc, method)(*arrays, **kwargs)


#: Default conversion of areas from ADC counts x samples to photoelectrons: 1
to_pe = np.ones(n_tpc_pmts).view(_Gains)
to_pe.setflags(write=False)


class DriftVolume(NamedTuple):
    """Size and drift times of a drift volume, which `amstrax.EventPositions` has as defaults."""

    radius: float  #: [mm]
    depth: float  #: distance from gate to cathode [mm]
    drift_time_gate: int  #: drift time from the gate [ns]
    drift_time_cathode: int  #: drift time from the cathode [ns]

    @property
    def drift_velocity(self) -> float:
        """Velocity of electrons between cathode and gate [mm/ns]."""
        return self.depth / (self.drift_time_cathode - self.drift_time_gate)


XAMS_VOLUME = DriftVolume(
    radius=31.0,  # last edge of r in the published s1_map_v0.json
    # Defaults of the options of event_positions in the lab's package 2.1
    depth=50.5,
    drift_time_gate=3_000,
    drift_time_cathode=39_500,
)

XAMSL_VOLUME = DriftVolume(
    # E. Hogenbirk et al., NIM A 840 (2016) 87: 44 mm wide, 100 mm of drift
    radius=22.0,
    depth=100.0,
    drift_time_gate=3_000,  # assumed, as in XAMS
    drift_time_cathode=66_000,  # 1.6 mm/us at 500 V/cm; ditto, fig. 9
)


#: Default of the option ``elife`` [ns]
DEFAULT_ELIFE = 30_000


def get_elife(run_id: str) -> float:
    """Return the default of the option ``elife`` of `amstrax.CorrectedAreas` [ns].

    A warning names the way to get the electron lifetime of a run: amstrax 2 returned 642000 ns.
    """
    warnings.warn(
        f"get_elife returns {DEFAULT_ELIFE} ns, the default, for every run (amstrax 2: 642000 ns): "
        "write st.get_single_plugin(run_id, 'corrected_areas').elife",
        FutureWarning,
        stacklevel=2,
    )
    return DEFAULT_ELIFE


def select_channels(arr: np.ndarray, channel_list: int | Iterable[int]) -> np.ndarray:
    """Return the rows of a structured array whose field ``channel`` is (one of) `channel_list`."""
    channels = list(channel_list) if isinstance(channel_list, Iterable) else [channel_list]
    return arr[np.isin(arr["channel"], np.array(channels, dtype=np.int64))]


def run_ids_from_file(path: str | Path) -> list[str]:
    """Return the run ids in a text file: one a line, ``#`` starts a comment.

    Numbers are padded to six digits, as in the names of the lab's runs.
    """
    run_ids = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        entry = line.partition("#")[0].strip()
        if entry:
            run_ids.append(entry.zfill(6) if entry.isdigit() else entry)
    return run_ids


def get_config_defaults(
    st: "strax.Context",
    exclude: Sequence[str] = ("raw_records", "records"),
    include: Sequence[str] = (),
) -> "pd.DataFrame":
    """Return a table of all options that the plugins of a context take.

    Columns are ``option``, ``default``, ``current`` (both as in strax: ``<OMITTED>`` for none),
    ``applies_to`` and ``help``.

    Parameters
    ----------
    st
        Context.
    exclude
        Leave out data types whose name contains one of these.
    include
        If not empty: only data types whose name contains one of these.
    """
    import pandas as pd

    def is_wanted(data_types: Sequence[str]) -> bool:
        left = (d for d in data_types if not any(word in d for word in exclude))
        return any(not include or any(word in d for word in include) for d in left)

    columns = ["option", "default", "current", "applies_to", "help"]
    # Each of these tables also has the options of all dependencies
    tables = [st.show_config(data_type) for data_type in st._plugin_class_registry]
    rows = pd.concat([pd.DataFrame(columns=columns), *(t for t in tables if len(t))])
    rows = rows[[is_wanted(data_types) for data_types in rows["applies_to"]]]
    rows = rows.drop_duplicates(subset=["option"]).sort_values("option").reset_index(drop=True)

    class Options(pd.DataFrame):
        def __getitem__(self, key: Any) -> Any:
            if "name" in (key if isinstance(key, list) else [key] if isinstance(key, str) else ()):
                raise KeyError("no column 'name' since amstrax 3: write table['option']")
            return super().__getitem__(key)

        def __getattr__(self, name: str) -> Any:
            if name == "name":
                raise AttributeError("no column 'name' since amstrax 3: write table.option")
            return super().__getattr__(name)

    return Options(rows)


def print_versions(
    modules: str | Sequence[str] = ("strax", "amstrax"),
    print_output: bool = True,
    include_python: bool = True,
    return_string: bool = False,
    include_git: bool = True,
) -> "str | pd.DataFrame":
    """Print and return the versions and folders of modules.

    The result is a table with columns ``module``, ``version``, ``path`` and ``git``, or with
    `return_string` the text. `include_git` adds branch and commit of modules in a git checkout.
    """
    lines: list[str] = []
    rows: list[tuple[str | None, ...]] = []
    if include_python:
        python = sys.version.split()[0]
        lines.append(f"python {python} at {sys.executable}")
        rows.append(("python", python, sys.executable, None))
    for name in (modules,) if isinstance(modules, str) else modules:
        try:
            module = import_module(name)
        except ImportError:
            lines.append(f"{name} is not installed")
            continue
        file = getattr(module, "__file__", None)  # modules in C have none
        folder = Path(file).parent if file else Path()
        version = getattr(module, "__version__", None)
        git = _git_state(folder) if include_git and file else ""
        lines.append(f"{name} {version or 'without version'} at {folder}{git and f' ({git})'}")
        rows.append((name, version, str(folder), git or None))
    text = "\n".join(lines)
    if print_output:
        sys.stdout.write(text + "\n")
    if return_string:
        return text
    import pandas as pd

    return pd.DataFrame(rows, columns=["module", "version", "path", "git"])


def _git_state(folder: Path) -> str:
    """Return branch and commit of the checkout that tracks `folder`; empty without one."""

    def git(*arguments: str) -> str:
        try:
            command = ["git", "-C", str(folder), *arguments]
            done = subprocess.run(command, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    if not git("ls-files", "__init__.py"):
        return ""
    branch, commit = git("rev-parse", "--abbrev-ref", "HEAD"), git("rev-parse", "--short", "HEAD")
    return f"git branch {branch}, {commit}"
