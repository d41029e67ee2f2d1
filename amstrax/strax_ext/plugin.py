"""The class of amstrax's plugins."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import strax
from immutabledict import immutabledict


class Plugin(strax.Plugin):
    """Plugin that takes of its inputs the fields that it needs, where that is said.

    strax merges inputs of one kind to one array with all their fields. Peaks have their waveforms
    with them, so for most plugins nearly all of that copy is for nothing.
    """

    #: Data type -> fields that are taken of it, besides those for its times; others are whole
    input_fields: Mapping[str, Sequence[str]] = immutabledict()

    def iter(self, iters: Mapping[str, Iterator[strax.Chunk]], executor: Any = None) -> Iterator:
        iters = {
            data_type: (
                map(partial(with_fields, fields=self.input_fields[data_type]), chunks)
                if data_type in self.input_fields
                else chunks
            )
            for data_type, chunks in iters.items()
        }
        yield from super().iter(iters, executor=executor)


def with_fields(chunk: strax.Chunk, fields: Sequence[str]) -> strax.Chunk:
    """Return a chunk with a copy of some fields, and of those that say when things are."""
    old = chunk.data
    wanted = {"time", "endtime", "length", "dt", *fields}
    names = [name for name in old.dtype.names or () if name in wanted]
    dtype = np.dtype([(titled(old.dtype, name), old.dtype[name]) for name in names])
    data = np.empty(len(old), dtype=dtype)
    for name in names:
        data[name] = old[name]
    return strax.Chunk(
        start=chunk.start,
        end=chunk.end,
        data_type=chunk.data_type,
        data_kind=chunk.data_kind,
        dtype=dtype,
        run_id=chunk.run_id,
        data=data,
        subruns=chunk.subruns,
        superrun=chunk.superrun,
        target_size_mb=chunk.target_size_mb,
    )


def titled(dtype: np.dtype, name: str) -> str | tuple[str, str]:
    """Return the name of a field, with its title if it has one, as numpy takes it."""
    _, _, *title = (dtype.fields or {name: (None, 0)})[name]
    return (title[0], name) if title else name
