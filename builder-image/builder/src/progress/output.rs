//! How much of a step's output is told and kept: the beginning is told, as far as BuildKit tells it, and the end is kept for
//! messages. A step that writes without end fills neither a log nor memory.

use std::collections::VecDeque;

/// How much of the end is kept, in bytes.
pub(super) const TAIL: usize = 1024;

/// How much is told, in bytes.
pub(super) const MAX_TOLD: usize = 2 << 20;

/// What is told in place of the rest.
pub(super) const CLIPPED: &str = "[output clipped, log limit 2MiB reached]";

/// The output of one step.
#[derive(Default)]
pub(super) struct Output {
    lines: VecDeque<String>,
    bytes: usize,
    told: usize,
}

impl Output {
    /// Takes a line, and returns what is told of it.
    pub(super) fn push<'a>(&mut self, line: &'a str) -> Option<&'a str> {
        let mut start = line.len().saturating_sub(TAIL - 1);
        while !line.is_char_boundary(start) {
            start += 1;
        }
        self.bytes += line.len() - start + 1;
        self.lines.push_back(line[start..].to_owned());
        while self.bytes > TAIL {
            let Some(first) = self.lines.pop_front() else {
                break;
            };
            self.bytes -= first.len() + 1;
        }
        let before = self.told;
        self.told = before.saturating_add(line.len() + 1);
        if self.told <= MAX_TOLD {
            Some(line)
        } else {
            (before <= MAX_TOLD).then_some(CLIPPED)
        }
    }

    /// The last lines, at most [`TAIL`] bytes.
    pub(super) fn tail(&self) -> String {
        let lines: Vec<&str> = self.lines.iter().map(String::as_str).collect();
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_is_told_and_the_end_is_kept() {
        let mut output = Output::default();
        let line = "y".repeat(1023);
        let told: Vec<_> = (0..3000).filter_map(|_| output.push(&line)).collect();
        assert_eq!(told.len(), MAX_TOLD / 1024 + 1);
        assert_eq!(told.last(), Some(&CLIPPED));
        assert!(told[..told.len() - 1].iter().all(|told| *told == line));
        assert_eq!(output.push("the end"), None);
        assert!(output.tail().ends_with("the end") && output.tail().len() <= TAIL);
    }
}
