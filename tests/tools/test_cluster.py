"""What happens at night on many machines: kills, signals, hangs, lost nodes and links. Minutes long."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cluster_runs import CONFIG, PLAIN, ROOT, iteration, options
from ports import free_port

from cmae_mm.engine.checkpoint_file import fault_of, newest_good

pytestmark = pytest.mark.distributed
MEETING, NODES = "29642", 4  # a port of network namespaces, which have all for themselves


@pytest.mark.parametrize(("ranks", "epochs", "batch"), [(1, 14, 4), (2, 28, 4)])
def test_killed_at_20_moments_the_weights_are_those_of_an_uninterrupted_run(
    tmp_path, data, ranks, epochs, batch
):
    words = [str(CONFIG), *data, *options(epochs, f"train_dataloader.batch_size={batch}")]
    ends = {}
    for name, kills in (("whole", 0), ("killed", 20)):
        command = [
            sys.executable,
            str(Path(__file__).with_name("kill_again.py")),
            str(ranks),
            str(kills),
            "9",
        ]
        done = subprocess.run(
            [*command, str(tmp_path / name), *words],
            capture_output=True,
            text=True,
            env=PLAIN,
            cwd=ROOT,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        told = json.loads(done.stdout.splitlines()[-1])
        logs = "\n".join(p.read_text()[-800:] for p in (tmp_path / name).glob(f"life{kills}-*.log"))
        assert told["codes"] == [0] * ranks, logs
        assert len(told["killed"]) == kills, told
        path = (tmp_path / name / "last.pth").resolve()
        assert fault_of(path) is None
        ends[path.name, name] = torch.load(path, weights_only=True)
    (whole_name, _), (killed_name, _) = ends
    assert whole_name == killed_name
    whole, killed = ends.values()
    for part in ("state_dict", "optimizer", "param_schedulers", "random_states", "position"):
        assert _equal(whole[part], killed[part]), part
    print(f"killed after iterations {told['killed']}")


def _equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    return a == b


def start(work, data, log, *words, prefix=(), **env):
    command = [*prefix, "bash", str(ROOT / "tools/dist_train.sh"), str(CONFIG), "2", "--work-dir", str(work)]
    with open(log, "w") as out:
        return subprocess.Popen(
            [*command, *data, *words],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**PLAIN, **env},
            cwd=ROOT,
            start_new_session=True,
        )


def until(condition, process, log, seconds=300):
    """Wait; the log is shown if it does not happen."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, Path(log).read_text()[-3000:]
        assert time.monotonic() < end, Path(log).read_text()[-3000:]
        time.sleep(0.1)


def test_sigterm_to_torchrun_saves_and_leaves_and_the_run_goes_on(tmp_path, data):
    work, log = tmp_path / "work", tmp_path / "log"
    few = options(3, "train_dataloader.batch_size=4", "default_hooks.checkpoint.iter_interval=5")
    run = start(work, data, log, *few, PORT=free_port())
    until(lambda: iteration(work) >= 5, run, log)
    run.send_signal(signal.SIGTERM)
    assert run.wait(120) != 0
    text = log.read_text()
    stopped = int(re.search(r"stopped by SIGTERM after iteration (\d+)", text)[1])
    assert newest_good(work) == (work / f"iter_{stopped}.pth", [])
    again = start(work, data, log, "--resume", *few, PORT=free_port())
    assert again.wait(300) == 0, log.read_text()[-3000:]
    assert re.search(rf"resumed epoch: \d+, iter: {stopped}\b", log.read_text())


def test_a_process_that_hangs_is_named_and_ends_the_run(tmp_path, data):
    work, log = tmp_path / "work", tmp_path / "log"
    watch = [f"default_hooks.heartbeat.{k}" for k in ("interval=0.5", "least=5", "other=60")]
    run = start(work, data, log, *options(200, "train_dataloader.batch_size=4", *watch), PORT=free_port())
    until(lambda: iteration(work) >= 3, run, log)
    pid = json.loads((work / "heartbeat" / "rank1.json").read_text())["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        assert run.wait(120) != 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    sentence = next(line for line in log.read_text().splitlines() if "error: process" in line)
    assert f"process 1 ({os.uname().nodename}, pid {pid}) has given no sign of life" in sentence
    assert (work / "heartbeat" / "rank0.stack").stat().st_size > 0
    assert newest_good(work)[0] is not None


def ip(*words):
    return subprocess.run(["ip", *map(str, words)], capture_output=True, text=True, check=False)


@pytest.fixture
def nodes():
    """Four network namespaces, each with an address of its own, on one bridge in a fifth."""
    names = [f"cmae{os.getpid() % 10000}n{i}" for i in range(NODES)]
    switch = f"{names[0]}s"
    if shutil.which("ip") is None or os.geteuid() != 0 or ip("netns", "add", switch).returncode:
        pytest.skip("network namespaces need root and iproute2")
    try:
        ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", switch, "link", "set", "bridge", "up")
        for i, name in enumerate(names):
            ip("netns", "add", name)
            ip(
                "link",
                "add",
                "eth0",
                "netns",
                name,
                "type",
                "veth",
                "peer",
                "name",
                f"port{i}",
                "netns",
                switch,
            )
            ip("-n", switch, "link", "set", f"port{i}", "master", "bridge", "up")
            ip("-n", name, "addr", "add", f"10.77.0.{i + 1}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "lo", "up")
            if ip("-n", name, "link", "set", "eth0", "up").returncode:
                pytest.skip("virtual links cannot be made here")
        yield names, switch
    finally:
        for name in (*names, switch):
            for pid in ip("netns", "pids", name).stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            ip("netns", "del", name)


@pytest.mark.parametrize("fault", ["a node is killed", "a link is cut"])
def test_the_other_nodes_go_on_from_the_last_checkpoint(tmp_path, data, nodes, fault):
    names, switch = nodes
    work, logs = tmp_path / "work", [tmp_path / f"log{i}" for i in range(NODES)]
    short = options(40, "train_dataloader.batch_size=5", "env_cfg.dist_cfg.timeout=90")
    meeting = {
        "NNODES": f"{NODES - 1}:{NODES}",
        "RDZV": f"10.77.0.1:{MEETING}",
        "MAX_RESTARTS": "3",
        "RDZV_CONF": "last_call_timeout=20,keep_alive_interval=2,keep_alive_max_attempt=5",
        "GLOO_SOCKET_IFNAME": "eth0",
    }
    runs = [
        start(
            work,
            data,
            logs[i],
            "--accumulate",
            "1",
            *short,
            prefix=("ip", "netns", "exec", name),
            LOCAL_ADDR=f"10.77.0.{i + 1}",
            **meeting,
        )
        for i, name in enumerate(names)
    ]
    until(lambda: iteration(work) >= 6, runs[0], logs[0], 500)
    before = iteration(work)
    if fault == "a node is killed":
        for pid in ip("netns", "pids", names[3]).stdout.split():
            os.kill(int(pid), signal.SIGKILL)
    else:
        ip("-n", switch, "link", "set", "port3", "down")
    for run, log in zip(runs[:3], logs[:3], strict=True):
        assert run.wait(400) == 0, log.read_text()[-4000:]
    record = json.loads((work / "result.json").read_text())
    assert record["world_size"] == 2 * (NODES - 1)
    starts = re.findall(r"resumed epoch: \d+, iter: (\d+)", "".join(log.read_text() for log in logs[:3]))
    assert max(map(int, starts)) >= before - 1
    assert iteration(work) > before
