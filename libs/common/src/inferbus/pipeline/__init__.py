"""Pipelines: rows from a file through functions and models into a file, in a few lines.

from inferbus.pipeline import Pipeline

Pipeline.read("in.jsonl").infer("inferbus-tiny", prompt="Shorten: {text}").write("out.parquet").run()
"""

from inferbus.pipeline.pipeline import Pipeline

__all__ = ["Pipeline"]
