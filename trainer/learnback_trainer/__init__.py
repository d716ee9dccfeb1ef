"""The trainer: reads feedback from the queue, teaches it, judges, and publishes what passed.

loop.py         the story of a round, step by step, and how it survives a crash
lessons.py      feedback -> exercises                anchors.py   what must not change
objectives/     one file an objective                likeness.py  which prompts are alike
update.py       optimisation, alone knows it         renewing.py  targets made anew meanwhile
gate.py         decides                              publishing.py  writes the checkpoint
pupil.py        the model: frozen as it lives, and being taught    reader.py  text and tokens
team.py         several processes that hold the model together
"""
