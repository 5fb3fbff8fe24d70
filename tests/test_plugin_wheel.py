"""The wheel for stock vLLM servers: what is in it, and that it stands alone."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.plugin_wheel import ROOT, build, install

# None: an import of it fails.
_ALONE = """
import sys
for name in ("django", "celery", "redis", "psutil", "experiments", "workers", "curtail"):
    sys.modules[name] = None
from curtail_vllm.workers.engines.vllm_engine import in_place, joining, lifeline
from curtail_vllm.workers.engines.vllm_engine.plan import Plan
lifeline.hold()
plan = Plan.from_arguments({"curtail": '{"policy": {"name": "end_margin"}}'})
print(type(plan.policy).__module__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"))


def test_everything_lies_below_the_plugins_own_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"curtail_vllm"}


def test_no_import_leaves_the_plugins_own_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        lines = [
            line.strip()
            for name in archive.namelist()
            if name.endswith(".py")
            for line in archive.read(name).decode().splitlines()
        ]
    assert [line for line in lines if line.startswith(("from experiments", "from workers", "import workers"))] == []


def test_it_asks_for_no_other_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("METADATA")]
        assert "Requires-Dist" not in archive.read(name).decode()


def test_building_writes_nothing_into_the_checkout(wheel: Path) -> None:
    names = {path.name for path in (ROOT / "plugins" / "vllm").iterdir()} - {"__pycache__"}
    assert names == {"README.md", "curtail_vllm", "pyproject.toml", "setup.py"}


def test_it_works_without_the_repository_and_its_packages(wheel: Path, tmp_path: Path) -> None:
    target = install(wheel, tmp_path / "target")
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", _ALONE],
        cwd=tmp_path,
        env={"PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "curtail_vllm.experiments.policies.end_margin"
