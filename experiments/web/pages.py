"""What every page has in common: a login, and headers that let nothing foreign in."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.views.decorators.cache import never_cache

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
View = Callable[..., HttpResponseBase]


def public_page(view: View) -> View:
    """A page that needs no login. Its scripts and styles come from this server's files only."""

    @wraps(view)
    def wrapped(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponseBase:
        response = view(request, *args, **kwargs)
        response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        return response

    return never_cache(wrapped)


def page(view: View) -> View:
    """A page for people who have logged in."""
    return public_page(login_required(view))


def actor(request: HttpRequest) -> str:
    """Who acts, for audit events."""
    return request.user.get_username()
