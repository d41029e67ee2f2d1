"""Checks of selections and arguments given to a context.

The errors derive from the exceptions that strax raises for the same mistakes.
"""

import logging
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import strax

from amstrax.exceptions import (
    InvalidSelection,
    UnknownArgument,
    UnknownColumn,
    did_you_mean,
)
from amstrax.strax_ext.storage import DataNotAvailable


def check_range(argument: str, value: Any) -> None:
    """Raise InvalidSelection unless a range is a start and an end."""
    if isinstance(value, tuple | list | np.ndarray) and len(value) == 2:
        return
    raise InvalidSelection(f"{argument} {value!r}: give a start and an end, as {argument}=(0, 10)")


def check_selection(selection: Any, dtype: np.dtype) -> None:
    """Raise InvalidSelection or UnknownColumn when a selection does not fit rows of this dtype."""
    if selection is None or callable(selection):
        return
    try:
        strax.apply_selection(np.zeros(1, dtype), selection)
    except KeyError as error:
        name = str(*error.args[:1])
        hint = did_you_mean(name, dtype.names or ())
        raise UnknownColumn(f"selection {selection!r}: no column {name!r}{hint}") from None
    except IndexError:
        raise InvalidSelection(
            f"selection {selection!r} is not true or false for each row: compare, as "
            "'s2_area > 100'"
        ) from None
    except (AttributeError, RuntimeError, SyntaxError, TypeError, ValueError) as error:
        raise InvalidSelection(f"selection {selection!r}: {_remedy(error)}") from None


def _remedy(error: Exception) -> str:
    """Return the reason of numexpr in fewer words."""
    text = str(error)
    if "boolean operators" in text:
        return "write &, | and ~ for and, or and not, with brackets, as '(x > 1) & (y < 2)'"
    if "forbidden control characters" in text:
        return "only columns, numbers, operators and functions as abs and sqrt; or give a function"
    if isinstance(error, SyntaxError):
        return f"{error.msg}; write an expression of columns, as '(s1_area > 5) & (cs2 == 0)'"
    return text


def check_columns(
    argument: str, names: Any, dtype: np.dtype, logger: logging.Logger | None = None
) -> None:
    """Raise UnknownColumn for a column that the dtype lacks; `argument` is where it was given.

    With a logger, warn instead.
    """
    known = dtype.names or ()
    for name in strax.to_str_tuple(names or ()):
        if name in known:
            continue
        problem = f"{argument}: no column {name!r}{did_you_mean(str(name), known)}"
        if logger is None:
            raise UnknownColumn(problem)
        logger.warning("%s", problem)


def joined_dtype(plugins: dict[str, strax.Plugin], data_types: Iterable[str]) -> np.dtype:
    """Return the dtype of joined data types."""
    dtypes = [plugins[name].dtype_for(name) for name in data_types]
    return dtypes[0] if len(dtypes) == 1 else np.dtype(strax.merged_dtype(dtypes))


def check_arguments(names: Iterable[str], known: Iterable[str], options: Iterable[str]) -> None:
    """Raise UnknownArgument for a name that is not in `known`; `options` are those of plugins."""
    for name in names:
        if name in known:
            continue
        hint = did_you_mean(name, known)
        if name in options:
            hint = f": it is an option of plugins, write config={{{name!r}: ...}}"
        raise UnknownArgument(f"no argument or option of a context {name!r}{hint}")


def missing_data(
    context: strax.Context, run_id: str, targets: Any, is_part: bool
) -> DataNotAvailable:
    """Return the error, with its remedy, for data that is neither stored nor can be made.

    `is_part` tells whether a time range was given.
    """
    names: list[str] = []
    for name in strax.to_str_tuple(targets):
        joined = name.startswith(strax.context.TEMP_DATA_TYPE_PREFIX)
        names += context._plugin_class_registry[name].depends_on if joined else [name]
    what = " ".join(names)
    known = set() if context.runs is None else set(context.runs["name"])
    for frontend in context.storage:
        if isinstance(frontend, strax.DataDirectory) and os.path.isdir(frontend.path):
            stored = (name.partition("-") for name in os.listdir(frontend.path))
            known |= {run for run, dash, _ in stored if dash}
    remedy = f"process it: amstraxer {run_id} --target {what}"
    if run_id not in known:
        hint = did_you_mean(run_id, known)
        near = hint if hint.endswith("?") else "."
        text = f"no data of run {run_id} in the storage of this context{near} To {remedy}"
    elif is_part:
        text = f"a time range needs stored data, and {what} of run {run_id} is not stored: {remedy}"
    else:
        text = f"no {what} of run {run_id}, nor data to make it from: {remedy}"
    return DataNotAvailable(text)
