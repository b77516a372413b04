//! Admin socket, status, events2.
