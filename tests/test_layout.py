"""The layout of the house: pure packages stay pure, imports run one way, platform/ stays a plain folder."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PURE = (
    "experiments.policies",
    "experiments.statistics",
    "experiments.assignment",
    "experiments.capabilities",
    "experiments.ramp",
    "experiments.routing",
    "experiments.remote_capabilities",
    "experiments.remote_server",
    "experiments.grading",
)
IMPURE = ("django", "celery", "torch", "redis", "psycopg2", "transformers", "curtail", "workers")

# Each layer's folder or module, and the layers it may import besides itself.
LAYERS = {
    "experiments.policies": "pure",
    "experiments.statistics": "pure",
    "experiments.replay": "pure",
    "experiments.assignment": "pure",
    "experiments.capabilities": "pure",
    "experiments.remote_capabilities": "pure",
    "experiments.remote_server": "pure",
    "experiments.grading": "pure",
    "experiments.asyncio_tasks": "pure",
    "experiments.ramp": "pure",
    "experiments.routing": "pure",
    "experiments.segment_names": "pure",
    "experiments.wire": "wire",
    "experiments.models": "models",
    "experiments.services": "services",
    "experiments.web": "web",
    "experiments.api": "api",
    "experiments.gateway": "gateway",
    "workers.tasks": "tasks",
    "workers.serving": "serving",
    "workers.engines": "engines",
}
ALLOWED = {
    "pure": set(),
    "wire": {"pure"},
    "models": {"pure"},
    "services": {"models", "pure", "wire"},
    "web": {"services", "models", "pure"},
    "api": {"services", "models", "pure"},
    "gateway": {"services", "models", "pure", "wire", "engines"},
    "tasks": {"services", "models", "pure", "engines"},
    "engines": {"pure"},
}
# Our own top-level packages: what has no layer among them is nothing that pure code or an engine may import.
OURS = ("experiments", "workers", "curtail", "demo")

_IMPORT_ALL = """
import importlib, pkgutil, sys
sys.path[:0] = [{root!r}, {platform!r}]
package = importlib.import_module({name!r})
for found in pkgutil.walk_packages(getattr(package, "__path__", []), {name!r} + "."):
    importlib.import_module(found.name)
print(",".join(name for name in {impure!r} if name in sys.modules))
"""


@pytest.mark.parametrize("name", PURE)
def test_pure_package_loads_none_of_the_frameworks(name: str) -> None:
    script = _IMPORT_ALL.format(root=str(ROOT), platform=str(ROOT / "platform"), name=name, impure=IMPURE)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == ""


def test_platform_is_no_package() -> None:
    assert (ROOT / "platform").is_dir()
    assert not (ROOT / "platform" / "__init__.py").exists()


def test_python_keeps_its_own_platform_module() -> None:
    script = f"import sys; sys.path[:0] = [{str(ROOT)!r}]; import platform; print(platform.system())"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.stdout.strip() != "", result.stderr


@pytest.mark.parametrize("layer", sorted(ALLOWED))
def test_imports_run_one_way(layer: str) -> None:
    assert list(_violations(layer)) == []


def _violations(layer: str) -> Iterator[str]:
    """Name each import of a layer that may not be."""
    for prefix in (name for name, of in LAYERS.items() if of == layer):
        for path in _files(prefix):
            for line, module in _imported(path):
                target = _layer_of(module)
                own_but_layerless = target is None and module.split(".")[0] in OURS
                strict = layer in ("pure", "engines")
                if (target and target not in ALLOWED[layer] | {layer}) or (strict and own_but_layerless):
                    yield f"{path.relative_to(ROOT)}:{line} imports {module}"


def _files(prefix: str) -> list[Path]:
    base = ROOT.joinpath(*prefix.split("."))
    single = base.with_suffix(".py")
    return sorted(base.rglob("*.py")) + ([single] if single.exists() else [])


def _imported(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and full name of each import; ``from a import b`` may mean the module ``a.b``."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    package = module.removesuffix(".__init__") if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base]).rstrip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield node.lineno, full if _layer_of(full) else base


def _layer_of(module: str) -> str | None:
    for prefix, layer in LAYERS.items():
        if module == prefix or module.startswith(f"{prefix}."):
            return layer
    return None


def test_layer_rule_sees_a_wrong_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = tmp_path / "experiments" / "models" / "bad.py"
    wrong.parent.mkdir(parents=True)
    wrong.write_text("from experiments import web\nfrom ..services import start\nimport experiments.policies\n")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert list(_violations("models")) == [
        "experiments/models/bad.py:1 imports experiments.web",
        "experiments/models/bad.py:2 imports experiments.services.start",
    ]
