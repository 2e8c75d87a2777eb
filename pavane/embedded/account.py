"""Who runs Postgres when we are root (it refuses to run as root), and what that account can reach."""

import os
import pwd
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PREFERRED = ("postgres", "nobody", "daemon")
SHARED_BASES = ("/var/lib", "/var/cache", "/var/tmp")


@dataclass(frozen=True)
class Account:
    """A system account that is not root."""

    name: str
    uid: int
    gid: int

    def can_run(self, command: Sequence[str | Path]) -> bool:
        """Whether this account can execute `command`: asked of the kernel, not guessed from modes."""
        try:
            done = subprocess.run(
                [os.fspath(word) for word in command],
                user=self.uid,
                group=self.gid,
                extra_groups=[],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
                timeout=30,
            )
        except (OSError, subprocess.SubprocessError):
            return False
        return done.returncode == 0

    def can_enter(self, folder: Path) -> bool:
        return self.can_run(["/bin/sh", "-c", 'cd -- "$1"', "sh", folder])


def server_account(data: Path) -> Account | None:
    """The account for a server that refuses root: None (ourselves) unless we are root.

    Whoever owns `data` already keeps it. Raises LookupError where the system knows no account but root.
    """
    if os.geteuid() != 0:
        return None
    if data.exists() and (owner := data.stat().st_uid) != 0:
        return Account(str(owner), owner, data.stat().st_gid)
    known = {entry.pw_name: entry for entry in pwd.getpwall() if entry.pw_uid != 0}
    for name in (*PREFERRED, *known):
        if entry := known.get(name):
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise LookupError("Postgres refuses to run as root, and this system has no other account")


def shared_folder(account: Account) -> Path:
    """A folder of root's that `account` can pass through: for what it could not reach where it lies.

    Raises PermissionError where there is none.
    """
    for base in SHARED_BASES:
        folder = Path(base) / "pavane"
        try:
            folder.mkdir(mode=0o711, exist_ok=True)
            found = folder.lstat()
            # In a base that everybody may write to, somebody else could have made it: then it is not ours.
            if found.st_uid == 0 and not found.st_mode & 0o022 and account.can_enter(folder):
                return folder
        except OSError:
            continue
    raise PermissionError(f"the account {account.name} can reach no folder under {', '.join(SHARED_BASES)}")
