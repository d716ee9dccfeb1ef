"""What is minimised on an example: one file an objective, each with its paper.

Rounds learn by distillation (forward divergence, whole vocabulary) and by SFT. Other divergences
and the tail, imitation, KTO and DPO stand here with their tests, and no round uses them yet.
"""
