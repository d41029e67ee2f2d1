"""Mistakes of a first day: one line with similar names, of the types that strax raises."""

import inspect
import logging

import numpy as np
import pytest
import strax
from make_runs import RUN_ID

from amstrax import contexts
from amstrax.exceptions import AmstraxError
from amstrax.strax_ext import context as context_module

SELECTION = "selection '{}': "


@pytest.fixture(scope="module")
def st(tmp_path_factory):
    """A context whose storage has an incomplete run, of which it can make nothing."""
    folder = tmp_path_factory.mktemp("out")
    (folder / f"{RUN_ID}-peaks-abcdefghij").mkdir()
    return contexts.xams(output_folder=folder, init_rundb=False)


def array(*args, **kwargs):
    return lambda st: st.get_array(*args, progress_bar=False, **kwargs)


def selected(selection):
    return array(RUN_ID, "peaks", selection=selection)


@pytest.mark.parametrize(
    "ask, errors, text",
    [
        (selected("aera > 3"), (KeyError, ValueError), "no column 'aera'; did you mean area"),
        (selected(["dt > 3", "aera > 1"]), KeyError, "no column 'aera'; did you mean area"),
        (selected("area >"), SyntaxError, "selection 'area >': invalid syntax; write an expr"),
        (array(RUN_ID, ()), KeyError, "no data type is given: name one, as 'event_info'"),
        (array(RUN_ID, "peaks", seconds_range=(5,)), (ValueError, IndexError), "give a start and"),
        (array(RUN_ID, "peaks", time_range=5), (ValueError, TypeError), "give a start and an end"),
        (selected("area = 3"), SyntaxError, "invalid syntax"),
        (selected("dt > 3 and area > 3"), TypeError, r"write &, \| and ~ for and, or and not"),
        (selected("area"), IndexError, "not true or false for each row: compare"),
        (selected("area.max() > 3"), ValueError, "only columns, numbers, operators"),
        (selected(3), ValueError, "selection 3: must specify expression"),
        (array(RUN_ID, ["peaks", "peak_basic"]), KeyError, "'peak_basic'; did you mean peak_basi"),
        (lambda st: st.get_df(RUN_ID, "peaks", keep_columns="aera"), ValueError, "keep_col.* area"),
        (array(RUN_ID, "peaks", keep_columns=["tiem"]), KeyError, "'tiem'; did you mean time"),
        (array(RUN_ID, "peaks", keep_colums="area"), TypeError, "did you mean keep_columns"),
        (array(RUN_ID, "peaks", elife=3), TypeError, "option of plugins, write config={'elife'"),
        (array(RUN_ID, "peaks", time_selection="toching"), ValueError, "did you mean touching"),
        (array(123, "peaks"), (TypeError, ValueError), "write it in quotes, as '000123'"),
        (array(["123", 124], "peaks"), ValueError, "run id 124 .* as '000124'"),
        (array(np.array([6724]), "peaks"), ValueError, "as '006724'"),
        (array(None, "peaks"), TypeError, "run id None is not text"),
        (array([], "peaks"), IndexError, "no run id is given"),
        (array("000132", "peaks"), strax.DataNotAvailable, "did you mean 000123. To process it: "),
        (array("123", "peaks"), strax.DataNotAvailable, "did you mean 000123"),
        (array("987654", "peaks"), strax.DataNotAvailable, "context. To process it: amstraxer 987"),
        (array(RUN_ID, "peaks"), strax.DataNotAvailable, "no peaks of run 000123, nor data to"),
        (
            array(RUN_ID, ("peaks", "peak_basics")),
            strax.DataNotAvailable,
            "amstraxer 000123 --target peaks peak_basics",
        ),
        (lambda st: st.get_metadata("000132", "peaks"), strax.DataNotAvailable, "mean 000123"),
        (lambda st: next(st.get_iter(123, "peaks")), ValueError, "write it in quotes"),
        (lambda st: st.make(123, "peaks"), ValueError, "write it in quotes"),
        (lambda st: st.make([], "peaks"), ValueError, "no run id is given"),
        (lambda st: st.accumulate(123, "peaks"), ValueError, "write it in quotes"),
        (lambda st: st.is_stored(123, "peaks"), ValueError, "write it in quotes"),
        (lambda st: st.key_for(123, "peaks"), ValueError, "write it in quotes"),
        (lambda st: st.lineage(123, "peaks"), ValueError, "write it in quotes"),
        (lambda st: st.select_runs(run_id=123), TypeError, "write it in quotes"),
        (lambda st: st.select_runs(available="peeks"), KeyError, "did you mean peaks"),
        (lambda st: st.list_available("peeks"), KeyError, "did you mean peaks"),
        (lambda st: st.show_config("peeks"), KeyError, "did you mean peaks"),
        (lambda st: st.lineage(RUN_ID, "peeks"), KeyError, "did you mean peaks"),
        (lambda st: st.get_save_when("peeks"), KeyError, "did you mean peaks"),
        (lambda st: st.get_dependencies("peeks"), KeyError, "did you mean peaks"),
        (lambda st: st.get_dependency_plugins("peeks", RUN_ID), KeyError, "did you mean peaks"),
        (lambda st: st.get_save_when(target="peeks"), KeyError, "did you mean peaks"),
        (lambda st: st.plot_peeks(RUN_ID), AttributeError, "did you mean plot_peaks"),
        (lambda st: st.get_aray(RUN_ID, "peaks"), AttributeError, "did you mean get_array"),
        (lambda st: st.set_context_config({"allow_lzy": 1}), TypeError, "did you mean allow_lazy"),
        (lambda st: contexts.xams(relase="2.2"), TypeError, "did you mean release"),
        (lambda st: contexts.xams_led(relase="2.2"), TypeError, "did you mean release"),
        (lambda st: contexts.xams_little(release="2.2"), TypeError, "no argument .*'release'"),
        (lambda st: contexts.xams(elife=3), TypeError, "option of plugins, write config={'elife'"),
    ],
)
def test_mistakes(st, ask, errors, text):
    with pytest.raises(AmstraxError, match=text) as info:
        ask(st)
    for error in errors if isinstance(errors, tuple) else (errors,):
        assert isinstance(info.value, error)
    assert "\n" not in str(info.value)
    assert len(str(info.value)) <= 200


def test_methods_take_the_keywords_of_strax():
    for name, method in inspect.getmembers(context_module.Context, inspect.isfunction):
        of_strax = getattr(strax.Context, name, None)
        if of_strax is None or of_strax is method or name.startswith("_"):
            continue
        own = inspect.signature(method, follow_wrapped=False)
        kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        expected = inspect.signature(of_strax).parameters.values()
        own.bind(**{each.name: None for each in expected if each.kind not in kinds})


def test_unknown_options_are_named_once(st, caplog):
    caplog.set_level(logging.WARNING, "strax")
    used = st.new_context(config={"elif": 3, "left_peak_extension": 1, "live_data_dir": "x"})
    for _ in range(3):
        used.data_info("peaks")
        used.key_for("0", "event_info")
    assert [record.getMessage() for record in caplog.records] == [
        "no plugin of this context takes the option 'elif'; did you mean elife?",
        "no plugin of this context takes the option 'left_peak_extension'; did you mean "
        "left_event_extension or peak_left_extension or peak_right_extension?",
    ]
    used.set_config({"elfie": 3})
    used.data_info("peaks")
    assert len(caplog.records) == 3
    assert used.key_for("0", "event_info").lineage == st.key_for("0", "event_info").lineage


def test_unknown_columns_to_drop_are_named(st, caplog):
    with caplog.at_level(logging.WARNING, "strax"), pytest.raises(strax.DataNotAvailable):
        st.get_array(RUN_ID, "peaks", drop_columns=["aera"], progress_bar=False)
    assert "drop_columns: no column 'aera'; did you mean area" in caplog.text


def test_columns_that_a_function_of_the_context_adds(st):
    with pytest.raises(strax.DataNotAvailable):  # Not UnknownColumn
        st.get_array(
            RUN_ID,
            "peaks",
            keep_columns=["added"],
            apply_data_function=lambda data, run_id, targets: data,
            progress_bar=False,
        )


def test_hints_cost_nothing_without_an_error(monkeypatch):
    asked = []
    monkeypatch.setattr(context_module, "did_you_mean", lambda *args: asked.append(args) or "")
    st = contexts.xams(storage=[])
    st.key_for("000123", "event_info")
    st.new_context()
    assert asked == []
    with pytest.raises(AttributeError):
        st.get_aray  # noqa: B018
    assert len(asked) == 1
