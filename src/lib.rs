//! hadal
