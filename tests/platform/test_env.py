"""The typed environment readers: what they read, and that they fail loudly."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from curtail import env


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Set the variable SETTING to a value."""
    return lambda value: monkeypatch.setenv("SETTING", value)


@pytest.mark.parametrize("word", ["1", "true", "YES", "On"])
def test_flag_reads_true_words(setting: Callable[[str], None], word: str) -> None:
    setting(word)
    assert env.flag("SETTING", False) is True


@pytest.mark.parametrize("word", ["0", "false", "NO", "Off"])
def test_flag_reads_false_words(setting: Callable[[str], None], word: str) -> None:
    setting(word)
    assert env.flag("SETTING", True) is False


def test_flag_names_variable_value_and_allowed_words(setting: Callable[[str], None]) -> None:
    setting("maybe")
    with pytest.raises(env.EnvError, match=r"SETTING must be one of 1, true, .*, got 'maybe'"):
        env.flag("SETTING", False)


@pytest.mark.parametrize("value", ["", "  "])
def test_empty_counts_as_unset(setting: Callable[[str], None], value: str) -> None:
    setting(value)
    assert env.text("SETTING", "default") == "default"
    assert env.optional_text("SETTING") is None
    assert env.flag("SETTING", True) is True
    assert env.integer("SETTING", 5, minimum=0, maximum=9) == 5
    assert env.items("SETTING", ("a",)) == ["a"]
    assert env.url("SETTING", "redis://x", ("redis",)) == "redis://x"


def test_integer_reads_its_bounds(setting: Callable[[str], None]) -> None:
    setting("9")
    assert env.integer("SETTING", 5, minimum=0, maximum=9) == 9


@pytest.mark.parametrize("value", ["10", "-1", "3.5", "ten"])
def test_integer_names_variable_value_and_bounds(setting: Callable[[str], None], value: str) -> None:
    setting(value)
    with pytest.raises(env.EnvError, match=re.escape(f"SETTING must be a whole number in [0, 9], got '{value}'")):
        env.integer("SETTING", 5, minimum=0, maximum=9)


def test_a_choice_is_one_of_its_words(setting: Callable[[str], None]) -> None:
    setting("Both")
    assert env.choice("SETTING", "one", ("one", "both")) == "both"
    setting("")
    assert env.choice("SETTING", "one", ("one", "both")) == "one"
    setting("neither")
    with pytest.raises(env.EnvError, match="SETTING must be one of one, both, got 'neither'"):
        env.choice("SETTING", "one", ("one", "both"))


def test_items_are_split_and_stripped(setting: Callable[[str], None]) -> None:
    setting("a, b ,c")
    assert env.items("SETTING") == ["a", "b", "c"]


def test_items_refuse_an_empty_item(setting: Callable[[str], None]) -> None:
    setting("a,,b")
    with pytest.raises(env.EnvError, match="SETTING must be a comma-separated list without empty items, got 'a,,b'"):
        env.items("SETTING")


def test_url_refuses_another_scheme(setting: Callable[[str], None]) -> None:
    setting("mysql://db/x")
    with pytest.raises(env.EnvError, match="SETTING must start with one of redis://, got 'mysql://db/x'"):
        env.url("SETTING", "", ("redis",))


@pytest.mark.parametrize("port", ["99999", "no", "0"])
def test_url_refuses_a_wrong_port(setting: Callable[[str], None], port: str) -> None:
    setting(f"redis://host:{port}/0")
    with pytest.raises(env.EnvError, match=r"SETTING must .*got 'redis://host:"):
        env.url("SETTING", "", ("redis",))


def test_errors_do_not_show_the_password() -> None:
    with pytest.raises(env.EnvError) as caught:
        env.postgres_settings("DATABASE_URL", "mysql://me:s3cret@host/db")
    assert "s3cret" not in str(caught.value)
    assert "me:***@host" in str(caught.value)


def test_postgres_url_with_everything() -> None:
    settings = env.postgres_settings("DATABASE_URL", "postgres://me:a%2Fb@db.example:6432/shop?sslmode=require")
    assert (settings["USER"], settings["PASSWORD"]) == ("me", "a/b")
    assert (settings["HOST"], settings["PORT"], settings["NAME"]) == ("db.example", "6432", "shop")
    assert settings["OPTIONS"] == {"sslmode": "require"}


@pytest.mark.parametrize("authority", ["", "curtail@"])
def test_postgres_url_with_a_socket_folder(authority: str) -> None:
    settings = env.postgres_settings("DATABASE_URL", f"postgresql://{authority}/curtail?host=/run/a%20b")
    assert (settings["HOST"], settings["PORT"], settings["NAME"]) == ("/run/a b", "", "curtail")
    assert settings["OPTIONS"] == {}


def test_postgres_url_must_name_a_database() -> None:
    with pytest.raises(env.EnvError, match="DATABASE_URL must name a database"):
        env.postgres_settings("DATABASE_URL", "postgresql://host")


@pytest.mark.parametrize("url", ["redis://:pw@cache:6380/2", "rediss://cache"])
def test_redis_tcp_url_stays(url: str) -> None:
    assert env.redis_client_url("REDIS_URL", url) == url
    assert env.redis_broker_url("REDIS_URL", url) == url


@pytest.mark.parametrize("url", ["unix:///run/r.sock?db=3", "redis+socket:///run/r.sock?virtual_host=3"])
def test_redis_socket_url_has_a_form_for_each_client(url: str) -> None:
    assert env.redis_client_url("REDIS_URL", url) == "unix:///run/r.sock?db=3"
    assert env.redis_broker_url("REDIS_URL", url) == "redis+socket:///run/r.sock?virtual_host=3"


def test_redis_socket_url_must_name_a_socket() -> None:
    with pytest.raises(env.EnvError, match="REDIS_URL must name a socket"):
        env.redis_client_url("REDIS_URL", "unix://")


def test_another_database_of_the_same_server() -> None:
    url = "postgresql://me:pw@host:1/db?host=/run/x"
    assert env.with_database(url, "test_db") == "postgresql://me:pw@host:1/test_db?host=/run/x"
    assert env.with_database("postgresql:///db", "other") == "postgresql:///other"
