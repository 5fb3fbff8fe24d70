"""The Django project: settings, addresses, embedded servers, process supervision, system checks."""
