"""The scheduler with small fake programs: order, limits, skipping, retrying, stopping."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cmae_mm.benchmark import scheduler as module
from cmae_mm.benchmark.scheduler import Scheduler
from cmae_mm.benchmark.stages import Stage
from cmae_mm.benchmark.state import StateFolder, read_json


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(module.time, "sleep", lambda _, sleep=time.sleep: sleep(0.02))


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


class Bench:
    """Makes stages whose programs write down when they ran."""

    def __init__(self, root):
        self.root = root

    def stage(self, name, needs=(), body="", inputs=(), progress=None):
        made = self.root / f"{name}.out"
        code = (
            f"import os,sys,time,pathlib;log=open({str(self.root / 'events')!r},'a',buffering=1);"
            f"log.write('start {name}\\n');exec({body!r});"
            f"pathlib.Path({str(made)!r}).write_text('x');log.write('end {name}\\n')"
        )
        argv = (sys.executable, "-S", "-c", code)
        return Stage(name, name, argv, tuple(needs), (made,), progress, 1.0, tuple(inputs))

    def run(self, stages, jobs=2, code="code"):
        (self.root / "events").write_text("")
        scheduler = Scheduler(stages, StateFolder(self.root / "stages", code), self.root, jobs)
        complete = scheduler.run()
        return scheduler, complete

    @property
    def events(self):
        return (self.root / "events").read_text().splitlines()

    @property
    def started(self):
        return [e.split()[1] for e in self.events if e.startswith("start")]


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
    bench.run([bench.stage(name, body="time.sleep(0.1)") for name in "abcde"], jobs)
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


def test_failed_stages_are_retried_and_hold_up_only_what_needs_them(bench, capsys):
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
    assert sorted(bench.started) == ["bad", "d"]
    assert "FAILED bad: error: no luck (log: " in capsys.readouterr().out
    assert read_json(bench.root / "stages" / "bad.json")["exit_code"] == 1
    (bench.root / "luck").touch()
    _, complete = bench.run(stages)
    assert complete
    assert bench.started == ["bad", "b", "c"]


def test_exit_code_zero_without_the_file_is_a_failure(bench):
    stage = dataclasses.replace(bench.stage("a"), makes=(bench.root / "never",))
    scheduler, complete = bench.run([stage])
    assert not complete
    assert "a" in scheduler.failed


def test_new_input_command_or_code_runs_again(bench):
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
    bench.run(stages, code="other code")
    assert sorted(bench.started) == ["a", "b"]


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
    first = dataclasses.replace(first, makes=(*first.makes, first.makes[0]), argv=(*first.argv, "again"))
    looks = []
    real = StateFolder.finished
    monkeypatch.setattr(
        StateFolder, "finished", lambda self, stage: looks.append(stage.name) or real(self, stage)
    )
    bench.run([first, *waiting], jobs=1)
    assert sorted(bench.started) == ["a", "b", "c", "d"]
    assert all(looks.count(name) <= 3 for name in "abcd")  # at the start, before it runs, after it ran


def test_a_damaged_state_file_counts_as_open(bench):
    stages = [bench.stage("a")]
    bench.run(stages)
    (bench.root / "stages" / "a.json").write_text('{"status": "do')
    bench.run(stages)
    assert bench.started == ["a"]


def test_what_another_version_left_is_moved_aside_and_the_own_is_kept(bench):
    work = bench.root / "work"
    work.mkdir()
    (work / "epoch_1.pth").write_text("of the first version")
    fails = "sys.exit(1)"
    stage = bench.stage("a", body=fails, progress=work / "progress.json")
    state = StateFolder(bench.root / "stages", "code")
    state.begin(stage)  # nothing is known of what lies there: not trusted
    assert not work.exists()
    assert (bench.root / "work.stale" / "epoch_1.pth").exists()
    work.mkdir()
    (work / "epoch_1.pth").write_text("own")
    (work / "progress.json").write_text("{}")
    state.begin(stage)  # stopped and started again: goes on from its checkpoint
    assert (work / "epoch_1.pth").read_text() == "own"
    assert not (work / "progress.json").exists()
    StateFolder(bench.root / "stages", "new code").begin(stage)
    assert not work.exists()
    assert (bench.root / "work.stale" / "epoch_1.pth").read_text() == "own"


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
        "from cmae_mm.benchmark.scheduler import Scheduler\nfrom cmae_mm.benchmark.stages import Stage\n"
        "from cmae_mm.benchmark.state import StateFolder\n"
        f"root = Path({str(tmp_path)!r})\n"
        f"stage = Stage('a', 'a', (sys.executable, '-S', '-c', {inner!r}), (), (), None, 1.0)\n"
        "guard(lambda: int(Scheduler([stage], StateFolder(root / 'stages', ''), root, 1).run()))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    pids = tmp_path / "pids"
    wait_for(lambda: pids.exists() and pids.read_text().endswith("."))
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors.startswith("stopped: what was saved is kept; run the same command")
    assert "Traceback" not in errors
    for pid in pids.read_text().split()[:2]:
        wait_for(lambda pid=pid: not alive(int(pid)))


def test_the_log_keeps_what_earlier_attempts_said(bench):
    stages = [bench.stage("a", body="print('hello');sys.exit(3)")]
    bench.run(stages)
    bench.run(stages)
    assert (bench.root / "stages" / "a.log").read_text() == "hello\nhello\n"


def test_state_is_written_whole(bench):
    bench.run([bench.stage("a")])
    assert [p.name for p in (bench.root / "stages").iterdir() if p.suffix == ".part"] == []
    state = json.loads((bench.root / "stages" / "a.json").read_text())
    assert (state["status"], state["exit_code"]) == ("done", 0)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")  # a zombie whose parent does not wait is dead too
    return not (stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def wait_for(condition, seconds=15):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
