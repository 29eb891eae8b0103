//! Any source, encrypted while it is read.
