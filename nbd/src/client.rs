//! A small blocking client for tests and tools.
