//! Cache keys: what a step does, on what, with which inputs, as one digest. Pure.
//!
//! Keys are made of content, never of times or names of places: two machines with the same files get the same keys.
//! Every part is written with its name and length, so that no two different lists of parts give the same bytes. Left out
//! on purpose: proxies, progress texts, line numbers, modification times.

use oci::{ChainId, Digest, Digester, Platform};
use serde::{Deserialize, Serialize};

use crate::cause::Trail;
use crate::graph::{CopyAction, RunAction, WorkdirAction};

/// Changes whenever the same key would stand for other content than before.
const GENERATION: &str = "coopery/1";

/// Identifies what a step leaves, before the step is executed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CacheKey(Digest);

impl CacheKey {
    /// Hexadecimal digits, safe as a file name.
    pub fn hex(&self) -> &str {
        self.0.hex()
    }

    /// The key of no files at all.
    pub fn scratch() -> Self {
        Frame::new("scratch").finish()
    }

    /// The key of an image's files: that of its layers, whatever the image is called and wherever it comes from.
    pub fn base(layers: Option<&ChainId>) -> Self {
        match layers {
            None => Self::scratch(),
            Some(chain) => Frame::new("base").field("chain", chain.0.as_str()).finish(),
        }
    }

    /// The key of a RUN on top of `below`, and what it is made of.
    pub fn run(
        below: &Self,
        run: &RunAction,
        platform: &Platform,
        hostname: &str,
    ) -> (Self, Trail) {
        let mut frame = Frame::on("run", below);
        frame = frame.list("args", &run.args).variables(&run.env);
        frame = frame.field("cwd", &run.cwd).field("user", &run.user);
        frame = frame
            .field("platform", &platform.to_string())
            .field("hostname", hostname);
        frame = frame.field("network", if run.network { "default" } else { "none" });
        if let Some((name, content)) = &run.script {
            frame = frame.field("script", name).field("script", content);
        }
        frame.finish_with_trail()
    }

    /// The key of a WORKDIR. `epoch` is SOURCE_DATE_EPOCH, which new directories are dated with.
    pub fn workdir(below: &Self, workdir: &WorkdirAction, epoch: Option<i64>) -> (Self, Trail) {
        Frame::on("workdir", below)
            .field("path", &workdir.path)
            .field("user", &workdir.user)
            .list("epoch", epoch.map(|epoch| epoch.to_string()).as_slice())
            .finish_with_trail()
    }

    /// The key of a COPY or ADD by what is copied: `content` is the digest of the files that its sources select.
    pub fn copy(
        below: &Self,
        copy: &CopyAction,
        content: &Digest,
        epoch: Option<i64>,
    ) -> (Self, Trail) {
        Self::copy_frame("copy", below, copy, epoch)
            .field("content", content.as_str())
            .finish_with_trail()
    }

    /// The key of a `COPY --from` by where it copies from: known before those files are. A hit spares looking at them.
    pub fn copy_from(below: &Self, copy: &CopyAction, source: &Self, epoch: Option<i64>) -> Self {
        Self::copy_frame("copy-from", below, copy, epoch)
            .list("sources", &copy.sources)
            .field("source", source.0.as_str())
            .finish()
    }

    /// The key of files that a layer with the key `layer`, which depends on nothing below it, makes on top of `below`.
    pub fn stacked(below: &Self, layer: &Self) -> Self {
        Frame::on("stacked", below)
            .field("layer", layer.0.as_str())
            .finish()
    }

    /// The key of something that is made of a layer, as `how` says. `layer` tells apart the layers that a step left each time
    /// that it was executed.
    pub fn made_of(key: &Self, layer: &str, how: &str) -> Self {
        Frame::on("made-of", key)
            .field("layer", layer)
            .field("how", how)
            .finish()
    }

    fn copy_frame(kind: &str, below: &Self, copy: &CopyAction, epoch: Option<i64>) -> Frame {
        let mut frame = Frame::on(kind, below)
            .field("add", if copy.add { "1" } else { "0" })
            .field("destination", &copy.destination)
            .list("chown", copy.chown.as_slice())
            .list("chmod", copy.chmod.as_slice())
            .list("flags", &flags(copy))
            .list("exclude", &copy.exclude)
            .list("epoch", epoch.map(|epoch| epoch.to_string()).as_slice());
        for (name, content) in &copy.documents {
            frame = frame.field("document", name).field("content", content);
        }
        frame
    }
}

/// The switches of a copy that change what it makes of the same files.
fn flags(copy: &CopyAction) -> Vec<String> {
    let unpack = copy.unpack.map(|unpack| format!("unpack={unpack}"));
    let switches = [("link", copy.link), ("parents", copy.parents)];
    let set = switches.into_iter().filter(|(_, set)| *set);
    set.map(|(name, _)| name.to_owned()).chain(unpack).collect()
}

/// Parts of a key, each behind its name and length.
struct Frame {
    digester: Digester,
    trail: Trail,
}

impl Frame {
    fn new(kind: &str) -> Self {
        let empty = Self {
            digester: Digester::sha256(),
            trail: Trail::default(),
        };
        empty.field("generation", GENERATION).field("kind", kind)
    }

    fn on(kind: &str, below: &CacheKey) -> Self {
        Self::new(kind).field("below", below.0.as_str())
    }

    fn field(mut self, name: &str, value: &str) -> Self {
        self.trail.note(name, value);
        self.write(name, value)
    }

    fn list(mut self, name: &str, values: &[String]) -> Self {
        for value in values {
            self.trail.note(name, value);
        }
        self.items(name, values)
    }

    /// The environment, `NAME=value`.
    fn variables(mut self, variables: &[String]) -> Self {
        for variable in variables {
            self.trail.note_variable(variable);
        }
        self.items("env", variables)
    }

    fn items(self, name: &str, values: &[String]) -> Self {
        let start = self.write(name, &values.len().to_string());
        values
            .iter()
            .fold(start, |frame, value| frame.write("item", value))
    }

    fn write(mut self, name: &str, value: &str) -> Self {
        for part in [name, value] {
            self.digester.update(&(part.len() as u64).to_le_bytes());
            self.digester.update(part.as_bytes());
        }
        self
    }

    fn finish(self) -> CacheKey {
        CacheKey(self.digester.finish())
    }

    fn finish_with_trail(self) -> (CacheKey, Trail) {
        (CacheKey(self.digester.finish()), self.trail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> RunAction {
        RunAction {
            args: vec!["/bin/sh".into(), "-c".into(), "make".into()],
            env: vec!["A=1".into(), "B=2".into()],
            cwd: "/".into(),
            user: String::new(),
            script: None,
            network: true,
        }
    }

    fn copy() -> CopyAction {
        CopyAction {
            add: false,
            from: None,
            sources: vec!["a".into()],
            documents: vec![],
            destination: "/a".into(),
            chown: None,
            chmod: None,
            checksum: None,
            link: false,
            parents: false,
            exclude: Vec::new(),
            unpack: None,
        }
    }

    #[test]
    fn every_part_counts_and_none_runs_into_the_next() {
        let below = CacheKey::scratch();
        let platform = "linux/amd64".parse().unwrap();
        let key = |change: &dyn Fn(&mut RunAction)| {
            let mut action = run();
            change(&mut action);
            CacheKey::run(&below, &action, &platform, "h").0
        };
        let keys = [
            key(&|_| {}),
            key(&|r| r.args = vec!["/bin/sh".into(), "-cmake".into()]),
            key(&|r| r.args.push("A=1".into())),
            key(&|r| r.env = vec!["A=1B=2".into()]),
            key(&|r| {
                r.env.remove(0);
            }),
            key(&|r| r.user = "/".into()),
            key(&|r| r.cwd = "/x".into()),
            key(&|r| r.network = false),
            key(&|r| r.script = Some(("a".into(), "b".into()))),
            key(&|r| r.script = Some(("ab".into(), String::new()))),
            CacheKey::run(
                &CacheKey::base(None),
                &run(),
                &"linux/arm64".parse().unwrap(),
                "h",
            )
            .0,
            CacheKey::run(&below, &run(), &platform, "other").0,
        ];
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
        assert_eq!(key(&|_| {}), keys[0]);
    }

    #[test]
    fn copies_are_keyed_by_content_and_not_by_the_names_of_their_sources() {
        let below = CacheKey::scratch();
        let content = Digest::of(b"content");
        let renamed = CopyAction {
            sources: vec!["b".into()],
            ..copy()
        };
        let other = CopyAction {
            chown: Some("1".into()),
            ..copy()
        };
        let key = |action: &CopyAction| CacheKey::copy(&below, action, &content, None).0;
        assert_eq!(key(&copy()), key(&renamed));
        assert_ne!(key(&copy()), key(&other));
        assert_ne!(
            key(&copy()),
            CacheKey::copy(&below, &copy(), &content, Some(0)).0
        );
        let from = |action: &CopyAction| CacheKey::copy_from(&below, action, &below, None);
        assert_ne!(from(&copy()), from(&renamed));
        assert_ne!(from(&copy()), key(&copy()));
    }

    #[test]
    fn a_base_is_known_by_its_layers() {
        let chain = ChainId(Digest::of(b"layers"));
        assert_eq!(CacheKey::base(None), CacheKey::scratch());
        assert_ne!(CacheKey::base(Some(&chain)), CacheKey::scratch());
    }
}
