"""Where a request wants to go: what its headers say of its use case, its context and a forced variant."""

from __future__ import annotations

import re
from dataclasses import dataclass

from experiments.gateway.chat_request import ChatRequest
from experiments.gateway.errors import ApiError, invalid
from experiments.gateway.http import Scope
from experiments.routing import Assignment, KeyGrant, Route, Routing, force
from experiments.services import forcing

USE_CASE, CONTEXT = "x-curtail-use-case", "x-curtail-context"
_NAMES = (USE_CASE.encode(), CONTEXT.encode(), forcing.HEADER.encode())
_CONTEXT = re.compile(r"[-.\w]{1,40}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Directions:
    """The headers, "" where there is none."""

    use_case: str = ""
    context: str = ""
    forced: str = ""

    @classmethod
    def of(cls, scope: Scope) -> Directions:
        """Those of a request."""
        found = {name: value for name, value in scope["headers"] if name in _NAMES}
        if not found:
            return NO_DIRECTIONS
        return cls(*(found.get(name, b"").decode("latin-1").strip() for name in _NAMES))


NO_DIRECTIONS = Directions()


def choose_route(
    routing: Routing, grant: KeyGrant, request: ChatRequest | None, directions: Directions = NO_DIRECTIONS
) -> Route:
    """The use case of a request: its header's, else its metadata's, else the one that `model` names, else the key's.

    Raises:
        ApiError: 403 where the key may not go there, 404 where there is no such use case.
    """
    named = directions.use_case or (request.use_case if request else "")
    if not named and request is not None and request.model in routing.routes and grant.reaches(request.model):
        # A model may have the name of a use case; the key's own use case knows what it serves.
        named = grant.use_case if request.model == routing.routes[grant.use_case].model else request.model
    slug = named or grant.use_case
    param = USE_CASE if directions.use_case else "metadata.use_case"
    # Whoever may not go anywhere does not learn what there is either.
    if not grant.reaches(slug):
        raise ApiError(403, f"this API key may not name the use case {slug[:64]!r}", "use_case_forbidden", param)
    if slug not in routing.routes:
        raise ApiError(404, f"there is no use case {slug[:64]!r}", "use_case_not_found", param)
    return routing.routes[slug]


def context_of(request: ChatRequest, directions: Directions) -> str:
    """The request's context: its header's, else its metadata's, else "".

    Raises:
        ApiError: 400 when it is no name.
    """
    context, param = directions.context or request.context, CONTEXT if directions.context else "metadata.context"
    if context and not _CONTEXT.fullmatch(context):
        raise invalid(param, f"{param} must be 1 to 40 letters, digits, . - and _, got {context[:120]!r}")
    return context


def forced_assignment(route: Route, directions: Directions, now: float) -> Assignment | None:
    """The arm that a tester's header asks for; None without that header.

    Raises:
        ApiError: 400 for a header of another form or a variant that is not served, 403 when it is not valid (any more).
    """
    if not directions.forced:
        return None
    try:
        wish = forcing.read_header(directions.forced, now)
    except forcing.BadForm as error:
        raise invalid(forcing.HEADER, str(error)) from error
    except forcing.NotSigned as error:
        raise ApiError(403, str(error), "forced_variant_refused", forcing.HEADER) from error
    assignment = force(route, wish.experiment_id, wish.variant)
    if assignment is None:
        raise invalid(
            forcing.HEADER,
            f"{forcing.HEADER} must name a variant of an experiment that runs in use case {route.slug!r}, "
            f"got {wish.variant!r} of experiment {wish.experiment_id}",
        )
    return assignment
