"""`manage.py list_keys`: the API keys, as far as they are stored."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from experiments.models import ApiKey


class Command(BaseCommand):
    """One line per key, tab-separated: id, prefix, use case, scopes, state and name."""

    help = "List API keys, the newest first: id, prefix, use case, scopes, state and name."

    def handle(self, *args: Any, **options: Any) -> None:
        for key in ApiKey.objects.select_related("use_case").order_by("-pk"):
            state = "active" if key.revoked_at is None else f"revoked {key.revoked_at:%Y-%m-%d}"
            self.stdout.write(
                "\t".join((str(key.pk), key.prefix, key.use_case.slug, ",".join(key.scopes), state, key.name))
            )
