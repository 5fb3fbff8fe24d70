"""The API object: routers and error form."""

from __future__ import annotations

import logging

import redis.exceptions
from django.http import HttpRequest, HttpResponse

from experiments.api import assignments, completions, erasures, experiments, keys, labels, schemas, use_cases
from experiments.api.strict import StrictAPI
from experiments.services.errors import InvalidInput, ServiceError

logger = logging.getLogger(__name__)
# No interactive page: it would load its programs from a foreign host, which the policy of all pages forbids.
api = StrictAPI(title="Curtail", version="1", urls_namespace="api", docs_url=None)
api.add_router("/assignments", assignments.router)
api.add_router("/completions", completions.router)
api.add_router("/labels", labels.router)
api.add_router("/experiments", experiments.router)
api.add_router("/keys", keys.router)
api.add_router("/use-case", use_cases.router)
api.add_router("/schemas", schemas.router)
api.add_router("/erasures", erasures.router)


@api.exception_handler(ServiceError)
def _service_error(request: HttpRequest, error: ServiceError) -> HttpResponse:
    status = 422 if isinstance(error, InvalidInput) else 409
    return api.create_response(request, {"detail": str(error), "field": error.field or None}, status=status)


@api.exception_handler(redis.exceptions.RedisError)
def _redis_error(request: HttpRequest, error: redis.exceptions.RedisError) -> HttpResponse:
    logger.error("Redis failed while %s was answered", request.path, exc_info=error)
    answer = api.create_response(request, {"detail": "the installation is not available; try again"}, status=503)
    answer["Retry-After"] = "1"
    return answer
