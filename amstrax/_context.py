"""The class of amstrax's contexts."""

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
    (``RuntimeError: dictionary changed size during iteration``).
    """

    def __init__(self, *args: Any, **kwargs: Any):
        self._plugins_lock = threading.RLock()
        super().__init__(*args, **kwargs)

    def _get_plugins(self, *args: Any, **kwargs: Any) -> dict[str, strax.Plugin]:
        with self._plugins_lock:
            return super()._get_plugins(*args, **kwargs)

    def new_context(self, *args: Any, **kwargs: Any) -> "Context":
        """Return a new context with some settings changed; parameters are as in strax."""
        new = super().new_context(*args, **kwargs)
        # strax makes one of its own class
        new.__class__ = Context
        new._plugins_lock = threading.RLock()
        return new

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_plugins_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._plugins_lock = threading.RLock()


for _name, _module in ANALYSES.items():
    setattr(Context, _name, _Analysis(_name, _module))
