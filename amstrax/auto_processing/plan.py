"""What is to be made of which run: targets, context and detector, special runs, runs to leave."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from amstrax import rundoc
from amstrax.exceptions import RunNotReady, UsageError
from amstrax.rundb import documents
from amstrax.settings import CONTEXT_DETECTORS

#: Part of the mode of a run -> the context and the targets that it is processed with
LED_MODE, LED_CONTEXT = "ledcalibration", "xams_led"
LED_TARGETS = ("raw_records", "records_led", "led_calibration")
#: Part of the mode of runs with an external detector -> what is made of them besides
NAI_MODE, NAI_TARGETS = "_nai", ("peak_basics_ext",)

#: Fields of a run document that `of_run` looks at
FIELDS = ("name", "number", "mode", "start", "end", "tags")


class Plan(NamedTuple):
    """What to make of a run, or of runs.

    Attributes
    ----------
    targets
        Data types to make, in this order.
    context
        Name of the context that makes them.
    detector
        Detector whose run documents know the runs.
    raw_types
        Data types that the context makes from live data.
    """

    targets: tuple[str, ...]
    context: str
    detector: str
    raw_types: tuple[str, ...]


def find(
    targets: Sequence[str] | None,
    context: str | None = None,
    detector: str | None = None,
    config_kwargs: Mapping[str, Any] | None = None,
) -> Plan:
    """Return what to make, of runs that are not special: what is not given is found.

    Parameters
    ----------
    targets
        Data types; with None all raw data.
    context
        Name of a context; with None the first that makes the targets.
    detector
        ``"xams"`` or ``"xamsl"``; with None that of the context.
    config_kwargs
        Options for the plugins.

    Raises
    ------
    UsageError
        When no context makes the targets or takes the options, or that of another detector.
    """
    from amstrax import contexts
    from amstrax.auto_processing import amstraxer

    if context is None and detector is not None:
        of_detector = [name for name, its in CONTEXT_DETECTORS.items() if its == detector]
        context = of_detector[0] if len(of_detector) == 1 else None
    args = argparse.Namespace(
        target=list(targets) if targets else None,
        context=context,
        # Nothing is stored, so no folder is made
        context_kwargs={"init_rundb": False, "storage": []},
        config_kwargs=dict(config_kwargs or {}),
        output_folder=None,
        live_data_dir=None,
        allow_incomplete=False,
        build_lowlevel=False,
        corrections_version=None,
    )
    st, made = amstraxer.make_context(args)
    own = CONTEXT_DETECTORS[args.context]
    if detector not in (None, own):
        raise UsageError(
            f"--detector {detector}: context {args.context}, which makes {', '.join(made)}, is of "
            f"{own}: leave --detector out, or take a context of {detector}"
        )
    return Plan(made, args.context, own, contexts.raw_data_types(st))


def of_run(plan: Plan, document: Mapping[str, Any]) -> Plan:
    """Return the plan for a run: special runs, as their mode says, are not as others.

    Runs of XAMS for the calibration with LEDs are processed in a context of their own; of those
    with an external detector, its peaks are made too.
    """
    mode = str(document.get("mode") or "")
    if LED_MODE in mode and plan.detector == CONTEXT_DETECTORS[LED_CONTEXT]:
        return plan._replace(targets=LED_TARGETS, context=LED_CONTEXT)
    if NAI_MODE in mode and plan.context == "xams":
        more = tuple(target for target in NAI_TARGETS if target not in plan.targets)
        return plan._replace(targets=plan.targets + more)
    return plan


def check_ready(document: Mapping[str, Any]) -> None:
    """Check that a run may be processed now.

    Raises
    ------
    RunNotReady
        When it is still being taken, or has the tag ``abandon``.
    """
    name = documents.name_of(document)
    if documents.ABANDON in documents.tags_of(document):
        raise RunNotReady(
            f"run {name} has the tag '{documents.ABANDON}', so it is left alone: `amstrax rundb "
            f"tag {name} {documents.ABANDON} --remove` takes that away"
        )
    if rundoc.end_time(document) is None:
        raise RunNotReady(
            f"run {name} is still being taken, its document has no end: wait until the DAQ has "
            "ended it. amstraxer can follow a run that is being taken"
        )
