"""The engine: a step loop that decodes many requests at once on any transformers causal LM.

Importing this package imports no torch, so that a configuration can be refused before the seconds
that torch takes; `engine.py` and the files below it do.
"""
