//! Which of many cases are run: all, or a tenth by a seed that is printed. Pure but for the clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// A sequence of numbers that its seed decides (splitmix64).
pub(crate) struct Dice(u64);

impl Dice {
    /// The dice of this run: `COOPERY_SEED`, or the clock. The seed is printed.
    pub(crate) fn new(what: &str) -> Self {
        let given = std::env::var("COOPERY_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            u64::from(now.subsec_nanos())
        });
        eprintln!("{what}: COOPERY_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// Puts `cases` into another order.
    pub(crate) fn shuffle<T>(&mut self, cases: &mut [T]) {
        for last in (1..cases.len()).rev() {
            let bound = u64::try_from(last + 1).expect("a length fits");
            let other = usize::try_from(self.next() % bound).expect("it is below a length");
            cases.swap(last, other);
        }
    }

    /// A tenth of `cases`, but at least one of each `class` and `least` in all.
    pub(crate) fn tenth<T, C: PartialEq>(
        &mut self,
        mut cases: Vec<T>,
        least: usize,
        class: impl Fn(&T) -> C,
    ) -> Vec<T> {
        let wanted = cases.len().div_ceil(10).max(least);
        self.shuffle(&mut cases);
        let mut chosen: Vec<T> = Vec::new();
        let mut rest = Vec::new();
        for case in cases {
            if chosen.iter().any(|other| class(other) == class(&case)) {
                rest.push(case);
            } else {
                chosen.push(case);
            }
        }
        let missing = wanted.saturating_sub(chosen.len());
        chosen.extend(rest.into_iter().take(missing));
        chosen
    }
}

#[test]
fn a_tenth_holds_every_class() {
    let cases: Vec<u32> = (0..100).collect();
    let chosen = Dice(7).tenth(cases.clone(), 3, |case| case % 4);
    assert_eq!(chosen.len(), 10);
    for class in 0..4 {
        assert!(chosen.iter().any(|case| case % 4 == class), "{chosen:?}");
    }
    assert_eq!(chosen, Dice(7).tenth(cases, 3, |case| case % 4));
}
