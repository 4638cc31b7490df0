//! Signing and verifying: keys in files, images in a registry, and what `DOCKER_CONTENT_TRUST` makes of push and pull. That
//! cosign agrees is shown in `tests/tests/mirror_judges/cosign.rs`.

use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use crate::machine::{Machine, text};
use crate::registry::{Served, machine_with};

/// Runs a command that knows a passphrase, with more variables.
fn with(machine: &Machine, variables: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = machine.command(args);
    command.env("COOPERY_PASSWORD", "a passphrase");
    command.envs(variables.iter().copied()).output().unwrap()
}

/// What a command prints that must succeed.
fn good(output: &Output) -> String {
    let errors = text(&output.stderr);
    assert!(output.status.success(), "{errors}");
    text(&output.stdout)
}

/// What a command says that must fail by a mistake of the user's.
fn bad(output: &Output) -> String {
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    errors
}

fn keys(machine: &Machine, name: &str) {
    let made = with(
        machine,
        &[],
        &["generate-key-pair", "--output-key-prefix", name],
    );
    assert_eq!(good(&made), format!("{name}.key\n{name}.pub\n"));
}

#[test]
fn what_is_signed_is_verified_and_nothing_else() {
    let served = Served::open();
    let machine = machine_with(&served, &[("app:1", &["one"]), ("app:2", &["two"])]);
    let (one, two) = (served.name("app:1"), served.name("app:2"));
    for image in [&one, &two] {
        machine.coopery(&["push", "-q", image]);
    }
    keys(&machine, "ours");
    keys(&machine, "stranger");
    let mode = fs_err::metadata(machine.work("ours.key")).unwrap();
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    let private = fs_err::read_to_string(machine.work("ours.key")).unwrap();
    assert!(private.starts_with("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----"));
    // No file is written over.
    let again = with(
        &machine,
        &[],
        &["generate-key-pair", "--output-key-prefix", "ours"],
    );
    assert!(bad(&again).contains("exists"));
    assert_eq!(
        private,
        fs_err::read_to_string(machine.work("ours.key")).unwrap()
    );

    for form in [&[][..], &["--signature-tag"]] {
        let verify = |key: &str, image: &str| with(&machine, &[], &["verify", "--key", key, image]);
        let image = if form.is_empty() { &one } else { &two };
        assert!(bad(&verify("ours.pub", image)).contains("no signature at all"));
        let sign = [&["sign", "--key", "ours.key"], form, &[image]].concat();
        let signed = good(&with(&machine, &[], &sign));
        assert!(signed.contains("@sha256:"), "{signed}");
        let verified: serde_json::Value =
            serde_json::from_str(&good(&verify("ours.pub", image))).unwrap();
        let critical = &verified[0]["critical"];
        let digest = critical["image"]["docker-manifest-digest"]
            .as_str()
            .unwrap();
        assert!(signed.trim().ends_with(digest));
        assert!(bad(&verify("stranger.pub", image)).contains("stranger.pub"));
        // One of several keys will do, and one file is not the other.
        let both = [
            "verify",
            "--key",
            "stranger.pub",
            "--key",
            "ours.pub",
            image,
        ];
        good(&with(&machine, &[], &both));
        assert!(bad(&verify("ours.key", image)).contains("PUBLIC KEY"));
        assert!(bad(&verify("absent.pub", image)).contains("absent.pub"));
    }
    let wrong = with(
        &machine,
        &[("COOPERY_PASSWORD", "x")],
        &["sign", "--key", "ours.key", &one],
    );
    assert!(bad(&wrong).contains("the passphrase is wrong"));
    // Nobody can answer: that is no empty passphrase.
    let mut asking = machine.command(&["sign", "--key", "ours.key", &one]);
    let asking = asking
        .env_remove("COOPERY_PASSWORD")
        .env_remove("COSIGN_PASSWORD");
    assert!(bad(&asking.output().unwrap()).contains("TTY"));
}

#[test]
fn content_trust_signs_what_is_pushed_and_pulls_only_that() {
    let served = Served::open();
    let publisher = machine_with(&served, &[("app:good", &["one"]), ("app:bad", &["two"])]);
    keys(&publisher, "ours");
    let trust = ("DOCKER_CONTENT_TRUST", "1");
    let signing = [trust, ("COOPERY_SIGN_KEY", "ours.key")];
    let (good_name, bad_name) = (served.name("app:good"), served.name("app:bad"));
    let missing = bad(&with(&publisher, &[trust], &["push", &good_name]));
    assert!(missing.contains("COOPERY_SIGN_KEY"), "{missing}");
    assert!(served.registry.tags("app").is_empty());
    let pushed = good(&with(&publisher, &signing, &["push", &good_name]));
    assert!(pushed.contains("Successfully signed"), "{pushed}");
    let plainly = ["push", "--disable-content-trust", &bad_name];
    assert!(!good(&with(&publisher, &signing, &plainly)).contains("signed"));

    let consumer = Machine::new();
    let public = fs_err::read(publisher.work("ours.pub")).unwrap();
    fs_err::write(consumer.work("ours.pub"), public).unwrap();
    let missing = bad(&with(&consumer, &[trust], &["pull", &good_name]));
    assert!(missing.contains("COOPERY_VERIFY_KEY"), "{missing}");
    let verifying = [trust, ("COOPERY_VERIFY_KEY", "ours.pub")];
    let refused = bad(&with(&consumer, &verifying, &["pull", &bad_name]));
    assert!(
        refused.contains("no valid signature by ours.pub"),
        "{refused}"
    );
    assert_eq!(consumer.coopery(&["images", "-q"]), "");
    good(&with(&consumer, &verifying, &["pull", &good_name]));
    good(&with(
        &consumer,
        &verifying,
        &["pull", "--disable-content-trust", &bad_name],
    ));
    assert_eq!(consumer.coopery(&["images", "-q"]).lines().count(), 2);
}
