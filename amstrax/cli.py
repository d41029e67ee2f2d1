"""The command ``amstrax``, whose subcommands are tools in their own modules."""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple


class Tool(NamedTuple):
    """Module of amstrax with the ``main(argv, prog)`` of a subcommand, and its summary."""

    module: str
    summary: str


TOOLS = {
    "simulate": Tool("commands.simulate", "simulate a run and its truth"),
    "process": Tool("auto_processing.amstraxer", "process a run: live data to events"),
    "validate": Tool("commands.validate", "simulate, process, and validate the reconstruction"),
    "demo": Tool("commands.demo", "simulate, process and plot a run of XAMS"),
    "gains": Tool("commands.gains", "find the gains of channels in LED runs"),
    "alphas": Tool("commands.alphas", "find the alpha lines of radon in runs of XAMSL"),
    "maps": Tool("commands.maps", "measure maps of S1 and S2 light with a uniform line"),
    "energy": Tool("commands.energy", "measure g1, g2 and the resolution with lines"),
    "se-gain": Tool("commands.se_gain", "measure the gain of single electrons"),
    "elife": Tool("commands.elife", "find the electron lifetime in source runs"),
    "drift": Tool("commands.drift", "find gate, cathode, drift velocity and diffusion"),
    "trends": Tool("commands.trends", "keep numbers of runs over weeks, with limits"),
    "export": Tool("commands.export", "write data to a CSV, HDF5, Parquet or ROOT file"),
    "corrections": Tool("commands.corrections", "show corrections, and check files of them"),
    "process-run": Tool("auto_processing.process_run", "process a run, and set its status"),
    "submit": Tool("auto_processing.submit_stbc", "submit jobs that process runs"),
    "auto": Tool("auto_processing.auto_processing", "submit jobs for new runs, and follow them"),
    "campaign": Tool("commands.campaign", "process many runs again: plan, run, report"),
    "copy-live": Tool("auto_processing.copy_live", "copy live data from the DAQ to other places"),
    "dashboard": Tool("commands.dashboard", "show runs, data and processing in a browser"),
    "delete-live": Tool("auto_processing.delete_live", "delete old live data that has been copied"),
    "warmup": Tool("commands.warmup", "compile all kernels, once per installation"),
    "rundb": Tool("commands.rundb", "query and change the run database"),
}


def usage() -> str:
    """Return the help text."""
    lines = [f"  {name:12s} {tool.summary}" for name, tool in sorted(TOOLS.items())]
    commands = "\n".join(lines)
    return f"""usage: amstrax COMMAND ...

Process data of XAMS and XAMSL. `amstrax COMMAND --help` explains a command.

commands:
{commands}

options:
  -h, --help    show this text
  --version     show the version"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit status: 2 on wrong use."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] in (["-h"], ["--help"]):
        print(usage())
        return 0
    if argv[:1] == ["--version"]:
        import amstrax

        print(amstrax.__version__)
        return 0
    if not argv or argv[0] not in TOOLS:
        print(usage(), file=sys.stderr)
        if argv:
            from amstrax.exceptions import did_you_mean

            print(
                f"\namstrax: no command {argv[0]!r}{did_you_mean(argv[0], TOOLS)}", file=sys.stderr
            )
        return 2
    tool = import_module(f"amstrax.{TOOLS[argv[0]].module}")
    return tool.main(argv[1:], prog=f"amstrax {argv[0]}")


if __name__ == "__main__":
    sys.exit(main())
