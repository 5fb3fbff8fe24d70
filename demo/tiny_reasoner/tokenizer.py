"""The tokenizer: 60 whole words, one token per number, and a chat template that opens ``<think>``."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from demo.tiny_reasoner.reasoning import CHECKS, CORRECTION, DRAFT, TAG_CHANGED, TAG_SAME
from demo.tiny_reasoner.task import MODULUS

PAD, UNKNOWN = "<pad>", "<unk>"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
MAX_CONTEXT_TOKENS = 1024

_ROLES = ("user", "assistant")
_NAMES = "abcdefghijklmnop"
VOCABULARY: tuple[str, ...] = (
    *(PAD, TURN_START, TURN_END, THINK_OPEN, THINK_CLOSE, UNKNOWN),
    *map(str, range(MODULUS)),
    *_NAMES,
    *"+-*=;?\n ",
    *_ROLES,
    *(DRAFT, *CHECKS, CORRECTION),
    *(TAG_SAME, TAG_CHANGED),
)
TOKEN_IDS: dict[str, int] = {token: index for index, token in enumerate(VOCABULARY)}

# A word of two letters or more (with the space before it), a number of one or two digits, or any one sign.
_WORDS = r" ?[a-z]{2,}|[0-9]{1,2}|\n|."
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, made from its definition alone (nothing is learned)."""
    tokenizer = Tokenizer(models.WordLevel(dict(TOKEN_IDS), unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORDS), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in (PAD, TURN_START, TURN_END, UNKNOWN)]
    )
    # Not special: the thinking tags must survive decoding with skip_special_tokens.
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in (THINK_OPEN, THINK_CLOSE)])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=TURN_END,
        unk_token=UNKNOWN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_CONTEXT_TOKENS,
        chat_template=CHAT_TEMPLATE,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json (the chat template inside it) to ``directory``."""
    tokenizer.save_pretrained(str(directory), save_jinja_files=False)


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Token ids of ``text`` as it stands, nothing added."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_prompt(tokenizer: PreTrainedTokenizerFast, prompt: str) -> list[int]:
    """Token ids of a conversation of one user message, up to and including ``<think>``."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    return encode(tokenizer, str(text))
