"""Who opens connections to the outside: few modules, each to an address that an operator configured."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.test_layout import ROOT

CLIENTS = (
    "httpx",
    "aiohttp",
    "requests",
    "urllib.request",
    "urllib3",
    "http.client",
    "smtplib",
    "ftplib",
    "websockets",
)
CALLS = ("open_connection", "create_connection", "open_unix_connection", "urlopen", "urlretrieve")
# Module -> where its addresses come from.
OUTBOUND = {
    "experiments/services/notifications.py": "CURTAIL_WEBHOOK_URL",
    "workers/engines/openai_engine/http_client.py": "server.json of a checkpoint registered by manage.py",
    "platform/curtail/processes.py": "the health of the processes that it started itself",
}


def sources() -> Iterator[Path]:
    for folder in ("experiments", "workers", "platform"):
        yield from sorted((ROOT / folder).rglob("*.py"))


def reaches_out(tree: ast.AST) -> bool:
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in CALLS:
                return True
        if any(name == client or name.startswith(f"{client}.") for name in names for client in CLIENTS):
            return True
    return False


def test_only_known_modules_reach_out() -> None:
    found = {str(path.relative_to(ROOT)) for path in sources() if reaches_out(ast.parse(path.read_text()))}
    assert found == OUTBOUND.keys()


def test_a_client_is_seen_however_it_is_imported() -> None:
    for code in (
        "import httpx",
        "from urllib import request",
        "import http.client as c",
        "asyncio.open_connection(h, 1)",
    ):
        assert reaches_out(ast.parse(code)), code
    assert not reaches_out(ast.parse("from urllib.parse import urlsplit"))
