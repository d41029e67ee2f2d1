"""Plugin options whose value is looked up for each run.

The value of such an option is a plain value or one of these strings, which enter the lineage
unchanged:

- ``file://OPTION?filename=FILE&github_branch=BRANCH``: the value for the run in the correction
  file FILE, by default of the branch master
- ``cmt://OPTION?version=VERSION``: the value for the run in the file OPTION_VERSION.json, or else
  the value that the version has for the option; VERSION may name a branch, such as ``v1@other``

Both accept ``run_id=RUN``, to look up the value of another run, and ``take=KEY``, for one item of a
list (by index) or of a table (by name). OPTION is by default the name of the option itself. A
parameter ``plugin.NAME`` is replaced by that attribute of the plugin, such as
``run_id=plugin.run_id``.

A string ``rundoc://?path=A.B&fallback=empty`` stands for a value of the run document, see
`amstrax.run_values`.
"""

import logging
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import strax
from immutabledict import immutabledict

from amstrax import run_values, strict_json
from amstrax.corrections import lookup
from amstrax.exceptions import (
    AmstraxError,
    InvalidCorrection,
    InvalidOption,
    InvalidRunDocument,
)
from amstrax.processing.events import position_map, s1_map_correction, s2_map_correction
from amstrax.strax_ext.plugin import Plugin
from amstrax.strict_json import short

log = logging.getLogger(__name__)

__all__ = ["CorrectedPlugin", "XAMSConfig", "options_for"]


class XAMSConfig(strax.Config):
    """Plugin option whose value may be looked up for each run.

    Define it as an attribute of the plugin class; the attribute of a plugin is its value::

        class Mine(strax.Plugin):
            elife = amstrax.XAMSConfig(default=30000, help="Electron lifetime [ns]")

            def compute(self, events):
                ... self.elife ...

    With `omit_default` the option is in the lineage only if its value differs from the default. So
    an option can be added to a plugin without making its stored data unloadable. Other parameters
    are those of `strax.Option`.
    """

    def __init__(self, omit_default: bool = False, **kwargs: Any):
        if lookup.is_lookup(kwargs.get("default")):
            # The type must not be inferred from the string
            kwargs["infer_type"] = False
        super().__init__(**kwargs)
        self.omit_default = omit_default

    def __set_name__(self, owner: Any, name: str) -> None:
        # strax refuses an option that a class inherits: a subclass may have another default
        inherited = getattr(owner, "takes_config", {})
        owner.takes_config = immutabledict({n: o for n, o in inherited.items() if n != name})
        super().__set_name__(owner, name)

    def __get__(self, obj: Any, objtype: Any = None) -> Any:
        return self if obj is None else self.fetch(obj)

    def validate(
        self, config: dict, run_id: Any = None, run_defaults: Any = None, set_defaults: bool = True
    ) -> None:
        """Check the option in `config`, and set its default, unless that is left out.

        Raises InvalidRunDocument for a value in the options of a run of another kind.
        """
        if run_defaults and self.name in run_defaults and self.name not in config:
            value = run_defaults[self.name]
            if not lookup.is_lookup(value):
                what = f"run {run_id}: the value {short(value)} in its run document"
                _check_kind(self, value, what, InvalidRunDocument)
        if not self.omit_default or self.name in (run_defaults or {}):
            super().validate(config, run_id, run_defaults, set_defaults)
        if self.omit_default and self.name in config and config[self.name] == self.default:
            del config[self.name]

    def fetch(self, plugin: strax.Plugin) -> Any:
        """Return the value for the run of a plugin.

        Raises CorrectionError when the look-up fails, and InvalidOption for an invalid look-up
        string, and for other values of a Boolean option.
        """
        value = super().fetch(plugin)
        if isinstance(value, run_values.DefaultChannelMap):
            return _run_values(plugin).channel_map(plugin.run_id, value)
        if not lookup.is_lookup(value):
            if isinstance(self.default, bool) and not isinstance(value, (bool, numbers.Integral)):
                raise InvalidOption(f"{self.name}={value!r}: give True or False")
            return value
        # Stored in the plugin, so that worker processes get it
        known = plugin.__dict__.setdefault("_looked_up", {})
        key = value, plugin.run_id
        if key not in known:
            if run_values.is_run_value(value):
                found = _run_values(plugin).get(value, plugin.run_id)
                origin = f"{value} of run {plugin.run_id}"
                _check_kind(self, found, f"{origin}: the value {short(found)}")
                known[key] = found
            else:
                entry = lookup.look_up(
                    value, plugin.run_id, self.name, lambda name: self._attribute(plugin, name)
                )
                what = f"{entry.file.place}: the value of {entry.range!r}"
                _check_kind(self, entry.value, what)
                origin = f"{entry.file.place}, the value of {entry.range!r} for run {plugin.run_id}"
                known[key] = entry.value
            plugin.__dict__.setdefault("_origins", {})[self.name] = origin
        return known[key]

    def _attribute(self, plugin: strax.Plugin, name: str) -> Any:
        """Return the plugin attribute that the value of this option refers to."""
        option = plugin.takes_config.get(name)
        if option is None:
            try:
                return getattr(plugin, name)
            except AttributeError:
                problem = "is no attribute of the plugin"
        elif lookup.is_lookup(value := plugin.config[name]):
            problem = "is looked up itself"
        elif self.track and not option.track:
            problem = "is not in the lineage"
        else:
            return value
        raise InvalidOption(
            f"the option {self.name} refers to plugin.{name}, which {problem}: write the value "
            "itself there"
        )


def _run_values(plugin: strax.Plugin) -> run_values.RunValues:
    """Return the `RunValues` set by the context of a plugin, or new ones."""
    return plugin.__dict__.setdefault("run_values", run_values.RunValues())


#: Kind of a list that contains only numbers
_NUMBERS = "a list (a number)"


def _kinds(option: strax.Option) -> list[str]:
    """Return the kinds of value that an option accepts; empty if it accepts all."""
    if option.type is not strax.OMITTED:
        types = option.type if isinstance(option.type, tuple) else (option.type,)
        kinds = [strict_json.kind_of_type(type_) for type_ in types]
    elif option.default is strax.OMITTED or lookup.is_lookup(option.default):
        return []
    else:
        kinds = [strict_json.kind(option.default)]
    return [] if {strict_json.NOTHING, strict_json.OTHER} & set(kinds) else kinds


def _check_kind(
    option: strax.Option,
    value: Any,
    what: str,
    error: type[AmstraxError] = InvalidCorrection,
) -> None:
    """Raise an error for a value of a kind that an option does not accept.

    A list of numbers must contain only numbers.
    """
    wanted, found = [f"a {kind}" for kind in _kinds(option)], f"a {strict_json.kind(value)}"
    if wanted and strict_json.full_kind(option.default) == _NUMBERS:
        wanted, found = [_NUMBERS], strict_json.full_kind(value)
    if wanted and found not in wanted:
        raise error(
            f"{what} for the option {option.name} is {found}, and must be {' or '.join(wanted)}: "
            "correct it there"
        )


#: Option with a map -> function that raises InvalidOption for an invalid map
MAP_CHECKS: Mapping[str, Callable[[Any], Any]] = immutabledict(
    s1_map=lambda s1_map: s1_map_correction(np.empty(0), np.empty(0), s1_map),
    s2_map=lambda s2_map: s2_map_correction(np.empty(0), np.empty(0), s2_map),
    pos_rec_map=position_map,
)


class CorrectedPlugin(Plugin):
    """Base class of plugins that look up all options before they compute.

    So a run without a value, or with an invalid map, fails at once, and worker processes get
    values.
    """

    #: Fields that a part of the reconstruction adds to the dtype of the class
    added_fields: list = []

    def infer_dtype(self):
        if not hasattr(type(self), "dtype"):
            return super().infer_dtype()  # that of a cut; strax.Plugin has none
        added = [vars(each).get("added_fields", []) for each in reversed(type(self).__mro__)]
        return [*type(self).dtype, *sum(added, [])] if any(added) else type(self).dtype

    def setup(self):
        super().setup()
        for option in self.takes_config.values():
            if isinstance(option, XAMSConfig):
                value = option.fetch(self)
                check = MAP_CHECKS.get(option.name)
                if check is None or value is None:
                    continue
                try:
                    check(value)
                except InvalidOption as error:
                    raise InvalidOption(f"{self.origin(option.name)}: {error}") from None

    def origin(self, name: str) -> str:
        """Return the origin of the value of an option, for messages."""
        return self.__dict__.get("_origins", {}).get(name, f"the option {name}")


#: Options in the lab's versions that no release of its plugins takes
_TAKEN_BY_NONE = frozenset({"s1_map"})


def options_for(
    plugins: Iterable[type[strax.Plugin]],
    version: str,
    others: Mapping[str, Iterable[type[strax.Plugin]]] = immutabledict(),
) -> dict[str, Any]:
    """Return the options that a version of the corrections sets for plugins.

    Options of plugins for data types that none of `plugins` makes are dropped with one warning.
    Errors are those of `amstrax.contexts.apply_global_correction_version`.

    Parameters
    ----------
    plugins
        Classes of plugins.
    version
        ``'v1'``, ``'ONLINE'`` or, with a branch, ``'v1@branch'``.
    others
        Plugins of other contexts, by the Python code for such a context.
    """
    plugins = list(dict.fromkeys(plugins))
    taken = [option for plugin in plugins for option in plugin.takes_config.values()]
    names = {option.name for option in taken}
    fixed = {option.name for option in taken if not isinstance(option, XAMSConfig)}
    untracked = {option.name for option in taken if not option.track}
    options = lookup.options(version)
    left_out = sorted(set(options) - names)
    for name in options.keys() - _TAKEN_BY_NONE:
        _check_no_data_type_lacks(name, version, plugins, others)
    if left_out:
        log.warning(
            "corrections_version=%r has options that no plugin of this context takes: %s",
            version,
            ", ".join(left_out),
        )
    options = {name: value for name, value in options.items() if name in names}
    for name, value in options.items():
        if name in untracked:
            raise InvalidOption(
                f"corrections_version={version!r} sets {name}, which is not in the lineage, so "
                "data would not show it: remove it from the version"
            )
        if lookup.is_lookup(value) and name in fixed:
            raise InvalidOption(
                f"corrections_version={version!r} has {value} for the option {name}, which cannot "
                "differ from run to run: give it a plain value there"
            )
    for option in taken:
        value = options.get(option.name)
        if option.name in options and not lookup.is_lookup(value):
            what = f"corrections_version={version!r}: the value {value!r:.60}"
            _check_kind(option, value, what)
    return options


def _check_no_data_type_lacks(
    name: str,
    version: str,
    plugins: Iterable[type[strax.Plugin]],
    others: Mapping[str, Iterable[type[strax.Plugin]]],
) -> None:
    """Raise InvalidOption for an option that should affect `plugins` but is not taken by them.

    Plugins of other contexts take such an option for the same data type, or no plugin does. A
    user's plugin may lack it if another plugin takes it, since its lineage is not that of amstrax.
    """

    def not_taken(what: str, remedy: str) -> InvalidOption:
        return InvalidOption(
            f"corrections_version={version!r} sets {name}, which {what}, so numbers would not be "
            f"those of {version}: {remedy}, or take another version"
        )

    ours = {plugin for known in others.values() for plugin in known}
    made = {data_type: p for p in plugins for data_type in strax.to_str_tuple(p.provides)}
    is_taken = any(name in plugin.takes_config for plugin in plugins)
    is_known = is_taken
    for context, known in others.items():
        for taker in known:
            if name not in taker.takes_config:
                continue
            is_known = True
            for data_type in strax.to_str_tuple(taker.provides):
                here = made.get(data_type, taker)
                if name not in here.takes_config and (here in ours or not is_taken):
                    raise not_taken(f"{data_type} of this context does not take", f"use {context}")
    if not is_known:
        remedy = "check the name, or use a newer amstrax"
        raise not_taken("no plugin of this context takes", remedy)
