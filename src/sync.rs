//! Brings a destination that was away, or is new, up to date.
