"""Starts the model with a circuit that copies, instead of waiting for training to find one.

An induction circuit (Olsson et al. 2022, "In-context Learning and Induction Heads") continues "A B ... A" with "B": a
head of layer 0 notes at each token which token came before; heads of later layers look for the place that noted the
token at hand, and bring what stands there. Random matrices of this size find it only after far more tokens than a few
minutes hold; written down, it repeats random tokens before the first step, and training keeps and refines it.

The residual stream is cut into orthogonal subspaces: what a token is, what came before it, what is to be said next.
All numbers below were chosen by trying an untrained model on repeated random tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention

# Slow rotations: half of each head's pairs hardly turn within a few hundred tokens and can carry a token's identity.
ROPE_THETA = 1e6
# Steps of an optimiser are of absolute size, so embeddings are large and the last norm takes it back.
EMBEDDING_SCALE, LOGIT_SCALE = 0.3, 0.02
IDENTITY_DIMS = 24
# The fast rotations alone tell one place from the next.
FAST_PAIRS = 5
PREVIOUS_SHARPNESS, MATCH_SHARPNESS, QUERY_GAIN = 16.0, 0.8, 3.0
NOTE_STRENGTH, COPY_STRENGTH = 3.0, 10.0
COPYING_LAYERS = (1, 2)
COPYING_GROUPS = (0, 1)


@dataclass(frozen=True)
class _Shape:
    """Sizes the circuit is written for; `queries` is the number of query heads that share one key head."""

    hidden: int
    head: int
    queries: int

    def keys(self, group: int) -> slice:
        """Rows of a key or value projection that belong to a group."""
        return slice(group * self.head, (group + 1) * self.head)

    def first_query(self, group: int) -> slice:
        """Rows of the query projection of the first head of a group; the others stay free."""
        return slice(group * self.queries * self.head, (group * self.queries + 1) * self.head)


@torch.no_grad()
def write_circuit(model: LlamaForCausalLM, seed: int) -> None:
    """Overwrite embeddings and a few heads; every other path starts silent."""
    first: LlamaAttention = model.model.layers[0].self_attn
    shape = _Shape(model.config.hidden_size, first.head_dim, first.num_key_value_groups)
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(shape.hidden, shape.hidden, generator=generator))[0].T
    identity, before = basis[:IDENTITY_DIMS], basis[shape.head : shape.head + IDENTITY_DIMS]
    # Every embedding has this direction in common: what a head of pure position looks at.
    common = basis[-1] * shape.hidden**0.5
    embedding = model.model.embed_tokens.weight
    embedding.copy_(EMBEDDING_SCALE * (torch.randn(embedding.shape, generator=generator) + common))
    model.model.norm.weight.fill_(LOGIT_SCALE / EMBEDDING_SCALE)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    _note_previous(first, shape, common, identity, before)
    said = iter(basis[2 * shape.head :].split(shape.head))
    for layer in COPYING_LAYERS:
        for group in COPYING_GROUPS:
            _copy_after_match(model.model.layers[layer].self_attn, shape, group, identity, before, next(said))


def _note_previous(
    attention: LlamaAttention, shape: _Shape, common: torch.Tensor, identity: torch.Tensor, before: torch.Tensor
) -> None:
    """Attend to the token before, whatever it is, and write its identity where `before` is read."""
    half = shape.head // 2
    angles = ROPE_THETA ** (-torch.arange(FAST_PAIRS) / half)
    key, query = torch.zeros(shape.head), torch.zeros(shape.head)
    key[:FAST_PAIRS] = 1
    # The key turned back by one place: the product is greatest one token ago.
    query[:FAST_PAIRS], query[half : half + FAST_PAIRS] = torch.cos(angles), -torch.sin(angles)
    reader = PREVIOUS_SHARPNESS * common / shape.hidden
    attention.k_proj.weight[shape.keys(0)] = torch.outer(key, reader)
    attention.q_proj.weight[shape.first_query(0)] = torch.outer(query, reader)
    attention.v_proj.weight[:IDENTITY_DIMS] = identity
    attention.o_proj.weight[:, :IDENTITY_DIMS] = NOTE_STRENGTH * EMBEDDING_SCALE * before.T


def _copy_after_match(
    attention: LlamaAttention,
    shape: _Shape,
    group: int,
    identity: torch.Tensor,
    before: torch.Tensor,
    said: torch.Tensor,
) -> None:
    """Attend to where the token at hand came before, and bring the part `said` of what stands there."""
    half, pairs = shape.head // 2, IDENTITY_DIMS // 2
    slow = torch.cat([torch.arange(half - pairs, half), torch.arange(shape.head - pairs, shape.head)])
    key, query = torch.zeros(shape.head, shape.hidden), torch.zeros(shape.head, shape.hidden)
    key[slow], query[slow] = MATCH_SHARPNESS * before, MATCH_SHARPNESS * QUERY_GAIN * identity
    rows = shape.first_query(group)
    attention.k_proj.weight[shape.keys(group)] = key
    attention.q_proj.weight[rows] = query
    attention.v_proj.weight[shape.keys(group)] = said
    attention.o_proj.weight[:, rows] = COPY_STRENGTH * EMBEDDING_SCALE * said.T
