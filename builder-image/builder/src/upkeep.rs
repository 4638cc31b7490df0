//! What a mirror does besides copying: it keeps account of what it wrote, deletes what is not selected any more, and looks
//! whether the rest is still whole. `published` reads and writes the report beside the images, `bookkeeping` keeps it while a
//! pod works, `deletion` and `check` go by it. What a report says and what may go is decided in the crate `mirror`.

pub mod bookkeeping;
pub mod check;
pub mod deletion;
pub mod published;

/// The longest failure in an outcome, in bytes.
const MAX_FAILURE_BYTES: usize = 256;

/// The beginning of `text`, as much as an outcome has room for.
fn short(text: &str) -> String {
    let mut end = text.len().min(MAX_FAILURE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests;
