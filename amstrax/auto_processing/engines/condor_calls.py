"""Calls of HTCondor's bindings, in a process of their own: a request on stdin, an answer on stdout.

The bindings hold Python's lock while they wait, up to minutes when a daemon hangs, and end the
process when HTCondor's configuration is broken. A process that runs for months, or renews claims
beside, cannot have that. It is run as a file, without amstrax, so that it starts in 0.1 s.

A request is a JSON object with the name of a function in `CALLS` and its arguments; the answer has
either ``result``, or ``error`` with HTCondor's own words.
"""

import json
import sys
from typing import Any

#: Values of a submit description in which nothing is to be replaced, and those that are strings of
#: a job's ad
Strings = dict[str, str]


def submit(plain: Strings, strings: Strings, attributes: str) -> str:
    """Submit one job, and return its id: ``CLUSTER@SCHEDD``.

    Parameters
    ----------
    plain
        Lines of the submit description.
    strings
        Attributes of the job's ad, with the strings that they are.
    attributes
        More of them, as in ClassAds: ``NAME = EXPRESSION; ...``.
    """
    import htcondor2

    schedd = htcondor2.Schedd()
    result = schedd.submit(_description(plain, strings, attributes))
    return f"{result.cluster()}@{_name_here()}"


def describe(plain: Strings, strings: Strings, attributes: str) -> str:
    """Return the submit description that `submit` would use."""
    return str(_description(plain, strings, attributes))


def _description(plain: Strings, strings: Strings, attributes: str) -> Any:
    import classad2
    import htcondor2

    lines = dict(plain)
    lines |= {f"My.{name}": classad2.quote(value) for name, value in strings.items()}
    ad = classad2.ClassAd(f"[{attributes}]")
    lines |= {f"My.{name}": str(ad.lookup(name)) for name in ad}
    # $(NAME) stands for something else there; $(DOLLAR) is a $
    return htcondor2.Submit({name: text.replace("$", "$(DOLLAR)") for name, text in lines.items()})


def jobs(constraint: str, names: list[str], schedd: str = "") -> list[dict[str, Any]]:
    """Return attributes of the jobs in the queue of a schedd for which something is so."""
    found, at = _schedd(schedd)
    return [_values(ad, names, at) for ad in found.query(constraint, names)]


def history(constraint: str, names: list[str], most: int, schedd: str = "") -> list[dict[str, Any]]:
    """Return attributes of jobs that have left the queue of a schedd, the last ones first."""
    found, at = _schedd(schedd)
    return [_values(ad, names, at) for ad in found.history(constraint, names, most)]


def remove(constraint: str, schedd: str = "") -> None:
    """Take jobs from the queue of a schedd."""
    import htcondor2

    found, _ = _schedd(schedd)
    found.act(htcondor2.JobAction.Remove, constraint)


def locate() -> str:
    """Return the name of this machine's schedd; fails where HTCondor is not set up."""
    return _schedd("")[1]


def _schedd(name: str) -> tuple[Any, str]:
    """Return a schedd and its name; that of this machine when no name is given."""
    import htcondor2

    here = _name_here()
    if name in ("", here):
        # This one needs no other daemon
        return htcondor2.Schedd(), here
    place = htcondor2.Collector().locate(htcondor2.DaemonType.Schedd, name)
    if place is None:
        # Which would stand for the one of this machine
        raise LookupError(f"the collector cannot locate the schedd {name}")
    return htcondor2.Schedd(place), name


def _name_here() -> str:
    import htcondor2

    return str(htcondor2.Collector().locate(htcondor2.DaemonType.Schedd)["Name"])


def _values(ad: Any, names: list[str], schedd: str) -> dict[str, Any]:
    values = {name: ad.get(name) for name in names}
    # What is not defined, or an expression, has classes of its own
    plain = {
        name: value if isinstance(value, (str, int, float)) else None
        for name, value in values.items()
    }
    return plain | {"id": f"{ad['ClusterId']}@{schedd}"}


CALLS = {call.__name__: call for call in (submit, describe, jobs, history, remove, locate)}


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
