"""The byte-level BPE tokenizer and its chat template.

Owns the vocabulary, the split into words and the special tokens; the template itself is `chat_template.jinja`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

VOCABULARY = 4096
CONTEXT_TOKENS = 2048
PAD, BOS, EOS, TURN = "<|pad|>", "<|bos|>", "<|im_end|>", "<|im_start|>"
# Single ids, but ordinary text: parsers of tools and reasoning must see them in the decoded output, and a
# model with eyes grafted on this one needs a single id for an image place.
MARKERS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<image>")
# A space sticks to a following lower-case word only. Capitalised words and digits stand alone, so that a name has
# the same tokens after a space in a question and after a quote in JSON: a model this small can then copy it.
WORD = Regex(r" ?\p{Ll}+|\p{Lu}+(?!\p{Ll})|\p{Lu}\p{Ll}*|[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*\n+|\s+(?!\S)|\s+")
TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def make_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train a tokenizer of exactly VOCABULARY entries on `texts`."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(WORD, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(MARKERS),
        special_tokens=[PAD, BOS, EOS, TURN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.add_tokens([AddedToken(text, special=False, normalized=False) for text in MARKERS])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers is not typed here
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        extra_special_tokens=[TURN],
        model_max_length=CONTEXT_TOKENS,
        chat_template=TEMPLATE.read_text(encoding="utf-8"),
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def render(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
    """Return the prompt after which the assistant speaks."""
    text = tokenizer.apply_chat_template(messages, tools=[*tools] or None, add_generation_prompt=True, tokenize=False)
    return str(text)
