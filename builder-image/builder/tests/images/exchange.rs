//! Archives and the layout itself, exchanged with skopeo and crane both ways.

use std::path::Path;

use crate::machine::{Machine, docker_archive, run, tool};

fn machine() -> Machine {
    let machine = Machine::new();
    let archive = docker_archive(&[(&["acme/app:1"], &["base", "one"])]);
    assert!(machine.coopery_with(&["load"], &archive).status.success());
    machine
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn skopeo_reads_the_layout_and_our_archives() {
    let Some(skopeo) = tool("skopeo") else { return };
    let machine = machine();
    let layout = format!("oci:{}:acme/app:1", shown(&machine.images()));
    let id = machine.id("acme/app:1");
    let raw = |from: &str| {
        let config = run(&skopeo, &["inspect", "--config", "--raw", from]);
        oci::Digest::of(config.as_bytes()).to_string()
    };
    assert_eq!(raw(&layout), id);
    machine.coopery(&["save", "-o", "docker.tar", "acme/app:1"]);
    machine.coopery(&[
        "save",
        "--format",
        "oci-archive",
        "-o",
        "oci.tar",
        "acme/app:1",
    ]);
    for from in [
        format!(
            "docker-archive:{}:acme/app:1",
            shown(&machine.work("docker.tar"))
        ),
        format!("oci-archive:{}:1", shown(&machine.work("oci.tar"))),
    ] {
        assert_eq!(raw(&from), id, "{from}");
        let copy = format!("dir:{}", shown(&machine.work("copy")));
        run(&skopeo, &["--insecure-policy", "copy", "-q", &from, &copy]);
        fs_err::remove_dir_all(machine.work("copy")).unwrap();
    }
}

#[test]
fn we_read_what_skopeo_writes() {
    let Some(skopeo) = tool("skopeo") else { return };
    let machine = machine();
    let layout = format!("oci:{}:acme/app:1", shown(&machine.images()));
    let copy = |to: &str| run(&skopeo, &["--insecure-policy", "copy", "-q", &layout, to]);
    let id = machine.id("acme/app:1");
    copy(&format!(
        "docker-archive:{}:acme/app:2",
        shown(&machine.work("docker.tar"))
    ));
    copy(&format!(
        "oci-archive:{}:acme/app:3",
        shown(&machine.work("oci.tar"))
    ));
    for (file, name) in [("docker.tar", "acme/app:2"), ("oci.tar", "acme/app:3")] {
        let other = Machine::new();
        let path = shown(&machine.work(file));
        let loaded = other.coopery(&["load", "-q", "-i", &path]);
        assert_eq!(loaded, format!("Loaded image: {name}\n"));
        assert_eq!(other.id(name), id, "{file}");
        assert_eq!(other.coopery(&["rm", name]).lines().count(), 4);
    }
    // What skopeo puts into the layout itself is an image of this machine.
    copy(&format!("oci:{}:acme/app:4", shown(&machine.images())));
    assert_eq!(machine.id("acme/app:4"), id);
}

#[test]
fn crane_pushes_our_archives() {
    let Some(crane) = tool("crane") else { return };
    let machine = machine();
    machine.coopery(&["save", "-o", "docker.tar", "acme/app:1"]);
    let config = run(&crane, &["config", "--help"]);
    assert!(config.contains("config"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let registry = runtime.block_on(distribution::memory::MemoryRegistry::start());
    let name = format!("{}/acme/app:1", registry.address());
    let path = shown(&machine.work("docker.tar"));
    run(&crane, &["push", "--insecure", &path, &name]);
    let config = run(&crane, &["config", "--insecure", &name]);
    assert_eq!(
        oci::Digest::of(config.trim_end().as_bytes()).to_string(),
        machine.id("acme/app:1")
    );
    let pulled = shown(&machine.work("pulled.tar"));
    run(&crane, &["pull", "--insecure", &name, &pulled]);
    let other = Machine::new();
    other.coopery(&["load", "-q", "-i", &pulled]);
    assert_eq!(other.id(&name), machine.id("acme/app:1"));
}
