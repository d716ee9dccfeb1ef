"""What is minimised on an example: one file an objective, each with its paper.

`losses.py` joins them to the loss of a step, and `mixture.py` says which are used.
"""
