"""Becomes a server: `launch.py PARENT_PID DEATH_SIGNAL UID GID COMMAND...` (UID -1: stay who we are).

A script of its own, because a `preexec_fn` is unsafe in a process with threads, and because dropping the
account clears the death signal, so the order matters. It starts as its parent's account, so that it can be
read where the server's account could not.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1  # prctl(2); Linux only, elsewhere the next start ends the orphan (see folder.py)


def main() -> None:
    parent, death_signal, uid, gid = (int(text) for text in sys.argv[1:5])
    command = sys.argv[5:]
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    os.setsid()  # Ctrl-C is for the parent: it drains first and stops its servers last
    os.umask(0o077)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent:
        sys.exit("the parent died before the server started")
    os.execv(command[0], command)


main()
