"""What server and trainer hand to each other, and nothing else.

Three hand-overs, each with the server's side (asyncio) and the trainer's (blocking):

    feedback      inbox.py  takes it                   feedback.py    works the queue
                  views.py  tells what became of it    archive.py     accounts for it
                                                       live_views.py, dead_letters.py
                  erasures.py  asks for erasure        purging.py     takes an author out
    generations   generations.py  keeps what was answered, and samples it
    checkpoints   announcements.py  follows            checkpoints.py  publishes

`records.py`, `manifest.py` and `rounds.py` are the values that cross, `codec.py` how they are
written down, `protos.py` how they look on the wire.

`keys.py` is the whole Redis schema on one page, `scripts.py` every atomic step on it, `errors.py`
everything that can go wrong. `archive.py` tells why no feedback is lost or learned twice, and
`settlement.py` sees to it after a crash.
"""
