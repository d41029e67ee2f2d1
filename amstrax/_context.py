"""The class of amstrax's contexts."""

import threading
from typing import Any

import strax


class Context(strax.Context):
    """Context that may work on several runs at once from its first use on.

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
