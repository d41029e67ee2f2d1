"""Commands that fork from a server behave as those that start by themselves."""

import ast
import os
import signal
import subprocess
import sys

import psutil
import pytest
from fork_server import FIRST_OWN, SCRIPTS
from make_jobs import wait
from needs import need_all

import amstrax

_WAIT = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"


@pytest.fixture
def start(served_scripts, tmp_path):
    """Function that starts a script of the server, or a file of Python with some code."""
    need_all("pidfd")

    def start(name, *arguments, code=None, **environment):
        if code:
            (tmp_path / "code.py").write_text(code)
            arguments = ("code.py", *arguments)
        return subprocess.Popen(
            [served_scripts / name, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=os.environ | environment,
        )

    return start


def test_each_console_script_is_served(served_scripts):
    assert {"amstrax", "amstraxer"} <= SCRIPTS.keys()
    assert {path.name for path in served_scripts.iterdir()} >= {"python", *SCRIPTS}


def test_streams_and_status(start):
    process = start("amstrax", "--version")
    assert process.communicate() == (f"{amstrax.__version__}\n", "")
    assert process.returncode == 0
    process = start("amstrax", "proces")
    assert "no command 'proces'" in process.communicate()[1] and process.returncode == 2
    process = start("python", code="import sys; print(sys.stdin.read()); sys.exit('it failed')")
    assert process.communicate("said") == ("said\n", "it failed\n") and process.returncode == 1
    process = start("python", code="1 / 0")
    assert "ZeroDivisionError" in process.communicate()[1] and process.returncode == 1


def test_arguments_folder_and_environment(start, tmp_path):
    code = "import os, sys; print(sys.argv, os.getcwd(), os.environ['ONE'], os.umask(0))"
    before = os.umask(0o027)
    try:
        said, _ = start("python", "a b", "", code=code, ONE="x\ny").communicate()
    finally:
        os.umask(before)
    assert said == f"{['code.py', 'a b', '']} {tmp_path} x\ny {0o027}\n"


def test_open_files(served_scripts, tmp_path):
    """Those that a command inherits have the same numbers; those of the server are far away."""
    need_all("pidfd")
    numbers = range(3, 60)
    code = f"import os; [os.write(n, b'x') for n in {numbers}]; print(os.listdir('/proc/self/fd'))"
    (tmp_path / "code.py").write_text(code)
    starter = f"import os; [os.dup2(1, n) for n in {numbers}]; "
    starter += f"os.execl('{served_scripts / 'python'}', 'python', 'code.py')"
    command = [sys.executable, "-c", starter]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert not done.stderr
    said = done.stdout.removeprefix("x" * len(numbers))
    # The last is that of the listing
    there = sorted(map(int, ast.literal_eval(said)))
    assert [n for n in there if n < FIRST_OWN] == list(range(61))


def test_what_is_read_at_import_starts_a_process(start, served_scripts):
    code = "import sys; print('strax' in sys.modules)"
    assert start("python", code=code).communicate()[0] == "True\n"
    assert start("python", code=code, NUMBA_OPT="1").communicate()[0] == "False\n"
    said, _ = start("python", "-c", "import sys; print(sys.executable)").communicate()
    assert said == f"{sys.executable}\n"
    code = "import sys; print(sys.executable)"
    assert start("python", code=code).communicate()[0] == f"{served_scripts / 'python'}\n"


def test_blocked_signals(start):
    """One that arrives while it is blocked waits until it is not."""
    code = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: print('went')); "
    code += "print('there', flush=True); sys.stdin.readline(); print('before', flush=True); "
    code += "signal.pthread_sigmask(signal.SIG_SETMASK, ())"
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        process = start("python", code=code)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert process.stdout.readline() == "there\n"
    process.terminate()
    assert process.communicate("\n")[0] == "before\nwent\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_signals(start, number):
    process = start("python", code=_WAIT)
    pid = int(process.stdout.readline())
    process.send_signal(number)
    process.communicate()
    assert process.returncode == -number
    wait(lambda: not psutil.pid_exists(pid))


def test_a_killed_command_holds_no_lock_of_others(start):
    code = "import tqdm; tqdm.tqdm.get_lock().acquire(); print('has it', flush=True); "
    for _ in range(2):
        process = start("python", code=code + "import time; time.sleep(600)")
        assert process.stdout.readline() == "has it\n"
        process.kill()
        process.communicate()
