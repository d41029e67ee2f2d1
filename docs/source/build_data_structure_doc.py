"""Write a page for each context: its data types, their columns, and the options behind them.

A new context needs a line in `INTRODUCTIONS`, and its page a line in index.rst.
"""

import inspect
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import dependency_graph
import numpy as np
import strax

from amstrax import contexts, settings
from amstrax.plugins import reconstruction
from amstrax.plugins.peak_processing import EMPTY_COLUMNS

#: Context -> (title of its page, what to say first)
INTRODUCTIONS = {
    "xams": (
        "Data types of XAMS",
        "The context `amstrax.contexts.xams`: from live data of XAMS to events. Names with "
        "``_ext`` are of the external (NaI) detector, those with ``_sipm`` of the SiPM.\n\n"
        "By default, waveforms of channels with positive pulses, as the SiPM, are up to 1 ADC "
        "count a sample too high, and all of their hits count as saturated. Set "
        "``correct_positive_polarity`` to correct both.",
    ),
    "xams_led": (
        "Data types of LED calibration runs",
        "The context `amstrax.contexts.xams_led`: from live data of an LED run of XAMS to the "
        "amplitude and area of each pulse.",
    ),
    "xams_little": (
        "Data types of XAMSL",
        "The context `amstrax.contexts.xams_little`: from live data of XAMSL to peaks. A run has "
        "data of one of the two digitizers; the ``radon_*`` types are made of whichever it is.",
    ),
}

#: The same context with the improved reconstruction, whose page has its own name
IMPROVED = "xams_improved"
INTRODUCTIONS[IMPROVED] = (
    "Data types of the improved reconstruction",
    'The context ``amstrax.contexts.xams(reconstruction="improved")``, with the columns, options '
    "and data types that parts of the reconstruction add (:doc:`reconstruction`).",
)

LEGEND = """
Tables of one *data kind* have a row for the same things, in the same order: ask for several of
them at once, and their columns come in one table. Tables of different kinds are loaded one by one.

The *lineage hash* is the last part of the name of the folder that data is stored in. It follows
from the plugin's name and version, those of everything it is made of, and all *tracked* options:
change one of these and the data gets another hash, and is made anew. Hashes given here are those of
the context as it is. Options that are not tracked leave the hash as it is.

An option with the remark *no default* is set by the context, or by
`amstrax.contexts.context_for_daq_reader` from the run document.
"""

SAVED = {
    strax.SaveWhen.NEVER: "never",
    strax.SaveWhen.EXPLICIT: "only when it is named as ``save=``; ``amstraxer`` does that with its "
    "targets",
    strax.SaveWhen.TARGET: "when it is the data type asked for, and not on the way to another",
    strax.SaveWhen.ALWAYS: "whenever it is made",
}

_RUN_ID = "000000"
#: The reader cannot be set up without these; neither is tracked
_OF_THE_RUN = ("daq_input_dir", "readout_threads")


class DataType(NamedTuple):
    """What is written of one data type: its name, its plugin, and the hash of its lineage."""

    name: str
    plugin: strax.Plugin
    lineage_hash: str


def write(folder: Path) -> list[Path]:
    """Write ``data_structure_CONTEXT.rst`` for every context into `folder`."""
    paths = []
    for name in (*settings.CONTEXT_DETECTORS, IMPROVED):
        path = folder / f"data_structure_{name}.rst"
        path.write_text(page(name), encoding="utf-8")
        paths.append(path)
    return paths


def page(context: str) -> str:
    """Return the page of the context called `context`, or of `IMPROVED`."""
    name, kwargs = context, {}
    if context == IMPROVED:
        name, kwargs = "xams", {"reconstruction": "improved"}
    with tempfile.TemporaryDirectory() as folder:
        live_data = Path(folder) / _RUN_ID
        live_data.mkdir()
        config = dict(zip(_OF_THE_RUN, (str(live_data), {}), strict=True))
        st = getattr(contexts, name)(init_rundb=False, storage=[], config=config, **kwargs)
        types = [
            DataType(
                name, st.get_single_plugin(_RUN_ID, name), st.key_for(_RUN_ID, name).lineage_hash
            )
            for name in st._plugin_class_registry
        ]
    title, introduction = INTRODUCTIONS[context]
    lines = [title, "=" * len(title), "", introduction, LEGEND]
    lines += graph(context, types)
    lines += table(
        ("Data type", "What it is", "Data kind", "Plugin"),
        (
            (_link(context, t.name), _summary(t), t.plugin.data_kind_for(t.name), _plugin(t))
            for t in types
        ),
    )
    lines += without_effect(context, types)
    for data_type in types:
        lines += section(context, st, data_type, types)
    return "\n".join(lines) + "\n"


def graph(context: str, types: list[DataType]) -> Iterator[str]:
    """Yield the lines of a picture of what is made of what."""
    live = dependency_graph.Node("live data", "What the DAQ writes", (), "processing.html")
    nodes = [live]
    for name, plugin, _ in types:
        made_of = tuple(plugin.depends_on) or (live.name,)
        remark = f"{name}, of data kind {plugin.data_kind_for(name)}"
        nodes.append(dependency_graph.Node(name, remark, made_of, f"#{_label(context, name)}"))
    title = f"Data types of {context}, each with an arrow from those that it is made of"
    yield from ("", ".. rubric:: What is made of what", "")
    yield "Each box is a data type, and leads to its section."
    yield from ("", ".. raw:: html", "")
    yield from (f"   {line}" for line in dependency_graph.html(nodes, title).splitlines())
    yield ""


def without_effect(context: str, types: list[DataType]) -> Iterator[str]:
    """Yield the lines about columns without information and options that change no number."""
    unused = {
        t.name: [
            f"``{option.name}``"
            for option in t.plugin.takes_config.values()
            if option.track and is_unused(option.help, t.plugin.provides)
        ]
        for t in types
        if t.name == t.plugin.provides[0]
    }
    rows = [
        (
            _link(context, t.name),
            _grouped(EMPTY_COLUMNS.get(t.name, {})) or "none",
            ", ".join(unused.get(t.name, ())) or "none",
        )
        for t in types
    ]
    rows = [row for row in rows if row[1:] != ("none", "none")]
    if rows:
        yield from ("", ".. rubric:: Empty columns and unused options", "")
        yield "Columns without information, and tracked options that change the lineage hash but"
        yield "no number. Both exist so that stored data of amstrax keeps loading."
        yield from table(("Data type", "Empty columns", "Unused options"), rows)


def _grouped(columns: dict[str, str]) -> str:
    """Return columns, those that hold the same together, and what they hold."""
    return "; ".join(
        ", ".join(f"``{c}``" for c, other in columns.items() if other == text)
        + f": {_escape(text)}"
        for text in dict.fromkeys(columns.values())
    )


def is_unused(help_text: str, provides: tuple[str, ...]) -> bool:
    """Return whether the help of an option says that it changes no number of a plugin's data."""
    found = re.search(r"Not used(?: by ([\w, ]+))?", help_text)
    if not found:
        return False
    return not found[1] or bool(set(found[1].split(", ")) & set(provides))


def section(
    context: str, st: strax.Context, data_type: DataType, types: list[DataType]
) -> Iterator[str]:
    """Yield the lines about one data type."""
    name, plugin, lineage_hash = data_type
    used_by = [other.name for other in types if name in other.plugin.depends_on]
    yield from ("", f".. _{_label(context, name)}:", "", name, "-" * len(name), "")
    yield from (_description(plugin), "")
    yield f":Plugin: {_plugin(data_type)}, version {plugin.__version__}"
    yield f":Data kind: {plugin.data_kind_for(name)}"
    yield f":Saved: {SAVED[plugin.save_when[name]]}"
    yield f":Made of: {_links(context, plugin.depends_on) or 'live data'}"
    yield f":Used by: {_links(context, used_by) or 'no other'}"
    yield f":Lineage: {_lineage(st, name)}"
    yield f":Lineage hash: ``{lineage_hash}``"
    yield from ("", ".. rubric:: Columns", "")
    dtype = plugin.dtype_for(name)
    yield from table(
        ("Name", "Type", "Meaning"),
        (
            (f"``{field}``", _type(dtype[field]), _escape(_meaning(name, dtype, field)))
            for field in dtype.names
        ),
    )
    yield from ("", ".. rubric:: Options", "")
    if plugin.takes_config:
        yield from table(
            ("Option", "Default", "Tracked", "Meaning"),
            (
                (
                    f"``{option.name}``",
                    _default(option, st.config),
                    "yes" if option.track else "no",
                    _escape(option.help),
                )
                for option in plugin.takes_config.values()
            ),
        )
    else:
        yield "It takes none itself."
    behind = sorted(_options_behind(plugin, types) - set(plugin.takes_config))
    if behind:
        yield from ("", "Tracked options of what it is made of count as well: ")
        yield ", ".join(f"``{option}``" for option in behind) + "."


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """Yield the lines of a table."""
    yield from ("", ".. list-table::", "   :header-rows: 1", "")
    for row in (header, *rows):
        for i, cell in enumerate(row):
            yield f"   {' ' if i else '*'} - {cell}".rstrip()
    yield ""


def _options_behind(plugin: strax.Plugin, types: list[DataType]) -> set[str]:
    """Return names of the tracked options of all that a plugin is made of."""
    plugins = {t.name: t.plugin for t in types}
    result: set[str] = set()
    for dependency in plugin.depends_on:
        other = plugins[dependency]
        result |= {option.name for option in other.takes_config.values() if option.track}
        result |= _options_behind(other, types)
    return result


def _description(plugin: strax.Plugin) -> str:
    text = inspect.cleandoc(type(plugin).__doc__ or "")
    if not text:
        raise ValueError(f"{type(plugin).__name__} has no docstring, which is what its page says")
    return text


def _lineage(st: strax.Context, name: str) -> str:
    """Return what counts for a data type's hash: plugins with their versions, from raw data on."""
    plugins = dict.fromkeys(
        (plugin, version) for plugin, version, _ in st.key_for(_RUN_ID, name).lineage.values()
    )
    return ", ".join(f"{plugin} {version}" for plugin, version in reversed(plugins))


def _summary(data_type: DataType) -> str:
    return " ".join(_description(data_type.plugin).split("\n\n")[0].split())


def _plugin(data_type: DataType) -> str:
    cls = type(data_type.plugin)
    if cls.__module__ == reconstruction.__name__:
        cls = cls.__mro__[1]  # Classes of combined parts are in no module
    return f":py:class:`~{cls.__module__}.{cls.__qualname__}`"


def _label(context: str, name: str) -> str:
    return f"{context}-{name}".replace("_", "-")


def _link(context: str, name: str) -> str:
    return f":ref:`{name} <{_label(context, name)}>`"


def _links(context: str, names: Iterable[str]) -> str:
    return ", ".join(_link(context, name) for name in names)


def _title(dtype: np.dtype, field: str) -> str:
    entry = dtype.fields[field]
    return entry[2] if len(entry) > 2 else ""


def _meaning(data_type: str, dtype: np.dtype, field: str) -> str:
    """Return the title of a field, and what it holds where that is no information."""
    title, empty = _title(dtype, field), EMPTY_COLUMNS.get(data_type, {}).get(field, "")
    return title if empty in title else f"{title.strip()}; {empty}"


def _type(dtype: np.dtype) -> str:
    shape = "".join(f"[{n}]" for n in dtype.shape)
    return f"{dtype.base.name}{shape}"


def _default(option: strax.Option, config: dict[str, Any]) -> str:
    if option.name in config and option.name not in _OF_THE_RUN:
        return f"``{_value(config[option.name])}``, set by the context"
    if option.default is strax.OMITTED:
        return "*no default*"
    return f"``{_value(option.default)}``"


def _value(value: Any) -> str:
    if hasattr(value, "items"):
        return "{" + ", ".join(f"{key!r}: {_value(item)}" for key, item in value.items()) + "}"
    return repr(value)


def _escape(text: str) -> str:
    """Return text so that none of it is taken for markup."""
    return re.sub(r"([\\*`|_])", r"\\\1", text)
