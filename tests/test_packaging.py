"""The wheel carries the bundles, and finds them without the checkout."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from medseg_monai.bundle import list_bundles

ROOT = Path(__file__).resolve().parents[1]


def test_an_installed_wheel_lists_the_bundles_of_the_checkout(tmp_path: Path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        weights = [name for name in archive.namelist() if name.endswith((".pt", ".pth", "model.json"))]
        shipped = "medseg_monai/bundles/lung_cxr_rescrnet/models/model"
        assert sorted(weights) == [f"{shipped}.json", f"{shipped}.pt"]
        archive.extractall(site)
    result = subprocess.run(
        [sys.executable, "-m", "medseg_monai.cli", "list", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert [bundle["name"] for bundle in json.loads(result.stdout)] == list_bundles()
    where = "import medseg_monai.bundle as b; print(b.find_bundle(b.list_bundles()[0]))"
    found = subprocess.run(
        [sys.executable, "-c", where],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert Path(found.stdout.strip().splitlines()[-1]).is_relative_to(site)
