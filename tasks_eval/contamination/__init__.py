"""Questions of the evaluation that stand in the training text (docs/decisions/0023).

texts.py says what an example is looked for by, overlap_index.py which runs of its words are a sign, ngrams.py finds
them fast, and search.py is the stage.
"""
