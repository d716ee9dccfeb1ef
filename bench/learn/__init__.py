"""Learning, measured where a user sees it: a server and a trainer as processes, asked by a client.

service.py      starts both on an empty folder       users.py       what simulated users say
measuring.py    asks the live checkpoint             figures.py     what was measured, and its goal
lessons.py      what is taught and asked             attacks.py     what must not be taught
erasing.py      a lesson is taken back               peers.py       other ways to learn the same
running.py      works through all of it              report.py      the page
plots.py        its pictures
"""
