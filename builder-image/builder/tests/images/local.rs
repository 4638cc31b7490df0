//! Images of this machine: list, tag, remove, prune, history, inspect, save, load and import.

use crate::machine::{Machine, docker_archive, masked, tar_of, text};

/// A machine with two images of nginx that share a layer.
fn nginx() -> Machine {
    let machine = Machine::new();
    let archive = docker_archive(&[
        (&["nginx:1.20.0"], &["base", "one"]),
        (&["quay.io/bitnami/nginx:latest"], &["base", "two", "three"]),
    ]);
    fs_err::write(machine.work("images.tar"), archive).unwrap();
    machine.coopery(&["load", "-q", "-i", "images.tar"]);
    machine
}

#[test]
fn images_are_listed_removed_saved_and_loaded_as_the_transcripts_show() {
    let machine = nginx();
    let before = machine.id("nginx:1.20.0");
    let short = &before["sha256:".len()..][..7];
    insta::assert_snapshot!(machine.transcript(&[
        "image ls",
        "images bitnami/nginx",
        "images quay.io/bitnami/nginx",
        "image save nginx:1.20.0 -o nginx.image",
        "image rm quay.io/bitnami/nginx",
    ]), @r"
    $ image ls
    REPOSITORY   TAG   IMAGE ID   CREATED   SIZE
    nginx   1.20.0   <id12>   <age>   <size>
    quay.io/bitnami/nginx   latest   <id12>   <age>   <size>
    $ images bitnami/nginx
    REPOSITORY   TAG   IMAGE ID   CREATED   SIZE
    $ images quay.io/bitnami/nginx
    REPOSITORY   TAG   IMAGE ID   CREATED   SIZE
    quay.io/bitnami/nginx   latest   <id12>   <age>   <size>
    $ image save nginx:1.20.0 -o nginx.image
    $ image rm quay.io/bitnami/nginx
    Untagged: quay.io/bitnami/nginx:latest
    Deleted: sha256:<digest>
    Deleted: sha256:<digest>
    Deleted: sha256:<digest>
    ");
    let removed = machine.coopery(&["image", "rm", short]);
    insta::assert_snapshot!(masked(&removed), @r"
    Untagged: nginx:1.20.0
    Deleted: sha256:<digest>
    Deleted: sha256:<digest>
    Deleted: sha256:<digest>
    ");
    insta::assert_snapshot!(machine.transcript(&[
        "image load -i ./nginx.image",
        "image load -i ./nginx.image",
        "images",
    ]), @r"
    $ image load -i ./nginx.image
    <id12>: Loading layer [==================================================>]   <size>/<size>
    <id12>: Loading layer [==================================================>]   <size>/<size>
    Loaded image: nginx:1.20.0
    $ image load -i ./nginx.image
    Loaded image: nginx:1.20.0
    $ images
    REPOSITORY   TAG   IMAGE ID   CREATED   SIZE
    nginx   1.20.0   <id12>   <age>   <size>
    ");
    assert_eq!(machine.id("nginx:1.20.0"), before);
}

#[test]
fn columns_stand_where_docker_puts_them() {
    let machine = nginx();
    let id = machine.id("nginx:1.20.0");
    let listed = machine.coopery(&["images", "nginx"]);
    let lines: Vec<_> = listed.lines().collect();
    assert_eq!(
        lines[0].split("CREATED").next(),
        Some("REPOSITORY   TAG       IMAGE ID       ")
    );
    let begin = format!("nginx        1.20.0    {}   ", &id["sha256:".len()..][..12]);
    assert!(lines[1].starts_with(&begin), "{listed}");
    let quiet = machine.coopery(&["images", "-q", "--no-trunc", "nginx"]);
    assert_eq!(quiet.trim(), id);
    assert_eq!(machine.coopery(&["images", "-q"]).lines().count(), 2);
}

#[test]
fn names_are_given_and_conflicts_refused() {
    let machine = nginx();
    let id = machine.id("nginx:1.20.0");
    let by_id = |force: &str| {
        let line = format!("rmi {force}{}", &id["sha256:".len()..][..12]);
        machine
            .transcript(&[&line])
            .lines()
            .skip(1)
            .collect::<Vec<_>>()
            .join("\n")
    };
    insta::assert_snapshot!(machine.transcript(&[
        "tag nginx:1.20.0 surval/nginx",
        "tag absent x",
        "tag nginx:1.20.0 UPPER",
        "rm absent nginx:1",
        "rm surval/nginx",
        "tag nginx:1.20.0 surval/nginx",
        "images --filter reference=surval/* --format '{{.Repository}}:{{.Tag}} {{.ID}}'",
    ]), @r#"
    $ tag nginx:1.20.0 surval/nginx
    $ tag absent x
    Error response from daemon: No such image: absent:latest
    [exit 1]
    $ tag nginx:1.20.0 UPPER
    Error parsing reference: "UPPER" is not a valid repository/tag: `library/UPPER` is not a repository name: it must be lower case
    [exit 1]
    $ rm absent nginx:1
    Error response from daemon: No such image: absent:latest
    Error response from daemon: No such image: nginx:1
    [exit 1]
    $ rm surval/nginx
    Untagged: surval/nginx:latest
    $ tag nginx:1.20.0 surval/nginx
    $ images --filter reference=surval/* --format '{{.Repository}}:{{.Tag}} {{.ID}}'
    surval/nginx:latest <id12>
    "#);
    insta::assert_snapshot!(by_id(""), @r"
    Error response from daemon: conflict: unable to delete <id12> (must be forced) - image is referenced in multiple repositories
    [exit 1]
    ");
    insta::assert_snapshot!(by_id("-f "), @r"
    Untagged: nginx:1.20.0
    Untagged: surval/nginx:latest
    Deleted: sha256:<digest>
    Deleted: sha256:<digest>
    ");
}

#[test]
fn parents_are_refused_but_by_force() {
    let machine = Machine::new();
    let layers: [&[&str]; 2] = [&["base"], &["base", "more"]];
    let archive = docker_archive(&[(&["child:1"], layers[1])]);
    let output = machine.coopery_with(&["load"], &archive);
    assert!(output.status.success());
    // The parent is what the child's history begins with.
    let config = machine.coopery(&["inspect", "child:1", "--format", "{{json .RootFS.Layers}}"]);
    let layers: Vec<String> = serde_json::from_str(&config).unwrap();
    let parent = serde_json::json!({
        "architecture": "amd64", "os": "linux", "created": "2021-06-01T00:00:00Z",
        "rootfs": {"type": "layers", "diff_ids": [layers[0]]},
        "history": [{"created": "2021-06-01T00:00:00Z", "created_by": "ADD base/layer.tar"}],
    });
    let layer = tar_of(&[("base", b"base")]);
    let parent = parent.to_string();
    let manifest =
        serde_json::json!([{"Config": "c.json", "RepoTags": ["parent:1"], "Layers": ["l.tar"]}]);
    let archive = tar_of(&[
        ("c.json", parent.as_bytes()),
        ("l.tar", &layer),
        ("manifest.json", manifest.to_string().as_bytes()),
    ]);
    assert!(machine.coopery_with(&["load"], &archive).status.success());
    insta::assert_snapshot!(machine.transcript(&["rmi parent:1", "rmi -f parent:1", "rmi child:1", "images -aq"]), @r"
    $ rmi parent:1
    Error response from daemon: conflict: unable to delete <id12> (must be forced) - image has dependent child images
    [exit 1]
    $ rmi -f parent:1
    Untagged: parent:1
    Deleted: sha256:<digest>
    $ rmi child:1
    Untagged: child:1
    Deleted: sha256:<digest>
    Deleted: sha256:<digest>
    Deleted: sha256:<digest>
    $ images -aq
    ");
    let blobs = fs_err::read_dir(machine.images().join("blobs/sha256")).unwrap();
    assert_eq!(blobs.count(), 0);
}

#[test]
fn dangling_images_are_shown_and_pruned() {
    let machine = nginx();
    machine.coopery(&["tag", "quay.io/bitnami/nginx", "nginx:1.20.0"]);
    insta::assert_snapshot!(machine.transcript(&[
        "image ls --no-trunc --filter dangling=true",
        "images --filter label=tier=db",
        "images -q --filter before=nginx:1.20.0",
        "images --filter size=1",
        "image prune",
        "image prune -f --filter label=absent",
        "image prune -f",
        "image prune -af",
        "prune -af",
    ]), @r"
    $ image ls --no-trunc --filter dangling=true
    REPOSITORY   TAG   IMAGE ID   CREATED   SIZE
    <none>   <none>   sha256:<digest>   <age>   <size>
    $ images --filter label=tier=db
    REPOSITORY   TAG   IMAGE ID   CREATED   SIZE
    $ images -q --filter before=nginx:1.20.0
    $ images --filter size=1
    Error response from daemon: invalid filter 'size': known are dangling, label, label!, before, since, reference and until
    [exit 1]
    $ image prune
    error: prune removes all dangling images; say --force where nobody can be asked
    [exit 1]
    $ image prune -f --filter label=absent
    Total reclaimed space: <size>
    $ image prune -f
    Deleted Images:
    deleted: sha256:<digest>
    deleted: sha256:<digest>

    Total reclaimed space: <size>
    $ image prune -af
    Deleted Images:
    untagged: nginx:1.20.0
    untagged: quay.io/bitnami/nginx:latest
    deleted: sha256:<digest>
    deleted: sha256:<digest>
    deleted: sha256:<digest>
    deleted: sha256:<digest>

    Total reclaimed space: <size>
    $ prune -af
    Total reclaimed space: <size>
    ");
}

#[test]
fn history_and_inspect_tell_what_docker_tells() {
    let machine = nginx();
    insta::assert_snapshot!(machine.transcript(&[
        "history nginx:1.20.0",
        "history --no-trunc --format '{{.ID}} {{.CreatedBy}}' nginx:1.20.0",
        "history -q nginx:1.20.0",
        "inspect nginx:1.20.0 --format='{{json .RootFS.Layers}}'",
        "inspect -f '{{.Author}} {{.Os}}/{{.Architecture}} {{.Config.Cmd}} {{index .Config.Labels \"tier\"}} {{.RepoTags}}' nginx:1.20.0 quay.io/bitnami/nginx",
        "inspect -f '{{range .Config.Env}}{{println .}}{{end}}' nginx:1.20.0",
        "inspect absent",
        "inspect -f '{{.Nosuch' nginx:1.20.0",
    ]), @r#"
    $ history nginx:1.20.0
    IMAGE   CREATED   CREATED BY   SIZE   COMMENT
    <id12>   <age>   CMD ["nginx:1.20.0"]   <size>
    <missing>   <age>   ADD one/layer.tar   <size>
    <missing>   <age>   ADD base/layer.tar   <size>
    $ history --no-trunc --format '{{.ID}} {{.CreatedBy}}' nginx:1.20.0
    sha256:<digest> CMD ["nginx:1.20.0"]
    <missing> ADD one/layer.tar
    <missing> ADD base/layer.tar
    $ history -q nginx:1.20.0
    <id12>
    <missing>
    <missing>
    $ inspect nginx:1.20.0 --format='{{json .RootFS.Layers}}'
    ["sha256:<digest>","sha256:<digest>"]
    $ inspect -f '{{.Author}} {{.Os}}/{{.Architecture}} {{.Config.Cmd}} {{index .Config.Labels "tier"}} {{.RepoTags}}' nginx:1.20.0 quay.io/bitnami/nginx
    Aomine linux/amd64 [nginx] web [nginx:1.20.0]
    Aomine linux/amd64 [nginx] web [quay.io/bitnami/nginx:latest]
    $ inspect -f '{{range .Config.Env}}{{println .}}{{end}}' nginx:1.20.0
    A=1

    $ inspect absent
    []
    Error: No such image: absent
    [exit 1]
    $ inspect -f '{{.Nosuch' nginx:1.20.0
    error: --format: template parsing error: template: format:1:10: unclosed action
    [exit 1]
    "#);
    let inspected = machine.coopery(&["inspect", "nginx:1.20.0"]);
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    let image = &inspected[0];
    for member in [
        "Id",
        "RepoTags",
        "RepoDigests",
        "Parent",
        "Comment",
        "Created",
        "Author",
        "Config",
        "Architecture",
        "Os",
        "Size",
        "RootFS",
    ] {
        assert!(!image[member].is_null(), "{member}");
    }
    assert_eq!(image["Size"], 2 * 2048);
    assert_eq!(image["Config"]["Cmd"][0], "nginx");
}

#[test]
fn an_archive_of_files_becomes_an_image() {
    let machine = Machine::new();
    let archive = tar_of(&[("bin/app", b"app"), ("etc/config", b"x")]);
    fs_err::write(machine.work("root.tar"), &archive).unwrap();
    fs_err::write(
        machine.work("root.tar.zst"),
        zstd::encode_all(&archive[..], 1).unwrap(),
    )
    .unwrap();
    let first = machine.coopery(&[
        "import",
        "--change",
        "CMD [\"/bin/app\"]",
        "-c",
        "ENV A=1",
        "-m",
        "by hand",
        "root.tar",
        "acme/app",
    ]);
    insta::assert_snapshot!(masked(&first), @"sha256:<digest>");
    insta::assert_snapshot!(machine.transcript(&[
        "images --format '{{.Repository}}:{{.Tag}} {{.Size}}'",
        "history --format '{{.CreatedBy}}|{{.Comment}}' acme/app",
        "inspect -f '{{.Config.Cmd}} {{.Comment}}' acme/app",
        "import root.tar.zst acme/app:2",
        "import --change 'RUN true' root.tar",
        "import absent.tar",
    ]), @r"
    $ images --format '{{.Repository}}:{{.Tag}} {{.Size}}'
    acme/app:latest <size>
    $ history --format '{{.CreatedBy}}|{{.Comment}}' acme/app
    |by hand
    $ inspect -f '{{.Config.Cmd}} {{.Comment}}' acme/app
    [/bin/app] by hand
    $ import root.tar.zst acme/app:2
    sha256:<digest>
    $ import --change 'RUN true' root.tar
    error: --change: `RUN` is not supported: use one of CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR
    [exit 1]
    $ import absent.tar
    error: failed to open file `absent.tar`: No such file or directory (os error 2)
    [exit 1]
    ");
    let layers = |name: &str| machine.coopery(&["inspect", "-f", "{{json .RootFS.Layers}}", name]);
    assert_eq!(layers("acme/app"), layers("acme/app:2"));
    let piped = machine.coopery_with(&["import", "-"], &archive);
    assert!(piped.status.success(), "{}", text(&piped.stderr));
    let bad = machine.coopery_with(&["import", "-"], b"no archive");
    assert_eq!(bad.status.code(), Some(1));
    assert!(text(&bad.stderr).contains("is no archive"));
}

#[test]
fn groups_print_their_usage_alone() {
    let machine = Machine::new();
    let usage = machine.coopery(&["image"]);
    assert!(usage.starts_with("\nUsage:  coopery image COMMAND\n\nManage images\n\nCommands:\n  build       Build an image"), "{usage}");
    for verb in [
        "ls", "prune", "rm", "tag", "history", "inspect", "load", "import", "save", "build",
    ] {
        assert!(usage.contains(&format!("\n  {verb} ")), "{verb}");
    }
    assert!(
        usage
            .ends_with("\nRun 'coopery image COMMAND --help' for more information on a command.\n")
    );
}

#[test]
fn saving_names_what_was_asked_for() {
    let machine = nginx();
    machine.coopery(&["tag", "nginx:1.20.0", "nginx:stable"]);
    let saved = |args: &[&str]| {
        let mut all = vec!["save"];
        all.extend(args);
        let output = machine.output(&all);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let other = Machine::new();
        let loaded = other.coopery_with(&["load", "-q"], &output.stdout);
        assert!(loaded.status.success(), "{}", text(&loaded.stderr));
        masked(&text(&loaded.stdout)).replace('\n', "; ")
    };
    let id = machine.id("nginx:stable");
    assert_eq!(
        saved(&["nginx"]),
        "Loaded image: nginx:1.20.0; Loaded image: nginx:stable; "
    );
    assert_eq!(
        saved(&["nginx:stable", "--format", "oci-archive"]),
        "Loaded image: nginx:stable; "
    );
    assert_eq!(saved(&[&id]), "Loaded image ID: sha256:<digest>; ");
    assert_eq!(
        saved(&["nginx:stable", "quay.io/bitnami/nginx"]),
        "Loaded image: nginx:stable; Loaded image: quay.io/bitnami/nginx:latest; "
    );
    let failed = machine.output(&["save", "-o", "out.tar", "absent"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(!machine.work("out.tar").exists());
}
