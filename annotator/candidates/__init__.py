"""What is to be judged: prompts and their responses, read from files of many kinds.

`formats` knows how each kind of row looks, `records` takes rows out of files, `candidate` says
what a sound row is, `identity` what makes two of them the same, `storing` writes the tables, and
`ingest` is the story of an import. `catalog` answers the other stages' questions.
"""
