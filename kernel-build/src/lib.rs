//! kernel-build
