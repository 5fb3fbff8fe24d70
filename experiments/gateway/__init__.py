"""The hot path: an ASGI callable for /v1, beside Django. Nothing here queries the database per request."""
