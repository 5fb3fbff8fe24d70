"""The vLLM engine, and the plugin that ends thinking inside any vLLM.

``in_place`` decides within vLLM's sampler and knows nothing of vLLM; ``sampler_v1`` and ``sampler_v2`` are thin shells
over it for vLLM's two model runners; ``engine`` drives an ``AsyncLLM`` of this worker's own.
"""
