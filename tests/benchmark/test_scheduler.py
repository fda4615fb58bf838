"""The scheduler with small fake programs: order, limits, skipping, retrying, blocking, stopping."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cmae_mm.benchmark.launchers.local import LocalLauncher
from cmae_mm.benchmark.retrying import Retries
from cmae_mm.benchmark.scheduler import Scheduler
from cmae_mm.benchmark.state import StateFolder, read_json


def test_runs_everything_in_order_of_needs(bench):
    stages = [
        bench.stage("a"),
        bench.stage("b", ["a"]),
        bench.stage("c", ["a"]),
        bench.stage("d", ["b", "c"]),
    ]
    scheduler, complete = bench.run(stages)
    assert complete
    assert scheduler.done == {"a", "b", "c", "d"}
    events = bench.events
    for stage in stages:
        for need in stage.needs:
            assert events.index(f"end {need}") < events.index(f"start {stage.name}")


@pytest.mark.parametrize("jobs", [1, 2])
def test_at_most_so_many_at_a_time(bench, jobs):
    # Each waits until so many have started, however slowly: the first ones wait for each other.
    events = f"pathlib.Path({str(bench.root / 'events')!r})"
    body = f"[time.sleep(0.02) for _ in range(3000) if {events}.read_text().count('start') < {jobs}]"
    bench.run([bench.stage(name, body=body) for name in "abcde"], jobs)
    running = most = 0
    for event in bench.events:
        running += 1 if event.startswith("start") else -1
        most = max(most, running)
    assert most == jobs


def test_finished_stages_are_skipped(bench):
    stages = [bench.stage("a"), bench.stage("b", ["a"])]
    bench.run(stages)
    scheduler, complete = bench.run(stages)
    assert complete
    assert bench.events == []
    assert scheduler.done == {"a", "b"}


def test_a_missing_output_is_made_again(bench):
    stages = [bench.stage("a"), bench.stage("b")]
    bench.run(stages)
    (bench.root / "b.out").unlink()
    bench.run(stages)
    assert bench.started == ["b"]


def test_failed_stages_are_tried_in_the_next_run_and_hold_up_only_what_needs_them(bench, capsys):
    body = f"sys.exit('error: no luck') if not os.path.exists({str(bench.root / 'luck')!r}) else None"
    stages = [
        bench.stage("bad", body=body),
        bench.stage("b", ["bad"]),
        bench.stage("c", ["b"]),
        bench.stage("d"),
    ]
    scheduler, complete = bench.run(stages)
    assert not complete
    assert list(scheduler.failed) == ["bad"]
    assert scheduler.blocked == {"b": "bad", "c": "b"}
    assert sorted(bench.started) == ["bad", "d"]
    said = capsys.readouterr().out
    assert "FAILED bad: no luck (log: " in said
    assert "BLOCKED b: it needs bad\n" in said
    state = read_json(bench.root / "stages" / "bad.json")
    assert (state["status"], state["exit_code"], state["reason"], state["reason_kind"]) == (
        "failed", 1, "no luck", "inside",
    )  # fmt: skip
    assert read_json(bench.root / "stages" / "c.json")["status"] == "blocked"
    (bench.root / "luck").touch()
    _, complete = bench.run(stages)
    assert complete
    assert bench.started == ["bad", "b", "c"]
    assert read_json(bench.root / "stages" / "bad.json")["attempts"] == 2


OUTSIDE = "sys.exit('OSError: [Errno 28] No space left on device')"


@pytest.mark.parametrize(
    ("body", "tries"), [(OUTSIDE, 3), ("sys.exit('ValueError: wrong')", 1), ("sys.exit(2)", 1)]
)
def test_only_failures_from_outside_are_tried_again(bench, body, tries):
    scheduler, complete = bench.run([bench.stage("a", body=body), bench.stage("b", ["a"])])
    assert not complete
    assert bench.started == ["a"] * tries
    assert list(scheduler.blocked) == ["b"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_program_is_tried_again_and_the_rest_goes_on_meanwhile(bench, number, capsys):
    mark = bench.root / "second"
    body = f"p=pathlib.Path({str(mark)!r});first=not p.exists();p.touch();"
    body += f"os.kill(os.getpid(),{int(number)}) if first else None"
    _, complete = bench.run([bench.stage("a", body=body), bench.stage("b", ["a"]), bench.stage("c")], jobs=1)
    assert complete
    assert bench.started.count("a") == 2
    assert f"AGAIN  a in 0:00: was killed from outside ({number.name})" in capsys.readouterr().out


def test_a_killed_runner_counts_as_killed_and_its_program_ends_with_it(bench):
    pid = bench.root / "pid"
    body = f"p=pathlib.Path({str(pid)!r});first=not p.exists();p.write_text(str(os.getpid()));"
    body += "os.kill(os.getppid(),9) if first else None;time.sleep(30 if first else 0)"
    _, complete = bench.run([bench.stage("a", body=body)])
    assert complete
    assert bench.started == ["a", "a"]


def test_waits_grow_have_jitter_and_start_again_after_progress():
    retries = Retries(3, base=10, most=30, rng=random.Random(0))
    waits = [retries.delay("a", 0.0) for _ in range(4)]
    assert waits[3] is None
    for wait, full in zip(waits[:3], (10, 20, 30), strict=True):
        assert full / 2 <= wait <= full
    assert len({round(w / f, 3) for w, f in zip(waits[:3], (10, 20, 30), strict=True)}) == 3
    assert retries.delay("a", 0.5) <= 10  # it got further: preempted, not broken
    assert retries.delay("b", 0.0) <= 10
    assert Retries(0).delay("a", 0.0) is None


def test_gpus_are_shared_out_and_a_large_stage_is_not_passed_for_ever(bench):
    note = f"open({str(bench.root / 'seen')!r},'a').write(os.environ['CUDA_VISIBLE_DEVICES']+'\\n');time.sleep(0.1)"
    stages = [
        bench.stage("a", body=note, gpus=1),
        bench.stage("big", body=note, gpus=2),
        bench.stage("c", body=note, gpus=1),
        bench.stage("cpu", body=note),
    ]
    _, complete = bench.run(stages, jobs=1, gpus=["3", "5"])
    assert complete
    assert sorted((bench.root / "seen").read_text().splitlines()) == ["", "3", "3", "3,5"]
    events = bench.events
    assert events.index("start big") < events.index("start c")
    assert events.index("end a") < events.index("start big")
    assert events.index("start cpu") < events.index("start big")  # needs no GPU: it does not wait


def test_exit_code_zero_without_the_file_is_a_failure(bench):
    stage = dataclasses.replace(bench.stage("a"), makes=(bench.root / "never",))
    scheduler, complete = bench.run([stage])
    assert not complete
    assert "a" in scheduler.failed


def test_new_input_or_command_runs_again(bench):
    source = bench.root / "input"
    source.write_text("1")
    stages = [bench.stage("a", inputs=[source]), bench.stage("b")]
    bench.run(stages)
    source.write_text("2")
    bench.run(stages)
    assert bench.started == ["a"]
    stages[1] = bench.stage("b", body="pass")
    bench.run(stages)
    assert bench.started == ["b"]


@pytest.mark.parametrize(("content", "expected"), [("'new'", ["a", "b"]), ("'x'", ["a"])])
def test_a_remade_input_counts_by_its_content(bench, content, expected):
    first = bench.stage("a")
    reader = bench.stage("b", ["a"], inputs=first.makes)
    bench.run([first, reader])
    code = f"import pathlib;open({str(bench.root / 'events')!r},'a').write('start a\\n');"
    code += f"pathlib.Path({str(first.makes[0])!r}).write_text({content})"
    bench.run([dataclasses.replace(first, argv=(sys.executable, "-S", "-c", code)), reader])
    assert bench.started == expected


def test_inputs_are_hashed_once_a_run_not_at_every_look(bench, monkeypatch):
    source = bench.root / "input"
    source.write_text("1")
    first = bench.stage("a", body="time.sleep(0.3)")
    waiting = [bench.stage(name, inputs=[source]) for name in "bcd"]
    bench.run([first, *waiting])
    source.write_text("2")
    first = dataclasses.replace(first, argv=(*first.argv, "again"))
    looks = []
    real = StateFolder.finished
    monkeypatch.setattr(
        StateFolder, "finished", lambda self, stage: looks.append(stage.name) or real(self, stage)
    )
    bench.run([first, *waiting], jobs=1)
    assert sorted(bench.started) == ["a", "b", "c", "d"]
    assert all(looks.count(name) <= 2 for name in "abcd")  # at the start, and before it runs


def test_a_damaged_state_file_counts_as_open(bench):
    stages = [bench.stage("a")]
    bench.run(stages)
    (bench.root / "stages" / "a.json").write_text('{"status": "do')
    bench.run(stages)
    assert bench.started == ["a"]


def test_what_another_version_left_is_moved_aside_and_the_own_is_kept(bench):
    work = bench.root / "work"
    work.mkdir()
    (work / "epoch_1.pth").write_text("of nobody knows what")

    def run(body):
        bench.run([bench.stage("a", body=f"os.makedirs({str(work)!r},exist_ok=True);{body}", work=work)])

    run("sys.exit(1)")  # nothing is known of what lies there: not trusted
    assert (bench.root / "work.stale1" / "epoch_1.pth").exists()
    assert list(work.iterdir()) == []
    (work / "epoch_1.pth").write_text("own")
    (work / "progress.json").write_text("{}")
    run("sys.exit(1)")  # stopped and started again: goes on from its checkpoint
    assert (work / "epoch_1.pth").read_text() == "own"
    assert not (work / "progress.json").exists()
    run("pass")  # another command
    assert not (work / "epoch_1.pth").exists()
    assert (bench.root / "work.stale2" / "epoch_1.pth").read_text() == "own"


def test_interrupt_stops_the_programs_and_a_second_run_continues(bench, monkeypatch):
    pid_file = bench.root / "pid"
    slow = f"open({str(pid_file)!r},'w').write(str(os.getpid()));time.sleep(60 if {{}} else 0)"
    stages = [
        bench.stage("a"),
        bench.stage("b", ["a"], body=slow.format(f"not os.path.exists({str(bench.root / 'go')!r})")),
    ]

    def interrupt(self):
        if pid_file.exists() and pid_file.read_text():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Scheduler, "_show", interrupt)
        with pytest.raises(KeyboardInterrupt):
            bench.run(stages)
    assert not alive(int(pid_file.read_text()))
    assert read_json(bench.root / "stages" / "b.json")["status"] == "started"
    (bench.root / "go").touch()
    _, complete = bench.run(stages)
    assert complete
    assert bench.started == ["b"]


def test_sigterm_stops_the_programs_and_their_children(tmp_path):
    """As a batch system stops it: the whole program by subprocess, with a grandchild."""
    inner = "import os,subprocess,sys,time;p=subprocess.Popen([sys.executable,'-S','-c','import time;time.sleep(60)']);"
    inner += f"open({str(tmp_path / 'pids')!r},'w').write(f'{{os.getpid()}} {{p.pid}} .');time.sleep(60)"
    code = (
        "import sys\nfrom pathlib import Path\nfrom cmae_mm.cli import guard\n"
        "from cmae_mm.benchmark.launchers.local import LocalLauncher\n"
        "from cmae_mm.benchmark.scheduler import Scheduler\nfrom cmae_mm.benchmark.stages import Stage\n"
        "from cmae_mm.benchmark.state import StateFolder\n"
        f"root = Path({str(tmp_path)!r})\n"
        f"stage = Stage('a', 'a', 'transfer', (sys.executable, '-S', '-c', {inner!r}))\n"
        "state = StateFolder(root / 'stages', root)\n"
        "guard(lambda: int(Scheduler([stage], state, LocalLauncher(state, 1, [])).run()))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    pids = tmp_path / "pids"
    wait_for(lambda: pids.exists() and pids.read_text().endswith("."))
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.startswith("stopped: what was saved is kept; run the same command")
    assert "Traceback" not in errors
    for pid in pids.read_text().split()[:2]:
        wait_for(lambda pid=pid: not alive(int(pid)))


@pytest.mark.parametrize("same", [True, False])
def test_a_run_left_behind_is_waited_for_or_stopped(bench, capsys, monkeypatch, same):
    """A benchmark was killed; its program goes on. It is never run twice at once."""
    gate = bench.root / "go"
    wait = f"end=time.time()+20\nwhile not os.path.exists({str(gate)!r}) and time.time()<end: time.sleep(.02)"
    stage = bench.stage("a", body=wait)
    first = LocalLauncher(bench.state(), 1, [])
    assert first.start(stage, []) == ""
    wait_for(lambda: (bench.root / "events").exists())
    if same:
        real = LocalLauncher.start
        monkeypatch.setattr(LocalLauncher, "start", lambda *args: (real(*args), gate.touch())[0])
    else:
        stage = bench.stage("a")
    scheduler = Scheduler([stage], bench.state(), LocalLauncher(bench.state(), 1, []), Retries(0))
    assert scheduler.run()
    said = capsys.readouterr().out
    if same:
        assert "waits for an earlier run of it" in said
        assert bench.started == ["a"]
    else:
        assert "an earlier version of it still ran and was stopped" in said
        assert bench.events == ["start a", "start a", "end a"]
    wait_for(lambda: first.ended())


def test_the_log_keeps_what_earlier_attempts_said(bench):
    stages = [bench.stage("a", body="print('hello');sys.exit(3)")]
    bench.run(stages)
    bench.run(stages)
    assert (bench.root / "stages" / "a.log").read_text() == "hello\nhello\n"


def test_state_is_written_whole(bench):
    bench.run([bench.stage("a")])
    assert [p.name for p in (bench.root / "stages").iterdir() if p.suffix == ".part"] == []
    state = json.loads((bench.root / "stages" / "a.json").read_text())
    assert (state["status"], state["exit_code"], state["attempts"]) == ("done", 0, 1)
    assert set(state["parts"]) == {"command", "config", "code", "weights", "data"}


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")  # a zombie whose parent does not wait is dead too
    return not (stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
