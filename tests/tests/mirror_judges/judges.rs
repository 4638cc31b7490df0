//! Other clients, asked what they find under a name: `crane`, `regctl` and `skopeo`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use oci::{Digest, Reference};
use tokio::process::Command;

use crate::corpus::{PLATFORM, Sample};

/// The programs, and a home of their own.
pub(crate) struct Judges {
    programs: PathBuf,
    home: tempfile::TempDir,
}

impl Judges {
    /// Those of `programs`; skopeo is the machine's.
    ///
    /// # Errors
    /// No directory can be made.
    pub(crate) fn new(programs: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            programs: programs.to_owned(),
            home: tempfile::tempdir()?,
        })
    }

    async fn ask(&self, program: &str, arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
        let own = self.programs.join(program);
        let program = if own.exists() { own } else { program.into() };
        let output = Command::new(&program)
            .args(arguments)
            .env("HOME", self.home.path())
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("{}: run `make judges`", program.display()))?;
        anyhow::ensure!(
            output.status.success(),
            "{} {arguments:?}: {}",
            program.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(output.stdout)
    }

    async fn digest(&self, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let said = self.ask(program, arguments).await?;
        Ok(String::from_utf8(said)?.trim().to_owned())
    }

    /// Asks all of them whether `name` is `sample`, by tag and by content.
    ///
    /// # Errors
    /// One of them says otherwise.
    pub(crate) async fn judge(&self, sample: &Sample, name: &Reference) -> anyhow::Result<()> {
        let (image, expected) = (name.to_string(), sample.root.digest.as_str());
        let skopeo = format!("docker://{image}");
        let same = |who: &str, said: &str| {
            anyhow::ensure!(
                said == expected,
                "{image}: {who} says {said}, not {expected}"
            );
            Ok(())
        };
        same("crane", &self.digest("crane", &["digest", &image]).await?)?;
        let regctl = [
            "--host",
            &format!("reg={},tls=disabled", name.repository().host()),
        ];
        let asked = [&regctl[..], &["image", "digest", &image]].concat();
        same("regctl", &self.digest("regctl", &asked).await?)?;
        let plain = ["inspect", "--tls-verify=false"];
        let raw = self
            .ask("skopeo", &[&plain[..], &["--raw", &skopeo]].concat())
            .await?;
        same("skopeo inspect --raw", Digest::of(&raw).as_str())?;
        if !sample.is_image {
            return Ok(());
        }
        let (os, architecture) = PLATFORM
            .split_once('/')
            .context("a platform has two parts")?;
        let platform = ["--override-os", os, "--override-arch", architecture];
        let format = ["--format", "{{.Digest}}", &skopeo];
        let said = self
            .digest("skopeo", &[&platform[..], &plain, &format].concat())
            .await?;
        same("skopeo inspect", &said)?;
        if sample.is_validated {
            self.ask("crane", &["validate", "--remote", &image]).await?;
        }
        Ok(())
    }
}
