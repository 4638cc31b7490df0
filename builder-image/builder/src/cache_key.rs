//! Cache keys: what a step does, on what, with which inputs, as one digest. Pure.
//!
//! Keys are made of content, never of times or names of places: two machines with the same files get the same keys.
//! Every part is written with its name and length, so that no two different lists of parts give the same bytes. Left out
//! on purpose: proxies, progress texts, line numbers, modification times.

use oci::{ChainId, Digest, Digester, Platform};
use serde::{Deserialize, Serialize};

use crate::cause::Trail;
use crate::graph::{
    CopyAction, FileOwner, RunAction, RunMount, RunMountKind, Surroundings, WorkdirAction,
};

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

    /// The key of what is behind a URL, as one shows it that knows the caller by `who`.
    pub fn download(url: &str, who: Option<&str>) -> Self {
        Frame::new("download")
            .field("url", url)
            .list("who", who.map(str::to_owned).as_slice())
            .finish()
    }

    /// The key of an image's files: that of its layers, whatever the image is called and wherever it comes from.
    pub fn base(layers: Option<&ChainId>) -> Self {
        match layers {
            None => Self::scratch(),
            Some(chain) => Frame::new("base").field("chain", chain.0.as_str()).finish(),
        }
    }

    /// The key of a RUN on top of `below`, and what it is made of. `mounted` is what its mounts show, in their order. What secrets hold, how
    /// caches are called and shared, addresses of hosts and limits are left out.
    pub fn run(
        below: &Self,
        run: &RunAction,
        platform: &Platform,
        around: &Surroundings,
        mounted: &[Mounted],
    ) -> (Self, Trail) {
        let mut frame = Frame::on("run", below);
        frame = frame.list("args", &run.args).variables(&run.env);
        frame = frame.field("cwd", &run.cwd).field("user", &run.user);
        frame = frame
            .field("platform", &platform.to_string())
            .field("hostname", &around.hostname);
        frame = frame.field("network", if run.network { "default" } else { "none" });
        if let Some((name, content)) = &run.script {
            frame = frame.field("script", name).field("script", content);
        }
        for (name, _) in &around.hosts {
            frame = frame.field("host", name);
        }
        for mount in &run.mounts {
            frame = frame.list("mount", &parts(mount));
        }
        let content = if mounted.len() == 1 {
            "content"
        } else {
            "mounted"
        };
        for mounted in mounted {
            frame = match mounted {
                Mounted::Content(digest) => frame.field(content, digest.as_str()),
                Mounted::Source(key) => frame.field("source", key.0.as_str()),
            };
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

/// What a mount is, but not what it shows.
fn parts(mount: &RunMount) -> Vec<String> {
    let flag = |name: &str, value: bool| format!("{name}={value}");
    let owner = |owner: &FileOwner| format!("{:o} {} {}", owner.mode, owner.uid, owner.gid);
    let mut parts = vec![
        mount.target.clone().unwrap_or_default(),
        flag("read-only", mount.read_only),
    ];
    parts.extend(match &mount.kind {
        RunMountKind::Bind(_) => vec!["bind".into()],
        RunMountKind::Cache(cache) => vec![
            "cache".into(),
            cache.path.clone(),
            cache.owner.as_ref().map(owner).unwrap_or_default(),
        ],
        RunMountKind::Tmpfs { size } => vec!["tmpfs".into(), format!("{size:?}")],
        RunMountKind::Secret(secret) => vec![
            "secret".into(),
            secret.id.clone(),
            format!("{:?}", secret.env),
            flag("required", secret.required),
            owner(&secret.owner),
        ],
        RunMountKind::Ssh(ssh) => vec![
            "ssh".into(),
            ssh.id.clone(),
            flag("required", ssh.required),
            owner(&ssh.owner),
        ],
    });
    parts
}

/// What is known of the files that a mount shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mounted {
    /// The digest of what is there.
    Content(Digest),
    /// Where they come from: known before they are there.
    Source(CacheKey),
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
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn run() -> RunAction {
        RunAction {
            args: vec!["/bin/sh".into(), "-c".into(), "make".into()],
            env: vec!["A=1".into(), "B=2".into()],
            cwd: "/".into(),
            user: String::new(),
            script: None,
            network: true,
            mounts: Vec::new(),
        }
    }

    fn copy() -> CopyAction {
        CopyAction {
            add: false,
            from: crate::graph::Input::Context(crate::graph::ContextId::Build),
            git_dir: crate::graph::GitDir::Removed,
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

    fn around(hostname: &str) -> Surroundings {
        Surroundings {
            hostname: hostname.into(),
            ..Surroundings::default()
        }
    }

    #[test]
    fn mounts_count_but_not_what_is_secret_or_kept() {
        let key = |text: &str, hosts: &[(&str, [u8; 4])]| {
            let text = format!("FROM scratch\nRUN {text} make\n");
            let (file, _) = dockerfile::parse("Dockerfile", &text)
                .into_result()
                .unwrap();
            let host = |(name, address): &(&str, [u8; 4])| ((*name).to_owned(), (*address).into());
            let options = crate::graph::Options {
                target: None,
                build_args: BTreeMap::new(),
                labels: BTreeMap::new(),
                platform: "linux/amd64".parse().unwrap(),
                build_platform: "linux/amd64".parse().unwrap(),
                contexts: std::collections::BTreeMap::new(),
                surroundings: Surroundings {
                    hosts: hosts.iter().map(host).collect(),
                    shm_size: (!hosts.is_empty()).then_some(1),
                    ..Surroundings::default()
                },
            };
            let plan = crate::graph::plan(&file, &options).unwrap();
            let graph = crate::graph::build(&plan, &[]).unwrap();
            let crate::graph::Action::Run(run) = &graph.steps[0].action else {
                panic!("a RUN")
            };
            let around = &graph.surroundings;
            CacheKey::run(&CacheKey::scratch(), run, &options.platform, around, &[]).0
        };
        let plain = |text: &str| key(text, &[]);
        for (one, other) in [
            (
                "--mount=type=cache,target=/c",
                "--mount=type=cache,target=/c,id=x,sharing=locked",
            ),
            (
                "--mount=type=cache,target=/c",
                "--mount=target=/c,type=cache",
            ),
            ("--network=default", ""),
            ("--security=sandbox", ""),
        ] {
            assert_eq!(plain(one), plain(other), "{one} {other}");
        }
        let distinct = [
            "",
            "--network=none",
            "--mount=target=/c",
            "--mount=target=/d",
            "--mount=target=/c,rw",
            "--mount=type=cache,target=/c",
            "--mount=type=cache,target=/c,ro",
            "--mount=type=cache,target=/c,uid=1",
            "--mount=type=cache,target=/c,mode=0700",
            "--mount=type=tmpfs,target=/c",
            "--mount=type=tmpfs,target=/c,size=1m",
            "--mount=type=secret,id=a",
            "--mount=type=secret,id=b",
            "--mount=type=secret,id=a,required",
            "--mount=type=secret,id=a,env=A",
            "--mount=type=secret,id=a,mode=0444",
            "--mount=type=ssh",
            "--mount=type=ssh,id=a",
        ];
        let keys: BTreeSet<_> = distinct.iter().map(|text| plain(text)).collect();
        assert_eq!(keys.len(), distinct.len());
        // Names of hosts count, their addresses do not.
        let host = |name, last| key("", &[(name, [10, 0, 0, last])]);
        assert_eq!(host("a", 1), host("a", 2));
        assert_ne!(host("a", 1), host("b", 1));
        assert_ne!(host("a", 1), plain(""));
    }

    #[test]
    fn every_part_counts_and_none_runs_into_the_next() {
        let below = CacheKey::scratch();
        let platform = "linux/amd64".parse().unwrap();
        let content = Mounted::Content(Digest::of(b"c"));
        let source = Mounted::Source(below.clone());
        let key = |change: &dyn Fn(&mut RunAction)| {
            let mut action = run();
            change(&mut action);
            CacheKey::run(&below, &action, &platform, &around("h"), &[]).0
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
                &around("h"),
                &[],
            )
            .0,
            CacheKey::run(&below, &run(), &platform, &around("other"), &[]).0,
            CacheKey::run(&below, &run(), &platform, &around("h"), &[content]).0,
            CacheKey::run(&below, &run(), &platform, &around("h"), &[source]).0,
        ];
        let distinct: BTreeSet<_> = keys.iter().collect();
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
