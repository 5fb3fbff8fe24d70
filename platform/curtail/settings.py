"""The one settings file. Every deployment differs by environment variables only, read by curtail.env.

With no configuration the addresses are those of the embedded servers under CURTAIL_HOME; importing the
settings computes addresses and starts nothing.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from curtail import embedded, env, logs
from experiments.gateway.thinking_budget import read_effort_caps

BASE_DIR = Path(__file__).resolve().parents[2]
CURTAIL_HOME = Path(env.text("CURTAIL_HOME", str(BASE_DIR / ".curtail"))).expanduser().absolute()


def _secret_key(home: Path) -> str:
    """Return the key stored under ``home``, made on first use and readable by its owner only.

    Two processes may start at once: the file is filled first, then linked to its name, which only one can do.
    """
    path = home / "secret_key"
    try:
        if not path.exists():
            home.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh = home / f".secret_key.{os.getpid()}.{secrets.token_hex(4)}"
            fresh.touch(mode=0o600, exist_ok=False)
            try:
                fresh.write_text(secrets.token_urlsafe(50))
                os.link(fresh, path)
            except FileExistsError:
                pass
            finally:
                fresh.unlink(missing_ok=True)
        return path.read_text().strip()
    except OSError as error:
        reason = error.strerror or str(error)
        raise env.EnvError(
            f"CURTAIL_SECRET_KEY is unset and no key can be kept in {path}: {reason}; "
            "set CURTAIL_SECRET_KEY, or CURTAIL_HOME to a folder that you may write to"
        ) from None


DEBUG = env.flag("CURTAIL_DEBUG", False)
SECRET_KEY = env.optional_text("CURTAIL_SECRET_KEY") or _secret_key(CURTAIL_HOME)
ALLOWED_HOSTS = env.items("CURTAIL_ALLOWED_HOSTS", ("localhost", "127.0.0.1", "[::1]"))
CSRF_TRUSTED_ORIGINS = env.items("CURTAIL_CSRF_TRUSTED_ORIGINS")

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "curtail.apps.CurtailConfig",
    "experiments",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "curtail.csp.ContentSecurityPolicy",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "curtail.urls"
ASGI_APPLICATION = "curtail.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# Addresses ----------------------------------------------------------------------------------------

_EMBEDDED = embedded.addresses(CURTAIL_HOME)
DATABASE_URL = env.url("DATABASE_URL", _EMBEDDED.database_url, env.POSTGRES_SCHEMES)
REDIS_URL = env.redis_client_url("REDIS_URL", env.text("REDIS_URL", _EMBEDDED.redis_url))

DATABASES = {
    "default": {
        **env.postgres_settings("DATABASE_URL", DATABASE_URL),
        "CONN_MAX_AGE": env.integer("CURTAIL_CONN_MAX_AGE", 60, minimum=0, maximum=86_400),
        "CONN_HEALTH_CHECKS": True,
        "ATOMIC_REQUESTS": False,
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

CELERY_BROKER_URL = env.redis_broker_url("REDIS_URL", REDIS_URL)
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_IGNORE_RESULT = True
CELERY_TIMEZONE = "UTC"
CELERY_BEAT_SCHEDULE_FILENAME = str(CURTAIL_HOME / "celerybeat-schedule")

CELERY_TASK_ACKS_LATE = False
CELERY_TASK_DEFAULT_QUEUE = "background"
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
LOOK_EVERY_SECONDS = env.integer("CURTAIL_LOOK_EVERY_SECONDS", 60, minimum=1, maximum=3600)
CELERY_BEAT_SCHEDULE = {
    "looks": {"task": "workers.tasks.looks.take_looks", "schedule": LOOK_EVERY_SECONDS},
    "notifications": {"task": "workers.tasks.notifications.deliver_notifications", "schedule": 30},
    "shadow": {"task": "workers.tasks.shadow.queue_shadow_runs", "schedule": 10},
    "grading": {"task": "workers.tasks.grading.grade_waiting", "schedule": 5},
    "ramps": {"task": "workers.tasks.ramps.advance_ramps", "schedule": 10},
    "overdue": {"task": "workers.tasks.overdue.end_lost_requests", "schedule": 5},
}

# Processes for graders that may take any time, in each process that grades.
JUDGE_PROCESSES = env.integer("CURTAIL_JUDGE_PROCESSES", 2, minimum=1, maximum=64)

# Telling owners -----------------------------------------------------------------------------------

# Without a mail server messages are written to the log of the worker.
EMAIL_HOST = env.text("CURTAIL_EMAIL_HOST", "")
EMAIL_PORT = env.integer("CURTAIL_EMAIL_PORT", 587, minimum=1, maximum=65_535)
EMAIL_HOST_USER = env.text("CURTAIL_EMAIL_USER", "")
EMAIL_HOST_PASSWORD = env.text("CURTAIL_EMAIL_PASSWORD", "")
EMAIL_USE_TLS = env.flag("CURTAIL_EMAIL_TLS", bool(EMAIL_HOST_USER))
EMAIL_TIMEOUT = 10
EMAIL_BACKEND = f"django.core.mail.backends.{'smtp' if EMAIL_HOST else 'console'}.EmailBackend"
DEFAULT_FROM_EMAIL = env.text("CURTAIL_EMAIL_FROM", "curtail@localhost")
NOTIFY_EMAIL = env.text("CURTAIL_NOTIFY_EMAIL", "")
WEBHOOK_URL = env.url("CURTAIL_WEBHOOK_URL", "", ("http", "https"))
WEBHOOK_SECRET = env.text("CURTAIL_WEBHOOK_SECRET", "")

# Serving ------------------------------------------------------------------------------------------

ENGINE_MAX_CONCURRENCY = env.integer("CURTAIL_ENGINE_MAX_CONCURRENCY", 64, minimum=1, maximum=4096)
# The scripted engine's pause after each step, for load and fault tests.
SCRIPTED_STEP_SECONDS = env.integer("CURTAIL_SCRIPTED_STEP_MILLISECONDS", 0, minimum=0, maximum=60_000) / 1000
# Requests at once to one remote server, from each gateway process; the rest waits.
REMOTE_MAX_CONCURRENCY = env.integer("CURTAIL_REMOTE_MAX_CONCURRENCY", 1024, minimum=1, maximum=65_536)
# Half the cores: the other half is for the event loops, the database and Redis beside the engine.
ENGINE_THREADS = env.integer("CURTAIL_ENGINE_THREADS", max(1, (os.cpu_count() or 1) // 2), minimum=1, maximum=1024)

VLLM_DTYPE = env.text("CURTAIL_VLLM_DTYPE", "auto")
VLLM_TENSOR_PARALLEL = env.integer("CURTAIL_VLLM_TENSOR_PARALLEL", 1, minimum=1, maximum=64)
# Percent of a GPU's memory.
VLLM_MEMORY_SHARE = env.integer("CURTAIL_VLLM_MEMORY_PERCENT", 90, minimum=1, maximum=100) / 100
# Tokens in a block of the prefix cache; 0: as the engine chooses.
VLLM_BLOCK_SIZE = env.integer("CURTAIL_VLLM_BLOCK_SIZE", 0, minimum=0, maximum=1024) or None
VLLM_IN_PLACE = env.flag("CURTAIL_VLLM_IN_PLACE", True)
VLLM_ENFORCE_EAGER = env.flag("CURTAIL_VLLM_ENFORCE_EAGER", False)

# What the gateway takes in at once; docs/operations.md says what happens beyond.
MAX_QUEUE = env.integer("CURTAIL_MAX_QUEUE", 1024, minimum=1, maximum=1_000_000)
MAX_BODY_BYTES = env.integer("CURTAIL_MAX_BODY_BYTES", 1 << 20, minimum=1024, maximum=1 << 30)
MAX_PROMPT_CHARACTERS = env.integer("CURTAIL_MAX_PROMPT_CHARACTERS", 500_000, minimum=1, maximum=1 << 30)
MAX_CONCURRENCY_PER_KEY = env.integer("CURTAIL_MAX_CONCURRENCY_PER_KEY", 1024, minimum=1, maximum=1_000_000)
MAX_OPEN_REQUESTS = env.integer("CURTAIL_MAX_OPEN_REQUESTS", 4096, minimum=1, maximum=1_000_000)
BODY_TIMEOUT_SECONDS = env.integer("CURTAIL_BODY_TIMEOUT_SECONDS", 30, minimum=1, maximum=3600)
# Where OpenAI's protocol leaves a choice; docs/api.md says what the words mean.
REASONING_FIELD = env.choice("CURTAIL_REASONING_FIELD", "reasoning", ("reasoning", "reasoning_content", "both"))
try:
    EFFORT_CAPS = read_effort_caps(env.items("CURTAIL_EFFORT_CAPS"))
except ValueError as error:
    raise env.EnvError(f"CURTAIL_EFFORT_CAPS: {error}") from None
UNKNOWN_PARAMETERS = env.choice("CURTAIL_UNKNOWN_PARAMETERS", "refuse", ("refuse", "ignore", "forward"))
# How long a gateway that is told to stop waits for the requests in flight.
DRAIN_SECONDS = env.integer("CURTAIL_DRAIN_SECONDS", 30, minimum=0, maximum=3600)

# 100,000 labels in one request are allowed; Django's own bound would refuse a third of that.
DATA_UPLOAD_MAX_MEMORY_SIZE = 64 << 20

# People, cookies, transport -----------------------------------------------------------------------

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
LOGIN_URL = "/login/"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/login/"

# A trial on http://127.0.0.1 has no certificate: it sets CURTAIL_HTTPS=0, as `make demo` does.
HTTPS = env.flag("CURTAIL_HTTPS", not DEBUG)
SESSION_COOKIE_SECURE = HTTPS
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SECURE = HTTPS
CSRF_COOKIE_HTTPONLY = True
CSRF_COOKIE_SAMESITE = "Strict"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
# Off until the operator says that everything goes through TLS: neither can be taken back quickly.
SECURE_SSL_REDIRECT = env.flag("CURTAIL_HTTPS_REDIRECT", False)
SECURE_HSTS_SECONDS = env.integer("CURTAIL_HSTS_SECONDS", 0, minimum=0, maximum=63_072_000)
# Only behind a proxy that sets this header itself: a client's own would be believed too.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if env.flag("CURTAIL_BEHIND_TLS_PROXY", False) else None
# Subdomains and preload lists concern a whole domain, of which this is one host.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]

# Language, time, static files ---------------------------------------------------------------------

LANGUAGE_CODE = "en-us"
USE_I18N = False
USE_TZ = True
TIME_ZONE = "UTC"

STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
# The few static files are served from where they lie: no collectstatic step, no second copy.
WHITENOISE_USE_FINDERS = True

# Logging ------------------------------------------------------------------------------------------

LOG_LEVEL = env.text("CURTAIL_LOG_LEVEL", "INFO").upper()
if LOG_LEVEL not in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
    raise env.EnvError(f"CURTAIL_LOG_LEVEL must be one of DEBUG, INFO, WARNING, ERROR, CRITICAL, got {LOG_LEVEL!r}")

LOG_FORMAT = env.text("CURTAIL_LOG_FORMAT", "console").lower()
if LOG_FORMAT not in ("console", "json"):
    raise env.EnvError(f"CURTAIL_LOG_FORMAT must be console or json, got {LOG_FORMAT!r}")
# One line per request on /v1.
ACCESS_LOG = env.flag("CURTAIL_ACCESS_LOG", True)
LOGGING = logs.configuration(LOG_FORMAT, LOG_LEVEL)

# Metrics ------------------------------------------------------------------------------------------

# The gateway's are on its own port; a token keeps them from whoever may reach /v1.
METRICS_TOKEN = env.text("CURTAIL_METRICS_TOKEN", "")
# 0: a worker has no metrics server.
WORKER_METRICS_PORT = env.integer("CURTAIL_WORKER_METRICS_PORT", 0, minimum=0, maximum=65_535)
WORKER_METRICS_HOST = env.text("CURTAIL_WORKER_METRICS_HOST", "127.0.0.1")
