//! PostgreSQL: everything that is written, and when it counts as written.
