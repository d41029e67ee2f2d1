"""Checks of selections and arguments given to a context.

The errors derive from the exceptions that strax raises for the same mistakes.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import strax

from amstrax.exceptions import (
    InvalidRunId,
    InvalidSelection,
    NoSuchDataType,
    UnknownArgument,
    UnknownColumn,
    did_you_mean,
)


def check_data_types(names: Any, known: Iterable[str]) -> None:
    """Raise NoSuchDataType for a name that is not in `known`."""
    for name in strax.to_str_tuple(names):
        if name not in known:
            raise NoSuchDataType(f"this context does not make {name!r}{did_you_mean(name, known)}")


def check_run_ids(run_ids: Any) -> None:
    """Raise InvalidRunId unless `run_ids` is text, or a sequence of text."""
    several = isinstance(run_ids, list | tuple | np.ndarray | pd.Series)
    if several and not len(run_ids):
        raise InvalidRunId("no run id is given: write one, as '006724', or a list of them")
    for run_id in run_ids if several else (run_ids,):
        if isinstance(run_id, str | bytes):
            continue
        text = "006724"
        if isinstance(run_id, int | np.integer) and run_id >= 0:
            text = f"{run_id:06d}"
        raise InvalidRunId(f"run id {run_id!r} is not text: write it in quotes, as {text!r}")


def check_range(argument: str, value: Any) -> None:
    """Raise InvalidSelection unless a range is None, or a start and an end."""
    if value is None or (isinstance(value, tuple | list | np.ndarray) and len(value) == 2):
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


def check_columns(argument: str, names: Any, dtype: np.dtype) -> None:
    """Raise UnknownColumn for a column that the dtype lacks; `argument` is where it was given."""
    known = dtype.names or ()
    for name in strax.to_str_tuple(names or ()):
        if name not in known:
            raise UnknownColumn(f"{argument}: no column {name!r}{did_you_mean(str(name), known)}")


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


def missing_data(run_id: str, what: str, known: Iterable[str], is_part: bool) -> str:
    """Return the problem and the remedy for data that is neither stored nor can be made.

    Parameters
    ----------
    run_id, what
        Run, and its data types.
    known
        Runs that have any data.
    is_part
        Whether a time range was given.
    """
    remedy = f"process it: amstraxer {run_id} --target {what}"
    if run_id not in known:
        hint = did_you_mean(run_id, known)
        near = hint if hint.endswith("?") else "."
        return f"no data of run {run_id} in the storage of this context{near} To {remedy}"
    if is_part:
        return f"a time range needs stored data, and {what} of run {run_id} is not stored: {remedy}"
    return f"no {what} of run {run_id}, nor data to make it from: {remedy}"
