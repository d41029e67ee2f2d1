"""Make methods of the context, ``st.NAME(run_id, ...)``, from analyses, and add common arguments.

It does what ``straxen.mini_analysis`` does, with the same arguments. That one takes seconds to
import, binds to `strax.Context`, and takes gains from an option that XAMS does not have.
"""

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

import strax

from amstrax import _legacy
from amstrax.analyses.loading import SORTS, Part, argument_of
from amstrax.exceptions import did_you_mean

#: Arguments of all analyses, or of several, in the format of a docstring
_COMMON = """
time_range
    First and last time (excluded) [ns since unix epoch].
seconds_range
    The same [s since the start of the run].
time_within
    A row of data, as an event: from its time to its end.
time_selection
    ``touching`` for data that is partly in the range, ``fully_contained``, or ``skip``.
selection
    As ``"area > 100"``, a list of such, or a function; of the data that is drawn.
selection_str
    The same as selection.
config
    Options of the context that are different for this call.
data_type
    Take this one instead of the context's own of this sort, as ``peaks_sipm`` for ``peaks``.
progress_bar
    Show a progress bar while data is loaded or made; None: in a terminal.
"""
_COMMON_NAMES = re.findall(r"^\w+$", _COMMON, re.MULTILINE)
_ARGUMENTS = {
    "ax": "ax\n    Draw into these axes; None: into those of a new figure.",
    "figure": "figure\n    Draw into this figure; None: into a new one.",
}


def on_context(
    *sorts: str,
    draws: Callable | None = None,
    warn_beyond_sec: float | None = None,
    several: bool = False,
    any_of: bool = False,
) -> Callable[[Callable], Callable]:
    """Return a decorator that makes a method of a context from an analysis.

    The analysis is a function of a `Part` and its own arguments. Its docstring gets the sections
    that it lacks, and the descriptions of arguments that it lacks.

    Parameters
    ----------
    sorts
        Keys of `SORTS` that the analysis loads; the selection is of the first.
    draws
        Function of arrays that the analysis calls: its docstring describes arguments of that name.
    warn_beyond_sec
        Refuse longer parts of a run, unless with ignore_time_warning.
    several
        The analysis takes a list of parts, of several runs, and the method ``run_ids``.
    any_of
        The analysis needs only one of the sorts; the selection is of the first that exists.
    """

    def decorate(analysis: Callable) -> Callable:
        own = list(inspect.signature(analysis).parameters.values())[1:]
        own_names = [parameter.name for parameter in own]
        run_name = "run_ids" if several else "run_id"
        given_names = () if several else tuple(dict.fromkeys(argument_of(sort) for sort in sorts))
        common_names = [name for name in (*given_names, *_COMMON_NAMES) if name not in own_names]
        if warn_beyond_sec is not None:
            common_names.append("ignore_time_warning")
        known = {*own_names, *common_names}

        @functools.wraps(analysis)
        def method(self: strax.Context, *run: Any, **kwargs: Any) -> Any:
            if run_name in kwargs and not run:
                run = (kwargs.pop(run_name),)
            if len(run) != 1:
                raise TypeError(
                    f"{analysis.__name__} takes {run_name} alone by position, and all else by "
                    "keyword"
                )
            if not known.issuperset(kwargs):
                kwargs = _legacy.keywords(analysis.__name__, kwargs, known)
            for name in kwargs:
                if name not in known:
                    raise TypeError(
                        f"{analysis.__name__} has no argument {name!r}"
                        + did_you_mean(name, [*own_names, *common_names])
                    )
            ignore = kwargs.pop("ignore_time_warning", False)
            given = {name: kwargs.pop(name, None) for name in given_names}
            selected = {name: kwargs.pop(name) for name in common_names if name in kwargs}
            if several:
                run_ids = strax.to_str_tuple(run[0])
                parts = [Part(self, run_id, sorts, any_of=any_of, **selected) for run_id in run_ids]
                return analysis(parts, **kwargs)
            part = Part(self, run[0], sorts, given=given, any_of=any_of, **selected)
            has_data = part.has_given(given_names[0])
            if warn_beyond_sec is not None and not ignore and not has_data:
                part.refuse_beyond(warn_beyond_sec, analysis.__name__)
            return analysis(part, **kwargs)

        # Sphinx would take the arguments of `analysis` for those of the method
        del method.__wrapped__  # type: ignore[attr-defined]
        new = inspect.Parameter
        defaults = {"time_selection": "touching", "ignore_time_warning": False}
        parameters = [new(name, new.POSITIONAL_OR_KEYWORD) for name in ("self", run_name)]
        parameters += [parameter.replace(kind=new.KEYWORD_ONLY) for parameter in own]
        for name in common_names:
            parameters.append(new(name, new.KEYWORD_ONLY, default=defaults.get(name)))
        method.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        runs = "run_ids\n    Names of the runs." if several else "run_id\n    Name of the run."
        sections = _sections(analysis)
        described = _ARGUMENTS | _entries(_sections(draws)) | _entries(sections)
        entries = [runs, *(described[name] for name in own_names)]
        if given_names:
            entries.append(f"{', '.join(given_names)}\n    Data instead of the context's own.")
        entries.append(_COMMON.strip())
        if warn_beyond_sec is not None:
            entries.append(
                "ignore_time_warning\n"
                f"    Allow parts of a run longer than {warn_beyond_sec:g} s, too."
            )
        names = dict.fromkeys(name for sort in sorts for name in SORTS.get(sort, (sort,)))
        summary = f"{sections['']}\n\nLoads, of those in the context: {', '.join(names)}.\n"
        sections = {"Returns": "The figure."} | sections
        sections["Parameters"] = "\n".join(dict.fromkeys(entries))
        method.__doc__ = summary + "".join(
            f"\n{title}\n{'-' * len(title)}\n{sections[title]}\n"
            for title in ("Parameters", "Returns")
        )
        return method

    return decorate


def _sections(function: Callable | None) -> dict[str, str]:
    """Return the sections of a docstring by their titles; the text before them by ""."""
    doc = inspect.cleandoc(function.__doc__ or "") if function else ""
    before, *rest = re.split(r"\n+(\w+)\n-+\n", doc)
    return {"": before} | dict(zip(rest[::2], map(str.rstrip, rest[1::2]), strict=True))


def _entries(sections: dict[str, str]) -> dict[str, str]:
    """Return the entry of the section Parameters that describes each argument, by its name."""
    entries = re.split(r"\n(?=\S)", sections.get("Parameters", ""))
    return {name: entry for entry in entries for name in entry.partition("\n")[0].split(", ")}
