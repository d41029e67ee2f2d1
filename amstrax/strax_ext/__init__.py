"""Subclasses of strax; nothing of strax itself is replaced.

They rely on the undocumented names in `HOOKS`, which are checked in the installed strax at import.
"""

import inspect
import warnings
from operator import attrgetter

from amstrax import attributes_of
from amstrax.exceptions import UnsupportedStrax

__getattr__ = attributes_of(__name__)

#: Versions of strax that amstrax is tested with
TESTED = ("2.2.3",)

#: Names of strax that are overridden or called -> their parameters (None: not a function)
HOOKS: dict[str, str | None] = {
    "Chunk.concatenate": "chunks, allow_superrun",
    "Chunk.split": "self, t, allow_early_split",
    "Context._add_saver": "self, savers, d_to_save, run_id, target_plugin, combining",
    "Context._context_hash": "self",
    "Context._fixed_level_cache": None,
    "Context._fixed_plugin_cache": None,
    "Context._get_plugins": "self, targets, run_id, chunk_number",
    "Context._make_progress_bar": "self, run_id, targets, progress_bar",
    "Context._plugins_are_cached": "self, targets",
    "Context._plugins_to_cache": "self, plugins",
    "Context._sorted_storage": None,
    "Context.get_data_kinds": "self",
    "Context.get_dependency_plugins": "self, target, run_id, chunk_number",
    "Context.get_metadata": "self, run_id, target, chunk_number, combining",
    "Context.get_source_sf": "self, run_id, target, should_exist, chunk_number",
    "Context.key_for": "self, run_id, target, chunk_number, combining",
    "Context.__init__": "self, storage, config, register, register_all, processors, kwargs",
    "Context.new_context": "self, storage, config, register, register_all, processors, "
    "replace, kwargs",
    "Context.register": "self, plugin_class",
    "Context.scan_runs": "self, check_available, if_check_available, store_fields",
    "Context.set_config": "self, config, mode",
    "Context.set_context_config": "self, context_config, mode",
    "Context.tree_levels": None,
    "context.TEMP_DATA_TYPE_PREFIX": None,
    "FileSaver._chunk_filename": "self, chunk_info",
    "FileSaver._flush_md_for_every_chunk": None,
    "FileSaver._flush_metadata": "self",
    "FileSaver._save_chunk": "self, data, chunk_info, executor",
    "FileSytemBackend._read_and_format_chunk": "self, args, kwargs",
    "FileSytemBackend._saver": "self, dirname, metadata, kwargs",
    "FileSytemBackend.apply_time_range": "chunk, time_range",
    "OverlapWindowPlugin.do_compute": "self, chunk_i, kwargs",
    "Plugin.__copy__": "self, _deep_copy",
    "Plugin._check_dtype": "self, x, d",
    "Plugin._fetch_chunk": "self, d, iters, check_end_not_before",
    "Plugin.chunk": "self, start, end, data, data_type, run_id",
    "Plugin.fix_dtype": "self",
    "Plugin.iter": "self, iters, executor",
    "ProcessorComponents._replace": "self, kwds",
    "Rechunker.flush": "self",
    "Rechunker.get_splits": "data, target_size, min_gap",
    "Rechunker.receive": "self, chunk",
    "SingleThreadProcessor.__init__": "self, components, allow_rechunk, is_superrun, kwargs",
    "SingleThreadProcessor.iter": "self",
    "processors.post_office.PostOffice.register_spy": "self, spy, topic",
    "processors.single_thread.SaverSpy._save_chunk": "self, chunks",
    "processors.single_thread.SaverSpy.close": "self",
}


def check_strax() -> None:
    """Check the installed strax, and warn about an untested version.

    Raises UnsupportedStrax (an ImportError) when a hook is missing or has other parameters.
    """
    import strax

    remedy = f"install a tested one (pip install strax=={TESTED[-1]})"
    for name, parameters in HOOKS.items():
        try:
            hook = attrgetter(name)(strax)
        except AttributeError:
            raise UnsupportedStrax(f"strax {strax.__version__} has no {name}: {remedy}") from None
        if parameters is None or strax.__version__ in TESTED:
            continue
        found = ", ".join(inspect.signature(hook).parameters)
        if found != parameters:
            raise UnsupportedStrax(
                f"strax {strax.__version__}: {name} takes {found}, not {parameters}: {remedy}"
            )
    if strax.__version__ not in TESTED:
        warnings.warn(
            f"strax {strax.__version__} is not tested with amstrax: compare results, or {remedy}",
            stacklevel=2,
        )
