//! Output of a process cut into lines of bounded length. It neither decodes nor colours anything.

/// Longer lines are handed on in pieces of this many bytes.
pub(super) const MAX_LINE: usize = 16 * 1024;

/// Collects bytes until a line is complete.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    /// Takes bytes and hands on every line that they complete, without its newline.
    pub(super) fn push(&mut self, mut bytes: &[u8], line: &mut dyn FnMut(&[u8])) {
        while !bytes.is_empty() {
            let room = MAX_LINE - self.pending.len();
            let (end, complete) = match bytes.iter().take(room).position(|byte| *byte == b'\n') {
                Some(end) => (end, true),
                None => (room.min(bytes.len()), false),
            };
            self.pending.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + usize::from(complete)..];
            if complete || self.pending.len() == MAX_LINE {
                // The newline right after a full piece ends that piece, and makes no empty line.
                if !complete && bytes.first() == Some(&b'\n') {
                    bytes = &bytes[1..];
                }
                line(&self.pending);
                self.pending.clear();
            }
        }
    }

    /// Hands on what came after the last newline.
    pub(super) fn finish(&mut self, line: &mut dyn FnMut(&[u8])) {
        if !self.pending.is_empty() {
            line(&self.pending);
            self.pending.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        for chunk in chunks {
            lines.push(chunk, &mut |line| found.push(line.to_vec()));
        }
        lines.finish(&mut |line| found.push(line.to_vec()));
        found
    }

    #[test]
    fn lines_are_joined_over_chunks() {
        assert_eq!(cut(&[b"a\nb", b"c\n\nd"]), [&b"a"[..], b"bc", b"", b"d"]);
        assert_eq!(cut(&[b""]), Vec::<Vec<u8>>::new());
        assert_eq!(cut(&[b"x\r\n", b"\n"]), [&b"x\r"[..], b""]);
    }

    #[test]
    fn long_lines_come_in_pieces() {
        let long = vec![b'x'; 2 * MAX_LINE + 3];
        let lengths: Vec<usize> = cut(&[&long, b"\n", b"y"]).iter().map(Vec::len).collect();
        assert_eq!(lengths, [MAX_LINE, MAX_LINE, 3, 1]);
        let exact = vec![b'x'; MAX_LINE];
        assert_eq!(cut(&[&[&exact[..], b"\nz"].concat()]).len(), 2);
    }
}
