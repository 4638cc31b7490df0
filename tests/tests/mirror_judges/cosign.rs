//! Signatures, judged by cosign: what it signs is verified here, what is signed here it verifies, in both forms, with keys of
//! either and of several kinds; and what a mirror with `verify` has copied, it verifies at the target.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use distribution::copy::{Copier, CopyOptions, Job};
use distribution::{Client, Guard, memory::MemoryRegistry};
use oci::{Descriptor, Manifest, MediaType, Reference, Repository};
use signature::{Form, NamedKey, PrivateKey, PublicKey, Verifier};
use tests::cluster::Options;
use tests::plain_registry::PlainRegistry;

const PASSPHRASE: &str = "a passphrase";
const AT: &str = "2026-11-22T00:00:00Z";
/// Neither a log nor a service of the network: what remains is the key.
const OFFLINE: [&str; 2] = ["--tlog-upload=false", "--use-signing-config=false"];

/// The program, with a home of its own.
struct Cosign {
    program: PathBuf,
    home: tempfile::TempDir,
}

impl Cosign {
    fn new(programs: &Path) -> anyhow::Result<Self> {
        let program = programs.join("cosign");
        anyhow::ensure!(program.exists(), "cosign is not built: run `make judges`");
        let home = tempfile::tempdir()?;
        Ok(Self { program, home })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Runs it; what it says where it fails.
    async fn run(&self, arguments: &[&str]) -> anyhow::Result<Result<(), String>> {
        let output = tokio::process::Command::new(&self.program)
            .args(arguments)
            .current_dir(self.home.path())
            .env("HOME", self.home.path())
            .env("COSIGN_PASSWORD", PASSPHRASE)
            .output()
            .await?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(if output.status.success() {
            Ok(())
        } else {
            Err(text)
        })
    }

    async fn sign(&self, key: &str, image: &Reference, form: Form) -> anyhow::Result<()> {
        let image = image.to_string();
        let mut arguments = vec!["sign", "--yes", "--key", key];
        arguments.extend(OFFLINE);
        if form == Form::Tag {
            arguments.push("--new-bundle-format=false");
        }
        arguments.push(&image);
        let signed = self.run(&arguments).await?;
        signed.map_err(|text| anyhow::anyhow!("cosign sign {image}: {text}"))
    }

    async fn verify(&self, key: &str, image: &Reference) -> anyhow::Result<Result<(), String>> {
        let image = image.to_string();
        let offline = "--insecure-ignore-tlog=true";
        self.run(&["verify", "--key", key, offline, &image]).await
    }

    /// Pairs of keys by name: two that cosign made, one that is ours, and two that it imported.
    async fn keys(&self) -> anyhow::Result<Vec<&'static str>> {
        for name in ["cosign", "stranger"] {
            let prefix = format!("--output-key-prefix={name}");
            let made = self.run(&["generate-key-pair", &prefix]).await?;
            made.map_err(|text| anyhow::anyhow!("generate-key-pair: {text}"))?;
        }
        let ours = PrivateKey::generate()?;
        fs_err::write(self.path("ours.key"), ours.to_pem(PASSPHRASE.as_bytes())?)?;
        fs_err::write(self.path("ours.pub"), ours.public().to_pem())?;
        for (name, kind) in [("p384", "EC"), ("rsa", "RSA")] {
            let option = match kind {
                "EC" => "ec_paramgen_curve:P-384",
                _ => "rsa_keygen_bits:3072",
            };
            let plain = self.path(&format!("{name}.pem"));
            let made = Command::new("openssl")
                .args(["genpkey", "-algorithm", kind, "-pkeyopt", option, "-out"])
                .arg(&plain)
                .output()
                .context("openssl")?;
            anyhow::ensure!(made.status.success(), "openssl genpkey {kind}");
            let plain = plain.to_string_lossy().into_owned();
            let prefix = format!("--output-key-prefix={name}");
            let imported = self
                .run(&["import-key-pair", "--key", &plain, &prefix])
                .await?;
            imported.map_err(|text| anyhow::anyhow!("import-key-pair: {text}"))?;
        }
        Ok(vec!["cosign", "ours", "p384", "rsa"])
    }

    fn private(&self, name: &str) -> anyhow::Result<PrivateKey> {
        let text = fs_err::read_to_string(self.path(&format!("{name}.key")))?;
        PrivateKey::from_pem(&text, PASSPHRASE.as_bytes()).context(name.to_owned())
    }

    fn verifier(&self, name: &str) -> anyhow::Result<Verifier> {
        let text = fs_err::read_to_string(self.path(&format!("{name}.pub")))?;
        let key = PublicKey::from_pem(&text).context(name.to_owned())?;
        let name = name.to_owned();
        Ok(Verifier::new(vec![NamedKey { name, key }]))
    }
}

/// An image that nobody else has.
async fn push(
    client: &Client,
    repository: &Repository,
    name: &str,
) -> anyhow::Result<(Reference, Descriptor)> {
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"User":"{name}"}},"rootfs":{{"type":"layers","diff_ids":[]}}}}"#
    );
    let config = client
        .upload_bytes(repository, MediaType::OciConfig, config.into())
        .await?;
    let json = serde_json::to_vec(&Manifest::new(config, Vec::new()))?;
    let image = Descriptor::of(MediaType::OciManifest, &json);
    let tag = repository.tagged(name.parse()?);
    client
        .put_manifest(&tag, &MediaType::OciManifest, json.into())
        .await?;
    Ok((tag.pinned(image.digest.clone()), image))
}

#[tokio::test]
async fn cosign_and_we_verify_each_others_signatures() -> anyhow::Result<()> {
    let programs = Options::new("judges").cache.join("bin");
    let cosign = Cosign::new(&programs)?;
    let names = cosign.keys().await?;
    let client = Client::builder().guard(Guard::Open).build()?;
    let (with_api, without_api) = (
        MemoryRegistry::start().await,
        PlainRegistry::start(&programs)?,
    );
    with_api.serve_referrers();
    let hosts = [with_api.host().to_string(), without_api.host().to_owned()];
    let mut judged = 0;
    for (number, host) in hosts.iter().enumerate() {
        let repository: Repository = format!("{host}/team/app").parse()?;
        // Those of the other registry, as a mirror copies them.
        let target: Repository = format!("{}/mirror/app", hosts[1 - number]).parse()?;
        for (key, form) in names
            .iter()
            .flat_map(|key| [(*key, Form::Bundle), (*key, Form::Tag)])
        {
            let (file, public) = (format!("{key}.key"), format!("{key}.pub"));
            let what = || format!("{key} {form:?} in registry {number}");
            let kind = if form == Form::Bundle {
                "bundle"
            } else {
                "tag"
            };

            let (theirs, image) =
                push(&client, &repository, &format!("theirs-{key}-{kind}")).await?;
            let by_name = repository.at(image.digest.clone());
            cosign
                .sign(&file, &by_name, form)
                .await
                .with_context(what)?;
            let verified = cosign
                .verifier(key)?
                .verify(&client, &repository, &image.digest)
                .await;
            anyhow::ensure!(verified.with_context(what)?.form == form, "{}", what());
            let stranger = cosign.verifier("stranger")?;
            let refused = stranger.verify(&client, &repository, &image.digest).await;
            anyhow::ensure!(refused.is_err(), "a stranger's key verifies {}", what());

            let (_, ours) = push(&client, &repository, &format!("ours-{key}-{kind}")).await?;
            let by_name = repository.at(ours.digest.clone());
            let before = cosign.verify(&public, &by_name).await?;
            anyhow::ensure!(before.is_err(), "cosign verifies what is not signed");
            let private = cosign.private(key)?;
            signature::sign(&client, &repository, &ours, &private, form, AT)
                .await
                .with_context(what)?;
            // cosign 3.1.3 signs with P-384 and SHA-384, and verifies with SHA-256: not even what it signed itself.
            let judges = key != "p384";
            let verified = cosign.verify(&public, &by_name).await?;
            anyhow::ensure!(
                verified.is_ok() == judges,
                "cosign of ours, {}: {verified:?}",
                what()
            );
            let refused = cosign.verify("stranger.pub", &by_name).await?;
            anyhow::ensure!(refused.is_err(), "cosign with another key, {}", what());

            let to = target.tagged(format!("theirs-{key}-{kind}").parse()?);
            let options = CopyOptions {
                referrers: true,
                ..CopyOptions::default()
            };
            let copier = Copier::new(client.clone(), client.clone(), options)
                .with_gate(cosign.verifier(key)?);
            let copied = copier
                .copy(&Job::new(theirs, &to))
                .await
                .with_context(what)?;
            let verified = cosign
                .verify(&public, &target.at(copied.root.digest))
                .await?;
            anyhow::ensure!(
                verified.is_ok() == judges,
                "cosign of the mirror, {}: {verified:?}",
                what()
            );
            let trusted = cosign.verifier(key)?;
            let verified = trusted.verify(&client, &target, &image.digest).await;
            verified.with_context(what)?;
            judged += if judges { 3 } else { 1 };
        }
    }
    println!("{judged} signatures were judged by cosign");
    Ok(())
}
