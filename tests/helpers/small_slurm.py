"""A small Slurm of its own, where the machine has the programs: the fixture ``small_slurm``."""

import os
import shutil
import socket
import stat
import subprocess
import time

import pytest
from ports import free_ports

NODES = ("small0", "small1", "small2")
CONFIG = """
ClusterName=small
SlurmctldHost={host}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge/socket,cred_expire=5
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/ctld.pid
SlurmdPidFile={root}/%n.pid
SlurmctldLogFile={root}/ctld.log
SlurmdLogFile={root}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmctldPort={port}
SlurmdTimeout=10
JobRequeue=1
GresTypes=gpu
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
PartitionName=all Nodes=ALL Default=YES State=UP
"""


def start_slurm(root, environment):
    """Start its programs: one for each node, all on this machine."""
    munge = [f"--{name}-file={root}/munge/{name}" for name in ("key", "pid", "log", "seed")]
    commands = [
        ["munged", *munge, f"--socket={root}/munge/socket", "--foreground"],
        ["slurmctld", "-D"],
        *(["slurmd", "-D", "-N", node] for node in NODES),
    ]
    for command in commands:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        yield subprocess.Popen(command, env=environment, **quiet)
        time.sleep(0.5)


@pytest.fixture(scope="module")
def small_slurm(tmp_path_factory):
    """Environment variables for the commands of a Slurm with three nodes; nothing else on the machine is touched."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [n for n in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(n, path=path) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed (Debian: slurmctld slurmd slurm-client munge)")
    if os.geteuid():
        pytest.skip("slurmd needs root")
    root = tmp_path_factory.mktemp("slurm")
    for parent in (root, *root.parents):  # munged refuses a socket in a folder that others cannot enter
        if not parent.stat().st_mode & stat.S_IXOTH:
            parent.chmod(parent.stat().st_mode | stat.S_IXOTH | stat.S_IXGRP)
    for name in ("spool", "state", "munge", *(f"spool/{node}" for node in NODES)):
        (root / name).mkdir(mode=0o755)
        (root / name).chmod(0o755)
    (root / "munge" / "key").write_bytes(os.urandom(1024))
    (root / "munge" / "key").chmod(0o600)
    host = socket.gethostname().split(".")[0]
    ports = free_ports(1 + len(NODES))
    text = CONFIG.format(host=host, root=root, port=ports[0])
    for node, port in zip(NODES, ports[1:], strict=True):
        text += f"NodeName={node} NodeHostname={host} Port={port} CPUs={os.cpu_count()} Gres=gpu:2 State=UNKNOWN\n"
    (root / "slurm.conf").write_text(text)
    for number in range(2):  # GPUs that are only counted
        (root / f"gpu{number}").touch()
    (root / "gres.conf").write_text(f"NodeName=small[0-2] Name=gpu File={root}/gpu[0-1]\n")
    environment = {**os.environ, "PATH": path, "SLURM_CONF": str(root / "slurm.conf")}
    running = list(start_slurm(root, environment))
    try:
        deadline = time.monotonic() + 30
        look = ["sinfo", "-h", "--format=%D %t"]
        while (
            subprocess.run(look, env=environment, capture_output=True, text=True).stdout.strip()
            != f"{len(NODES)} idle"
        ):
            if time.monotonic() > deadline or any(p.poll() is not None for p in running):
                pytest.skip("a small Slurm does not start on this machine")
            time.sleep(0.3)
        yield environment
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(timeout=20)
