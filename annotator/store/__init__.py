"""The database: one way to open it, one way to write to it, shards of vectors beside it.

Everyone else is handed a `db`. Which module owns which table is written in `migrations`.
"""

from annotator.store.columns import integer_columns
from annotator.store.database import now, writing
from annotator.store.locks import hold_lock
from annotator.store.opening import open_db, open_readonly
from annotator.store.vectors import VectorShards

__all__ = [
    "VectorShards",
    "hold_lock",
    "integer_columns",
    "now",
    "open_db",
    "open_readonly",
    "writing",
]
