//! Placeholder until its author commits.
