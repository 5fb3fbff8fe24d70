"""Who may do what on the pages, by role; an address without a rule fails here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from experiments.models import AuditEvent, Experiment
from experiments.services.roles import Role, role_of
from tests.web.conftest import PASSWORD

PUBLIC = {"login", "logout"}
# What a POST needs; a page that only shows something takes none from anybody.
POSTS = {
    "new": "editor",
    "start": "editor",
    "pause": "editor",
    "resume": "editor",
    "look": "editor",
    "stop": "owner",
}
SHOWN = {"home", "experiment", "newest", "report_file"}
ROLES = ("viewer", "editor", "owner")


def patterns() -> Iterator[URLPattern]:
    """All addresses outside of the API, which has keys of its own."""

    def walk(items: list[Any]) -> Iterator[URLPattern]:
        for item in items:
            if isinstance(item, URLResolver):
                if item.namespace != "api":
                    yield from walk(item.url_patterns)
            else:
                yield item

    yield from (pattern for pattern in walk(get_resolver().url_patterns) if not str(pattern.pattern).startswith("api/"))


def address(name: str, experiment: Experiment) -> str:
    pattern = next(pattern for pattern in patterns() if pattern.name == name)
    return reverse(name, args=[experiment.pk] if "pk" in pattern.pattern.converters else [])


def log_in(client: Client, role: str | None) -> User:
    user = User.objects.create_user("bob", password=PASSWORD)
    if role is not None:
        user.groups.add(Group.objects.get(name=role))
    client.force_login(user)
    return user


def test_every_address_has_a_rule() -> None:
    assert {pattern.name for pattern in patterns()} == PUBLIC | POSTS.keys() | SHOWN


def test_every_page_is_guarded_by_a_role() -> None:
    bare = [pattern.name for pattern in patterns() if not hasattr(pattern.callback, "needed_role")]
    assert set(bare) == PUBLIC


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", sorted(POSTS))
def test_a_post_needs_its_role(client: Client, draft: Experiment, name: str, role: str) -> None:
    log_in(client, role)
    answer = client.post(address(name, draft), {"confirm": "stop", "end": "reverted"})
    allowed = ROLES.index(role) >= ROLES.index(POSTS[name])
    assert (answer.status_code != 403) is allowed
    if not allowed:
        assert f"needs the role {POSTS[name]}" in answer.content.decode()
        assert f"with the role {role}" in answer.content.decode()
        draft.refresh_from_db()
        assert draft.state == "draft"


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", sorted(SHOWN))
def test_everybody_reads_and_nobody_posts_to_what_is_read(
    client: Client, running: Experiment, name: str, role: str
) -> None:
    log_in(client, role)
    assert client.get(address(name, running)).status_code in (200, 404)  # 404: no look yet
    assert client.post(address(name, running)).status_code == (403 if role == "viewer" else 405)


def test_a_viewer_does_not_get_the_form_of_a_new_experiment(client: Client, draft: Experiment) -> None:
    log_in(client, "viewer")
    assert client.get("/experiments/new/").status_code == 403


@pytest.mark.parametrize(
    ("role", "shown", "hidden"),
    [
        (None, [], ["Look again", "Pause", "Stop the experiment"]),
        ("viewer", [], ["Look again", "Pause", "Stop the experiment"]),
        ("editor", ["Look again", "Pause"], ["Stop the experiment"]),
        ("owner", ["Look again", "Pause", "Stop the experiment"], []),
    ],
)
def test_buttons_that_one_may_not_use_are_not_shown(
    client: Client, running: Experiment, role: str | None, shown: list[str], hidden: list[str]
) -> None:
    log_in(client, role)
    body = client.get(address("experiment", running)).content.decode().partition("No look yet")[0]
    assert [text for text in shown if text not in body] == []
    assert [text for text in hidden if text in body] == []


@pytest.mark.parametrize(("role", "shown"), [("viewer", False), ("editor", True)])
def test_the_list_offers_a_new_experiment_to_editors(client: Client, draft: Experiment, role: str, shown: bool) -> None:
    log_in(client, role)
    assert ("New experiment" in client.get("/").content.decode()) is shown


def test_somebody_without_a_group_is_a_viewer_and_a_superuser_an_owner(db: None) -> None:
    assert role_of(User.objects.create_user("bob")) is Role.VIEWER
    assert role_of(User.objects.create_superuser("root")) is Role.OWNER


def test_a_role_is_granted_in_the_place_of_another(db: None) -> None:
    user = User.objects.create_user("bob")
    call_command("grant_role", "bob", "owner")
    call_command("grant_role", "bob", "editor")
    call_command("grant_role", "bob", "editor")
    assert role_of(user) is Role.EDITOR
    changes = [(event.before, event.after) for event in AuditEvent.objects.order_by("pk")]
    assert changes == [
        ({"role": "viewer"}, {"role": "owner"}),
        ({"role": "owner"}, {"role": "editor"}),
    ]


def test_an_unknown_person_gets_no_role(db: None) -> None:
    with pytest.raises(CommandError, match=r"user must be .*'nobody'"):
        call_command("grant_role", "nobody", "owner")


def test_an_unknown_role_is_not_granted(db: None) -> None:
    User.objects.create_user("bob")
    with pytest.raises(CommandError, match="king"):
        call_command("grant_role", "bob", "king")
