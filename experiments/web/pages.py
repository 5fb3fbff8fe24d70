"""What every page has in common: a login, a role, and headers that let nothing foreign in."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.views.decorators.cache import never_cache

from experiments.services.roles import Role, role_of

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_SAFE = ("GET", "HEAD", "OPTIONS")
View = Callable[..., HttpResponseBase]


def public_page(view: View) -> View:
    """A page that needs no login. Its scripts and styles come from this server's files only."""

    @wraps(view)
    def wrapped(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponseBase:
        response = view(request, *args, **kwargs)
        response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        return response

    return never_cache(wrapped)


def page_for(role: Role) -> Callable[[View], View]:
    """A page for people who have logged in and have this role, or one above it.

    From viewers it takes no request that may change anything, whatever its role.
    """

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponseBase:
            mine = role_of(request.user)
            needed = role if request.method in _SAFE else max(role, Role.EDITOR)
            request.role = mine  # type: ignore[attr-defined]  # templates show what may be done
            if mine < needed:
                context = {"needed": needed.word, "mine": mine.word}
                return render(request, "experiments/forbidden.html", context, status=403)
            return view(request, *args, **kwargs)

        guarded_page = public_page(login_required(guarded))
        guarded_page.needed_role = role  # type: ignore[attr-defined]
        return guarded_page

    return decorate


def page(view: View) -> View:
    """A page that everybody who has logged in may read."""
    return page_for(Role.VIEWER)(view)


def actor(request: HttpRequest) -> str:
    """Who acts, for audit events."""
    return request.user.get_username()
