"""Becomes a service of `pavane up`: `adopt.py PARENT_PID COMMAND...`.

A script of its own, so that the two promises hold before the service has imported anything: it dies with its parent,
and Ctrl-C, which the terminal sends to the whole process group, is the parent's to answer.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2); Linux only


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # kept over exec
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent died before the service started")
    os.execv(command[0], command)


main()
