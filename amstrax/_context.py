"""The class of amstrax's contexts."""

import copy
import pickle
import threading
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import PurePath
from types import MethodType
from typing import Any

import pandas as pd
import strax

from amstrax.exceptions import NoSuchDataType, did_you_mean
from amstrax.plugins.daqreader import LiveDataReader
from amstrax.rundoc import MISSING_LIVE_DATA

#: Analysis -> the module below `amstrax.analyses.on_context` that has it
ANALYSES = {
    "compare_runs": "runs",
    "event_display": "events",
    "event_scatter": "events",
    "plot_area_per_channel": "peaks",
    "plot_drift_time": "events",
    "plot_led_areas": "led",
    "plot_led_records": "led",
    "plot_peak_records": "waveforms",
    "plot_peaks": "waveforms",
    "plot_peaks_aft_histogram": "peaks",
    "plot_peaks_area_aft_histogram": "peaks",
    "plot_peaks_area_width_histogram": "peaks",
    "plot_positions": "events",
    "plot_rates": "runs",
    "plot_records": "waveforms",
    "plot_records_matrix": "waveforms",
    "raw_records_matrix": "waveforms",
    "records_matrix": "waveforms",
    "waveform_display": "waveforms",
}


class _Analysis:
    """Method of the context that is imported when it is first asked for.

    `strax.Context.add_method` needs the function itself, and with it matplotlib, at import; and
    what it adds, straxen takes the place of, which has analyses of the same names.
    """

    def __init__(self, name: str, module: str):
        self._name, self._module = name, module

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        module = import_module(self._module)
        function = getattr(module, self._name)
        return function if instance is None else MethodType(function, instance)


class Context(strax.Context):
    """Context with analyses, that may work on several runs at once from its first use on.

    Analyses are methods, ``st.NAME(run_id, ...)``: those in `ANALYSES`.

    strax (2.2.3) keeps the plugins that it has made, in a table without a lock: the threads of
    ``st.get_array(run_ids, ..., max_workers=2)`` disturb each other while they fill it
    (``RuntimeError: dictionary changed size during iteration``). Before it looks into that table
    it takes a hash of all options, and then copies all plugins that are in there, some hundred
    times for a job; here the hash is taken when the options have changed, and what is copied is
    what was asked for. What comes out is the same.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        self._set_up()
        super().__init__(*args, **kwargs)

    def _set_up(self) -> None:
        # Whether runs were listed while a run database was away
        self._lacks_runs = False
        self._plugins_lock = threading.RLock()
        # What options and plugins were, the hash of that, and keys of data made since
        self._known: tuple[bytes | None, str, dict[str, strax.DataKey]] = (None, "", {})

    def set_config(self, config: Mapping[str, Any] | None = None, mode: str = "update") -> None:
        """Set options, as strax does; paths become text, which strax can hash."""
        if config:
            config = {k: str(v) if isinstance(v, PurePath) else v for k, v in config.items()}
        super().set_config(config, mode)

    def _get_plugins(
        self, targets: Sequence[str], *args: Any, **kwargs: Any
    ) -> dict[str, strax.Plugin]:
        for target in targets:
            if target not in self._plugin_class_registry:
                known = self._plugin_class_registry
                raise NoSuchDataType(
                    f"this context does not make {target!r}{did_you_mean(target, known)}"
                )
        with self._plugins_lock:
            return super()._get_plugins(targets, *args, **kwargs)

    def _context_hash(self) -> str:
        return self._up_to_date()[1]

    def _up_to_date(self) -> tuple[bytes | None, str, dict[str, strax.DataKey]]:
        """Return ``_known``, made anew if an option or a plugin has changed."""
        known, now = self._known, self._fingerprint()
        if now is None or known[0] != now:
            known = self._known = now, super()._context_hash(), {}
        return known

    def _fingerprint(self) -> bytes | None:
        """Return all that strax's hash is made of, as bytes: 1 and 1.0 differ, as they do there."""
        plugins = [
            (data_type, plugin.version(), plugin.compressor, plugin.input_timeout)
            for data_type, plugin in self._plugin_class_registry.items()
        ]
        try:
            return pickle.dumps((self.config, plugins))
        except Exception:
            return None  # an option's value that cannot be pickled: strax may have a hash of it

    def key_for(
        self, run_id: str, target: str, chunk_number: Any = None, combining: bool = False
    ) -> strax.DataKey:
        """Return the key of data; parameters are as in strax."""
        may_differ = self.context_config["use_per_run_defaults"] or run_id.startswith("_")
        if may_differ or chunk_number is not None or combining:
            return super().key_for(run_id, target, chunk_number, combining)
        keys = self._up_to_date()[2]
        if target not in keys:
            keys[target] = super().key_for(run_id, target)
        key = copy.copy(keys[target])
        key.run_id = run_id
        key._lineage = key._lineage.copy()
        return key

    def __get_requested_plugins_from_cache(
        self, run_id: str, targets: tuple[str, ...]
    ) -> dict[str, strax.Plugin]:
        # Takes the place of strax's, since this class has the same name
        cached = self._fixed_plugin_cache[self._context_hash()]
        found: dict[str, strax.Plugin] = {}
        for target in targets:
            if target not in found:
                plugin = cached[target].__copy__()
                plugin.run_id = run_id
                plugin.fix_dtype()
                found.update(dict.fromkeys(plugin.provides, plugin))
        return {target: found[target] for target in targets}

    def _make_progress_bar(self, run_id: str, targets: Any, progress_bar: bool = True) -> tuple:
        if progress_bar:
            return super()._make_progress_bar(run_id, targets, progress_bar)
        # Without looking for data, which is what a bar needs to know when it ends
        return strax.utils.tqdm(total=1, disable=True), 0, float("inf")

    def get_components(self, run_id: str, *args: Any, **kwargs: Any) -> strax.ProcessorComponents:
        """Return what a processor needs; parameters are as in strax.

        Metadata of data made from incomplete live data, or from such data, says what is missing.
        """
        # straxen adds options to all contexts when it is imported, which may be after this was made
        self.set_context_config()
        components = super().get_components(run_id, *args, **kwargs)
        missing = None
        if components.savers:
            which = {key: kwargs[key] for key in ("chunk_number", "combining") if key in kwargs}
            missing = self._missing_live_data(run_id, components, **which)
        if missing is not None:
            for saver in (saver for savers in components.savers.values() for saver in savers):
                saver.md[MISSING_LIVE_DATA] = missing
        return components

    def _missing_live_data(
        self, run_id: str, components: strax.ProcessorComponents, **which: Any
    ) -> list[str] | None:
        """Return what the run lacks, None for data of complete runs.

        The reader adds to the list while it works. `which` are arguments of `get_metadata`.
        """
        for plugin in components.plugins.values():
            if isinstance(plugin, LiveDataReader):
                return plugin.missing if plugin.config["allow_incomplete"] else None
        if run_id.startswith("_"):
            return None
        for data_type in components.loaders:
            missing = self.get_metadata(run_id, data_type, **which).get(MISSING_LIVE_DATA)
            if missing is not None:
                return missing
        return None

    # While a run database is away, folders serve: also with runs of which they have only data

    def _is_away(self) -> bool:
        return any(getattr(frontend, "is_away", False) for frontend in self.storage)

    def scan_runs(self, *args: Any, **kwargs: Any) -> pd.DataFrame:
        """Return a table of all runs; parameters are as in strax."""
        self._lacks_runs = False
        with warnings.catch_warnings():
            # pandas, of the table of a frontend without runs
            warnings.simplefilter("ignore", FutureWarning)
            runs = super().scan_runs(*args, **kwargs)
            if self._is_away():
                folders = [f for f in self.storage if not getattr(f, "deep_scan", True)]
                for folder in folders:
                    folder.deep_scan = True
                try:
                    runs = super().scan_runs(*args, **kwargs)
                finally:
                    for folder in folders:
                        folder.deep_scan = False
                self._lacks_runs = True
        return runs

    def select_runs(self, *args: Any, **kwargs: Any) -> pd.DataFrame:
        """Return a table of some runs; parameters are as in strax."""
        if self._lacks_runs:
            self.runs = None
        return super().select_runs(*args, **kwargs)

    def list_available(self, target: str, runs: Any = None, **kwargs: Any) -> list[str]:
        """Return the runs of which data is stored; parameters are as in strax."""
        if self._lacks_runs and runs is None:
            self.runs = None
        return super().list_available(target, runs, **kwargs)

    def run_metadata(self, run_id: str, projection: Any = None) -> dict[str, Any]:
        """Return the document of a run; parameters are as in strax."""
        try:
            return super().run_metadata(run_id, projection)
        except strax.RunMetadataNotAvailable as error:
            if not self._is_away():
                raise
            raise strax.RunMetadataNotAvailable(
                f"run {run_id}: the run database cannot be reached, and no other storage has its "
                "metadata: see `amstrax rundb check`, or try again later"
            ) from error

    def new_context(self, *args: Any, **kwargs: Any) -> "Context":
        """Return a new context with some settings changed; parameters are as in strax."""
        new = super().new_context(*args, **kwargs)
        # strax makes one of its own class
        new.__class__ = Context
        new._set_up()
        return new

    def __getstate__(self) -> dict[str, Any]:
        left_out = ("_plugins_lock", "_known")
        return {key: value for key, value in self.__dict__.items() if key not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._set_up()


for _name, _module in ANALYSES.items():
    setattr(Context, _name, _Analysis(_name, f"amstrax.analyses.on_context.{_module}"))
# Those of amstrax 2, lest straxen's of the same names are called
for _name in (
    "plot_energy_spectrum",
    "plot_hit_pattern",
    "plot_peak_classification",
    "plot_waveform",
):
    setattr(Context, _name, _Analysis(_name, "amstrax._legacy"))
