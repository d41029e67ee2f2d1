"""Plugins of amstrax, the processor that runs them, and the cache of them in a context.

strax (2.2.3) has a processor with threads, too. Each plugin is one there, and each keeps several
chunks: dense live data takes gigabytes, and most of the gain is lost to Python's lock. Here one
thread computes. Helper threads do what takes long without that lock: they decompress and sort the
next chunk of live data, and compress and write chunks.
"""

import copy
import io
import operator
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import strax
from immutabledict import immutabledict
from numpy.lib.recfunctions import repack_fields
from strax.processors.single_thread import SaverSpy

from amstrax.strax_ext.storage import CheckedSaver, Chunk, Rechunker

#: Largest amount of data in the queue of writes [bytes]; a single chunk may be larger
MOST_WAITING = 200_000_000


#: Attributes that a copy of a plugin shares, as in strax: none depends on the run
_COPIED = ("dtype", "lineage", "takes_config", "__version__", "config", "data_kind", "deps")


class Plugin(strax.Plugin):
    """Plugin that copies only the needed fields of its inputs, where `input_fields` names them.

    strax merges inputs of one kind to one array with all their fields. Peaks include their
    waveforms, so for most plugins nearly all of that copy is wasted.
    """

    #: Data type -> fields that `compute` needs of it, besides those of its times; others are whole.
    #: Holds for the class that sets both, not for subclasses: these may need any field.
    input_fields: Mapping[str, Sequence[str]] = immutabledict()

    #: Missing live data of the run, in a reader that accepts incomplete runs
    missing_live_data: list[str] | None = None

    #: Option with the gains, of a plugin that takes it, and the warning where it is not set
    gains_option, caution = "gain_to_pe_array", ""

    #: Threads of the processor, if it has any, that may prepare the next chunk
    helper_threads: "HelperThreads | None" = None

    #: Attributes of a new instance, from the first copy on
    _initial: dict[str, Any] | None = None

    #: Whether this is a copy of a plugin with the same options, whose dtype is copied too
    _has_final_dtype = False

    def __copy__(self, _deep_copy: bool = False) -> "Plugin":
        if _deep_copy:
            made = super().__copy__(_deep_copy)
        else:
            # strax calls __init__ twice, which inspects compute
            if self._initial is None:
                self._initial = type(self)().__dict__
            made = type(self).__new__(type(self))
            made.__dict__ |= {name: copy.copy(value) for name, value in self._initial.items()}
            for name in _COPIED:
                value = getattr(self, name)
                setattr(made, name, dict(value) if isinstance(value, dict) else value)
        made._initial = self._initial
        # The dtype of a user's class may depend on the run
        made._has_final_dtype = type(self).__module__.startswith("amstrax.")
        return made

    def fix_dtype(self) -> None:
        """Infer the dtype; strax does so again for each copy of a plugin."""
        if not self._has_final_dtype:
            super().fix_dtype()

    def iter(self, iters: Mapping[str, Iterator[strax.Chunk]], executor: Any = None) -> Iterator:
        own = vars(type(self))
        narrow = own["input_fields"] if {"input_fields", "compute"} <= own.keys() else {}
        iters = dict(iters)
        for d in narrow.keys() & iters.keys():
            iters[d] = map(partial(with_fields, fields=narrow[d]), iters[d])
        yield from super().iter(iters, executor=executor)

    @classmethod
    def sets_chunk_size(cls) -> bool:
        """Return whether the class, or one that it inherits from, sets ``chunk_target_size_mb``."""
        above = (c for c in cls.__mro__ if c is not strax.Plugin)
        return (
            any("chunk_target_size_mb" in vars(c) for c in above)
            or cls.chunk_target_size_mb != strax.DEFAULT_CHUNK_SIZE_MB
        )

    def chunk(
        self,
        *,
        start: int,
        end: int,
        data: np.ndarray,
        data_type: str | None = None,
        run_id: str | None = None,
    ) -> strax.Chunk:
        """Return a chunk of data that this plugin provides; parameters are as in strax."""
        if data_type is None:
            if self.multi_output:
                return super().chunk(start=start, end=end, data=data)  # raises
            (data_type,) = self.provides
        return Chunk(
            start=start,
            end=end,
            data=data,
            dtype=self.dtype_for(data_type),
            data_type=data_type,
            data_kind=self.data_kind_for(data_type),
            run_id=self._run_id if run_id is None else run_id,
            target_size_mb=self.chunk_target_size_mb,
        )

    def _check_dtype(self, x: Any, d: str | None = None) -> None:
        # strax compares the fields one by one, without their titles
        if d is None or getattr(x, "dtype", None) != self.dtype_for(d):
            super()._check_dtype(x, d)

    def _fetch_chunk(
        self,
        d: str,
        iters: Mapping[str, Iterator[strax.Chunk]],
        check_end_not_before: int | None = None,
    ) -> bool:
        base = super()._fetch_chunk
        if base.__func__ is not strax.Plugin._fetch_chunk:
            return base(d, iters, check_end_not_before)  # of strax.ExhaustPlugin, for one
        chunk = next(iters[d], None)
        if chunk is None:
            return base(d, {d: iter(())}, check_end_not_before)
        self.input_buffer[d] = Chunk.concatenate([self.input_buffer[d], chunk], self.allow_superrun)
        return True


def dependencies(*plugins: strax.Plugin) -> Iterable[strax.Plugin]:
    """Return the direct and indirect dependencies of plugins, one of each class."""
    found: dict[type[strax.Plugin], strax.Plugin] = {}
    todo = list(plugins)
    while todo:
        for plugin in todo.pop().deps.values():
            if found.setdefault(type(plugin), plugin) is plugin:
                todo.append(plugin)
    return found.values()


class OverlapWindowPlugin(Plugin, strax.OverlapWindowPlugin):
    """Plugin that needs its inputs for some time before and after, see strax."""

    cached_input: dict[str, strax.Chunk]

    def do_compute(self, chunk_i: Any = None, **kwargs: strax.Chunk) -> Any:
        # Joined here, so that strax has nothing left to join
        kwargs = {
            kind: Chunk.concatenate([self.cached_input.get(kind), chunk], self.allow_superrun)
            for kind, chunk in kwargs.items()
        }
        self.cached_input = {}
        return super().do_compute(chunk_i=chunk_i, **kwargs)


def with_fields(chunk: strax.Chunk, fields: Sequence[str]) -> strax.Chunk:
    """Return a chunk with copies of some fields and of those for times."""
    old = chunk.data
    needed = {"time", "endtime", "length", "dt", *fields}
    names = [name for name in old.dtype.names or () if name in needed]
    dtype = repack_fields(old.dtype[names])
    data = np.empty(len(old), dtype=dtype)
    for name in names:
        data[name] = old[name]
    narrow = copy.copy(Chunk.of(chunk))
    narrow.data, narrow.dtype = data, dtype
    return narrow


class HelperThreads(Executor):
    """Executor of writes, whose threads also read ahead."""

    def __init__(self, n_threads: int):
        self._pool = ThreadPoolExecutor(n_threads, thread_name_prefix="helper")
        self._ahead: dict[int, Future] = {}
        self._writes: deque[tuple[Future, int]] = deque()
        #: Number of chunks to read ahead
        self.n_ahead = n_threads

    def read_ahead(self, chunk_i: int, read: Callable[[int], Any]) -> None:
        """Start to read a chunk of live data, unless that has been done."""
        if chunk_i not in self._ahead:
            self._ahead[chunk_i] = self._pool.submit(read, chunk_i)

    def is_ahead(self, chunk_i: int) -> bool:
        """Return whether a chunk is being read, or has been."""
        return chunk_i in self._ahead

    def take(self, chunk_i: int, read: Callable[[int], Any]) -> Any:
        """Return the result of `read` for a chunk, or raise its exception."""
        ahead = self._ahead.pop(chunk_i, None)
        return read(chunk_i) if ahead is None else ahead.result()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Submit the write of the array ``data``; wait while more than `MOST_WAITING` is queued."""
        n_bytes = kwargs["data"].nbytes
        waiting = sum(size for _, size in self._writes)
        while self._writes and (waiting + n_bytes > MOST_WAITING or self._writes[0][0].done()):
            write, size = self._writes.popleft()
            write.exception()  # waits; the saver that has the future raises it
            waiting -= size
        future = self._pool.submit(function, *args, **kwargs)
        self._writes.append((future, n_bytes))
        return future

    def end(self) -> None:
        """Finish running tasks, cancel queued ones."""
        self._pool.shutdown(cancel_futures=True)


class Processor(strax.SingleThreadProcessor):
    """Processor with one thread that computes, and ``max_workers`` - 1 helper threads.

    Writes go to helper threads where the saver checks them (`CheckedSaver`). Parameters are as in
    strax.
    """

    def __init__(
        self,
        components: strax.ProcessorComponents,
        max_workers: int | None = None,
        allow_rechunk: bool = True,
        is_superrun: bool = False,
        **kwargs: Any,
    ):
        n_helpers = (max_workers or 1) - 1
        self.helper_threads = HelperThreads(n_helpers) if n_helpers > 0 else None
        # strax's spies have a rechunker of strax: these have ours, and are registered below
        super().__init__(
            components._replace(savers={}),
            allow_rechunk=allow_rechunk,
            is_superrun=is_superrun,
            **kwargs,
        )
        self.components = components
        makers = {d: plugin for plugin in components.plugins.values() for d in plugin.provides}
        for plugin in makers.values():
            if isinstance(plugin, Plugin):
                plugin.helper_threads = self.helper_threads
        for data_type, savers in components.savers.items():
            # Data without a plugin belongs to runs that are joined to a superrun
            maker = makers.get(data_type)
            can_rechunk = maker.can_rechunk(data_type) if maker else is_superrun
            for saver in savers:
                spy = _SaverSpy(saver, allow_rechunk and can_rechunk, self.helper_threads)
                self.post_office.register_spy(spy, topic=data_type)

    def iter(self) -> Iterator[strax.Chunk]:
        """Compute, and yield the chunks of the target."""
        try:
            yield from super().iter()
        finally:
            if self.helper_threads is not None:
                self.helper_threads.end()


class _SaverSpy(SaverSpy):
    """Gives chunks of one data type to a saver."""

    def __init__(self, saver: strax.Saver, rechunk: bool, executor: Executor | None):
        super().__init__(saver, rechunk)
        self.rechunker = Rechunker(rechunk, saver.md["run_id"])
        self.executor = executor if isinstance(saver, CheckedSaver) else None

    def _save_chunk(self, chunks: list[strax.Chunk]) -> None:
        for chunk in chunks:
            self.saver.save(chunk, self.chunk_number, executor=self.executor)
            self.chunk_number += 1

    def close(self) -> None:
        """Save the remaining chunk; raise the error of a write unless one is being handled."""
        is_failing = bool(strax.formatted_exception())
        super().close()
        if self.saver.got_exception is not None and not is_failing:
            raise self.saver.got_exception


@dataclass(eq=False)
class Made:
    """Cache of plugins and keys for one state of the options and plugin classes of a context."""

    state: "State | None" = None  #: None if it cannot be compared with a later one
    #: Data type -> plugin, which is copied for each call
    plugins: dict[str, strax.Plugin] = field(default_factory=dict)
    #: Data type -> key, for any run
    keys: dict[str, strax.DataKey] = field(default_factory=dict)
    #: Data type and lineage hash -> key of equal data of the other release, for any run
    equal_keys: dict[tuple[str, str], strax.DataKey | None] = field(default_factory=dict)
    #: Options from run documents, as text -> the same for runs with these
    by_options: dict[str, "Made"] = field(default_factory=dict)

    def for_options(self, options: Mapping[str, Any]) -> "Made":
        """Return the cache for runs with these options in their documents."""
        made = Made(equal_keys=self.equal_keys)
        return self.by_options.setdefault(repr(sorted(options.items())), made)

    def without(self, data_type: str) -> "Made":
        """Return a copy without one data type, on which no other depends."""
        plugins = {d: plugin for d, plugin in self.plugins.items() if d != data_type}
        return Made(plugins=plugins, keys={d: k for d, k in self.keys.items() if d != data_type})


class State:
    """Everything that determines plugins and keys of a context, to be compared with a later state.

    Numbers 1, 1.0 and True differ, as in strax's hash.
    """

    def __init__(self, config: Mapping[str, Any], registry: Mapping[str, type[strax.Plugin]]):
        #: Objects to compare by identity
        self.objects: list[Any] = []
        plugins = dict.fromkeys(registry.values())
        classes = dict.fromkeys(c for plugin in plugins for c in plugin.__mro__)
        options = {id(o): o for plugin in plugins for o in plugin.takes_config.values()}
        attributes, values = [], [config]
        for c in classes:
            held = vars(c)
            self.objects.append(c)
            self.objects.extend(held)
            self.objects.extend(held.values())
            takes_config = held.get("takes_config")
            for value in held.values():
                if type(value) in _CONSTANTS:
                    continue
                if isinstance(value, FunctionType):
                    # IPython's autoreload changes it in place
                    self.objects.append(value.__code__)
                elif value is not takes_config and isinstance(value, _CONTAINERS):
                    attributes.append(value)
        for option in options.values():
            self.objects.append(option)
            self.objects.extend(vars(option).values())
            if type(option.default) not in _CONSTANTS:
                values.append(option.default)
            if callable(option.default_factory):
                values.append(option.default_factory())
        for plugin in plugins:
            if plugin.version.__func__ is not strax.Plugin.version.__func__:
                values.append(plugin.version())
        self.objects += (*registry, *registry.values())
        file = io.BytesIO()
        _Pickler(file, self.objects).dump(values)
        # Classes by name take a tenth of the time
        self.bytes = file.getvalue() + pickle.dumps(attributes)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, State)
            and self.bytes == other.bytes
            and len(self.objects) == len(other.objects)
            and all(map(operator.is_, self.objects, other.objects))
        )

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def of(cls, context: strax.Context) -> "State | None":
        """Return the state of a context, or None if it cannot be compared with another."""
        try:
            return cls(context.config, context._plugin_class_registry)
        except Exception:
            # An option cannot be pickled, or another thread adds an attribute
            return None


class _Pickler(pickle.Pickler):
    """Pickler that lists functions and classes instead of pickling them by name."""

    def __init__(self, file: io.BytesIO, objects: list[Any]):
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._objects = objects

    def persistent_id(self, obj: Any) -> Any:
        """Return True for an object that is listed, None for one that is pickled."""
        if not isinstance(obj, _CODE):
            return None
        self._objects.append(obj)
        return True


#: Types of values that cannot change in place
_CONSTANTS = {str, int, float, bool, type(None), property, classmethod, staticmethod}
#: Types compared by identity within values
_CODE = (type, FunctionType, BuiltinFunctionType, MethodType, ModuleType)
#: Attributes of plugin classes that may change in place
_CONTAINERS = (list, tuple, set, dict, immutabledict, np.ndarray)
