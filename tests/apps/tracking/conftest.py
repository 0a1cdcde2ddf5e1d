"""The servers of ``docker/compose.yaml``, started here by its own commands, on free ports of this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.apps.debian import environment_of, unpacked
from tests.apps.processes import end, free_port
from tests.docker.files import ROOT, environment, health_command, services, stages

PASSWORDS = {"POSTGRES_PASSWORD": "p@ss/word:1", "ORTHANC_PASSWORD": "right, and long"}


@dataclass(frozen=True)
class Started:
    """A running service.

    Attributes:
        port: where it listens on 127.0.0.1.
        folder: what would be its volume.
        environment: what it was started with.
        health: command that tells whether it is well.
        process: the program.
        log: what it writes.
    """

    port: int
    folder: Path
    environment: dict[str, str]
    health: list[str]
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def is_well(self, **changed: str) -> bool:
        environment = {**self.environment, **changed}
        return subprocess.run(self.health, env=environment, capture_output=True, check=False).returncode == 0


def replaced(words: Sequence[str], changes: Mapping[str, str]) -> list[str]:
    """Words of a command with what differs outside of a container; each change has to be there to be made."""
    text = "\0".join(words)
    for old, new in changes.items():
        assert old in text, f"{old} is no longer in the command of compose.yaml"
        text = text.replace(old, new)
    return text.split("\0")


def start(
    command: Sequence[str],
    folder: Path,
    *,
    port: int,
    environment: dict[str, str],
    health: list[str],
    user: str | None = None,
) -> Started:
    """Start a service, and wait until its own health check says that it is well."""
    log = folder.with_suffix(".log")
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=stream, stderr=subprocess.STDOUT, user=user
        )
    started = Started(port, folder, environment, health, process, log)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if started.is_well():
            return started
        time.sleep(0.3)
    end(started.process)
    pytest.fail(f"{command[0]} did not start:\n{log.read_text(errors='replace')[-3000:]}")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Started]:
    """An empty PostgreSQL, as the image makes it: a user with a password and a database of the same name."""
    psycopg2 = pytest.importorskip("psycopg2", reason="the driver of PostgreSQL is not installed: psycopg2-binary")
    service = services()["postgres"]
    given = environment(service, PASSWORDS)
    with tempfile.TemporaryDirectory(prefix="medseg-postgres-") as name:  # under /tmp, where another user may go
        folder = Path(name)
        programs = _postgres_programs(folder)
        user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
        data, password = folder / "data", folder / "password"
        data.mkdir()
        password.write_text(given["POSTGRES_PASSWORD"])
        for path in (folder, data, password):
            if user:
                shutil.chown(path, user)
        libraries = environment_of(programs.parents[4]) if folder in programs.parents else dict(os.environ)
        initialise = [str(programs / "initdb"), f"--pgdata={data}", f"--username={given['POSTGRES_USER']}"]
        initialise += ["--auth=scram-sha-256", f"--pwfile={password}", "--no-sync"]
        subprocess.run(initialise, check=True, capture_output=True, user=user, env=libraries, cwd=folder)
        port = free_port()
        command = [str(programs / "postgres"), "-D", str(data), "-p", str(port), "-c", "unix_socket_directories="]
        ready, *arguments = health_command(service)
        health = [str(programs / ready), f"--port={port}", *arguments]
        running = start(command, data, port=port, environment=libraries, health=health, user=user)
        try:
            connection = psycopg2.connect(
                host="127.0.0.1",
                port=port,
                user=given["POSTGRES_USER"],
                password=given["POSTGRES_PASSWORD"],
                dbname="postgres",
            )
            connection.autocommit = True
            connection.cursor().execute(f"CREATE DATABASE {given['POSTGRES_DB']}")
            connection.close()
            yield running
        finally:
            end(running.process, signal.SIGINT)  # it would wait for its clients otherwise


def _postgres_programs(folder: Path) -> Path:
    """Folder of PostgreSQL's programs: this machine's own, or Debian's unpacked where every user may run them."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not installed:
        shutil.copytree(unpacked("postgresql"), folder / "debian", symlinks=True)
        installed = sorted((folder / "debian").glob("usr/lib/postgresql/*/bin/initdb"))
    return installed[-1].parent


@pytest.fixture(scope="session")
def mlflow_server(postgres: Started, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """MLflow by the command of its container, on that PostgreSQL."""
    service = services()["mlflow"]
    (entrypoint,) = next(one.arguments for one in stages()["mlflow"] if one.name == "ENTRYPOINT")
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    (volume,) = (mount.split(":")[1] for mount in service["volumes"])
    changes = {
        "0.0.0.0": "127.0.0.1",
        "--port=5000": f"--port={port}",
        "@postgres:5432/": f"@127.0.0.1:{postgres.port}/",
        volume: str(folder),
    }
    command = [str(Path(sys.executable).parent / entrypoint), *replaced(service["command"], changes)]
    running = start(
        command,
        folder,
        port=port,
        environment={**without_mlflow(), **environment(service, PASSWORDS)},
        health=[sys.executable, *replaced(health_command(service)[1:], {":5000/": f":{port}/"})],
    )
    yield running
    end(running.process)


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """Orthanc by the command of its container and with its configuration; the program is Debian's."""
    root = unpacked("orthanc", "orthanc-dicomweb")
    service = services()["orthanc"]
    folder, port = tmp_path_factory.mktemp("orthanc"), free_port()
    mounted = {mount.split(":")[1]: mount.split(":")[0] for mount in service["volumes"]}
    (configuration,) = service["command"]
    settings: dict[str, Any] = json.loads((ROOT / "docker" / mounted[configuration]).read_text())
    (plugin,) = settings["Plugins"]
    settings |= {
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "HttpPort": port,
        "RemoteAccessAllowed": False,  # in the container the others are the machine itself and its services
        "Plugins": [str(root / "usr/share/orthanc/plugins" / Path(plugin).name)],
    }
    file = folder.with_suffix(".json")
    file.write_text(json.dumps(settings))
    (program,) = service["entrypoint"]
    dictionary = next((root / "usr/share").glob("libdcmtk*/dicom.dic"))
    running = start(
        [str(root / "usr/sbin" / program), str(file)],
        folder,
        port=port,
        environment={
            **environment_of(root),
            "DCMDICTPATH": str(dictionary),
            **environment(service, PASSWORDS),
        },
        health=[sys.executable, *replaced(health_command(service)[1:], {":8042/": f":{port}/"})],
    )
    yield running
    end(running.process)


@pytest.fixture(scope="session")
def label_server(
    orthanc: Started, mlflow_server: Started, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Started]:
    """MONAI Label by the command of its container, over that Orthanc and that MLflow."""
    service = services()["label"]
    folder, port = tmp_path_factory.mktemp("label"), free_port()
    (volume,) = (mount.split(":")[1] for mount in service["volumes"])
    changes = {
        "0.0.0.0": "127.0.0.1",
        "--port=8000": f"--port={port}",
        "http://orthanc:8042/": f"{orthanc.url}/",
        volume: str(folder),
    }
    given = environment(service, PASSWORDS)
    others = {"http://mlflow:5000": mlflow_server.url, volume: str(folder)}
    given = dict(zip(given, replaced(list(given.values()), others), strict=True))
    running = start(
        [sys.executable, "-m", "medseg_monai.cli", *replaced(service["command"], changes)],
        folder,
        port=port,
        environment={
            **without_mlflow(),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            **given,
        },
        health=[sys.executable, *replaced(health_command(service)[1:], {":8000/": f":{port}/"})],
    )
    yield running
    end(running.process)


def without_mlflow() -> dict[str, str]:
    """The environment without what a user of this machine has set for MLflow."""
    return {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
