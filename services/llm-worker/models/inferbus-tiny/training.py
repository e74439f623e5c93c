"""The model and its training loop, on a few CPU cores and within a given processor time.

Owns shapes, batches, optimisers and the learning-rate schedule. What is learned comes in as exercises.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random

import torch
from exercises import Exercise
from induction import ROPE_THETA, write_circuit
from tokenizer import CONTEXT_TOKENS, EOS, VOCABULARY, render
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS = 256, 704, 4, 8, 4
BATCH_TOKENS = 2048
MAX_EXERCISE_TOKENS = 768
# Exercises sorted by length at a time: more means less padding.
POOL = 256
MATRIX_RATE, VECTOR_RATE = 0.02, 6e-3
WARM_UP_STEPS = 20
GRADIENT_NORM = 1.0
REPORT_EVERY_S = 30.0
IGNORED = -100


@dataclass(frozen=True)
class Outcome:
    """What one stage did. `loss` is the mean over its last tenth, in nats a learned token."""

    steps: int
    tokens: int
    seconds: float
    loss: float


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Build the untrained model, in 32-bit floats for training."""
    model = LlamaForCausalLM(  # type: ignore[no-untyped-call]  # transformers is not typed here
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=HIDDEN,
            intermediate_size=INTERMEDIATE,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=KV_HEADS,
            head_dim=HIDDEN // HEADS,
            max_position_embeddings=CONTEXT_TOKENS,
            tie_word_embeddings=True,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    write_circuit(model, seed)
    return model


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    stream: Iterator[Exercise],
    *,
    seconds: float,
    final_rate: float,
    seed: int,
) -> Outcome:
    """Train for `seconds` of processor time; the learning rates fall along a cosine to `final_rate` of their peak."""
    optimizers = _optimizers(model)
    source = _batches(stream, tokenizer, Random(seed))
    started, reported, tokens, losses = _busy_s(), 0.0, 0, list[float]()
    model.set_attn_implementation("eager")  # a fifth faster than the fused kernel for short rows on a CPU
    model.train()
    while (elapsed := _busy_s() - started) < seconds:
        inputs, labels = next(source)
        _schedule(optimizers, _rate(len(losses), elapsed / seconds, final_rate))
        losses.append(_step(model, optimizers, inputs, labels))
        tokens += inputs.numel()
        if elapsed - reported > REPORT_EVERY_S:
            reported = elapsed
            print(f"  {elapsed:4.0f} s  step {len(losses)}  loss {_mean(losses[-30:]):.3f}", flush=True)
    model.eval()  # type: ignore[no-untyped-call]  # transformers is not typed here
    model.set_attn_implementation("sdpa")
    return Outcome(len(losses), tokens, elapsed, _mean(losses[-max(1, len(losses) // 10) :]))


def _busy_s() -> float:
    """Processor time, not the clock on the wall: a busy machine must not make a worse model."""
    return time.process_time()


def _mean(values: list[float]) -> float:
    return sum(values) / max(1, len(values))


def _optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, which learns in half the steps here; AdamW for embeddings and norms."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    pair: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=MATRIX_RATE, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=VECTOR_RATE, betas=(0.9, 0.95), weight_decay=0.01),
    ]
    for optimizer in pair:
        for group in optimizer.param_groups:
            group["base"] = group["lr"]
    return pair


def _rate(step: int, progress: float, final: float) -> float:
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return min(1.0, (step + 1) / WARM_UP_STEPS) * (final + (1 - final) * cosine)


def _schedule(optimizers: list[torch.optim.Optimizer], scale: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * scale


def _step(
    model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], inputs: torch.Tensor, labels: torch.Tensor
) -> float:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states = model.model(input_ids=inputs).last_hidden_state[:, :-1]
        # Logits only where something is to be learned: the vocabulary is a third of all the work.
        targets = labels[:, 1:]
        learned = targets != IGNORED
        logits = model.lm_head(states[learned])
    loss = torch.nn.functional.cross_entropy(logits.float(), targets[learned])
    loss.backward()  # type: ignore[no-untyped-call]  # nor is torch
    torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.item()


def _batches(
    stream: Iterator[Exercise], tokenizer: PreTrainedTokenizerFast, rng: Random
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (inputs, labels) of about BATCH_TOKENS each, exercises of like length together."""
    while True:
        pool = sorted((_encode(one, tokenizer) for one in islice(stream, POOL)), key=lambda pair: len(pair[0]))
        ready, rows = [], list[tuple[list[int], list[int]]]()
        for pair in pool:
            if rows and len(pair[0]) * (len(rows) + 1) > BATCH_TOKENS:
                ready.append(rows)
                rows = []
            rows.append(pair)
        ready.append(rows)
        rng.shuffle(ready)
        for rows in ready:
            yield _padded(rows)


def _encode(exercise: Exercise, tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """Return token ids and labels; only the completion and its end are to be learned."""
    # The tokenizer below transformers: it does not warn of texts beyond the context, which are cut here.
    bpe = tokenizer.backend_tokenizer
    prompt: list[int] = []
    if exercise.messages:
        prompt = bpe.encode(render(tokenizer, exercise.messages, exercise.tools), add_special_tokens=False).ids
    completion = bpe.encode(exercise.completion + EOS, add_special_tokens=False).ids
    ids = (prompt + completion)[:MAX_EXERCISE_TOKENS]
    return ids, ([IGNORED] * len(prompt) + completion)[:MAX_EXERCISE_TOKENS]


def _padded(rows: list[tuple[list[int], list[int]]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad on the right: with causal attention no mask is needed, and the padding is never a label."""
    width = max(len(ids) for ids, _ in rows)
    inputs = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows])
    labels = torch.tensor([marks + [IGNORED] * (width - len(marks)) for _, marks in rows])
    return inputs, labels
