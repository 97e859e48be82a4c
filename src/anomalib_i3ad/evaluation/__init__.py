"""Comparing models: accuracy and cost, the benchmark over many, and the report of one."""
