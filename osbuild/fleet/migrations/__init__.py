"""The revisions of the update server's database, each a module `versions/revision_NNNN.py` (Alembic).

A change of `tables.py` needs a new revision that changes the tables of the one before in the same way. A revision that
was released is never changed. What SQLite cannot alter in place, `op.batch_alter_table` copies.
"""
