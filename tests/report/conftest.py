"""Shared by the tests of the report."""

import pytest
from report_sample import write_sample


@pytest.fixture(scope="session")
def benchmark_folder(tmp_path_factory):
    """A whole benchmark's folder with curves and pictures."""
    return write_sample(tmp_path_factory.mktemp("bench") / "sample")
