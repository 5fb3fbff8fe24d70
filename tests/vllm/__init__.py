"""Tests of the real vLLM: `make test-vllm` installs it beside the rest and runs them."""
