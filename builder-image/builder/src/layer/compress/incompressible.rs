//! Tells bytes that deflate cannot make smaller, such as archives and pictures inside a layer: it takes as long for them as
//! for any others, and they come out longer. Whether a block is one depends on its bytes alone.

use super::WINDOW;

/// What is looked at first: most blocks show here that they can be compressed.
const SAMPLE: usize = 32 << 10;
/// Bits of entropy to a byte from which on the codes of single bytes gain less than half a percent.
const ENTROPY: f64 = 7.96;
/// Of this many bytes, one may be covered by repetitions.
const REPEATED: usize = 200;
/// What is compared of a possible repetition. Shorter ones hardly gain what it takes to name them.
const MATCH: usize = 6;
/// Bits of the table of places.
const TABLE: u32 = 15;

/// Whether compressing `block` would gain next to nothing, though `before` has just gone by.
pub(super) fn is_incompressible(block: &[u8], before: &[u8]) -> bool {
    let sample = &block[..block.len().min(SAMPLE)];
    sample.len() == SAMPLE
        && entropy(sample) >= ENTROPY
        && entropy(block) >= ENTROPY
        && !repeats(block, before)
}

/// Bits to a byte if bytes were independent (Shannon).
fn entropy(bytes: &[u8]) -> f64 {
    // Four tables, so that equal neighbours do not wait for each other.
    let mut counts = [[0_u32; 256]; 4];
    let chunks = bytes.chunks_exact(4);
    for byte in chunks.remainder() {
        counts[0][usize::from(*byte)] += 1;
    }
    for chunk in chunks {
        for (table, byte) in counts.iter_mut().zip(chunk) {
            table[usize::from(*byte)] += 1;
        }
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "a block is far below 2^52 bytes"
    )]
    let total = bytes.len() as f64;
    let of_byte = |byte: usize| {
        let count: u32 = counts.iter().map(|table| table[byte]).sum();
        let share = f64::from(count) / total;
        if count == 0 {
            0.0
        } else {
            -share * share.log2()
        }
    };
    (0..256).map(of_byte).sum()
}

/// Whether much of `block` was there before, as far back as deflate can refer.
fn repeats(block: &[u8], before: &[u8]) -> bool {
    let before = &before[before.len().saturating_sub(WINDOW)..];
    let all = [before, block].concat();
    let mut places = vec![0_u32; 1 << TABLE];
    let most = block.len() / REPEATED;
    let (mut repeated, mut at) = (0, 0);
    while at + 8 <= all.len() {
        let word = word_at(&all, at);
        let place = &mut places[slot(word)];
        let last = usize::try_from(*place).unwrap_or_default();
        *place = u32::try_from(at).unwrap_or_default();
        let is_match = last < at && at - last <= WINDOW && word_at(&all, last) == word;
        // The first place is as good as none.
        if is_match && at >= before.len() {
            let length = common(&all[last..], &all[at..]);
            repeated += length;
            if repeated > most {
                return true;
            }
            at += length;
        } else {
            at += 1;
        }
    }
    false
}

/// The `MATCH` bytes from `at` on, of which there must be eight.
fn word_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word[..MATCH].copy_from_slice(&bytes[at..at + MATCH]);
    u64::from_le_bytes(word)
}

/// Where the place of `word` is kept (multiplicative hashing; Knuth, volume 3, section 6.4).
fn slot(word: u64) -> usize {
    usize::try_from(word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - TABLE)).unwrap_or_default()
}

/// How many bytes two texts have in common at their beginnings.
fn common(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes without any order.
    fn noise(length: usize, mut state: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(length + 8);
        while out.len() < length {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            out.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
        }
        out.truncate(length);
        out
    }

    #[test]
    fn only_bytes_without_order_cannot_be_compressed() {
        let block = noise(1 << 20, 1);
        let half = &block[..1 << 19];
        let near = &block[..20 << 10];
        let text: Vec<u8> = half.iter().map(|byte| byte % 64).collect();
        let cases: [(&str, Vec<u8>, &[u8], bool); 8] = [
            ("noise", block.clone(), &[], true),
            ("noise after other noise", noise(1 << 20, 2), &block, true),
            (
                "a block as short as a small file",
                noise(1000, 1),
                &[],
                false,
            ),
            ("zeros", vec![0; 1 << 20], &[], false),
            ("few letters", text.clone(), &[], false),
            (
                "noise, then few letters",
                [half, &text].concat(),
                &[],
                false,
            ),
            ("what is repeated within reach", near.repeat(52), &[], false),
            (
                "what was just there",
                [near, &noise(1 << 20, 3)].concat(),
                near,
                false,
            ),
        ];
        for (what, bytes, before, expected) in cases {
            assert_eq!(is_incompressible(&bytes, before), expected, "{what}");
        }
        // Out of reach is out of mind.
        assert!(is_incompressible(&[half, half].concat(), &[]));
    }
}
