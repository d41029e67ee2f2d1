"""The class of amstrax's contexts."""

import copy
import pickle
import threading
from importlib import import_module
from types import MethodType
from typing import Any

import strax

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
        module = import_module(f"amstrax.analyses.on_context.{self._module}")
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
        self._plugins_lock = threading.RLock()
        # What options and plugins were, the hash of that, and keys of data made since
        self._known: tuple[bytes | None, str, dict[str, strax.DataKey]] = (None, "", {})

    def _get_plugins(self, *args: Any, **kwargs: Any) -> dict[str, strax.Plugin]:
        with self._plugins_lock:
            return super()._get_plugins(*args, **kwargs)

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
    setattr(Context, _name, _Analysis(_name, _module))
