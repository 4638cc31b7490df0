//! Images between this machine and registries: pull, push, login, logout, search, and what is asked of a registry alone.

use std::process::Stdio;

use distribution::memory::{Access, MemoryRegistry};
use tokio::runtime::Runtime;

use crate::machine::{Machine, docker_archive, masked, run, text, tool};

/// A registry of this process, which the program reaches by its port.
pub(crate) struct Served {
    pub(crate) registry: MemoryRegistry,
    // After the registry, which needs it.
    _runtime: Runtime,
}

impl Served {
    fn with(access: Access) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        Self {
            registry: runtime.block_on(MemoryRegistry::start_with(access)),
            _runtime: runtime,
        }
    }

    pub(crate) fn open() -> Self {
        Self::with(Access::Open)
    }

    pub(crate) fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.registry.address())
    }
}

/// A machine whose images have these names in the registry, and layers.
pub(crate) fn machine_with(served: &Served, images: &[(&str, &[&str])]) -> Machine {
    let machine = Machine::new();
    for (name, layers) in images {
        let name = served.name(name);
        let archive = docker_archive(&[(&[&name], layers)]);
        assert!(machine.coopery_with(&["load"], &archive).status.success());
    }
    machine
}

/// As [`Machine::transcript`], where `HOST` stands for the registry.
fn transcript(machine: &Machine, served: &Served, commands: &[&str]) -> String {
    let host = served.registry.address().to_string();
    let commands: Vec<String> = commands
        .iter()
        .map(|line| line.replace("HOST", &host))
        .collect();
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    masked(&machine.transcript(&commands))
}

#[test]
fn pull_and_push_print_what_the_transcripts_show() {
    let served = Served::open();
    let publisher = machine_with(
        &served,
        &[
            ("bitnami/nginx:latest", &["base", "one"]),
            ("bitnami/nginx:1.20.0", &["base", "two"]),
        ],
    );
    insta::assert_snapshot!(transcript(&publisher, &served, &[
        "push HOST/bitnami/nginx",
        "push HOST/bitnami/nginx:1.20.0",
        "tag HOST/bitnami/nginx HOST/surval/nginx",
        "push HOST/surval/nginx:latest",
        "push HOST/surval/nginx:latest",
        "push HOST/absent",
    ]), @r"
    $ push <registry>/bitnami/nginx
    Using default tag: latest
    The push refers to repository [<registry>/bitnami/nginx]
    <id12>: Pushed
    <id12>: Pushed
    latest: digest: sha256:<digest> size: <n>
    $ push <registry>/bitnami/nginx:1.20.0
    The push refers to repository [<registry>/bitnami/nginx]
    <id12>: Pushed
    <id12>: Layer already exists
    1.20.0: digest: sha256:<digest> size: <n>
    $ tag <registry>/bitnami/nginx <registry>/surval/nginx
    $ push <registry>/surval/nginx:latest
    The push refers to repository [<registry>/surval/nginx]
    <id12>: Mounted from bitnami/nginx
    <id12>: Mounted from bitnami/nginx
    latest: digest: sha256:<digest> size: <n>
    $ push <registry>/surval/nginx:latest
    The push refers to repository [<registry>/surval/nginx]
    <id12>: Layer already exists
    <id12>: Layer already exists
    latest: digest: sha256:<digest> size: <n>
    $ push <registry>/absent
    Using default tag: latest
    The push refers to repository [<registry>/absent]
    An image does not exist locally with the tag: <registry>/absent
    [exit 1]
    ");
    let machine = Machine::new();
    insta::assert_snapshot!(transcript(&machine, &served, &[
        "pull HOST/bitnami/nginx",
        "pull HOST/bitnami/nginx:1.20.0",
        "pull HOST/bitnami/nginx:1.20.0",
        "pull -q HOST/bitnami/nginx",
        "pull HOST/bitnami/nginx:absent",
        "pull -a HOST/bitnami/nginx:1.20.0",
        "images --digests --format '{{.Repository}} {{.Tag}} {{.Digest}}'",
        "image rm HOST/bitnami/nginx:1.20.0",
        "image rm HOST/bitnami/nginx",
    ]), @r"
    $ pull <registry>/bitnami/nginx
    Using default tag: latest
    latest: Pulling from bitnami/nginx
    <id12>: Pull complete
    <id12>: Pull complete
    Digest: sha256:<digest>
    Status: Downloaded newer image for <registry>/bitnami/nginx:latest
    <registry>/bitnami/nginx:latest
    $ pull <registry>/bitnami/nginx:1.20.0
    1.20.0: Pulling from bitnami/nginx
    <id12>: Already exists
    <id12>: Pull complete
    Digest: sha256:<digest>
    Status: Downloaded newer image for <registry>/bitnami/nginx:1.20.0
    <registry>/bitnami/nginx:1.20.0
    $ pull <registry>/bitnami/nginx:1.20.0
    1.20.0: Pulling from bitnami/nginx
    Digest: sha256:<digest>
    Status: Image is up to date for <registry>/bitnami/nginx:1.20.0
    <registry>/bitnami/nginx:1.20.0
    $ pull -q <registry>/bitnami/nginx
    <registry>/bitnami/nginx:latest
    $ pull <registry>/bitnami/nginx:absent
    Error response from daemon: manifest for <registry>/bitnami/nginx:absent not found: manifest unknown: manifest unknown
    [exit 1]
    $ pull -a <registry>/bitnami/nginx:1.20.0
    error: tag can't be used with --all-tags/-a
    [exit 1]
    $ images --digests --format '{{.Repository}} {{.Tag}} {{.Digest}}'
    <registry>/bitnami/nginx 1.20.0 sha256:<digest>
    <registry>/bitnami/nginx latest sha256:<digest>
    $ image rm <registry>/bitnami/nginx:1.20.0
    Untagged: <registry>/bitnami/nginx:1.20.0
    Untagged: <registry>/bitnami/nginx@sha256:<digest>
    Deleted: sha256:<digest>
    Deleted: sha256:<digest>
    $ image rm <registry>/bitnami/nginx
    Untagged: <registry>/bitnami/nginx:latest
    Untagged: <registry>/bitnami/nginx@sha256:<digest>
    Deleted: sha256:<digest>
    Deleted: sha256:<digest>
    Deleted: sha256:<digest>
    ");
}

#[test]
fn all_tags_and_digests_are_pulled_and_pushed() {
    let served = Served::open();
    let publisher = machine_with(
        &served,
        &[("app:1", &["base", "one"]), ("app:2", &["base", "two"])],
    );
    let name = served.name("app");
    publisher.coopery(&["push", "-a", &name]);
    assert_eq!(served.registry.tags("app"), ["1", "2"]);
    let machine = Machine::new();
    let pulled = machine.coopery(&["pull", "-a", &name]);
    assert!(pulled.ends_with(&format!("{name}\n")), "{pulled}");
    for tag in ["1", "2"] {
        let name = format!("{name}:{tag}");
        assert_eq!(machine.id(&name), publisher.id(&name));
    }
    let digest = machine.coopery(&["digest", &format!("{name}:1")]);
    let other = Machine::new();
    let pinned = format!("{name}@{}", digest.trim());
    let pulled = other.coopery(&["pull", &pinned]);
    assert!(
        pulled.contains(&format!("Status: Downloaded newer image for {pinned}\n")),
        "{pulled}"
    );
    assert_eq!(other.id(&pinned), publisher.id(&format!("{name}:1")));
    let listed = other.coopery(&["images"]);
    assert!(
        masked(&listed).contains("<registry>/app   <none>   <id12>"),
        "{listed}"
    );
}

#[test]
fn of_several_platforms_the_one_asked_for_is_pulled() {
    let served = Served::open();
    let publisher = machine_with(&served, &[("app:1", &["base"])]);
    let name = served.name("app");
    publisher.coopery(&["push", &format!("{name}:1")]);
    let manifest = served.registry.manifest("app", "1").unwrap();
    let child = |platform: &str| {
        manifest
            .descriptor()
            .with_platform(platform.parse().unwrap())
    };
    let index = oci::Index::new(vec![child("linux/arm64")]);
    let index = serde_json::to_vec(&index).unwrap();
    let index = served
        .registry
        .add_manifest("app", Some("many"), oci::MediaType::OciIndex, index);
    let machine = Machine::new();
    let many = format!("{name}:many");
    let failed = machine.output(&["pull", "--platform", "linux/s390x", &many]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(text(&failed.stderr).contains(
        "no matching manifest for linux/s390x in the manifest list entries: it has linux/arm64"
    ));
    let pulled = machine.coopery(&["pull", "--platform", "linux/arm64", &many]);
    assert!(pulled.contains(&format!("Digest: {index}\n")), "{pulled}");
    let digests = machine.coopery(&["inspect", "-f", "{{json .RepoDigests}}", &many]);
    assert_eq!(digests.trim(), format!("[\"{name}@{index}\"]"));
    let shown = machine.coopery(&["manifest", "inspect", &many]);
    let shown: oci::Index = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown.manifests.len(), 1);
    let verbose = machine.coopery(&["manifest", "inspect", "-v", &many]);
    assert!(verbose.contains("\"Descriptor\"") && verbose.contains("\"layers\""));
}

#[test]
fn credentials_are_tried_at_once_and_kept_as_docker_keeps_them() {
    let user = || ("surval".to_owned(), "s3cret".to_owned());
    let (username, password) = user();
    let basic = Access::Basic { username, password };
    let (username, password) = user();
    let token = Access::Token {
        username,
        password,
        anonymous_pull: false,
        expires_in: 60,
    };
    for access in [basic, token] {
        let served = Served::with(access);
        let machine = machine_with(&served, &[("team/app:1", &["base"])]);
        let host = served.registry.address().to_string();
        let name = served.name("team/app:1");
        let denied = machine.output(&["push", "-q", &name]);
        assert_eq!(
            text(&denied.stderr),
            "denied: requested access to the resource is denied\n"
        );
        let login = |args: &[&str], input: &[u8]| {
            let mut all = vec!["login"];
            all.extend(args);
            let output = machine.coopery_with(&all, input);
            (
                output.status.code(),
                masked(&text(&output.stdout)),
                masked(&text(&output.stderr)),
            )
        };
        let url = format!("http://{host}/myrepo");
        let (code, _, errors) = login(&[&url, "-u", "surval", "--password-stdin"], b"wrong\n");
        assert_eq!(code, Some(1));
        assert!(
            errors.ends_with("unauthorized: incorrect username or password\n"),
            "{errors}"
        );
        let config = machine.path("home/.docker/config.json");
        assert!(!config.exists());
        let (code, out, errors) = login(&[&url, "-u", "surval", "--password-stdin"], b"s3cret\n");
        assert_eq!(
            (code, out.as_str()),
            (Some(0), "Login Succeeded\n"),
            "{errors}"
        );
        assert!(errors.contains("WARNING! Your credentials are stored unencrypted in"));
        assert!(fs_err::read_to_string(&config).unwrap().contains(&host));
        let (code, _, errors) = login(&["--username=surval", "--password=s3cret", &host], b"");
        assert_eq!(code, Some(0));
        assert!(errors.starts_with(
            "WARNING! Using --password via the CLI is insecure. Use --password-stdin.\n"
        ));
        machine.coopery(&["push", &name]);
        let (code, _, errors) = login(&[&host], b"");
        assert_eq!(code, Some(1));
        assert_eq!(
            errors,
            "Error: Cannot perform an interactive login from a non TTY device\n"
        );
        let (_, _, errors) = login(&[&host, "--password-stdin"], b"x");
        assert_eq!(errors, "Must provide --username with --password-stdin\n");
        assert_eq!(
            masked(&machine.coopery(&["logout", &host])),
            "Removing login credentials for <registry>\n"
        );
        assert_eq!(
            masked(&machine.coopery(&["logout", &host])),
            "Not logged in to <registry>\n"
        );
        let denied = machine.output(&["pull", &name]);
        assert_eq!(denied.status.code(), Some(1));
        assert!(
            text(&denied.stderr).contains("pull access denied for"),
            "{}",
            text(&denied.stderr)
        );
    }
}

#[test]
fn repositories_are_searched_listed_and_deleted() {
    let served = Served::open();
    let machine = machine_with(
        &served,
        &[
            ("myrepo/kong:1", &["base", "one"]),
            ("myrepo/kong:2", &["base", "two"]),
            ("other/nginx:1", &["base"]),
        ],
    );
    for name in ["myrepo/kong:1", "myrepo/kong:2", "other/nginx:1"] {
        machine.coopery(&["push", "-q", &served.name(name)]);
    }
    insta::assert_snapshot!(transcript(&machine, &served, &[
        "search HOST/myrepo/kong",
        "search --format '{{.Name}}' HOST/",
        "search --filter stars=1 HOST/",
        "search --filter color=red HOST/",
        "images --registry HOST/myrepo/kong",
        "rm HOST/myrepo/kong:1",
        "images HOST/myrepo/kong:1",
        "rm HOST/myrepo/kong:1",
        "rm HOST/myrepo/kong:1",
        "rmi HOST/myrepo/kong:1",
        "rm --registry HOST/myrepo/kong:2",
        "images --registry HOST/myrepo/kong --format '{{.Tag}}'",
        "images -q HOST/myrepo/kong",
    ]), @r"
    $ search <registry>/myrepo/kong
    NAME   DESCRIPTION   STARS   OFFICIAL   AUTOMATED
    <registry>/myrepo/kong   0
    $ search --format '{{.Name}}' <registry>/
    <registry>/myrepo/kong
    <registry>/other/nginx
    $ search --filter stars=1 <registry>/
    NAME   DESCRIPTION   STARS   OFFICIAL   AUTOMATED
    $ search --filter color=red <registry>/
    error: invalid value 'color=red' for '--filter <KEY=VALUE>': invalid filter 'color': known are is-official, is-automated and stars

    For more information, try '--help'.
    [exit 1]
    $ images --registry <registry>/myrepo/kong
    REPOSITORY   TAG
    <registry>/myrepo/kong   1
    <registry>/myrepo/kong   2
    $ rm <registry>/myrepo/kong:1
    Untagged: <registry>/myrepo/kong:1
    Untagged: <registry>/myrepo/kong@sha256:<digest>
    Deleted: sha256:<digest>
    Deleted: sha256:<digest>
    $ images <registry>/myrepo/kong:1
    REPOSITORY   TAG
    <registry>/myrepo/kong   1
    $ rm <registry>/myrepo/kong:1
    Deleted: <registry>/myrepo/kong:1
    $ rm <registry>/myrepo/kong:1
    Error response from daemon: No such image: <registry>/myrepo/kong:1
    [exit 1]
    $ rmi <registry>/myrepo/kong:1
    Error response from daemon: No such image: <registry>/myrepo/kong:1
    [exit 1]
    $ rm --registry <registry>/myrepo/kong:2
    Deleted: <registry>/myrepo/kong:2
    $ images --registry <registry>/myrepo/kong --format '{{.Tag}}'
    $ images -q <registry>/myrepo/kong
    <id12>
    ");
}

#[test]
fn a_registry_with_dockers_search_is_asked_by_it() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let answer = r#"{"results":[{"name":"nginx","description":"Official build of Nginx.","star_count":9179,"is_official":true,"is_automated":false},{"name":"acme/nginx","description":"A longer description than there is room for in the list","star_count":3,"is_official":false,"is_automated":true}]}"#;
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move {
        let search = axum::routing::get(move || async move { answer });
        axum::serve(listener, axum::Router::new().route("/v1/search", search)).await
    });
    let machine = Machine::new();
    let search = |filter: &str| {
        let shown = machine.coopery(&["search", &format!("{address}/nginx"), "--filter", filter]);
        masked(&shown)
    };
    insta::assert_snapshot!(search("is-official=true"), @r"
    NAME   DESCRIPTION   STARS   OFFICIAL   AUTOMATED
    <registry>/nginx   Official build of Nginx.   9179   [OK]
    ");
    insta::assert_snapshot!(search("is-automated=true"), @r"
    NAME   DESCRIPTION   STARS   OFFICIAL   AUTOMATED
    <registry>/acme/nginx   A longer description than there is room for …   3   [OK]
    ");
}

#[test]
fn other_tools_agree_with_what_was_pushed() {
    let (Some(skopeo), Some(crane)) = (tool("skopeo"), tool("crane")) else {
        return;
    };
    let served = Served::open();
    let machine = Machine::new();
    let name = served.name("app:1");
    fs_err::write(
        machine.work("Dockerfile"),
        "FROM scratch\nCOPY Dockerfile /\nCOPY Dockerfile /again\n",
    )
    .unwrap();
    machine.coopery(&["build", "-q", "-t", &name, "."]);
    machine.coopery(&["push", &name]);
    let ours = machine.coopery(&["digest", &name]);
    assert_eq!(run(&crane, &["digest", "--insecure", &name]), ours);
    run(&crane, &["validate", "--insecure", "--remote", &name]);
    let inspected = run(
        &skopeo,
        &[
            "inspect",
            "--tls-verify=false",
            "--format",
            "{{.Digest}}",
            &format!("docker://{name}"),
        ],
    );
    assert_eq!(inspected.trim(), ours.trim());
    // What another tool copied is pulled, and readable for it in our layout.
    let copied = served.name("copy:1");
    run(&crane, &["copy", "--insecure", &name, &copied]);
    let other = Machine::new();
    other.coopery(&["pull", &copied]);
    assert_eq!(other.id(&copied), machine.id(&name));
    let layout = format!("oci:{}:{copied}", other.images().display());
    run(&skopeo, &["inspect", &layout]);
}

#[test]
fn pulls_and_removals_at_once_lose_nothing() {
    let served = Served::open();
    let publisher = machine_with(&served, &[("a:1", &["base", "a"]), ("b:1", &["base", "b"])]);
    let names = [served.name("a:1"), served.name("b:1")];
    for name in &names {
        publisher.coopery(&["push", name]);
    }
    let machine = Machine::new();
    machine.coopery(&["pull", &names[0]]);
    for _ in 0..5 {
        let quiet = |args: &[&str]| {
            let mut command = machine.command(args);
            command.stdout(Stdio::null()).spawn().unwrap()
        };
        let mut removal = quiet(&["rm", &names[0]]);
        let mut pull = quiet(&["pull", &names[1]]);
        assert!(removal.wait().unwrap().success() && pull.wait().unwrap().success());
        // All layers are there.
        machine.coopery(&["save", "-o", "saved.tar", &names[1]]);
        machine.coopery(&["pull", &names[0]]);
        machine.coopery(&["rm", &names[1]]);
    }
}

#[test]
fn images_of_this_machine_are_bases_unless_the_registry_is_asked() {
    let served = Served::open();
    let machine = Machine::new();
    let (base, child) = (served.name("base"), served.name("child"));
    for (directory, dockerfile) in [
        ("base", "FROM scratch\nCOPY f /\nCMD [\"x\"]\n".to_owned()),
        ("child", format!("FROM {base}\nCOPY f /g\n")),
    ] {
        fs_err::create_dir(machine.work(directory)).unwrap();
        fs_err::write(machine.work(directory).join("Dockerfile"), dockerfile).unwrap();
        fs_err::write(machine.work(directory).join("f"), directory).unwrap();
    }
    machine.coopery(&["build", "-q", "-t", &base, "base"]);
    machine.coopery(&["build", "-q", "--load", "-t", &child, "child"]);
    assert!(served.registry.requests().is_empty());
    let get = |name: &str, what: &str| machine.coopery(&["inspect", "-f", what, name]);
    assert_eq!(
        get(&child, "{{len .RootFS.Layers}} {{.Config.Cmd}}"),
        "2 [x]\n"
    );
    assert_eq!(get(&child, "{{.Parent}}").trim(), machine.id(&base));
    // The same image from the registry gives the same child, and what moved on there is not seen without --pull.
    machine.coopery(&["push", "-q", &base]);
    let before = machine.id(&child);
    machine.coopery(&["build", "-q", "--pull", "--load", "-t", &child, "child"]);
    assert_eq!(machine.id(&child), before);
    machine.coopery(&["rm", "--registry", &format!("{base}:latest")]);
    machine.coopery(&["build", "-q", "--load", "-t", &child, "child"]);
    assert_eq!(machine.id(&child), before);
    let failed = machine.output(&["build", "-q", "--pull", "--load", "-t", &child, "child"]);
    assert!(
        text(&failed.stderr).contains("not found"),
        "{}",
        text(&failed.stderr)
    );
    // A changed base makes another child.
    fs_err::write(machine.work("base/f"), "changed").unwrap();
    machine.coopery(&["build", "-q", "--load", "-t", &base, "base"]);
    machine.coopery(&["build", "-q", "--load", "-t", &child, "child"]);
    assert_ne!(machine.id(&child), before);
}
