"""Build the plugin: the sampler's modules of this repository, under a name that clashes with nobody's.

What the two shells import, directly or through others, is copied into the wheel as it stands; only the names of the
top-level packages change. So there is one source of each policy, and the wheel has no dependency of its own.
"""

from __future__ import annotations

import ast
import re
import shutil
import tempfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "curtail_vllm"
OURS = ("experiments", "workers")
SHELLS = ("workers.engines.vllm_engine.sampler_v1", "workers.engines.vllm_engine.sampler_v2")
_IMPORT = re.compile(rf"^(\s*)(from|import) ({'|'.join(OURS)})\b", re.MULTILINE)
# Policies of other packages derive from the class that they know: those for Curtail are not those for this plugin.
_GROUP = ('"curtail.policies"', '"curtail_vllm.policies"')


def sources() -> dict[str, Path]:
    """The files that the shells need, by their path within the package."""
    found: dict[str, Path] = {}
    waiting = list(SHELLS)
    while waiting:
        module = waiting.pop()
        path = _file(module)
        if path is None:  # a name within a module
            continue
        key = path.relative_to(ROOT).as_posix()
        if key in found:
            continue
        found[key] = path
        waiting += [module.rpartition(".")[0], *_imported(path)]
    return dict(sorted(found.items()))


def _file(module: str) -> Path | None:
    base = ROOT.joinpath(*module.split("."))
    candidates = (base / "__init__.py", base.with_suffix(".py"))
    return next((path for path in candidates if module and path.is_file()), None)


def _imported(path: Path) -> list[str]:
    """Our modules that a file imports; ``from a import b`` may mean the module ``a.b``."""
    modules: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            raise SystemExit(f"{path}:{node.lineno}: the plugin takes absolute imports only")
        if isinstance(node, ast.ImportFrom) and node.module:
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
    return [module for module in modules if module.split(".")[0] in OURS]


def renamed(source: str) -> str:
    """A module's text with our packages under the plugin's name; its lines keep their numbers."""
    return _IMPORT.sub(rf"\1\2 {PACKAGE}.\3", source).replace(*_GROUP)


class BuildWithSources(build_py):
    """Puts the repository's modules beside the plugin's own."""

    def run(self) -> None:
        if not (ROOT / "workers" / "engines").is_dir():
            raise SystemExit("the plugin is built from a checkout of the whole repository: pip wheel plugins/vllm")
        super().run()
        target = Path(self.build_lib, PACKAGE)
        for name, path in sources().items():
            copy = target / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(renamed(path.read_text()))
        shutil.copy(ROOT / "LICENSE", target)


# Nothing is written into the checkout; the folder goes when the build ends.
_scratch = tempfile.TemporaryDirectory(prefix="curtail-vllm-build-")
setup(
    cmdclass={"build_py": BuildWithSources},
    options={"build": {"build_base": _scratch.name}, "egg_info": {"egg_base": _scratch.name}},
)
