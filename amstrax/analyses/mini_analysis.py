"""How an analysis becomes a method of the context: its arguments, and those that all have.

An analysis is a function whose first argument is a `Part` of a run; `on_context` makes of it what
users call, ``st.NAME(run_id, ...)``. It does what ``straxen.mini_analysis`` does for straxen's own,
with the same arguments. That one is not used, since importing straxen takes seconds, it binds to
`strax.Context`, where straxen puts analyses of the same names for its detectors, and it takes the
gains from an option that XAMS does not have.
"""

import functools
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

import strax

from amstrax import _legacy
from amstrax.analyses.loading import SORTS, Part, argument_of
from amstrax.exceptions import did_you_mean

COMMON = """
time_range
    First and last time (excluded) [ns since unix epoch].
seconds_range
    The same [s since the start of the run].
time_within
    A row of data, as an event: from its time to its end.
time_selection
    ``touching`` for what is partly in the range, ``fully_contained``, or ``skip``.
selection
    As ``"area > 100"``, a list of such, or a function; of the data that is drawn.
    ``selection_str`` is the same.
config
    Options of the context that are different for this call.
data_type
    Take this one in place of the context's own of this sort, as ``peaks_sipm`` for ``peaks``.
progress_bar
    Show one while data is loaded or made; None: in a terminal.
"""
_IGNORE = """
ignore_time_warning
    Take longer parts of a run, too, than {limit:g} s.
"""
_COMMON_NAMES = (
    "time_range", "seconds_range", "time_within", "time_selection", "selection", "selection_str",
    "config", "data_type", "progress_bar",
)  # fmt: skip


def on_context(
    *sorts: str, warn_beyond_sec: float | None = None, several: bool = False, any_of: bool = False
) -> Callable[[Callable], Callable]:
    """Return a decorator that makes a method of a context from an analysis.

    Parameters
    ----------
    sorts
        Keys of `SORTS` that the analysis loads; the selection is of the first.
    warn_beyond_sec
        Refuse longer parts of a run, unless with ignore_time_warning.

    several
        The analysis takes a list of parts, of several runs, and the method ``run_ids``.

    any_of
        The analysis makes do with one of the sorts; the selection is of the first that is there.

    The analysis takes a `Part` first, its own arguments behind that, and its numpydoc ends with
    the section "Parameters" or "Returns" of its own; what is common is added.
    """

    def decorate(analysis: Callable) -> Callable:
        own = list(inspect.signature(analysis).parameters.values())[1:]
        own_names = {parameter.name for parameter in own}
        run_name = "run_ids" if several else "run_id"
        given_names = () if several else tuple(dict.fromkeys(argument_of(sort) for sort in sorts))
        common_names = [name for name in (*given_names, *_COMMON_NAMES) if name not in own_names]
        if warn_beyond_sec is not None:
            common_names.append("ignore_time_warning")

        @functools.wraps(analysis)
        def method(self: strax.Context, *run: Any, **kwargs: Any) -> Any:
            if run_name in kwargs and not run:
                run = (kwargs.pop(run_name),)
            if len(run) != 1:
                raise TypeError(
                    f"{analysis.__name__} takes {run_name} alone by position, and all else by "
                    "keyword"
                )
            if not own_names.issuperset(kwargs):
                known = {*own_names, *common_names}
                kwargs = _legacy.keywords(analysis.__name__, kwargs, known)
            for name in kwargs:
                if name not in own_names and name not in common_names:
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

        # What is called is this; Sphinx would look for its arguments in the source of the other
        del method.__wrapped__  # type: ignore[attr-defined]
        kind = inspect.Parameter.KEYWORD_ONLY
        common = []
        for name in common_names:
            default: Any = {"time_selection": "touching", "ignore_time_warning": False}.get(name)
            common.append(inspect.Parameter(name, kind, default=default))
        method.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD),
                inspect.Parameter(run_name, inspect.Parameter.POSITIONAL_OR_KEYWORD),
                *(parameter.replace(kind=kind) for parameter in own),
                *common,
            ],
        )
        method.__doc__ = _document(analysis, sorts, run_name, given_names, warn_beyond_sec)
        return method

    return decorate


def _document(
    analysis: Callable,
    sorts: tuple[str, ...],
    run_name: str,
    given_names: tuple[str, ...],
    limit: float | None,
) -> str:
    """Return the docstring of an analysis with the arguments that are common to all."""
    text = inspect.cleandoc(analysis.__doc__ or "")
    before, mark, after = text.partition("\nReturns\n-------\n")
    if "\nParameters\n----------\n" not in before:
        before = before.rstrip() + "\n\nParameters\n----------\n"
    what = "Names of the runs." if run_name == "run_ids" else "Name of the run."
    run = f"{run_name}\n    {what}\n"
    head, line, own = before.partition("\nParameters\n----------\n")
    given = ""
    if given_names:
        given = f"{', '.join(given_names)}\n    Data in place of what would be loaded.\n"
    common = COMMON.strip() + "\n" + (_IGNORE.format(limit=limit).strip() if limit else "")
    loads = ", ".join(dict.fromkeys(name for sort in sorts for name in SORTS.get(sort, (sort,))))
    body = head.rstrip() + f"\n\nLoads, of what the context has: {loads}.\n" + line
    body += run + own.rstrip() + ("\n" if own.strip() else "") + given + common
    return textwrap.dedent(body.rstrip() + "\n" + mark + after)
