"""Early exit from reasoning inside a stock vLLM server.

``v1`` is for vLLM's first model runner, ``v2`` for its second. ``experiments`` and ``workers`` below are Curtail's own
modules, copied when the wheel was built.
"""
