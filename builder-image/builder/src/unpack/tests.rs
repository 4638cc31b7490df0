//! Unpacking: attacks, formats, limits.
