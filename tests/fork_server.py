"""A process that has imported amstrax and loaded its kernels, and forks for each command.

A command that imports strax and loads kernels anew takes 3 to 5 s of CPU. Here, scripts with the
names of the console scripts hand their arguments, folder, environment and open files to a server,
which runs the command in a child, and end as that ends. Variables that are read at import must be
those of the server, else the script starts the command itself. For a child, `sys.executable` is
the script ``python``: what it starts, as jobs, forks from the server as well. So do the workers
of pytest-xdist.
"""

import atexit
import contextlib
import fcntl
import importlib.metadata
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

#: Variables with these beginnings are read at import, by Python or by packages
AT_IMPORT = ("HOME", "LANG", "LC_", "LD_", "MPL", "NUMBA_", "OMP_", "OPENBLAS_", "PYTHON", "TZ")
#: What the server keeps open for itself, such as fonts, has numbers from this one on
FIRST_OWN = 500
SCRIPTS = {
    script.name: script.value.partition(":")[0]
    for script in importlib.metadata.distribution("amstrax").entry_points
    if script.group == "console_scripts"
}

_LAUNCHER = """#!{python} -IS
import array, json, os, signal, socket, sys
real = "{real}"
files = [int(name) for name in os.listdir("/proc/self/fd")]
files = [n for n in files if os.path.exists("/proc/self/fd/%d" % n) and os.get_inheritable(n)]
blocked = [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())]
state = [files, blocked, os.getcwd(), dict(os.environ), os.umask(0)]
request = [[real, *sys.argv[1:]], *state]
request = json.dumps(request).encode() + b"\\n"
server = socket.socket(socket.AF_UNIX)
server.connect("{address}")
files = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))]
if rest := request[server.sendmsg([request], files):]:
    server.sendall(rest)
answers = server.makefile()
pid = int(answers.readline())
if not pid:
    os.umask(state[-1])
    os.execv(real, [real, *sys.argv[1:]])
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: os.kill(pid, number))
signal.pthread_sigmask(signal.SIG_SETMASK, ())
status = int(answers.readline())
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


def start(folder: Path) -> None:
    """Start a server, which ends with the session of tests, and write scripts into ``bin``."""
    if not hasattr(os, "pidfd_open"):
        (folder / "bin").symlink_to(Path(sys.prefix, "bin"))
        return
    address, log = folder / "socket", folder / "log"
    session = os.getppid() if os.environ.get("PYTEST_XDIST_WORKER") else os.getpid()
    theirs = ("AMSTRAX_", "DAQ_", "XAMS_", "XAMSL_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(theirs)}
    with log.open("w") as stream:
        server = subprocess.Popen(
            [sys.executable, __file__, address, str(session)],
            env=environment | {"AMSTRAX_CONFIG": os.devnull, "MPLBACKEND": "agg"},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    while not address.exists():
        assert server.poll() is None, log.read_text()
        time.sleep(0.1)
    (folder / "bin").mkdir()
    python = os.path.realpath(sys.executable)
    for name in ("python", *SCRIPTS):
        real = Path(sys.prefix, "bin", name)
        script = folder / "bin" / name
        script.write_text(_LAUNCHER.format(python=python, real=real, address=address))
        script.chmod(0o755)


def import_environment(environment: dict[str, str]) -> dict[str, str]:
    """Return the variables that are read at import."""
    return {k: v for k, v in environment.items() if k.startswith(AT_IMPORT)}


def main_of(command: list[str]) -> Callable[[], object] | None:
    """Return the function of a command; None if it must start by itself."""
    program, *arguments = command
    name = Path(program).name
    if name in SCRIPTS:
        return sys.modules[SCRIPTS[name]].main
    if arguments[:1] == ["-u"] and "-c" in arguments:  # what starts a worker of pytest-xdist
        return lambda: exec(arguments[-1], {"__name__": "__main__"})
    if arguments[:1] == ["-m"] and (module := sys.modules.get(arguments[1])):
        del command[:2]
        return module.main
    if arguments and arguments[0].endswith(".py"):
        del command[0]
        return lambda: runpy.run_path(arguments[0], run_name="__main__")
    return None


class Server:
    """Forks for each connection, and tells it pid and status of the child.

    Parameters
    ----------
    address
        Path of its socket.
    """

    def __init__(self, address: str):
        self.environment = import_environment(dict(os.environ))
        self.sockets: dict[int, socket.socket] = {}
        self.children: dict[int, tuple[int, socket.socket]] = {}
        self.poll = select.poll()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(address + ".new")
        self.listener.listen(64)
        os.rename(address + ".new", address)

    def serve(self, session: int) -> Callable[[], object] | None:
        """Return what a child is to run; in the server, None when process `session` has ended."""
        end = os.pidfd_open(session)
        self.poll.register(end, select.POLLIN)
        self.poll.register(self.listener, select.POLLIN)
        while True:
            # One at a time, since what it does may make the others obsolete
            file, _ = self.poll.poll()[0]
            if file == end:
                return None
            if file == self.listener.fileno():
                if run := self.accept():
                    return run
            elif file in self.children:
                self.report(file)
            else:  # the script was killed
                self.kill(file)

    def accept(self) -> Callable[[], object] | None:
        """Fork for a connection; return what is to run in the child."""
        client, _ = self.listener.accept()
        request, files, _, _ = socket.recv_fds(client, 1 << 16, 100)
        while not request.endswith(b"\n") and (more := client.recv(1 << 16)):
            request += more
        if not request.endswith(b"\n"):  # the script was killed
            for file in (*files, client.detach()):
                os.close(file)
            return None
        command, numbers, *state = json.loads(request)
        environment = state[2]
        pid, run = 0, main_of(command)
        is_alike = import_environment(environment) == self.environment
        if run and is_alike and max(numbers, default=0) < FIRST_OWN:
            pid = os.fork()
            if pid == 0:
                # Else they close, when they are freed, what has their numbers in the child
                for each in (client, self.listener, *self.sockets.values()):
                    each.detach()
                self.become(dict(zip(numbers, files, strict=True)), *state)
                sys.argv = command
                return run
            child = os.pidfd_open(pid)
            self.children[child] = (pid, client)
            self.sockets[client.fileno()] = client
            self.poll.register(child, select.POLLIN)
            self.poll.register(client, select.POLLHUP)
        for file in files:
            os.close(file)
        with contextlib.suppress(OSError):
            client.sendall(b"%d\n" % pid)
        if not pid:
            client.close()
        return None

    def become(self, files, blocked, folder, environment, umask) -> None:
        """Take on the open files (number of the command -> number here), folder and so on."""
        os.setsid()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        # Whoever started the tests may have had them ignored
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # First out of the way of each other
        moved = {n: fcntl.fcntl(file, fcntl.F_DUPFD, FIRST_OWN) for n, file in files.items()}
        os.closerange(3, FIRST_OWN)
        for number, file in moved.items():
            os.dup2(file, number)
            os.close(file)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        os.umask(umask)

    def report(self, child: int) -> None:
        """Tell the status of a child that has ended."""
        pid, client = self.children.pop(child)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self.poll.unregister(child)
        os.close(child)
        if client.fileno() in self.sockets:
            with contextlib.suppress(OSError):
                client.sendall(b"%d\n" % status)
            self.close(client)

    def kill(self, file: int) -> None:
        """Kill the child of a script that has ended."""
        client = self.sockets[file]
        for pid, its in self.children.values():
            if its is client:
                os.kill(pid, signal.SIGKILL)
        self.close(client)

    def close(self, client: socket.socket) -> None:
        """Forget a connection."""
        self.poll.unregister(client)
        del self.sockets[client.fileno()]
        client.close()


def main(address: str, session: str) -> int:
    """Serve, and in each child run a command."""
    import gc
    import logging
    import random
    import threading
    from importlib import import_module

    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401
    import tqdm
    from numba.core.types import abstract

    from amstrax import cli
    from amstrax.commands import warmup
    from amstrax.rundb.leases import Stop

    taken = [os.open(os.devnull, os.O_RDONLY)]
    while taken[-1] < FIRST_OWN - 1:
        taken.append(os.dup(taken[0]))
    tqdm.tqdm.monitor_interval = 0  # no thread of tqdm
    # tqdm's own lock is a semaphore that forks share: whoever is killed with it stops all others
    tqdm.tqdm.set_lock(threading.RLock())
    for tool in cli.TOOLS.values():
        import_module(f"amstrax.{tool.module}")
    # What the dashboard, exports and tests import
    for package in ("bokeh.models", "bokeh.server.server", "hypothesis", "scipy.stats", "uproot"):
        with contextlib.suppress(ImportError):
            import_module(package)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    warmup.warm_up(warmup.CONTEXTS, Stop())
    with tempfile.TemporaryDirectory() as folder:
        cli.main(["demo", "--duration", "5", "--output", folder, "--no-progress"])
    root.handlers[:] = handlers
    root.setLevel(level)
    assert threading.active_count() == 1, threading.enumerate()
    for number in taken:
        os.close(number)
    gc.collect()
    gc.freeze()
    run = Server(address).serve(int(session))
    if run is None:
        return 0
    if sys.argv[1:2] != ["-u"]:  # tests start what is to be started anew
        sys.executable = str(Path(address).parent / "bin/python")
    # As `own_type_numbers` of conftest.py
    number, offset = abstract._autoincr, random.randrange(1, 2**10) << 20
    abstract._autoincr = lambda: number() + offset
    try:
        result = run()
        sys.exit(result if isinstance(result, int) else 0)
    except SystemExit as stop:
        status = stop.code
        if status is None:
            status = 0
        elif not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    # What an interpreter does at its end, without freeing memory that is the server's
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
