//! Images between registries, layouts and archives (`coopery copy`), and what skopeo and crane make of them.

use distribution::memory::MemoryRegistry;
use tokio::runtime::Runtime;

use crate::machine::{Machine, docker_archive, run, text, tool};

/// A registry of this process with the image `acme/app:1`.
struct Served {
    registry: MemoryRegistry,
    machine: Machine,
    // After the registry, which needs it.
    _runtime: Runtime,
}

impl Served {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        let served = Self {
            registry: runtime.block_on(MemoryRegistry::start()),
            machine: Machine::new(),
            _runtime: runtime,
        };
        let name = served.name("acme/app:1");
        let archive = docker_archive(&[(&[&name], &["base", "one"])]);
        let loaded = served.machine.coopery_with(&["load"], &archive);
        assert!(loaded.status.success(), "{}", text(&loaded.stderr));
        served.machine.coopery(&["push", &name]);
        served
    }

    fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.registry.address())
    }

    fn digest(&self, image: &str) -> String {
        self.machine.coopery(&["digest", &self.name(image)])
    }

    fn copy(&self, from: &str, to: &str) -> String {
        self.machine.coopery(&["copy", from, to])
    }
}

#[test]
fn an_image_comes_back_from_every_archive_as_it_was() {
    let served = Served::new();
    let digest = served.digest("acme/app:1");
    for (number, archive) in [
        "oci:layout:1",
        "oci:layout",
        "oci:nested:team/app:1",
        "oci-archive:app.tar",
        "oci-archive:app.tar:team/app:2",
        "docker-archive:docker.tar:team/app:1",
    ]
    .iter()
    .enumerate()
    {
        assert_eq!(served.copy(&served.name("acme/app:1"), archive), digest);
        let back = served.name(&format!("back{number}:1"));
        assert_eq!(served.copy(archive, &back), digest, "{archive}");
        let requests = served.registry.requests().len();
        assert_eq!(served.copy(archive, &back), digest, "{archive}");
        // Unchanged: the tag is looked at.
        assert!(
            served.registry.requests().len() <= requests + 1,
            "{archive}"
        );
    }
    // From archive to archive; what was in a file stays in it.
    served.copy("oci:layout:1", "oci-archive:app.tar:3");
    let refused = served
        .machine
        .output(&["copy", "oci-archive:app.tar:4", "oci:x"]);
    assert_eq!(refused.status.code(), Some(1));
    let errors = text(&refused.stderr);
    assert!(errors.contains("no image called `4`"), "{errors}");
    assert!(
        errors.contains("3, ") && errors.contains("team/app:2"),
        "{errors}"
    );
}

#[test]
fn what_refers_to_an_image_goes_with_it() {
    let served = Served::new();
    let digest = served.digest("acme/app:1");
    // A signature as cosign keeps it, which is an image of its own.
    let signature = digest.trim().replace(':', "-") + ".sig";
    let name = served.name(&format!("acme/app:{signature}"));
    let archive = docker_archive(&[(&[&name], &["signature"])]);
    served.machine.coopery_with(&["load"], &archive);
    served.machine.coopery(&["push", &name]);
    let from = served.name("acme/app:1");
    for archive in ["oci:layout:1", "oci-archive:app.tar"] {
        let back = served.name(&format!("back/{}", archive.len()));
        for (from, to) in [(from.as_str(), archive), (archive, &format!("{back}:1"))] {
            let copied = served.machine.coopery(&["copy", "--recursive", from, to]);
            assert_eq!(copied, digest, "{from} {to}");
        }
        let copied = served
            .machine
            .coopery(&["digest", &format!("{back}:{signature}")]);
        assert_eq!(copied, served.digest(&format!("acme/app:{signature}")));
    }
}

#[test]
fn only_what_is_new_is_fetched() {
    let served = Served::new();
    served.copy(&served.name("acme/app:1"), "oci:layout:1");
    let name = served.name("acme/app:2");
    let archive = docker_archive(&[(&[&name], &["base", "two"])]);
    served.machine.coopery_with(&["load"], &archive);
    served.machine.coopery(&["push", &name]);
    let before = served.registry.requests().len();
    served.copy(&name, "oci:layout:2");
    let log = served.registry.requests();
    let blobs = log[before..]
        .iter()
        .filter(|request| request.path.contains("/blobs/"));
    // The configuration and the one new layer.
    assert_eq!(blobs.count(), 2);
}

#[test]
fn what_is_no_archive_is_refused() {
    let served = Served::new();
    fs_err::write(served.machine.work("text"), "no archive").unwrap();
    fs_err::create_dir(served.machine.work("empty")).unwrap();
    served.copy(&served.name("acme/app:1"), "oci:broken:1");
    // A layer that is not what its name says, and one that is gone.
    let blobs = served.machine.work("broken/blobs/sha256");
    let largest = fs_err::read_dir(&blobs)
        .unwrap()
        .map(|file| file.unwrap().path());
    let largest = largest
        .max_by_key(|file| fs_err::metadata(file).unwrap().len())
        .unwrap();
    let size = usize::try_from(fs_err::metadata(&largest).unwrap().len()).unwrap();
    fs_err::write(&largest, vec![b'x'; size]).unwrap();
    let to = served.name("to:1");
    for (from, code, expected) in [
        ("oci:absent", 1, "absent"),
        ("oci:empty", 1, "not an OCI image layout"),
        ("oci-archive:text", 1, "text"),
        ("oci:broken:1", 2, "expected sha256:"),
    ] {
        let output = served.machine.output(&["copy", from, &to]);
        let errors = text(&output.stderr);
        assert!(errors.contains(expected), "{from}: {errors}");
        assert_eq!(output.status.code(), Some(code), "{from}: {errors}");
    }
    let absent = served.machine.output(&["digest", &to]);
    assert!(!absent.status.success(), "a broken image was published");
}

#[test]
fn skopeo_and_crane_read_what_was_copied() {
    let Some(skopeo) = tool("skopeo") else { return };
    let served = Served::new();
    let digest = served.digest("acme/app:1");
    let digest = digest.trim();
    for archive in [
        "oci:layout:1",
        "oci:layout:team/app:1",
        "oci-archive:app.tar:team/app:1",
    ] {
        served.copy(&served.name("acme/app:1"), archive);
        let (transport, rest) = archive.split_once(':').unwrap();
        let there = format!("{transport}:{}", served.machine.work(rest).display());
        let found = run(&skopeo, &["inspect", "--format", "{{.Digest}}", &there]);
        assert_eq!(found.trim(), digest, "{archive}");
        let back = format!("docker://{}", served.name("skopeo:1"));
        let insecure = "--dest-tls-verify=false";
        run(
            &skopeo,
            &[
                "--insecure-policy",
                "copy",
                "-q",
                "--preserve-digests",
                insecure,
                &there,
                &back,
            ],
        );
        assert_eq!(served.digest("skopeo:1").trim(), digest, "{archive}");
    }
    served.copy(
        &served.name("acme/app:1"),
        "docker-archive:d.tar:team/app:1",
    );
    let there = format!("docker-archive:{}", served.machine.work("d.tar").display());
    let layers = run(&skopeo, &["inspect", "--format", "{{len .Layers}}", &there]);
    assert_eq!(layers.trim(), "2");
    if let Some(crane) = tool("crane") {
        served.copy(&served.name("acme/app:1"), "oci:single");
        let layout = served.machine.work("single").display().to_string();
        let to = served.name("crane:1");
        run(&crane, &["push", "--insecure", &layout, &to]);
        assert_eq!(served.digest("crane:1").trim(), digest);
    }
}

#[test]
fn what_skopeo_and_crane_write_is_copied() {
    let Some(skopeo) = tool("skopeo") else { return };
    let served = Served::new();
    let from = format!("docker://{}", served.name("acme/app:1"));
    for archive in [
        "oci:layout:1",
        "oci-archive:oci.tar:1",
        "docker-archive:docker.tar:team/app:1",
    ] {
        let (transport, rest) = archive.split_once(':').unwrap();
        let there = format!("{transport}:{}", served.machine.work(rest).display());
        let insecure = "--src-tls-verify=false";
        let mut args = vec!["--insecure-policy", "copy", "-q", insecure];
        // docker-archive has uncompressed layers and another manifest.
        if transport != "docker-archive" {
            args.push("--preserve-digests");
        }
        run(&skopeo, &[&args[..], &[&from, &there]].concat());
        let copied = served.copy(archive, &served.name("back:1"));
        assert_eq!(copied, served.digest("acme/app:1"), "{archive}");
    }
    if let Some(crane) = tool("crane") {
        let to = served.machine.work("crane").display().to_string();
        let name = served.name("acme/app:1");
        run(
            &crane,
            &["pull", "--insecure", "--format", "oci", &name, &to],
        );
        let copied = served.copy("oci:crane", &served.name("crane:1"));
        assert_eq!(copied, served.digest("acme/app:1"));
    }
}
