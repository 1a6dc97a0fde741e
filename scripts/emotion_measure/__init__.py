"""Runs servers, loads them and reads what they take: what compare.py and memory_report.py measure with."""
