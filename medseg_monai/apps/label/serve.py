"""The MONAI Label server of this project: checking its settings and starting it."""

from __future__ import annotations

import importlib.util
import ipaddress
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from medseg_monai.files import write_text

__all__ = ["is_loopback", "serve"]

#: the module that MONAI Label finds in the app's folder; the class itself is in the package, which may be read-only
_MAIN = 'from medseg_monai.apps.label.lib.app import BundleApp\n\n__all__ = ["BundleApp"]\n'


def serve(
    studies: str | os.PathLike[str],
    *,
    work_dir: str | os.PathLike[str] = "runs/label",
    bundles: Sequence[str] | None = None,
    weights: Mapping[str, str | os.PathLike[str]] | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    behind_proxy: bool = False,
) -> None:
    """Serve bundles to annotators until the process is interrupted.

    The server keeps its own files (log, sessions, models that were trained from a client) in ``work_dir``. MONAI Label
    writes the labels (``labels/``) and its list of images (``datastore_v2.json``) to ``studies``.

    Args:
        studies: folder of images, or the address of a DICOMweb server.
        work_dir: folder for the server's own files; it is created if it is missing.
        bundles: names or paths of the bundles to serve; by default all bundles with weights.
        weights: weights to use instead of a bundle's own, by the bundle's name.
        host: address to listen on.
        port: port to listen on.
        behind_proxy: other machines reach the host only through something that controls access, such as a container's
            port that is published on 127.0.0.1; the server itself then requires no login.

    Raises:
        BundleError: a bundle that does not exist or has no weights.
        FileNotFoundError: there is no such folder of images.
        ValueError: MONAI Label is not installed, or other machines can reach the host and no login is required.
    """
    from .lib.served import choose_bundles

    if importlib.util.find_spec("monailabel") is None:
        raise ValueError("MONAI Label is not installed here; 'make label' prepares an environment that has it.")
    if not behind_proxy:
        _refuse_open_host(host)
    source = str(studies)
    if not source.startswith(("http://", "https://")):
        if not Path(source).is_dir():
            raise FileNotFoundError(f"{source}: no such folder; give the folder of the images.")
        source = str(Path(source).resolve())
    chosen = choose_bundles(bundles, weights)
    folder = Path(work_dir).resolve()
    app = folder / "app"
    write_text(app / "main.py", _MAIN)
    _set_environment(folder)
    arguments = ["start_server", "--app", str(app), "--studies", source, "--host", host, "--port", str(port)]
    arguments += ["--uvicorn_app", "medseg_monai.apps.label.lib.server:app"]
    arguments += ["--conf", "models", ",".join(str(one.root) for one in chosen.values())]
    arguments += ["--conf", "work_dir", str(folder)]
    given = {name: str(Path(file).resolve()) for name, file in (weights or {}).items()}
    arguments += ["--conf", "weights", json.dumps(given)]
    _start(arguments)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine and cannot be reached from other machines.

    Args:
        host: address or name.
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse_open_host(host: str) -> None:
    """Refuse a host that other machines can reach without a login, to protect the patients' images."""
    is_guarded = os.environ.get("MONAI_LABEL_AUTH_ENABLE", "").lower() in ("1", "true")
    if not is_loopback(host) and not (is_guarded and os.environ.get("MONAI_LABEL_AUTH_REALM_URI")):
        raise ValueError(
            f"{host}: others could reach the server without logging in; use 127.0.0.1, give --behind-proxy "
            "if a proxy in front of it controls access, or set "
            "MONAI_LABEL_AUTH_ENABLE=true and MONAI_LABEL_AUTH_REALM_URI."
        )


def _set_environment(folder: Path) -> None:
    """Set the variables that MONAI Label reads during its import; values set by the user are kept, except TMPDIR."""
    temporary = folder / "tmp"
    temporary.mkdir(mode=0o700, exist_ok=True)
    defaults = {
        "MONAI_LABEL_SESSION_PATH": str(folder / "sessions"),
        "MONAI_LABEL_TRACKING_ENABLED": "false",  # for MONAI Label's own trainers; ours have their own tracking
        "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",
        "MONAI_ZOO_SOURCE": "ngc",  # otherwise MONAI Label would ask GitHub for a list of bundles
    }
    for key, value in defaults.items():
        os.environ.setdefault(key, value)
    # MONAI Label writes what clients send with permissions for every user of the machine
    os.environ["TMPDIR"] = str(temporary)
    tempfile.tempdir = None  # another module may have cached it before


def _start(arguments: Sequence[str]) -> None:
    from monailabel.main import Main

    main = Main()
    main.action_start_server(main.args_parser().parse_args(arguments))
