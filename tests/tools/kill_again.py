"""Train, kill -9 the run again and again, and let it go on each time: ``kill_again.py RANKS KILLS SEED WORK ARGS``.

All runs are forked from this process, which has imported everything but computed nothing: starting costs little.
Prints how far the run was at each kill.
"""

import json
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

from cmae_mm.cli import guard
from cmae_mm.engine.config import load_config
from cmae_mm.engine.launch import train_main

ranks, kills, seed = (int(word) for word in sys.argv[1:4])
work, words = Path(sys.argv[4]), sys.argv[5:]
words[1:1] = ["--resume", "--work-dir", str(work), *(["--launcher", "pytorch"] if ranks > 1 else [])]
draw = random.Random(seed)


def start(life):
    """Fork one process a rank, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = dict(WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    pids = []
    for rank in range(ranks):
        pid = os.fork()
        if pid:
            pids.append(pid)
            continue
        log = os.open(work / f"life{life}-rank{rank}.log", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(places, RANK=str(rank), LOCAL_RANK=str(rank))
        try:
            guard(lambda: train_main(words))
        except SystemExit as end:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code)
    return pids


def iteration():
    try:
        return int((work / "last_checkpoint").read_text().rpartition("_")[2].removesuffix(".pth"))
    except (OSError, ValueError):
        return 0


def wait_for_a_moment(pids, life):
    """Every fifth moment lies anywhere from the start on, the others some iterations later; False if the run ended."""
    if life % 5 == 4:
        time.sleep(draw.uniform(0, 2))
        return True
    goal = iteration() + draw.randint(1, 5)
    while iteration() < goal:
        for pid in pids:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return False
        time.sleep(0.002)
    time.sleep(draw.uniform(0, 0.06))
    return True


work.mkdir(parents=True, exist_ok=True)
load_config(words[0])  # imports what the config names
killed = []
for life in range(kills):
    pids = start(life)
    if not wait_for_a_moment(pids, life):
        break
    draw.shuffle(pids)
    killed.append(iteration())
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        os.waitpid(pid, 0)
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in start(kills)]
print(json.dumps({"killed": killed, "codes": codes}))
