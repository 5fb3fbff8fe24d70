"""The API object: routers and error form."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from ninja import NinjaAPI

from experiments.api import erasures, experiments, keys, labels, schemas, use_case
from experiments.services.errors import InvalidInput, ServiceError

api = NinjaAPI(title="Curtail", version="1", urls_namespace="api")
api.add_router("/labels", labels.router)
api.add_router("/experiments", experiments.router)
api.add_router("/keys", keys.router)
api.add_router("/schemas", schemas.router)
api.add_router("/use-case", use_case.router)
api.add_router("/erasures", erasures.router)


@api.exception_handler(ServiceError)
def _service_error(request: HttpRequest, error: ServiceError) -> HttpResponse:
    status = 422 if isinstance(error, InvalidInput) else 409
    return api.create_response(request, {"detail": str(error), "field": error.field or None}, status=status)
