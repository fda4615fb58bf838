"""Requests to stop: saved and left after the iteration, a second one at once, a checkpoint is never spoilt by them."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from cmae_mm.engine import checkpoint_file
from cmae_mm.engine.checkpoint_file import newest_good
from cmae_mm.engine.signals import REQUESTS
from cmae_mm.engine.stopping import STOPPED, StopHook
from cmae_mm.errors import UserError

pytestmark = pytest.mark.faults
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _signals_stay_as_they_were():
    """A process that leaves ignores them; this one goes on."""
    before = {number: signal.getsignal(number) for number in REQUESTS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@HOOKS.register_module()
class Signalling(Hook):
    """Sends this process a signal in one iteration."""

    def __init__(self, at, number):
        self.at, self.number = at, number

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 == self.at:
            os.kill(os.getpid(), self.number)
            time.sleep(0.2)  # until the thread has seen it


def with_signal(at, number=signal.SIGTERM):
    return [dict(type=Signalling, at=at, number=number), dict(type=StopHook, grace=60)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("kind", ["epochs", "iterations"])
def test_saves_after_the_iteration_and_leaves(tmp_path, toy, number, kind):
    before = signal.getsignal(number)
    toy.train(tmp_path / "whole", kind=kind, every=100)
    with pytest.raises(SystemExit) as left:
        toy.train(tmp_path / "parts", kind=kind, every=100, more=with_signal(9, number))
    assert left.value.code == STOPPED == 75
    assert signal.getsignal(number) in (signal.SIG_IGN, before)
    assert newest_good(tmp_path / "parts") == (tmp_path / "parts" / "iter_9.pth", [])
    log = next((tmp_path / "parts").glob("*/*.log")).read_text()
    assert f"stopped by {number.name} after iteration 9" in log
    toy.train(tmp_path / "parts", kind=kind, every=100, resume=True)
    toy.same_end(tmp_path / "whole", tmp_path / "parts", "epoch_3.pth" if kind == "epochs" else "iter_14.pth")


def test_what_it_saves_is_whole_even_if_checkpoints_hold_weights_alone(tmp_path, toy):
    with pytest.raises(SystemExit):
        toy.train(tmp_path, more=with_signal(2), save_optimizer=False)
    toy.train(tmp_path, resume=True)


def test_in_the_last_iteration_the_run_is_finished_instead(tmp_path, toy):
    toy.train(tmp_path, kind="iterations", every=100, more=with_signal(14))
    assert newest_good(tmp_path)[0].name == "iter_14.pth"


def test_in_the_middle_of_a_checkpoint_both_are_whole(tmp_path, toy, monkeypatch):
    """The signal comes while the checkpoint of iteration 4 is being written; that of iteration 5 follows."""
    writing = threading.Event()
    sync = os.fsync

    def slow(descriptor):
        writing.set()
        time.sleep(0.3)
        sync(descriptor)

    def send():
        writing.wait(30)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(checkpoint_file.os, "fsync", slow)
    threading.Thread(target=send).start()
    with pytest.raises(SystemExit):
        toy.train(tmp_path, every=4, more=[dict(type=StopHook)])
    for path in tmp_path.glob("*.pth"):
        assert checkpoint_file.fault_of(path) is None
    assert (tmp_path / "iter_4.pth").exists()
    assert not list(tmp_path.glob(".*.part"))


def test_a_checkpoint_that_cannot_be_written_in_the_background_ends_the_run(tmp_path, toy, monkeypatch):
    def full(state, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cmae_mm.engine.checkpoint_writer.write_checkpoint", full)
    with pytest.raises(UserError, match="the disk is full"):
        toy.train(tmp_path, every=3, more=[dict(type=StopHook)])


LOADER = """
import multiprocessing, os, signal, subprocess, time
from cmae_mm.engine.signals import leave_signals_to_the_main_process
def work(pipe):
    leave_signals_to_the_main_process(0, init=pipe.send)
    time.sleep(60)
ours, theirs = multiprocessing.Pipe()
child = multiprocessing.get_context("fork").Process(target=work, args=(theirs,), daemon=True)
child.start()
assert ours.recv() == 0
for number in ("TERM", "USR1"):
    subprocess.run(["bash", "-c", f"kill -{number} {child.pid}"], check=True)
time.sleep(0.5)
print(child.is_alive())
"""


def test_a_loader_process_obeys_its_main_process_alone():
    """The daemon child is still there at the end; Python sends it SIGTERM and waits for it."""
    words = [sys.executable, "-c", LOADER]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=90, check=False)
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr


PROGRAM = """
import sys, time
from cmae_mm.engine.signals import SignalWatch
watch = SignalWatch(grace=float(sys.argv[1]))
print("ready", flush=True)
time.sleep(float(sys.argv[2]))
print(watch.request.name if watch.request else "nothing", flush=True)
watch.close()
"""


def program(grace, seconds):
    words = [sys.executable, "-c", PROGRAM, str(grace), str(seconds)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout.readline() == "ready\n"
    return process


def test_one_request_that_comes_twice_at_a_time_is_one():
    process = program(60, 2)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    assert process.communicate(timeout=30) == ("SIGTERM\n", "")
    assert process.returncode == 0


def test_a_second_sigterm_leaves_at_once():
    process = program(60, 60)
    for _ in range(40):  # those of the first two seconds count as one
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        if process.poll() is not None:
            break
    assert "left at once: a second SIGTERM" in process.communicate(timeout=5)[1]
    assert process.returncode == 143


def test_the_time_to_leave_has_an_end():
    process = program(0.3, 60)
    process.send_signal(signal.SIGUSR1)
    assert "not done 0.3 s after SIGUSR1" in process.communicate(timeout=30)[1]
    assert process.returncode == 143
