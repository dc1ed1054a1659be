//! Named tasks, watched.
