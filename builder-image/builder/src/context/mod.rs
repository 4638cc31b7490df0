//! Scratch.
pub mod dockerignore;
pub mod pattern;
