"""A process group that is ended leaves no thread that could abort the process when Python ends."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
from pathlib import Path
import torch
from torch.nn.parallel import DistributedDataParallel
from medseg_monai.bundle import end_process_group, start_process_group

def threads():
    return sorted(path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm"))

start_process_group("gloo")
network = DistributedDataParallel(torch.nn.Linear(2, 1))
network(torch.ones(3, 2)).sum().backward()
gathered = [torch.zeros(1)]
torch.distributed.all_gather(gathered, torch.ones(1))
print([name for name in threads() if "gloo" in name])
end_process_group(network)
print([name for name in threads() if "gloo" in name])
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the names of native threads are told by Linux only")
def test_an_ended_group_of_processes_leaves_no_thread_of_gloo():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": "0", "WORLD_SIZE": "1"}
    environment |= {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    before, after = result.stdout.splitlines()[-2:]
    assert "gloo" in before
    assert after == "[]"
