//! Who mirrors, and by which command: our worker as it runs in a pod, and its peers at their documented defaults.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use tests::stage::release_binary;

/// Who mirrors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    /// `coopery pod` with the request of a mirror: nobody has looked at either side before.
    Coopery,
    /// `crane copy --all-tags`, once for each repository.
    Crane,
    /// `regsync once`.
    Regsync,
    /// The same, with eight images and sixteen requests at a time.
    RegsyncTuned,
    /// `skopeo sync`.
    Skopeo,
}

impl Tool {
    pub(crate) const ALL: [Self; 5] = [
        Self::Coopery,
        Self::Crane,
        Self::Regsync,
        Self::RegsyncTuned,
        Self::Skopeo,
    ];

    /// How the table names it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Coopery => "coopery",
            Self::Crane => "crane",
            Self::Regsync => "regsync",
            Self::RegsyncTuned => "regsync, tuned",
            Self::Skopeo => "skopeo sync",
        }
    }

    /// The names of its processes, for their memory.
    pub(crate) const fn processes(self) -> &'static [&'static str] {
        match self {
            Self::Coopery => &["coopery"],
            Self::Crane => &["crane"],
            Self::Regsync | Self::RegsyncTuned => &["regsync"],
            Self::Skopeo => &["skopeo"],
        }
    }

    /// The command that mirrors all `tags` (repository and tags) of the registry `from` to `to`; its files are in `directory`.
    pub(crate) fn command(
        self,
        programs: &Path,
        directory: &Path,
        (from, to): (&str, &str),
        tags: &[(String, Vec<String>)],
    ) -> anyhow::Result<Command> {
        let file = directory.join("mirror");
        match self {
            Self::Coopery => {
                let images = tags.iter().flat_map(|(repository, tags)| {
                    tags.iter().map(move |tag| {
                        json!({"source": format!("{from}/{repository}:{tag}"),
                            "destination": format!("{to}/mirror/{repository}:{tag}")})
                    })
                });
                let request = json!({
                    "version": protocol::VERSION,
                    "task": {"mirror": {"images": images.collect::<Vec<_>>(), "ledger": format!("{to}/mirror/coopery-ledger")}},
                    "network": {"allowCidrs": ["127.0.0.0/8"]},
                    "plainHttp": [from, to],
                });
                fs_err::write(&file, request.to_string())?;
                let mut command = Command::new(release_binary("coopery")?);
                command.arg("pod").arg("--request").arg(&file);
                command.arg("--outcome").arg(directory.join("outcome"));
                command.arg("--root").arg(directory.join("root"));
                Ok(command)
            }
            Self::Crane => {
                let mut script = "set -e\n".to_owned();
                for (repository, _) in tags {
                    writeln!(
                        script,
                        "\"$0\" copy --insecure --all-tags {from}/{repository} {to}/mirror/{repository}"
                    )?;
                }
                let mut command = Command::new("sh");
                command.arg("-c").arg(script).arg(programs.join("crane"));
                Ok(command)
            }
            Self::Regsync | Self::RegsyncTuned => {
                let is_tuned = self == Self::RegsyncTuned;
                let host = |name: &str| {
                    let mut host = json!({"registry": name, "tls": "disabled"});
                    if is_tuned {
                        host["reqConcurrent"] = json!(16);
                    }
                    host
                };
                let sync = tags.iter().map(|(repository, _)| {
                    json!({"source": format!("{from}/{repository}"), "type": "repository",
                        "target": format!("{to}/mirror/{repository}")})
                });
                let defaults = if is_tuned {
                    json!({"parallel": 8})
                } else {
                    json!({})
                };
                let config = json!({"version": 1, "creds": [host(from), host(to)], "defaults": defaults,
                    "sync": sync.collect::<Vec<_>>()});
                fs_err::write(&file, config.to_string())?;
                let mut command = Command::new(programs.join("regsync"));
                command.args(["once", "--config"]).arg(&file);
                Ok(command)
            }
            Self::Skopeo => {
                let images: serde_json::Map<_, _> = tags
                    .iter()
                    .map(|(repository, _)| (repository.clone(), json!([])))
                    .collect();
                let config = json!({from: {"tls-verify": false, "images": images}});
                fs_err::write(&file, config.to_string())?;
                let mut command = Command::new("skopeo");
                command.args([
                    "--insecure-policy",
                    "sync",
                    "--all",
                    "--src",
                    "yaml",
                    "--dest",
                    "docker",
                ]);
                command
                    .arg("--dest-tls-verify=false")
                    .arg(&file)
                    .arg(format!("{to}/mirror"));
                Ok(command)
            }
        }
    }
}
