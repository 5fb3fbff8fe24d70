"""Celery tasks: short shells over the services."""
