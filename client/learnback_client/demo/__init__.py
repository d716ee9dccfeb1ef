"""The demonstration: a stranger watches the embedded model learn from eight critiques.

people.py   what is asked, and what is said of the answers
load.py     other people, who keep asking all the while
story.py    ask, criticise, wait, ask again, and count

It speaks to the services through the public client alone, and judges answers by the grammar of the
embedded model (`learnback_nano.world`), so it is for that model alone.
"""
