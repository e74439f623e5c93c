"""Batch: jobs of many lines, one result for each, whatever crashes."""
