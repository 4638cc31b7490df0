//! The trails of instructions: what their inputs were the last few times that they were executed, so that a miss can be
//! explained. They are for people only: they are not flushed, and what cannot be read or written does not matter.

use std::io::Write;

use oci::Digest;

use super::Cache;
use crate::cause::Trail;

/// How many trails of one instruction are kept: one for each of the branches or platforms that are built in turn.
const KEPT: usize = 4;

impl Cache {
    /// The trails of `instruction`, the newest first.
    pub fn trails(&self, instruction: &str) -> Vec<Trail> {
        let Ok(json) = fs_err::read(self.trail_path(instruction)) else {
            return Vec::new();
        };
        serde_json::from_slice(&json).unwrap_or_default()
    }

    /// Keeps the trail of an execution of `instruction`.
    pub fn keep_trail(&self, instruction: &str, trail: &Trail) {
        let mut trails = self.trails(instruction);
        trails.retain(|known| known != trail);
        trails.insert(0, trail.clone());
        trails.truncate(KEPT);
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::with_prefix_in("trail-", self.tmp())?;
            file.write_all(&serde_json::to_vec(&trails).map_err(std::io::Error::other)?)?;
            file.persist(self.trail_path(instruction))?;
            Ok(())
        };
        if let Err(error) = write() {
            tracing::debug!(%error, "why steps miss cannot be told next time");
        }
    }

    fn trail_path(&self, instruction: &str) -> std::path::PathBuf {
        let name = Digest::of(instruction.as_bytes());
        self.root.join("trails").join(name.hex())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_trails_of_an_instruction_are_kept() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(root.path()).unwrap();
        let trail = |value: &str| {
            let mut trail = Trail::default();
            trail.note("args", value);
            trail
        };
        assert!(cache.trails("RUN a").is_empty());
        for value in ["1", "2", "3", "2", "4", "5"] {
            cache.keep_trail("RUN a", &trail(value));
        }
        let expected: Vec<_> = ["5", "4", "2", "3"].map(trail).into();
        assert_eq!(cache.trails("RUN a"), expected);
        assert!(cache.trails("RUN b").is_empty());
        fs_err::write(cache.trail_path("RUN a"), "").unwrap();
        assert!(cache.trails("RUN a").is_empty());
    }
}
