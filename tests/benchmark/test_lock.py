"""Two benchmarks never write into the same folder."""

import subprocess
import sys

import pytest

from cmae_mm.benchmark.state import locked
from cmae_mm.errors import UserError


def test_second_benchmark_is_refused_until_the_first_ends(tmp_path):
    code = (
        "from pathlib import Path\n"
        "from cmae_mm.benchmark.state import locked\n"
        f"with locked(Path({str(tmp_path)!r})): print('got it')"
    )
    with locked(tmp_path):
        with pytest.raises(UserError, match="another benchmark"), locked(tmp_path):
            pass
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert second.returncode != 0
        assert "another benchmark is running there" in second.stderr
    third = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert third.stdout.strip() == "got it"
