"""Servers and programs of Debian for the tests, unpacked into a folder of their own: nothing is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

__all__ = ["environment_of", "unpacked"]

_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib")


def unpacked(package: str, *more: str) -> Path:
    """Folder with Debian packages and what they depend on and this machine lacks, as they lie under ``/``.

    It is kept in the user's cache (``XDG_CACHE_HOME``), so that the next session of tests downloads nothing. A machine
    without apt, or that reaches no Debian mirror, skips the test.
    """
    if shutil.which("apt-get") is None:
        pytest.skip(f"{package}: not a Debian machine, there is no apt-get")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medseg-monai" / "debian"
    root = cache / "_".join((package, *more))
    if not root.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            _download((package, *more), Path(folder))
            content = Path(folder) / "root"
            content.mkdir()
            for archive in sorted(Path(folder).glob("*.deb")):
                subprocess.run(["dpkg", "-x", archive, content], check=True)
            content.chmod(0o755)  # a server may have to run as another user
            try:
                content.rename(root)
            except OSError:  # another session was faster
                assert root.is_dir()
    return root


def environment_of(root: Path) -> dict[str, str]:
    """Environment in which the programs of an unpacked folder find their libraries."""
    libraries = [str(root / folder) for folder in _LIBRARIES if (root / folder).is_dir()]
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(libraries)}


def _download(packages: Sequence[str], folder: Path) -> None:
    """Put the archives into ``folder``, by the machine's own lists of packages or by fresh ones."""
    options: list[str] = []
    plan = _apt(options, "install", "--simulate", "--no-install-recommends", *packages)
    if plan.returncode:
        lists = folder / "lists"
        (lists / "partial").mkdir(parents=True)
        options = ["-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={folder}/cache"]
        _apt(options, "update")
        plan = _apt(options, "install", "--simulate", "--no-install-recommends", *packages)
    wanted = [f"{name}={version}" for name, version in re.findall(r"^Inst (\S+) \((\S+)", plan.stdout, re.MULTILINE)]
    if plan.returncode == 0 and not wanted:  # this machine has them all
        return
    if plan.returncode or _apt(options, "download", *wanted, cwd=folder).returncode:
        pytest.skip(f"{' '.join(packages)}: no Debian mirror can be reached ({plan.stderr.strip()[-200:]})")


def _apt(
    options: Sequence[str], command: str, *arguments: str, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["apt-get", *options, command, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
