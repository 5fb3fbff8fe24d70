# One image for gateway, web, workers and beat; the inference worker adds vLLM by the build argument.
FROM python:3.11-slim

# REQUIREMENTS: requirements.txt, or requirements-vllm-gpu.txt for the inference worker.
# APT_PACKAGES: "gcc libc6-dev" for vLLM, whose kernels are compiled at run time.
# TORCH_INDEX_URL: where another build of torch lies (see requirements.txt); empty takes the plain one.
ARG REQUIREMENTS=requirements.txt
ARG APT_PACKAGES=""
ARG TORCH_INDEX_URL=""

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONPATH=/app:/app/platform \
    DJANGO_SETTINGS_MODULE=curtail.settings \
    CURTAIL_HOME=/var/lib/curtail

RUN if [ -n "$APT_PACKAGES" ]; then \
        apt-get update && apt-get install -y --no-install-recommends $APT_PACKAGES && rm -rf /var/lib/apt/lists/*; \
    fi

WORKDIR /app
COPY requirements*.txt ./
RUN if [ -n "$TORCH_INDEX_URL" ]; then \
        pip install "$(grep -x 'torch==.*' requirements.txt)" --index-url "$TORCH_INDEX_URL"; \
    fi && pip install -r "$REQUIREMENTS"

RUN useradd --system --uid 10001 --create-home curtail && install -d -o curtail -g curtail -m 700 /var/lib/curtail
COPY . .
USER curtail

EXPOSE 8000
# The event loop turns; /readyz says more, for load balancers. Without PostgreSQL and Redis the server does not start.
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=8)"]

CMD ["python", "-m", "curtail.web_server", "--host", "0.0.0.0", "--port", "8000"]
