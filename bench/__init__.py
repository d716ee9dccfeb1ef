"""Measurements of learnback against its peers, each a module to run: `python -m bench.serve`.

Every figure of a table comes from one run on one machine, and ratios are between figures of the
same run: absolute ones are worth little on a shared machine.
"""
