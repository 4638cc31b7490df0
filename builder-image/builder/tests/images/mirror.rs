//! ImageMirrors without a cluster (`coopery mirror`): plans, runs, what fails, and backups of whole registries.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use distribution::memory::MemoryRegistry;
use tokio::runtime::Runtime;

use crate::machine::{Machine, docker_archive, run, text, tool};

/// A source and a destination, in memory.
struct Stage {
    machine: Machine,
    source: MemoryRegistry,
    target: MemoryRegistry,
    // After the registries, which need it.
    _runtime: Runtime,
}

impl Stage {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        Self {
            machine: Machine::new(),
            source: runtime.block_on(MemoryRegistry::start()),
            target: runtime.block_on(MemoryRegistry::start()),
            _runtime: runtime,
        }
    }

    fn push(&self, image: &str, layers: &[&str]) {
        push(
            &self.machine,
            &self.source.address().to_string(),
            image,
            layers,
        );
    }

    /// A manifest in the file `mirror.yaml`.
    fn manifest(&self, destination: &str, images: &str) {
        let text = manifest(
            &format!("{{host: '{}'}}", self.source.address()),
            destination,
            images,
        );
        fs_err::write(self.machine.work("mirror.yaml"), text).unwrap();
    }

    fn to_target(&self) -> String {
        format!("{{host: '{}', prefix: m}}", self.target.address())
    }

    /// Exit code, standard output and standard error.
    fn mirror(&self, flags: &[&str]) -> (i32, String, String) {
        mirror(&self.machine, flags)
    }
}

fn mirror(machine: &Machine, flags: &[&str]) -> (i32, String, String) {
    let output = machine.output(&[&["mirror", "mirror.yaml"], flags].concat());
    let code = output.status.code().unwrap();
    (code, text(&output.stdout), text(&output.stderr))
}

fn push(machine: &Machine, host: &str, image: &str, layers: &[&str]) {
    let name = format!("{host}/{image}");
    let archive = docker_archive(&[(&[&name], layers)]);
    assert!(machine.coopery_with(&["load"], &archive).status.success());
    machine.coopery(&["push", &name]);
}

fn manifest(source: &str, destination: &str, images: &str) -> String {
    format!(
        "apiVersion: coopery.dev/v1alpha1\nkind: ImageMirror\nmetadata: {{name: hub, namespace: team}}\nspec:\n  source: {source}\n  destination: {destination}\n  images: {images}\n"
    )
}

/// The actions of a table, with what they are about; hosts left out.
fn actions(table: &str) -> Vec<String> {
    let rows = table.lines().skip(1);
    rows.map(|row| {
        let mut words = row.split_whitespace();
        let (action, image) = (words.next().unwrap(), words.next().unwrap());
        let path = image.split_once('/').map_or(image, |(_, path)| path);
        format!("{action} {path}")
    })
    .collect()
}

#[test]
fn a_plan_says_what_a_run_does() {
    let stage = Stage::new();
    for (image, layers) in [
        ("acme/app:1.0", &["base", "one"][..]),
        ("acme/app:1.1", &["base", "two"]),
        ("acme/app:2.0-rc1", &["base", "three"]),
    ] {
        stage.push(image, layers);
    }
    stage.manifest(
        &stage.to_target(),
        "[{name: app, repository: acme/app, tags: {semver: '>=1 <2'}}]",
    );
    let (code, table, errors) = stage.mirror(&["--dry-run"]);
    assert_eq!(code, 0, "{errors}");
    assert_eq!(
        actions(&table),
        ["add m/acme/app:1.1", "add m/acme/app:1.0"]
    );
    assert!(
        errors.contains("2 to add, 0 to update, 0 unchanged"),
        "{errors}"
    );
    assert_eq!(stage.target.tags("m/acme/app"), [""; 0]);

    let (code, table, errors) = stage.mirror(&[]);
    assert_eq!(code, 0, "{errors}");
    assert_eq!(
        actions(&table),
        ["copied m/acme/app:1.1", "copied m/acme/app:1.0"]
    );
    for tag in ["1.0", "1.1"] {
        let [from, to] = [("acme/app", &stage.source), ("m/acme/app", &stage.target)]
            .map(|(path, registry)| registry.manifest(path, tag).unwrap().digest);
        assert_eq!(from, to);
    }

    // One moved, one is equal; nothing else is asked than what stands for what.
    stage.push("acme/app:1.1", &["base", "four"]);
    stage.target.clear_requests();
    let (_, json, _) = stage.mirror(&["--dry-run", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let images = json["mirrors"][0]["images"].as_array().unwrap();
    let shown: Vec<_> = images
        .iter()
        .map(|row| row["action"].as_str().unwrap())
        .collect();
    assert_eq!(shown, ["update", "unchanged"]);
    assert!(images[0]["bytes"].as_u64().unwrap() > 0);
    assert_eq!(images[1]["bytes"], 0);
    let asked = stage.target.requests();
    assert!(
        asked.iter().all(|request| request.method == "HEAD"),
        "{asked:?}"
    );
    let (_, table, errors) = stage.mirror(&[]);
    assert_eq!(
        actions(&table),
        ["copied m/acme/app:1.1", "unchanged m/acme/app:1.0"]
    );
    assert!(
        errors.contains("1 copied, 1 unchanged, 0 failed"),
        "{errors}"
    );
}

#[test]
fn what_fails_does_not_keep_the_rest_from_being_mirrored() {
    let stage = Stage::new();
    stage.push("acme/app:1", &["base"]);
    stage.manifest(
        &stage.to_target(),
        "[{name: a, repository: acme/app, tags: {names: ['1', absent]}}, {name: b, repository: acme/app, tags: {regex: '^x'}}, {name: c, repository: acme/none, tags: {all: true}}]",
    );
    // All of it is what was asked for.
    let (code, table, errors) = stage.mirror(&[]);
    assert_eq!(code, 1, "{errors}");
    assert_eq!(
        actions(&table)[..2],
        ["copied m/acme/app:1", "failed m/acme/app:absent"]
    );
    assert_eq!(actions(&table).len(), 4);
    assert!(
        errors.contains("3 of 4 images could not be mirrored"),
        "{errors}"
    );
    assert!(
        errors.contains("spec.images[1].tags selects none"),
        "{errors}"
    );
    // The destination is down: that is the world's.
    stage.manifest(
        "{host: '127.0.0.1:9'}",
        "[{name: a, repository: acme/app, tags: {names: ['1']}}]",
    );
    let (code, _, errors) = stage.mirror(&["--dry-run"]);
    assert_eq!(code, 2, "{errors}");
}

#[test]
fn what_is_no_image_mirror_is_refused_with_its_line() {
    let machine = Machine::new();
    let good = manifest(
        "{host: a.example}",
        "{registry: {name: main}}",
        "[{name: a, repository: a, tags: {all: true}}]",
    );
    let mirror = |input: &str| {
        let output = machine.coopery_with(&["mirror", "-"], input.as_bytes());
        (output.status.code().unwrap(), text(&output.stderr))
    };
    for (input, expected) in [
        (
            format!("{good}---\napiVersion: v1\nkind: Pod\n"),
            "-: line 10: kind is Pod",
        ),
        (
            good.clone(),
            "`hub`: spec.destination: where is the Registry `main`? say --registry main=HOST",
        ),
        (
            good.replace("all", "al"),
            "unknown field spec.images[0].tags.al",
        ),
        (
            good.replace("{registry: {name: main}}", "{}"),
            "exactly one of",
        ),
        (String::new(), "no ImageMirror"),
    ] {
        let (code, errors) = mirror(&input);
        assert!(errors.contains(expected), "{expected}: {errors}");
        assert_eq!(code, 1);
    }
}

#[test]
fn only_what_is_signed_is_published() {
    let stage = Stage::new();
    stage.push("acme/app:1", &["base", "one"]);
    stage.push("acme/app:2", &["base", "two"]);
    let machine = &stage.machine;
    let signer = |args: &[&str]| {
        let mut command = machine.command(args);
        let output = command.env("COOPERY_PASSWORD", "a passphrase").output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    for name in ["ours", "stranger"] {
        signer(&["generate-key-pair", "--output-key-prefix", name]);
    }
    let image = |tag: &str| format!("{}/acme/app:{tag}", stage.source.address());
    signer(&["sign", "--key", "ours.key", &image("1")]);
    signer(&["sign", "--key", "stranger.key", &image("2")]);
    stage.manifest(
        &stage.to_target(),
        "[{name: a, repository: acme/app, tags: {names: ['1', '2']}}]\n  verify: {keys: [{secretRef: {name: trust, key: cosign.pub}}]}",
    );
    // A key that is not there, or is none, is no reason to publish anything.
    let (code, _, errors) = stage.mirror(&[]);
    assert!(
        errors.contains("say --key trust/cosign.pub=FILE"),
        "{errors}"
    );
    assert_eq!(code, 1);
    for (file, expected) in [("absent", "absent"), ("mirror.yaml", "mirror.yaml: ")] {
        let (code, _, errors) = stage.mirror(&["--key", &format!("trust/cosign.pub={file}")]);
        assert!(errors.contains(expected), "{errors}");
        assert_eq!(code, 1);
    }
    assert!(stage.target.tags("m/acme/app").is_empty());

    let (code, table, errors) = stage.mirror(&["--key", "trust/cosign.pub=ours.pub"]);
    assert_eq!(code, 1, "{errors}");
    assert_eq!(
        actions(&table),
        ["copied m/acme/app:1", "failed m/acme/app:2"],
        "{table}"
    );
    assert!(errors.contains("trust/cosign.pub"), "{errors}");
    let tags = stage.target.tags("m/acme/app");
    assert!(
        tags.contains(&"1".into()) && !tags.contains(&"2".into()),
        "{tags:?}"
    );
    // The signature came along.
    let copy = format!("{}/m/acme/app:1", stage.target.address());
    machine.coopery(&["verify", "--key", "ours.pub", &copy]);
}

#[test]
fn a_registry_keeps_a_ledger_of_what_it_has() {
    let stage = Stage::new();
    stage.push("acme/app:1", &["base", "one"]);
    stage.manifest(
        "{registry: {name: main}}",
        "[{name: a, repository: acme/app, tags: {names: ['1']}}]",
    );
    let host = format!("main={}", stage.target.address());
    let (code, _, errors) = stage.mirror(&["--registry", &host]);
    assert_eq!(code, 0, "{errors}");
    assert_eq!(stage.target.tags("team/coopery-ledger"), ["v1"]);
    // Another repository gets the blobs by mounts.
    stage.manifest(
        "{registry: {name: main}}",
        "[{name: a, repository: acme/app, tags: {names: ['1']}, destination: other}]",
    );
    stage.target.clear_requests();
    let (code, _, errors) = stage.mirror(&["--registry", &host]);
    assert_eq!(code, 0, "{errors}");
    let puts = stage.target.requests();
    let puts = puts
        .iter()
        .filter(|r| r.path.contains("/blobs/uploads/") && r.method == "PUT");
    assert_eq!(puts.count(), 0, "a blob was sent again");
}

/// The registry program without users, whose data is in `directory`. Dropping it ends the process.
struct Registry {
    process: Child,
    host: String,
}

impl Registry {
    fn start(program: &Path, directory: &Path) -> Self {
        let host = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .to_string();
        let root = directory.display();
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {root}/data}}}}\nhttp: {{addr: '{host}', secret: fixed}}\n"
        );
        let file = directory.join("config.yml");
        fs_err::create_dir_all(directory).unwrap();
        fs_err::write(&file, config).unwrap();
        let process = Command::new(program)
            .arg("serve")
            .arg(&file)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(&host).is_err() {
            assert!(Instant::now() < deadline, "the registry does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { process, host }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// All tags of a registry with what they stand for, by another client.
fn contents(crane: &Path, host: &str) -> Vec<String> {
    let mut all = Vec::new();
    for repository in run(crane, &["catalog", "--insecure", host]).lines() {
        let name = format!("{host}/{repository}");
        for tag in run(crane, &["ls", "--insecure", &name]).lines() {
            let digest = run(crane, &["digest", "--insecure", &format!("{name}:{tag}")]);
            all.push(format!("{repository}:{tag} {}", digest.trim()));
        }
    }
    all.sort();
    all
}

/// A registry with single images, and with an index, which is kept whole.
fn filled_registry(machine: &Machine, program: &Path, crane: &Path) -> Registry {
    let main = Registry::start(program, &machine.work("main"));
    for (image, layers) in [
        ("app:1", &["base", "one"][..]),
        ("team/app:1", &["base", "two"]),
        ("team/app:2", &["base", "three"]),
        ("docker.io/library/nginx:1.29", &["base"]),
    ] {
        push(machine, &main.host, image, layers);
    }
    let children = ["1", "2"].map(|tag| format!("{}/team/app:{tag}", main.host));
    let index = format!("{}/team/app:both", main.host);
    run(
        crane,
        &[
            "index",
            "append",
            "--insecure",
            "-m",
            &children[0],
            "-m",
            &children[1],
            "-t",
            &index,
        ],
    );
    main
}

#[test]
fn a_backup_is_incremental_and_restores_a_registry_as_it_was() {
    let (Some(program), Some(crane)) = (tool("registry"), tool("crane")) else {
        return;
    };
    let machine = Machine::new();
    let main = filled_registry(&machine, &program, &crane);
    let all = "[{name: all, repository: '*', tags: {all: true}}]";
    let backup = |form: &str| {
        manifest(
            "{registry: {name: main}}",
            &format!("{{archive: {{persistentVolumeClaim: {{name: backup}}, path: {form}}}}}"),
            all,
        )
    };
    let restore = |form: &str| {
        manifest(
            &format!("{{archive: {{persistentVolumeClaim: {{name: backup}}, path: {form}}}}}"),
            "{registry: {name: main}}",
            all,
        )
    };
    let write = |text: String| fs_err::write(machine.work("mirror.yaml"), text).unwrap();
    let registry = format!("main={}", main.host);
    fs_err::create_dir(machine.work("claim")).unwrap();
    let claim = "backup=claim";
    for form in ["images", "images.tar"] {
        write(backup(form));
        let flags = ["--registry", &registry, "--claim", claim];
        let (code, table, errors) = mirror(&machine, &flags);
        assert_eq!(code, 0, "{errors}");
        let copied = actions(&table);
        assert!(
            copied.iter().all(|row| row.starts_with("copied ")),
            "{copied:?}"
        );
        assert_eq!(copied.len(), contents(&crane, &main.host).len());
        // Again: nothing; then one more image: that one.
        let (_, _, errors) = mirror(&machine, &flags);
        assert!(errors.contains("0 copied, "), "{errors}");
        push(
            &machine,
            &main.host,
            &format!("new/{}:1", form.len()),
            &["base", form],
        );
        let (_, _, errors) = mirror(&machine, &flags);
        assert!(errors.contains("1 copied, "), "{errors}");
    }
    let expected = contents(&crane, &main.host);
    // The file was written before the last image was pushed that the directory lacks.
    write(backup("images"));
    let (code, _, errors) = mirror(&machine, &["--registry", &registry, "--claim", claim]);
    assert_eq!(code, 0, "{errors}");
    drop(main);
    for form in ["images", "images.tar"] {
        let empty = Registry::start(&program, &machine.work(&format!("empty-{form}")));
        write(restore(form));
        let registry = format!("main={}", empty.host);
        let flags = ["--registry", &registry, "--claim", claim];
        let (_, _, errors) = mirror(&machine, &[&flags[..], &["--dry-run"]].concat());
        assert!(
            errors.contains(&format!("{} to add", expected.len())),
            "{errors}"
        );
        let (code, _, errors) = mirror(&machine, &flags);
        assert_eq!(code, 0, "{errors}");
        let mut found = contents(&crane, &empty.host);
        found.retain(|line| !line.starts_with("team/coopery-ledger:"));
        assert_eq!(found, expected, "{form}");
        run(
            &crane,
            &[
                "validate",
                "--insecure",
                "--fast",
                "--remote",
                &format!("{}/team/app:2", empty.host),
            ],
        );
    }
    // Another tool finds an image of the archive by its name.
    if let Some(skopeo) = tool("skopeo") {
        let name = format!(
            "oci:{}:docker.io/library/nginx:1.29",
            machine.work("claim/images").display()
        );
        let digest = run(&skopeo, &["inspect", "--format", "{{.Digest}}", &name]);
        let line = format!("docker.io/library/nginx:1.29 {}", digest.trim());
        assert!(expected.contains(&line), "{line}: {expected:?}");
    }
}
