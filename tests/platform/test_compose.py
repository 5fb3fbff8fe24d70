"""The compose file, where no container engine runs: parsed, and every command of ours really run.

The commands run as compose would run them, with the tests' PostgreSQL and Redis in place of the containers'
and a free port in place of 8000; each is stopped again as compose stops it, by SIGTERM.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from curtail import servers
from curtail.processes import Child, Supervisor, choose_port, log_ready

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = sorted(name for name, service in SERVICES.items() if "build" in service)
LASTING = sorted(name for name in SERVICES if name != "migrate")
HTTP = ("gateway", "web")
WORKERS = ("background-worker", "inference-worker")
HOST = "curtail-test-host"


@pytest.fixture
def environment(child_environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """What the image gives a container: the programs on PATH, the import folders, a home, a host name."""
    path = os.pathsep.join((str(Path(sys.executable).parent), child_environment["PATH"]))
    home = tmp_path / "home"
    home.mkdir()
    return {**child_environment, "PATH": path, "CURTAIL_HOME": str(home), "HOSTNAME": HOST}


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with Supervisor(tmp_path / "logs", grace_s=60) as running:
        yield running


def health(service: str, environment: dict[str, str], port: int = 8000) -> Callable[[Child], bool]:
    """Return the service's own health check as a condition."""
    kind, *words = SERVICES[service]["healthcheck"]["test"]
    words = [word.replace(":8000/", f":{port}/").replace("$$", "$") for word in words]
    argv = ["sh", "-c", words[0]] if kind == "CMD-SHELL" else words

    def healthy(child: Child) -> bool:
        child.fail_if_dead()
        return subprocess.run(argv, env=environment, cwd=ROOT, capture_output=True, check=False).returncode == 0

    return healthy


def command(service: str, port: int = 8000) -> list[str]:
    """Return the service's command with its port replaced and the host name filled in."""
    words = {"8000": str(port), "0.0.0.0": "127.0.0.1"}
    return [words.get(word, word).replace("%h", HOST) for word in SERVICES[service]["command"]]


def stop(child: Child) -> int:
    child.process.send_signal(signal.SIGTERM)
    return child.process.wait(60)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("service", HTTP)
def test_http_service_starts_answers_its_health_check_and_stops(
    service: str, environment: dict[str, str], supervisor: Supervisor
) -> None:
    port = choose_port(None)
    ready = health(service, environment, port)
    child = supervisor.start(service, command(service, port), ready=ready, env=environment, cwd=ROOT)
    assert stop(child) == 0
    assert "Traceback" not in child.log.read_text()


def test_the_health_check_of_a_service_that_is_down_fails(environment: dict[str, str], supervisor: Supervisor) -> None:
    child = supervisor.start("idle", ["sleep", "600"])
    assert health("web", environment, choose_port(None))(child) is False
    assert health("beat", environment)(child) is False


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("service", WORKERS)
def test_worker_starts_answers_its_health_check_and_stops(
    service: str, environment: dict[str, str], supervisor: Supervisor, redis_client: object
) -> None:
    ready = health(service, environment)
    argv = command(service)
    child = supervisor.start(service, argv, ready=ready, deadline_s=120, env=environment, cwd=ROOT)
    assert stop(child) == 0
    assert "Traceback" not in child.log.read_text()


@pytest.mark.django_db(transaction=True)
def test_beat_starts_writes_its_schedule_and_stops(
    environment: dict[str, str], supervisor: Supervisor, redis_client: object
) -> None:
    ready = health("beat", environment)
    child = supervisor.start("beat", command("beat"), ready=ready, env=environment, cwd=ROOT)
    assert stop(child) == 0
    assert "Traceback" not in child.log.read_text()


@pytest.mark.django_db(transaction=True)
def test_migrate_runs_and_ends(environment: dict[str, str]) -> None:
    result = subprocess.run(command("migrate"), env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_redis_command_is_understood_and_append_only(tmp_path: Path, supervisor: Supervisor) -> None:
    argv = [str(servers._redis_program()), *SERVICES["redis"]["command"][1:]]
    argv += ["--port", "0", "--unixsocket", "r.sock", "--dir", str(tmp_path)]
    supervisor.start("redis", argv, ready=log_ready("ready to accept connections"))
    assert (tmp_path / "appendonly.aof").exists()


def test_every_command_of_ours_was_run_above() -> None:
    assert set(OURS) == {*HTTP, *WORKERS, "beat", "migrate"}


@pytest.mark.parametrize("service", LASTING)
def test_lasting_service_restarts_and_has_a_health_check(service: str) -> None:
    assert SERVICES[service]["restart"] == "unless-stopped"
    assert SERVICES[service]["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")


def test_migrations_run_once_and_before_everything_of_ours() -> None:
    assert SERVICES["migrate"]["restart"] == "no"
    for name in set(OURS) - {"migrate"}:
        assert SERVICES[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}


def test_secrets_are_required_by_name() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for name in ("POSTGRES_PASSWORD", "CURTAIL_SECRET_KEY"):
        uses = re.findall(rf"\$\{{{name}[^}}]*\}}", text)
        assert uses
        assert all(use.startswith(f"${{{name}:?") for use in uses)


def test_data_lies_on_named_volumes() -> None:
    named = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())}
    assert named == set(COMPOSE["volumes"])
    assert {"postgres", "redis"} <= named


def test_the_inference_worker_has_a_gpu_and_vllm() -> None:
    service = SERVICES["inference-worker"]
    device = service["deploy"]["resources"]["reservations"]["devices"][0]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    requirements = ROOT / service["build"]["args"]["REQUIREMENTS"]
    assert "vllm==" in requirements.read_text()


def test_variables_of_the_environment_are_ones_we_read() -> None:
    read = (ROOT / "platform" / "curtail" / "settings.py").read_text()
    for name in SERVICES["web"]["environment"]:
        assert f'"{name}"' in read or name == "FORWARDED_ALLOW_IPS"  # uvicorn's own


def test_the_image_is_built_from_files_that_exist_by_a_user_without_privileges() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    assert all(pattern == "." or list(ROOT.glob(pattern)) for pattern in copied)
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users == ["curtail"]
    assert any(line.startswith("HEALTHCHECK") for line in lines)


def test_the_image_starts_what_the_web_service_starts() -> None:
    text = (ROOT / "Dockerfile").read_text()
    line = next(line for line in text.splitlines() if line.startswith("CMD "))
    assert yaml.safe_load(line.removeprefix("CMD ")) == SERVICES["web"]["command"]
    assert shutil.which("python", path=str(Path(sys.executable).parent)) is not None
