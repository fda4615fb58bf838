"""The doctor names each problem with its cure, and survives whatever is broken."""

import collections
import sys
from pathlib import Path

import pytest

from cmae_mm.engine import doctor

Usage = collections.namedtuple("Usage", "total used free")


def fake_versions(monkeypatch, versions):
    monkeypatch.setattr(doctor, "installed_version", versions.get)


def only(findings):
    assert len(findings) == 1
    return findings[0]


def test_module_needs_no_heavy_import():
    import subprocess

    code = "import sys, cmae_mm.engine.doctor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_mixed_installs_are_a_problem(monkeypatch):
    fake_versions(monkeypatch, {"mmcv": "2.2.0", "onedl-mmcv": "2.3.6"})
    finding = only(doctor.probe_mixed())
    assert finding.level == "problem"
    assert "mmcv beside onedl-mmcv" in finding.value
    assert "make setup" in finding.cure


@pytest.mark.parametrize(
    ("versions", "level"), [({"onedl-mmcv": "2.3.6"}, "ok"), ({"mmcls": "0.25"}, "warning")]
)
def test_one_line_of_packages_is_not_mixed(monkeypatch, versions, level):
    fake_versions(monkeypatch, versions)
    assert only(doctor.probe_mixed()).level == level


def test_setup_script_refuses_the_same_packages():
    script = Path(__file__).parents[2] / "tools" / "setup.sh"
    line = next(row for row in script.read_text().splitlines() if row.startswith("UPSTREAM="))
    assert tuple(line.split('"')[1].split()) == doctor.UPSTREAM


def test_missing_ops(monkeypatch):
    reason = "ModuleNotFoundError: No module named 'mmcv._ext'"
    monkeypatch.setattr(doctor, "try_import", lambda module: reason if module == "mmcv._ext" else None)
    finding = only(doctor.probe_ops())
    assert finding.level == "problem"
    assert "mmcv._ext" in finding.value


def test_missing_and_changed_packages(monkeypatch):
    monkeypatch.setattr(doctor, "REQUIRED", ("torch", "timm", "numpy"))
    monkeypatch.setattr(doctor, "_pins", lambda: {"torch": "2.13.0", "numpy": "2.2.6"})
    fake_versions(monkeypatch, {"torch": "2.13.0+cpu", "numpy": "1.0"})
    assert [f.level for f in doctor.probe_versions()] == ["ok", "problem", "warning"]


@pytest.mark.parametrize(
    ("probe", "free", "level"),
    [
        (doctor.probe_disk, 10 * 1024**2, "problem"),
        (doctor.probe_disk, 5 * doctor.GIB, "warning"),
        (doctor.probe_disk, 500 * doctor.GIB, "ok"),
        (lambda: doctor.probe_shm("/"), 64 * 1024**2, "problem"),
        (lambda: doctor.probe_shm("/"), doctor.GIB, "warning"),
        (lambda: doctor.probe_shm("/"), 8 * doctor.GIB, "ok"),
    ],
)
def test_space(monkeypatch, probe, free, level):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage(free, 0, free))
    finding = only(probe())
    assert finding.level == level
    assert bool(finding.cure) == (level != "ok")


def test_no_shared_memory_directory_is_fine():
    assert only(doctor.probe_shm("/no/such/place")).level == "ok"


def test_unwritable_work_dir(monkeypatch, tmp_path):
    (tmp_path / "work_dirs").write_text("a file stands in the way")
    monkeypatch.chdir(tmp_path)
    finding = only(doctor.probe_work_dirs())
    assert finding.level == "problem"
    assert "--work-dir" in finding.cure


def test_few_open_files(monkeypatch):
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda which: (128, 4096))
    assert only(doctor.probe_open_files()).level == "problem"
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, 4096))
    assert only(doctor.probe_open_files()).level == "ok"


def test_broken_torch_does_not_stop_the_report(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)  # `import torch` now raises ImportError
    monkeypatch.setattr(doctor, "IMPORTED", ("torch",))
    monkeypatch.setattr(
        doctor, "try_import", lambda module: "ImportError: broken" if module == "torch" else None
    )
    assert doctor.run_doctor() == 1
    printed = capsys.readouterr().out
    assert "import torch" in printed
    assert "could not be examined" in printed
    assert "open files" in printed


def test_try_import_gives_one_line_and_swallows_noise(tmp_path, monkeypatch, capsys):
    (tmp_path / "noisy_broken_module.py").write_text("print('noise')\nraise RuntimeError('first\\nsecond')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert doctor.try_import("noisy_broken_module") == "RuntimeError: first"
    assert capsys.readouterr().out == ""


def test_exit_code_zero_without_problems(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "examine", lambda: [doctor.Finding("x", "y", "warning", "Do z.")])
    assert doctor.run_doctor() == 0
    assert "-> Do z." in capsys.readouterr().out
