//! Which ids of the machine stand for 0-65535 in the engine's user namespace. Pure: it reads text and decides.

use std::fmt::Write as _;

/// Ids that the namespace has: 0 to 65535, what images use and what a pod gets.
pub(super) const IDS: u32 = 65_536;

/// The identity over the whole range: what root maps, in a pod with `hostUsers: false` or on a machine. `own` is the map
/// of the namespace that root is in (`/proc/self/uid_map`): the kernel wants a range for each of its ranges. `None` when
/// that namespace has fewer ids.
pub(super) fn identity_map(own: &str) -> Option<String> {
    let mut ranges: Vec<(u32, u32)> = own
        .lines()
        .filter_map(|line| {
            let mut numbers = line.split_whitespace().map(str::parse::<u32>);
            let (first, _outside, count) = (numbers.next()?, numbers.next()?, numbers.next()?);
            Some((first.ok()?, count.ok()?))
        })
        .collect();
    ranges.sort_unstable();
    let (mut next, mut map) = (0, String::new());
    for (first, count) in ranges {
        if first > next || next >= IDS {
            break;
        }
        let count = count.min(IDS - first);
        writeln!(map, "{first} {first} {count}").ok()?;
        next = first + count;
    }
    (next == IDS).then_some(map)
}

/// One line of a map: `inside outside count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    /// First id inside the namespace.
    pub(super) inside: u32,
    /// First id outside.
    pub(super) outside: u32,
    /// How many.
    pub(super) count: u32,
}

impl Range {
    /// The three numbers as `newuidmap` takes them.
    pub(super) fn arguments(self) -> [String; 3] {
        [
            self.inside.to_string(),
            self.outside.to_string(),
            self.count.to_string(),
        ]
    }
}

/// The map of an ordinary user: itself as root, and its subordinate ids for the rest. `subordinate` is the text of
/// `/etc/subuid` or `/etc/subgid`, `names` are what the user is called there (name and number). Several ranges are joined
/// until 65,535 ids are found; `None` when there are fewer.
pub(super) fn subordinate_map(subordinate: &str, names: &[&str], own: u32) -> Option<Vec<Range>> {
    let mut ranges = vec![Range {
        inside: 0,
        outside: own,
        count: 1,
    }];
    let mut next = 1;
    for line in subordinate.lines() {
        let mut fields = line.trim().split(':');
        let (Some(name), Some(start), Some(count), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (Ok(start), Ok(count)) = (start.parse::<u32>(), count.parse::<u32>()) else {
            continue;
        };
        if !names.contains(&name) || next >= IDS || count == 0 {
            continue;
        }
        let count = count.min(IDS - next);
        ranges.push(Range {
            inside: next,
            outside: start,
            count,
        });
        next += count;
    }
    (next == IDS).then_some(ranges)
}

/// The name of the user `uid` in the text of `/etc/passwd`.
pub(super) fn name_of(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let found = fields.nth(1)?;
        (found == uid.to_string() && !name.is_empty()).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(inside: u32, outside: u32, count: u32) -> Range {
        Range {
            inside,
            outside,
            count,
        }
    }

    #[test]
    fn subordinate_ranges() {
        let names = ["ann", "1000"];
        let rows: [(&str, Option<Vec<Range>>); 7] = [
            (
                "ann:100000:65536",
                Some(vec![range(0, 1000, 1), range(1, 100_000, 65_535)]),
            ),
            (
                "1000:100000:65536\n",
                Some(vec![range(0, 1000, 1), range(1, 100_000, 65_535)]),
            ),
            (
                "bob:1:99999\nann:200000:65535",
                Some(vec![range(0, 1000, 1), range(1, 200_000, 65_535)]),
            ),
            (
                "ann:100000:60000\nann:300000:60000",
                Some(vec![
                    range(0, 1000, 1),
                    range(1, 100_000, 60_000),
                    range(60_001, 300_000, 5_535),
                ]),
            ),
            ("ann:100000:1000", None),
            ("bob:100000:65536", None),
            ("# comment\nann:x:65536\nann:1\n", None),
        ];
        for (text, expected) in rows {
            assert_eq!(subordinate_map(text, &names, 1000), expected, "{text}");
        }
    }

    #[test]
    fn identities_follow_the_ranges_of_the_namespace() {
        let rows = [
            ("         0          0 4294967295\n", Some("0 0 65536\n")),
            ("0 1000000 65536\n", Some("0 0 65536\n")),
            ("0 4242 1\n1 200000 65535\n", Some("0 0 1\n1 1 65535\n")),
            ("1 200000 65536\n0 4242 1\n", Some("0 0 1\n1 1 65535\n")),
            ("0 1000 1\n", None),
            ("0 0 1000\n2000 2000 70000\n", None),
            ("", None),
        ];
        for (own, expected) in rows {
            assert_eq!(identity_map(own).as_deref(), expected, "{own}");
        }
    }

    #[test]
    fn names_of_users() {
        let passwd = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n:x:5:5::/:\n";
        assert_eq!(name_of(passwd, 1000), Some("ann"));
        assert_eq!(name_of(passwd, 5), None);
        assert_eq!(name_of(passwd, 7), None);
    }
}
