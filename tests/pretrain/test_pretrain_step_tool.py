import runpy
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "benchmarks" / "pretrain_step.py"


def test_prints_both_rates_and_their_ratio(capsys):
    tool = runpy.run_path(str(TOOL))
    arguments = ["--batch", "2", "--steps", "1", "--rounds", "1", "--warmup", "1"]
    assert tool["main"](arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["CMAE", "MAE", "CMAE"]
    assert "images/s" in lines[-2]
