"""Build inferbus-tiny: a 4-million-parameter chat model, from the docstrings of the Python standard library.

    python build.py OUT [--seconds N] [--tune-seconds N]

Needs torch, tokenizers and transformers, a CPU core, and no network. The data is the same for the same seed and
Python version; training is bounded by processor time, so the number of steps, and with it the weights, differ a
little from run to run.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from corpus import docstrings
from examination import examine, print_samples
from exercises import READING, TUNING, exercises
from tokenizer import make_tokenizer
from training import Outcome, make_model, train
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SEED = 2
# The rates fall in the second stage only: the first is not the end of learning.
READING_FINAL_RATE, TUNING_FINAL_RATE = 0.7, 0.03
EXAMINATION_QUESTIONS = 200


def main() -> None:
    """Build, examine and save."""
    asked = _arguments()
    torch.manual_seed(asked.seed)
    torch.set_num_threads(asked.threads)
    library = docstrings()
    print(f"library: {len(library)} docstrings, {sum(len(one.text) for one in library)} characters")
    tokenizer = make_tokenizer(one.text for one in library)
    tokenizer.save_pretrained(asked.out)  # before use: the examination leaves its padding in it
    model = make_model(tokenizer, asked.seed)
    print(f"model: {sum(p.numel() for p in model.parameters())} parameters")
    for title, shares, seconds, final_rate in (
        ("reading", READING, asked.seconds, READING_FINAL_RATE),
        ("tuning", TUNING, asked.tune_seconds, TUNING_FINAL_RATE),
    ):
        print(f"{title}: {seconds:.0f} s", flush=True)
        stream = exercises(library, shares, asked.seed)
        _report(title, train(model, tokenizer, stream, seconds=seconds, final_rate=final_rate, seed=asked.seed))
        print_samples(model, tokenizer)
    model = model.to(torch.bfloat16)  # type: ignore[arg-type]  # transformers wraps torch's `to`
    _save(model, tokenizer, asked.out)
    for title, share in examine(model, tokenizer, asked.questions).items():
        print(f"  {share:6.1%}  {title}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Build inferbus-tiny.")
    parser.add_argument("out", type=Path, help="folder for the weights and the tokenizer")
    parser.add_argument("--seconds", type=float, default=400, help="of processor time, for reading")
    parser.add_argument("--tune-seconds", type=float, default=480, help="of processor time, for tuning")
    parser.add_argument("--questions", type=int, default=EXAMINATION_QUESTIONS, help="of each kind, in the examination")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--threads", type=int, default=1, help="more only where nothing else runs")
    return parser.parse_args()


def _report(title: str, outcome: Outcome) -> None:
    rate = outcome.tokens / max(outcome.seconds, 1e-9)
    print(f"{title}: loss {outcome.loss:.3f}, {outcome.steps} steps, {outcome.tokens} tokens, {rate:.0f} tokens/s")


def _save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write what vLLM and transformers load. Defaults stay greedy-safe: no sampling options but the ends of a turn."""
    started = time.monotonic()
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]  # transformers is not typed here
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(out)
    sizes = {path.name: path.stat().st_size for path in sorted(out.iterdir())}
    print(f"saved {sizes} in {time.monotonic() - started:.1f} s", flush=True)


if __name__ == "__main__":
    main()
