//! The user's own commands before and after a run.
