"""The plugin's processors by the names that a fleet's owner writes, in vLLM's own loaders."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugin_wheel import build, install

_FIRST = "from vllm.v1.sample.logits_processor import _load_logitsprocs_by_fqcns as load"
_SECOND = "from vllm.v1.worker.gpu.sample.logits_processor.loader import _load_v2_logitsprocs_by_fqcns as load"


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugin")
    return install(build(folder / "wheel"), folder / "target")


@pytest.mark.parametrize(
    ("loader", "name", "outcome"),
    [
        (_FIRST, "curtail_vllm.v1", "loaded"),
        (_SECOND, "curtail_vllm.v2", "loaded"),
        (_FIRST, "curtail_vllm.v2", "refused"),
        (_SECOND, "curtail_vllm.v1", "refused"),
    ],
)
def test_each_runner_takes_its_own_processor_and_refuses_the_others(
    plugin: Path, tmp_path: Path, loader: str, name: str, outcome: str
) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(plugin)!r})
{loader}
try:
    (found,) = load(["{name}:InPlaceExits"])
    print("loaded", found.__module__)
except ValueError:
    print("refused")
"""
    result = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.splitlines()[-1].startswith(outcome)
