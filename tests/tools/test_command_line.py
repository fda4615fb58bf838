"""The guard and the words of the command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import cmae_mm
from cmae_mm.cli import guard, run
from cmae_mm.data.command import make_with_progress
from cmae_mm.errors import UserError

ROOT = Path(__file__).parents[2]


def raising(error):
    def command(argv):
        raise error

    return command


def test_guard_passes_codes_on_and_explains_stops(call, capsys):
    assert call(lambda argv: 0) == 0
    assert call(lambda argv: 7) == 7
    assert call(raising(UserError("what, where, what to do"))) == 2
    assert capsys.readouterr().err == "error: what, where, what to do\n"
    assert call(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err.startswith("stopped: what was saved is kept; run the same command")
    with pytest.raises(ZeroDivisionError):  # a bug is not dressed up as a user's mistake
        guard(lambda: 1 // 0)


def test_help_and_version(capsys):
    for words in (
        ["--help"],
        ["demo", "--help"],
        ["data", "mini", "--help"],
        ["import", "--help"],
        ["export", "--help"],
    ):
        with pytest.raises(SystemExit) as stopped:
            run(words)
        assert stopped.value.code == 0
    text = capsys.readouterr().out
    for word in ("demo", "data", "import", "export", "inspect", "doctor"):
        assert word in text
    with pytest.raises(SystemExit):
        run(["--version"])
    assert cmae_mm.__version__ in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["nothing"], ["data"], ["import"], ["export"], ["inspect"]])
def test_missing_words_are_told(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(words)
    assert stopped.value.code == 2
    assert "usage: cmae-mm" in capsys.readouterr().err


@pytest.mark.parametrize("tool", sorted(p.name for p in (ROOT / "tools").glob("*.py")))
def test_tools_explain_themselves(tool):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / tool, "--help"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0
    assert "usage: " in done.stdout
    assert done.stderr == ""


def test_a_closed_pipe_is_no_traceback():
    code = "from cmae_mm.cli import guard\nguard(lambda: print('x' * 10**6, flush=True) or 0)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait() == 1
    assert errors == b""


def test_data_command_says_what_it_did(mini_data, tmp_path, capsys, monkeypatch):
    from cmae_mm.data import command

    def fake(out, seed, progress):
        progress(1, 2)
        progress(2, 2)
        return {"made": seed == 1}

    monkeypatch.setattr(command, "make_mini", fake)
    assert make_with_progress(mini_data, 1, tmp_path / "sheets") == 0
    text = capsys.readouterr().out
    assert text.startswith("2/2 pictures, 0 s left\n")
    assert f"{mini_data}: made (seed 1)" in text
    assert len(list((tmp_path / "sheets").glob("*.png"))) == 3
    assert make_with_progress(mini_data, 0, None) == 0
    assert "was there already, nothing to do" in capsys.readouterr().out
