"""How well a model answers one's own questions with fewer visual tokens.

`examples` reads the data, `answers` asks the model and keeps what it said in a file that a later
run goes on from, `scores` compares answers, `summary` makes figures of them, `plot` a picture.
"""
