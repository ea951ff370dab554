"""The story of a round: choose a batch, record why, send it; later take the votes back.

`batch.next_batch` and `sync.sync` read top to bottom; everything they call lives in the room
that owns it. This room owns the tables rounds and picks.
"""
