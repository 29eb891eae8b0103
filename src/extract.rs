//! One project's repositories out of a stored backup, by reading little more than them.
