"""What Alembic runs for each of its commands: the revisions, in the transaction of whoever called it."""

from alembic import context

# The caller commits: either all revisions are stored, or none.
context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
