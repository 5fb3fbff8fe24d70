"""A tiny model that reasons step by step, re-checks itself, and goes on checking after it is done.

The task (:mod:`demo.tiny_reasoner.task`) is pure Python; everything else needs torch and transformers.
"""
