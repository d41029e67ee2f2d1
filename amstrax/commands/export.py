"""The command ``amstrax export``: data of runs as CSV, HDF5, Parquet or ROOT file.

Formats, and what each makes of the columns:

- csv: a header of names, so pandas reads it without options. A field of several values becomes
  columns ``name_0``, ``name_1``, ... Units and descriptions are in ``FILE.json``.
- hdf5: a group with the name of the data, and in it a dataset for each column, of the shape of the
  field, with the attributes ``unit`` and ``description``.
- parquet: fields of several values are lists of fixed size. Fields have the metadata ``unit`` and
  ``description``.
- root: a TTree with the name of the data, whose branches have the shape of the fields. ``run_id``
  is a number.

The rest of the metadata is JSON: columns, runs, targets, selection, lineages. HDF5 has it in the
attribute ``amstrax`` of the group, Parquet in the metadata ``amstrax`` of the schema, ROOT in the
string ``amstrax``, CSV in ``FILE.json``.
"""

import argparse
import contextlib
import json
import logging
import math
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from amstrax import strict_json
from amstrax.auto_processing import amstraxer
from amstrax.auto_processing.amstraxer import ProcessingOptions
from amstrax.commands import base
from amstrax.exceptions import InvalidOption, NotAvailable, UsageError
from amstrax.rundb.leases import Stop

if TYPE_CHECKING:
    import numpy as np
    import strax

log = logging.getLogger("amstrax.export")

#: Rows are written when there are this many [bytes]; chunks of strax are often much smaller
BATCH_BYTES = 20_000_000
#: Size of the chunks of a column in HDF5 [bytes]
_HDF5_CHUNK = 2**16


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Write data of runs to a file for other programs. All runs go into one file, "
        "with the column run_id first. Data that is not stored is made first, if the context can.",
        epilog="csv is read by pandas.read_csv(FILE, dtype={'run_id': str}), parquet by "
        "pandas.read_parquet, hdf5 by h5py, root by uproot or ROOT. All but csv need a package: "
        "pip install 'amstrax[export]'.",
    )
    add = parser.add_argument
    add("run_ids", nargs="+", metavar="RUN_ID", type=base.run_id, help="runs, as 006724")
    add(
        "--target",
        nargs="+",
        required=True,
        metavar="TYPE",
        help="data type to export, as event_info; several of one data kind are joined",
    )
    add(
        "--format",
        choices=tuple(FORMATS),
        help="format of the file (default: that of the suffix of --output, or else csv)",
    )
    add(
        "--output",
        type=Path,
        metavar="FILE",
        help="file to write; required for several runs (default: ./TYPE_RUN_ID.SUFFIX)",
    )
    add("--force", action="store_true", help="replace an existing file")
    add(
        "--selection",
        nargs="+",
        metavar="EXPRESSION",
        help="export rows for which all of these are true, as 's2_area > 100' '(x < 5) | (y < 5)'",
    )
    add(
        "--columns",
        nargs="+",
        metavar="NAME",
        help="export these columns and run_id (default: all)",
    )
    add(
        "--seconds_range",
        nargs=2,
        type=float,
        metavar=("START", "STOP"),
        help="export rows within this range [s since the start of each run]; needs stored data",
    )
    base.add_context(parser, "targets")
    base.add_data(
        parser, "folder of the data (default: ./strax_data, for xams_little ./amstrax_data)"
    )
    base.add(parser, "--corrections_version", "--reconstruction", "--context_kwargs", "--workers")
    base.add_console(parser)
    args = parser.parse_args(argv)
    args.run_ids = list(dict.fromkeys(args.run_ids))
    if args.seconds_range and not 0 <= args.seconds_range[0] < args.seconds_range[1] < math.inf:
        text = " ".join(f"{t:g}" for t in args.seconds_range)
        parser.error(f"--seconds_range {text}: give START and STOP, 0 <= START < STOP, as 0 10")
    if args.format is None:
        suffixes = {suffix: name for name, f in FORMATS.items() for suffix in f.suffixes}
        suffix = ".csv" if args.output is None else args.output.suffix
        if suffix not in suffixes:
            parser.error(
                f"--output {args.output}: no format has the suffix {suffix!r}: end it in "
                f"{', '.join(suffixes)}, or give --format"
            )
        args.format = suffixes[suffix]
    if args.output is None and len(args.run_ids) > 1:
        parser.error("--output is required for several runs, which go into one file")
    return args


@base.main_of(parse_args)
def main(args: argparse.Namespace) -> int:
    from amstrax.auto_processing import job

    targets = tuple(dict.fromkeys(args.target))
    processing = base.filled(ProcessingOptions, args, targets=targets)
    options = base.filled(ExportOptions, args, processing=processing)
    folder = args.output or "the current folder"
    return job.run_strax_tool(
        args, log, lambda stop: export(options, stop), "the export", folder, "--output"
    )


@dataclass(frozen=True)
class ExportOptions:
    """Rows to export, and where to: the options of `amstrax export`, see the help."""

    run_ids: Sequence[str]
    processing: ProcessingOptions  #: Data types, and how they are loaded or made
    format: str
    output: Path | None = None
    force: bool = False
    selection: Sequence[str] | None = None
    columns: Sequence[str] | None = None
    seconds_range: Sequence[float] | None = None


class Column(NamedTuple):
    """Column of a file: `shape` is that of the value in a row, () for a number."""

    name: str
    dtype: "np.dtype"
    shape: tuple[int, ...]
    unit: str
    description: str


@dataclass(frozen=True)
class Content:
    """What the metadata of a file says of it."""

    name: str  #: Data type, or data kind of joined data types
    targets: tuple[str, ...]
    runs: Mapping[str, Mapping[str, str]]  #: Run id -> data type -> hash of the lineage
    lineages: Mapping[str, Any]  #: Hash -> lineage
    selection: Sequence[str]
    seconds_range: Sequence[float] | None
    versions: Mapping[str, str]
    columns: Sequence[Column]

    def as_json(self) -> str:
        columns = {c.name: c._asdict() for c in self.columns}
        for its in columns.values():
            its["dtype"] = str(its["dtype"])
            del its["name"]
        return json.dumps(asdict(self) | {"columns": columns}, indent=1, default=str)


class _Format(ABC):
    """Base of the writers of files: columns are written in batches of the same columns."""

    suffixes: tuple[str, ...]
    package = ""
    _file: Any

    def __init__(self, path: Path, content: Content):
        self.content = content
        if self.package:
            try:
                self.module = import_module(self.package)
            except ImportError as error:
                name = self.package.partition(".")[0]
                raise NotAvailable(
                    f"this format needs the package {name}, which cannot be imported ({error}): "
                    "pip install 'amstrax[export]'"
                ) from None
        self._open(path)

    @abstractmethod
    def _open(self, path: Path) -> None: ...

    @abstractmethod
    def write(self, columns: Mapping[str, "np.ndarray"]) -> None: ...

    def close(self) -> None:
        self._file.close()


class _Csv(_Format):
    suffixes = (".csv",)

    def _open(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._header = True

    def write(self, columns: Mapping[str, "np.ndarray"]) -> None:
        import pandas as pd

        flat = {name: x for column in columns for name, x in _flat(column, columns[column])}
        pd.DataFrame(flat).to_csv(self._file, index=False, header=self._header, lineterminator="\n")
        self._header = False


def _flat(name: str, values: "np.ndarray") -> Iterator[tuple[str, "np.ndarray"]]:
    """Yield the names and values of columns of numbers, for a column of any shape."""
    if values.ndim == 1:
        yield name, values
        return
    for i in range(values.shape[1]):
        yield from _flat(f"{name}_{i}", values[:, i])


class _Hdf5(_Format):
    suffixes = (".h5", ".hdf5")
    package = "h5py"

    def _open(self, path: Path) -> None:
        import numpy as np

        self._file = self.module.File(path, "w")
        group = self._file.create_group(self.content.name, track_order=True)
        group.attrs["amstrax"] = self.content.as_json()
        for name, dtype, shape, unit, description in self.content.columns:
            if dtype.kind == "U":
                dtype = np.dtype(f"S{dtype.itemsize}")  # numpy and UTF-8 have up to 4 bytes each
            row_bytes = dtype.itemsize * max(1, math.prod(shape))
            dataset = group.create_dataset(
                name,
                shape=(0, *shape),
                maxshape=(None, *shape),
                dtype=dtype,
                chunks=(max(1, _HDF5_CHUNK // row_bytes), *shape),
                compression="gzip",
                shuffle=True,
            )
            dataset.attrs["unit"], dataset.attrs["description"] = unit, description
        self._group = group

    def write(self, columns: Mapping[str, "np.ndarray"]) -> None:
        import numpy as np

        for name, values in columns.items():
            dataset, n = self._group[name], len(self._group[name])
            dataset.resize(n + len(values), axis=0)
            dataset[n:] = np.char.encode(values, "utf-8") if values.dtype.kind == "U" else values


class _Parquet(_Format):
    suffixes = (".parquet",)
    package = "pyarrow.parquet"

    def _open(self, path: Path) -> None:
        import pyarrow

        self._pyarrow = pyarrow
        fields = []
        for name, dtype, shape, unit, description in self.content.columns:
            of_numbers = pyarrow.string() if dtype.kind == "U" else pyarrow.from_numpy_dtype(dtype)
            for n in reversed(shape):
                of_numbers = pyarrow.list_(of_numbers, n)
            about = {"unit": unit, "description": description}
            fields.append(pyarrow.field(name, of_numbers, nullable=False, metadata=about))
        self._schema = pyarrow.schema(fields, metadata={"amstrax": self.content.as_json()})
        self._file = self.module.ParquetWriter(path, self._schema)

    def write(self, columns: Mapping[str, "np.ndarray"]) -> None:
        arrays = [
            self._array(columns[field.name], field.type).cast(field.type) for field in self._schema
        ]
        self._file.write_table(self._pyarrow.Table.from_arrays(arrays, schema=self._schema))

    def _array(self, values: "np.ndarray", type_: Any) -> Any:
        if values.ndim == 1:
            return self._pyarrow.array(values)
        inner = self._array(values.reshape(-1, *values.shape[2:]), type_.value_type)
        return self._pyarrow.FixedSizeListArray.from_arrays(inner, type=type_)


class _Root(_Format):
    suffixes = (".root",)
    package = "uproot"

    def _open(self, path: Path) -> None:
        import numpy as np

        texts = [c.name for c in self.content.columns[1:] if c.dtype.kind not in "biuf"]
        if texts:
            raise UsageError(
                f"--format root: branches hold numbers, not {', '.join(texts)}: choose others with "
                "--columns, or another format"
            )
        self._file = self.module.recreate(path)
        branches = {
            name: np.dtype(np.int64) if dtype.kind == "U" else np.dtype((dtype, shape))
            for name, dtype, shape, *_ in self.content.columns
        }
        runs = ", ".join(self.content.runs)
        self._tree = self._file.mktree(self.content.name, branches, title=f"Runs {runs}")
        self._file["amstrax"] = self.content.as_json()

    def write(self, columns: Mapping[str, "np.ndarray"]) -> None:
        self._tree.extend(
            {n: x.astype("int64") if x.dtype.kind == "U" else x for n, x in columns.items()}
        )


FORMATS: Mapping[str, type[_Format]] = {
    "csv": _Csv,
    "hdf5": _Hdf5,
    "parquet": _Parquet,
    "root": _Root,
}


def export(options: ExportOptions, stop: Stop) -> str:
    """Export data, and return the line to print.

    Raises UsageError if an option is invalid or a file exists, NotAvailable without the package for
    the format, DataNotAvailable if data is neither stored nor can be made, RunDatabaseUnreachable
    if the options of a run cannot be read now.
    """
    import numpy as np

    st, processing = amstraxer.make_context(options.processing, options.run_ids[0])
    options = replace(options, processing=processing)
    for run_id in options.run_ids:
        st.run_values.check_options(run_id)
    content = _content(st, options)
    form = FORMATS[options.format]
    path = options.output or Path(f"{content.name}_{options.run_ids[0]}{form.suffixes[0]}")
    sidecar = path.with_name(f"{path.name}.json") if form is _Csv else None
    for file in (path, sidecar) if sidecar else (path,):
        if file.exists() and not file.is_file():
            raise UsageError(f"{file} is a folder or device, not a file: name another --output")
        if file.exists() and not options.force:
            raise UsageError(f"{file} exists: replace it with --force, or name another --output")
    path.parent.mkdir(parents=True, exist_ok=True)
    n = 0
    with strict_json.replacing(path) as new:
        with contextlib.closing(form(new, content)) as writer:
            for run_id in options.run_ids:
                n_before = n
                for rows in _batches(st, run_id, options, stop):
                    columns = {"run_id": np.full(len(rows), run_id, content.columns[0].dtype)}
                    for column in content.columns[1:]:
                        columns[column.name] = np.ascontiguousarray(rows[column.name])
                    writer.write(columns)
                    n += len(rows)
                log.info("run %s: %d rows", run_id, n - n_before)
        if sidecar is not None:
            strict_json.write_text(sidecar, content.as_json() + "\n")
    return f"{path}: {n} rows of {', '.join(content.targets)}, {len(content.columns)} columns"


def _content(st: "strax.Context", options: ExportOptions) -> Content:
    """Return what the file is to hold; raises UsageError for options that do not fit the data."""
    import numpy as np
    import strax

    import amstrax
    from amstrax.analyses.loading import area_unit
    from amstrax.analyses.quantities import ADC_COUNTS
    from amstrax.strax_ext import checks

    targets, run_ids = options.processing.targets, options.run_ids
    plugins = st._get_plugins(targets, run_ids[0])
    kinds = {target: plugins[target].data_kind_for(target) for target in targets}
    if len(set(kinds.values())) > 1:
        text = ", ".join(f"{target} (of {kind})" for target, kind in kinds.items())
        raise UsageError(f"--target {text}: only data of one kind is joined: export each")
    dtype = checks.joined_dtype(plugins, targets)
    try:
        checks.check_selection(options.selection, dtype)
        checks.check_columns("--columns", options.columns, dtype)
    except InvalidOption as error:
        raise UsageError(f"{error}") from None
    without_gains = all(area_unit(st, run_ids[0], t) == ADC_COUNTS for t in targets)
    width = max(map(len, run_ids))
    columns = [Column("run_id", np.dtype(f"U{width}"), (), "", "Run")]
    for (title, name), kind in strax.unpack_dtype(dtype):
        if options.columns and name not in options.columns:
            continue
        unit = (re.findall(r"\[([^]]+)\]", title) or [""])[0]
        if without_gains:
            unit = unit.replace("PE", ADC_COUNTS)
        base_type, shape = np.dtype(kind).subdtype or (np.dtype(kind), ())
        columns.append(Column(name, base_type, shape, unit, title))
    runs: dict[str, dict[str, str]] = {}
    lineages: dict[str, Any] = {}
    for run_id in run_ids:
        keys = {target: st.key_for(run_id, target) for target in targets}
        runs[run_id] = {target: key.lineage_hash for target, key in keys.items()}
        lineages |= {key.lineage_hash: key.lineage for key in keys.values()}
    return Content(
        targets[0] if len(targets) == 1 else kinds[targets[0]],
        targets,
        runs,
        lineages,
        options.selection or (),
        options.seconds_range,
        {"amstrax": amstrax.__version__, "strax": strax.__version__},
        columns,
    )


def _batches(
    st: "strax.Context", run_id: str, options: ExportOptions, stop: Stop
) -> Iterator["np.ndarray"]:
    """Yield the rows of a run in batches of about `BATCH_BYTES`, at least one."""
    import numpy as np

    chunks = st.get_iter(
        run_id,
        options.processing.targets,
        selection=options.selection,
        keep_columns=options.columns,
        seconds_range=options.seconds_range,
        max_workers=options.processing.workers,
        progress_bar=base.shows_progress(options.processing.progress),
    )
    waiting: list[np.ndarray] = []
    try:
        for chunk in chunks:
            stop.check()
            waiting.append(chunk.data)
            if sum(rows.nbytes for rows in waiting) >= BATCH_BYTES:
                yield np.concatenate(waiting)
                waiting = [chunk.data[:0]]
    except ValueError as error:
        if options.seconds_range is None or "returned no chunks" not in str(error):
            raise
        text = " ".join(f"{t:g}" for t in options.seconds_range)
        raise UsageError(f"--seconds_range {text}: run {run_id} has no data there") from None
    finally:
        # strax closes its files, and raises its own exception
        with contextlib.suppress(Exception):
            chunks.close()  # type: ignore[attr-defined]
    yield np.concatenate(waiting)


if __name__ == "__main__":
    sys.exit(main())
