//! Boards and items that behave like real ones.
