"""`vllm serve`'s own arguments, parsed by vLLM itself. Its command line is its most stable interface."""

from __future__ import annotations

import importlib
from argparse import Namespace
from collections.abc import Sequence
from typing import Any, NoReturn

from vllm.utils.argparse_utils import FlexibleArgumentParser

_CLI_ARGS = (  # where the parser lived, newest release first
    "vllm.entrypoints.common.cli_args",
    "vllm.entrypoints.launchers.cli_args",
    "vllm.entrypoints.openai.cli_args",
)


def first_of(modules: Sequence[str], name: str) -> Any:
    """Import `name` from the first module that has it.

    Raises:
        ImportError: none has; this vLLM is newer or older than the ones known here.
    """
    for module in modules:
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            continue
    raise ImportError(f"this vLLM has {name} in none of {', '.join(modules)}")


def parse(argv: Sequence[str]) -> Namespace:
    """Parse and validate an argument list of `vllm serve`.

    Raises:
        ValueError: vLLM does not take these arguments; the message is its own.
    """
    parser = first_of(_CLI_ARGS, "make_arg_parser")(FlexibleArgumentParser())
    parser.error = _refuse  # the stock one ends the process
    args: Namespace = parser.parse_args(list(argv))
    if getattr(args, "model_tag", None):
        args.model = args.model_tag
    first_of(_CLI_ARGS, "validate_parsed_serve_args")(args)
    # Both belong to the front doors: keys are checked there, and comments between chunks would pass for deltas.
    args.api_key = None
    args.sse_keep_alive_interval = 0
    args.disable_log_stats = True  # `stats` replaces vLLM's loggers, 8 us per token
    return args


def _refuse(message: str) -> NoReturn:
    raise ValueError(f"vllm serve does not take these arguments: {message}")
