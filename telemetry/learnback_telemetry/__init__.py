"""What server and trainer tell those who run them: metrics, log lines and traces.

It stands between the programs and the store, so that both say the same things in the same way.
"""
