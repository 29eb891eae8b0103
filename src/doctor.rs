//! Whether everything a run needs is there.
