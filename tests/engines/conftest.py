"""The shipped tiny reasoner, loaded once."""

from tests.tiny_reasoner import checkpoint_path, model, problems, profile, tokenizer

__all__ = ["checkpoint_path", "model", "problems", "profile", "tokenizer"]
