//! The states of pages, and everything that changes them.
