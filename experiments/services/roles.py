"""Roles of people: who may read, who may draft and start, and who decides what serves everybody."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.db import transaction

from experiments.services import audit
from experiments.services.errors import InvalidInput


class Role(IntEnum):
    """What a person may do on the pages; the group of the same name says so."""

    VIEWER = 0
    EDITOR = 1
    OWNER = 2

    @property
    def word(self) -> str:
        """As people and groups name it."""
        return self.name.lower()

    @property
    def may_edit(self) -> bool:
        """Draft, start, pause and resume experiments."""
        return self >= Role.EDITOR

    @property
    def may_own(self) -> bool:
        """Stop them, and put a policy in force."""
        return self >= Role.OWNER


def make_groups(using: str = "default") -> None:
    """Make the groups of the roles, if they are not there."""
    for role in Role:
        Group.objects.using(using).get_or_create(name=role.word)


def role_of(user: Any) -> Role:
    """The highest role of a person: a superuser is an owner, somebody without a group a viewer."""
    if user.is_superuser:
        return Role.OWNER
    names = set(user.groups.values_list("name", flat=True))
    return max((role for role in Role if role.word in names), default=Role.VIEWER)


@transaction.atomic
def grant_role(actor: str, username: str, role: str) -> None:
    """Give a person a role in the place of the one that they had.

    Raises:
        InvalidInput: the person or the role is unknown.
    """
    user = get_user_model().objects.select_for_update().filter(username=username).first()
    if user is None:
        raise InvalidInput(f"user must be the name of somebody who may log in, got {username!r}", "user")
    words = [known.word for known in Role]
    if role not in words:
        raise InvalidInput(f"role must be one of {', '.join(words)}, got {role!r}", "role")
    before = role_of(user).word
    make_groups()
    user.groups.remove(*Group.objects.filter(name__in=words))
    user.groups.add(Group.objects.get(name=role))
    if before != role:
        audit.record(actor, "grant role", user, before={"role": before}, after={"role": role})
