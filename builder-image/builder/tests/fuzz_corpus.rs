//! Seeds of the fuzz targets (`tests/fuzz`), as they are and with bytes changed at random places, through the same entries:
//! what a long run once found stays mended, without a fuzzer. The changes are the same in every run.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "../../../tests/fuzz/entries.rs"]
mod entries;

use std::path::Path;

/// How many changed forms of each seed are tried.
const CHANGES: u64 = 200;

/// A generator of numbers that is good enough to choose places (xorshift, Marsaglia 2003).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 8).unwrap()
    }
}

fn changed(seed: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=numbers.next() % 4 {
        if bytes.is_empty() {
            break;
        }
        let at = numbers.next() % bytes.len();
        match numbers.next() % 4 {
            0 => bytes[at] = u8::try_from(numbers.next() % 256).unwrap(),
            1 => bytes.truncate(at),
            2 => {
                let piece = bytes[at..(at + 16).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                bytes.remove(at);
            }
        }
    }
    bytes
}

#[test]
fn seeds_and_their_neighbours_harm_nothing() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus");
    for (name, entry) in entries::ENTRIES {
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        let mut seeds = 0;
        for seed in fs_err::read_dir(corpus.join(name)).unwrap() {
            let seed = fs_err::read(seed.unwrap().path()).unwrap();
            entry(&seed);
            for _ in 0..CHANGES {
                entry(&changed(&seed, &mut numbers));
            }
            seeds += 1;
        }
        assert!(seeds > 1, "{name} has no seeds");
    }
}
