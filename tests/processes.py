"""Processes of Python that have torch: forks of one that imported it, which takes longer than what most of them do."""

import atexit
import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent  # of the repository
TRITON = {"FUSEGRAD_BACKEND": "triton"}  # on CPU tensors, by its interpreter

# A fork leaves the loop, and what it was asked for is its main module.
SERVER = """
import gc, json, os, runpy, signal, sys, torch
assert not {"fusegrad", "triton"} & sys.modules.keys()
gc.freeze()
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
else:
    sys.exit()
signal.alarm(600)
env, (option, what, *args), paths = json.loads(line)
for i, path in enumerate(paths):
    os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), i)
os.environ.clear()
os.environ.update(env)
sys.argv = [option, *args]
if option == "-c":
    exec(what)
else:
    runpy.run_module(what, run_name="__main__", alter_sys=True)
"""


@cache
def _server() -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # read by torch when it is imported
    command = [sys.executable, "-c", SERVER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    server = subprocess.Popen(command, text=True, cwd=ROOT, env=environment, **pipes)
    atexit.register(server.communicate)  # which ends what it reads, and waits
    return server


def python(*args: str, **env: str) -> subprocess.CompletedProcess:
    """What `python -c code` or `python -m module` gives in 10 minutes, in the root of the repository, of one thread."""
    server = _server()
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        asked = os.environ | env, args, (os.devnull, str(out), str(err))
        print(json.dumps(asked, default=dict), file=server.stdin, flush=True)
        return subprocess.CompletedProcess(args, int(server.stdout.readline()), out.read_text(), err.read_text())
