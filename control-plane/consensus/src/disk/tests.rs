//! The real disk: its order, its refusals, its files.
