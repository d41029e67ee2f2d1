"""Calls of HTCondor's bindings in a separate process: a request on stdin, an answer on stdout.

The bindings hold Python's lock while they wait, up to minutes when a daemon hangs, and end the
process when HTCondor's configuration is broken. A process that runs for months, or renews leases in
another thread, cannot tolerate that. This file runs without amstrax, so that it starts in 0.1 s.

A request is a JSON list of the name of a function in `CALLS` and its arguments; the answer is an
object with ``result``, or ``error`` with the message of HTCondor.
"""

import json
import sys
from typing import Any

#: Attributes that ids of jobs are made of; the last is true for the jobs of `submit_array`
_IDS = ("ClusterId", "ProcId", "AmstraxArray")


def submit(plain: dict[str, str], strings: dict[str, str], attributes: str) -> str:
    """Submit one job, and return its id: ``CLUSTER@SCHEDD``.

    In `plain`, lines of the submit description, nothing is replaced. `strings` are attributes of
    the job's ad with text values; `attributes` are more of them, as in ClassAds: ``NAME =
    EXPRESSION; ...``.
    """
    import htcondor2

    result = htcondor2.Schedd().submit(_description(plain, strings, attributes))
    return f"{result.cluster()}@{locate()}"


def submit_array(
    plain: dict[str, str], strings: dict[str, str], attributes: str, items: list[dict[str, str]]
) -> list[str]:
    """Submit one cluster with a job for each of the items, and return their ids.

    The other parameters are those of `submit`. An item has more lines of the submit description,
    ``My.NAME`` for attributes with text values, which are its own.
    """
    import htcondor2

    description = _description(plain, strings, attributes)
    names = {line: f"amstrax_{i}" for i, line in enumerate(items[0])}
    for line, name in names.items():
        value = f"$({name})"
        description[line] = f'"{value}"' if line.startswith("My.") else value
    own = [{names[k]: v.replace("$", "$(DOLLAR)") for k, v in item.items()} for item in items]
    result = htcondor2.Schedd().submit(description, itemdata=iter(own))
    schedd, first = locate(), result.first_proc()
    return [f"{result.cluster()}.{first + i}@{schedd}" for i in range(len(items))]


def describe(plain: dict[str, str], strings: dict[str, str], attributes: str) -> str:
    """Return the submit description that `submit` would use."""
    return str(_description(plain, strings, attributes))


def _description(plain: dict[str, str], strings: dict[str, str], attributes: str) -> Any:
    import classad2
    import htcondor2

    lines = plain | {f"My.{name}": classad2.quote(value) for name, value in strings.items()}
    ad = classad2.ClassAd(f"[{attributes}]")
    lines |= {f"My.{name}": str(ad.lookup(name)) for name in ad}
    # HTCondor replaces $(NAME); $(DOLLAR) is a $
    return htcondor2.Submit({name: text.replace("$", "$(DOLLAR)") for name, text in lines.items()})


def jobs(constraint: str, names: list[str], schedd: str = "") -> list[dict[str, Any]]:
    """Return attributes of the jobs in the queue of a schedd that meet a constraint."""
    found, schedd = _schedd(schedd)
    return [_values(ad, names, schedd) for ad in found.query(constraint, [*names, *_IDS])]


def history(constraint: str, names: list[str], most: int, schedd: str = "") -> list[dict[str, Any]]:
    """Return attributes of jobs that have left the queue of a schedd, the last ones first."""
    found, schedd = _schedd(schedd)
    ads = found.history(constraint, [*names, *_IDS], most)
    return [_values(ad, names, schedd) for ad in ads]


def remove(constraint: str, schedd: str = "") -> None:
    """Remove jobs from the queue of a schedd."""
    import htcondor2

    found, _ = _schedd(schedd)
    found.act(htcondor2.JobAction.Remove, constraint)


def locate() -> str:
    """Return the name of this machine's schedd; fail where HTCondor is not set up."""
    import htcondor2

    return str(htcondor2.Collector().locate(htcondor2.DaemonType.Schedd)["Name"])


def _schedd(name: str) -> tuple[Any, str]:
    """Return a schedd and its name; that of this machine when no name is given."""
    import htcondor2

    own = locate()
    if name in ("", own):
        # This one needs no other daemon
        return htcondor2.Schedd(), own
    place = htcondor2.Collector().locate(htcondor2.DaemonType.Schedd, name)
    if place is None:
        # Schedd(None) is that of this machine
        raise LookupError(f"the collector cannot locate the schedd {name}")
    return htcondor2.Schedd(place), name


def _values(ad: Any, names: list[str], schedd: str) -> dict[str, Any]:
    # Undefined values and expressions have other classes
    values = {name: ad.get(name) for name in names}
    plain = {name: v if isinstance(v, (str, int, float)) else None for name, v in values.items()}
    number = f"{ad['ClusterId']}.{ad['ProcId']}"
    short = number if ad.get("AmstraxArray") else str(ad["ClusterId"])
    return plain | {"number": number, "id": f"{short}@{schedd}"}


CALLS = {
    call.__name__: call for call in (submit, submit_array, describe, jobs, history, remove, locate)
}


def main() -> None:
    """Answer the request on stdin."""
    name, arguments = json.load(sys.stdin)
    try:
        answer = {"result": CALLS[name](**arguments)}
    except Exception as error:
        answer = {"error": " ".join(str(error).split()) or type(error).__name__}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
