"""What the demo registers."""

from __future__ import annotations

import pytest
import redis
from django.contrib.auth.models import User

from demo.seed import seed
from experiments.services.roles import Role, role_of


@pytest.mark.django_db
def test_the_demos_login_owns_and_a_second_run_changes_only_its_password(redis_client: redis.Redis) -> None:
    first, second = seed([]), seed([])
    user = User.objects.get()
    assert (first.user, second.user) == (user.username, user.username)
    assert role_of(user) is Role.OWNER
    assert user.check_password(second.password)
    assert not user.check_password(first.password)
