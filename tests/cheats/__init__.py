"""Defenses that cheat, and one that does not: each cheat has an ASR of nearly 0 for nothing. `tests/judge/test_cheats.py` lets
them join the members for as long as it runs."""
