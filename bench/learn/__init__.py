"""Learning, measured where a user sees it: a server and a trainer as processes, asked by a client.

service.py      starts both on an empty folder       users.py       what simulated users say
measuring.py    asks the live checkpoint             scenarios.py   what is taught and asked
plots.py        pictures                             report.py      the page, with goals beside it
"""
