//! The graph as text, for Dockerfiles of a few lines.

use std::fmt::Write as _;

use oci::ImageConfig;

use super::*;

fn options() -> Options {
    Options {
        target: None,
        build_args: BTreeMap::new(),
        labels: BTreeMap::new(),
        platform: "linux/amd64".parse().unwrap(),
        build_platform: "linux/amd64".parse().unwrap(),
        contexts: BTreeMap::new(),
        surroundings: Surroundings::default(),
    }
}

fn with_args(args: &[(&str, &str)]) -> Options {
    let pair = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
    Options {
        build_args: args.iter().map(pair).collect(),
        ..options()
    }
}

fn base_config() -> ImageConfig {
    serde_json::from_str(
        r#"{"architecture":"amd64","os":"linux","author":"base","config":{"Env":["PATH=/bin","HOME=/root"],"Cmd":["sh"],"Entrypoint":["/init"],
            "WorkingDir":"/srv","User":"web","Labels":{"a":"base"},"Image":"x"},
            "rootfs":{"type":"layers","diff_ids":[]},"history":[{"created_by":"base"}]}"#,
    )
    .unwrap()
}

fn graph(text: &str, options: &Options) -> Result<Graph, String> {
    let (file, _) = dockerfile::parse("Dockerfile", text)
        .into_result()
        .map_err(|errors| errors[0].one_line("Dockerfile", text))?;
    let tell = |error: GraphError| match error {
        GraphError::Dockerfile(errors) => {
            let lines: Vec<_> = errors
                .iter()
                .map(|e| format!("{} [{}]", e.one_line("Dockerfile", text), e.help.join("; ")))
                .collect();
            lines.join("\n")
        }
        other => other.to_string(),
    };
    let file = with_triggers(&file, options, &Triggers::new()).map_err(tell)?;
    let plan = plan(&file, options).map_err(tell)?;
    let bases = vec![base_config(); plan.bases.len()];
    build(&plan, &bases).map_err(tell)
}

/// Steps with what they depend on, then the history of the target.
fn shown(text: &str, options: &Options) -> String {
    let graph = match graph(text, options) {
        Ok(graph) => graph,
        Err(error) => return error,
    };
    let mut shown = String::new();
    for (id, step) in graph.steps.iter().enumerate() {
        write!(shown, "{id} on {:?}: {}", step.below, step.label).unwrap();
        for from in step.inputs() {
            write!(shown, " from {from:?}").unwrap();
        }
        shown.push('\n');
    }
    for entry in &graph.target.entries {
        writeln!(shown, "{}", entry.created_by).unwrap();
    }
    shown
}

fn history(text: &str, options: &Options) -> Vec<String> {
    let graph = graph(text, options).unwrap();
    graph
        .target
        .entries
        .into_iter()
        .map(|entry| entry.created_by)
        .collect()
}

#[test]
fn only_what_the_target_needs_is_in_the_graph() {
    let text = "FROM golang AS build\nCOPY . .\nRUN make\nFROM alpine AS unused\nRUN false\nFROM scratch\nCOPY --from=build /out /\nCOPY --from=busybox:1 /bin/sh /bin/\n";
    insta::assert_snapshot!(shown(text, &options()), @r"
    0 on Base(BaseId(0)): [build 2/3] COPY . .
    1 on Step(StepId(0)): [build 3/3] RUN make
    2 on Scratch: [stage-2 1/2] COPY --from=build /out / from Step(StepId(1))
    3 on Step(StepId(2)): [stage-2 2/2] COPY --from=busybox:1 /bin/sh /bin/ from Base(BaseId(1))
    COPY /out / # buildkit
    COPY /bin/sh /bin/ # buildkit
    ");
    let (file, _) = dockerfile::parse("Dockerfile", text).into_result().unwrap();
    let options = options();
    let plan = plan(&file, &options).unwrap();
    let names: Vec<_> = plan
        .bases
        .iter()
        .map(|base| base.name.to_string())
        .collect();
    assert_eq!(
        names,
        [
            "docker.io/library/golang:latest",
            "docker.io/library/busybox:1"
        ]
    );
    assert_eq!(
        plan.bases[0].label,
        "[build 1/3] FROM docker.io/library/golang:latest"
    );
}

#[test]
fn triggers_of_a_stage_are_executed_in_its_children() {
    let text = "FROM scratch AS a\nONBUILD ARG X=1\nONBUILD RUN echo $X\nONBUILD COPY --from=b /x /\nFROM scratch AS b\nCOPY x /\nFROM a AS child\nRUN own\nFROM child\nRUN grand\n";
    insta::assert_snapshot!(shown(text, &options()), @r"
    0 on Scratch: [b 1/1] COPY x /
    1 on Scratch: [child 1/3] ONBUILD RUN echo $X
    2 on Step(StepId(1)): [child 2/3] ONBUILD COPY --from=b /x / from Step(StepId(0))
    3 on Step(StepId(2)): [child 3/3] RUN own
    4 on Step(StepId(3)): [stage-3 1/1] RUN grand
    ARG X=1
    RUN |1 X=1 /bin/sh -c echo $X # buildkit
    COPY /x / # buildkit
    RUN |1 X=1 /bin/sh -c own # buildkit
    RUN |1 X=1 /bin/sh -c grand # buildkit
    ");
    let config = |text| graph(text, &options()).unwrap().target.config.on_build;
    assert_eq!(config("FROM scratch\nONBUILD RUN a \\\n b\n"), ["RUN a  b"]);
    assert_eq!(
        config("FROM scratch AS a\nONBUILD RUN a\nFROM a\nONBUILD RUN b"),
        ["RUN b"]
    );
    assert_eq!(
        config("FROM scratch AS a\nONBUILD RUN a\nFROM a AS b\nFROM b"),
        [""; 0]
    );
}

#[test]
fn triggers_are_told_of_at_the_from() {
    for (trigger, expected) in [
        (
            "COPY --from=child /a /",
            "stages need each other in a circle",
        ),
        ("COPY --from=a/b/UPPER /a /", "UPPER"),
        ("EXPOSE $P", "invalid port"),
        ("COPY ${X:?needed} /", "needed"),
    ] {
        let text = format!("FROM scratch AS a\nENV P=x-y\nONBUILD {trigger}\nFROM a AS child\n");
        let error = shown(&text, &options());
        assert!(
            error.starts_with("Dockerfile:4: ") && error.contains(expected),
            "{error}"
        );
    }
    let images = |trigger: &str| Triggers::from([(0, vec![trigger.to_owned()])]);
    let (file, _) = dockerfile::parse("Dockerfile", "FROM a\n")
        .into_result()
        .unwrap();
    for trigger in [
        "FROM b",
        "ONBUILD RUN x",
        "RUN a\nRUN b",
        "RUNN",
        "MAINTAINER x",
        "",
    ] {
        let error = with_triggers(&file, &options(), &images(trigger)).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("ONBUILD instruction that cannot be executed"),
            "{error}"
        );
    }
}

#[test]
fn flags_of_copies() {
    let text = "FROM scratch\nARG X=md\nCOPY --link --parents --chown=1 --exclude=*.$X a/./b /c/\nCOPY --link --chmod=u+x a /\nADD --unpack --link=false x /\n";
    let graph = graph(text, &options()).unwrap();
    let flags: Vec<_> = graph
        .steps
        .iter()
        .map(|step| match &step.action {
            Action::Copy(copy) => (copy.link, copy.parents, copy.exclude.join(" "), copy.unpack),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [
        (true, true, "*.md".to_owned(), None),
        // A mode is set on what is below, too, so the layer depends on it.
        (false, false, String::new(), None),
        (false, false, String::new(), Some(true)),
    ];
    assert_eq!(flags, expected);
    assert_eq!(
        history(text, &options())[1..],
        [
            "COPY --parents --chown=1 a/./b /c/ # buildkit",
            "COPY --chmod=u+x a / # buildkit",
            "ADD x / # buildkit"
        ]
    );
}

#[test]
fn history_is_written_as_the_reference_writes_it() {
    let text = r#"FROM scratch
ARG A=1
ARG B
ENV X=$A Y="two words"
LABEL l=$X m="b c"
MAINTAINER somebody
WORKDIR srv
WORKDIR /
RUN make
RUN ["/bin/true", "x"]
COPY --chown=1:2 --chmod=755 a b $X/
ADD <<EOF <<"RAW" /etc/
$X
EOF
$X
RAW
USER $A:2
EXPOSE 90-91/UDP 80
VOLUME ["/a b", "/c"]
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5m --retries=3 CMD true
SHELL ["/bin/bash", "-c"]
CMD echo "$X"
ENTRYPOINT ["/run"]
"#;
    let got = history(text, &with_args(&[("B", "b")])).join("\n");
    insta::assert_snapshot!(got, @r#"
    ARG A=1
    ARG B=b
    ENV X=1 Y=two words
    LABEL l=1 m=b c
    MAINTAINER somebody
    WORKDIR /srv
    WORKDIR /
    RUN |2 A=1 B=b /bin/sh -c make # buildkit
    RUN |2 A=1 B=b /bin/true x # buildkit
    COPY --chown=1:2 --chmod=755 a b 1/ # buildkit
    ADD <<EOF <<RAW /etc/ # buildkit
    USER 1:2
    EXPOSE [80/tcp 90/udp 91/udp]
    VOLUME [/a b /c]
    STOPSIGNAL SIGTERM
    HEALTHCHECK &{["CMD-SHELL" "true"] "5m0s" "0s" "0s" "0s" '\x03'}
    SHELL [/bin/bash -c]
    CMD ["/bin/bash" "-c" "echo \"$X\""]
    ENTRYPOINT ["/run"]
    "#);
    let graph = graph(text, &options()).unwrap();
    let Action::Copy(copy) = &graph.steps[4].action else {
        panic!("not a copy")
    };
    assert_eq!(
        copy.documents,
        [("EOF".into(), "1\n".into()), ("RAW".into(), "$X\n".into())]
    );
    assert_eq!(copy.destination, "/etc/");
    insta::assert_snapshot!(serde_json::to_string(&graph.target.config).unwrap(), @r#"{"User":"1:2","ExposedPorts":{"80/tcp":{},"90/udp":{},"91/udp":{}},"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","X=1","Y=two words"],"Entrypoint":["/run"],"Cmd":["/bin/bash","-c","echo \"$X\""],"Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":300000000000,"Retries":3},"ArgsEscaped":true,"Volumes":{"/a b":{},"/c":{}},"WorkingDir":"/","Labels":{"l":"1","m":"b c"},"StopSignal":"SIGTERM","Shell":["/bin/bash","-c"]}"#);
}

#[test]
fn arguments_have_their_scopes() {
    let env = |text: &str, args: &[(&str, &str)]| {
        let graph = graph(text, &with_args(args)).unwrap();
        let Action::Run(run) = &graph.steps.last().unwrap().action else {
            panic!("not a RUN")
        };
        run.env
            .iter()
            .filter(|env| !env.starts_with("PATH="))
            .cloned()
            .collect::<Vec<_>>()
            .join(" ")
    };
    for (text, args, expected) in [
        // A global ARG is seen by FROM, and by a stage that declares it again.
        ("ARG V=1\nFROM scratch\nRUN x", &[][..], ""),
        ("ARG V=1\nFROM scratch\nARG V\nRUN x", &[], "V=1"),
        ("ARG V=1\nFROM scratch\nARG V\nRUN x", &[("V", "2")], "V=2"),
        ("ARG V=1\nFROM scratch\nARG V=3\nRUN x", &[], "V=3"),
        ("ARG V\nFROM scratch\nARG V\nRUN x", &[], ""),
        ("FROM scratch\nARG V\nRUN x", &[("V", "")], "V="),
        ("FROM scratch\nRUN x", &[("V", "1")], ""),
        // A default may use what stands before; words of one instruction do not see each other.
        ("FROM scratch\nARG A=1\nARG B=$A$A\nRUN x", &[], "A=1 B=11"),
        ("FROM scratch\nENV A=1\nENV A=2 B=$A\nRUN x", &[], "A=2 B=1"),
        // The later one wins.
        (
            "FROM scratch\nARG A=arg\nENV A=env\nRUN x",
            &[("A", "cli")],
            "A=env",
        ),
        ("FROM scratch\nENV A=env\nARG A=arg\nRUN x", &[], "A=arg"),
        // A stage hands its arguments on; platform arguments must be declared; proxies never show.
        ("FROM scratch AS a\nARG A=1\nFROM a\nRUN x", &[], "A=1"),
        (
            "FROM scratch\nARG TARGETARCH\nARG BUILDPLATFORM\nRUN x",
            &[],
            "TARGETARCH=amd64 BUILDPLATFORM=linux/amd64",
        ),
        ("FROM scratch\nRUN x", &[("HTTP_PROXY", "http://p")], ""),
        (
            "FROM scratch\nARG HTTP_PROXY\nRUN x",
            &[("HTTP_PROXY", "http://p")],
            "HTTP_PROXY=http://p",
        ),
        ("FROM base\nRUN x", &[], "HOME=/root"),
    ] {
        assert_eq!(env(text, args), expected, "{text}");
    }
    let proxied = graph(
        "FROM scratch\nRUN x",
        &with_args(&[("https_proxy", "p"), ("X", "y")]),
    )
    .unwrap();
    assert_eq!(proxied.proxies, [("https_proxy".into(), "p".into())]);
    assert_eq!(
        history("FROM scratch\nARG A=1\nARG A=2\nRUN x", &options())[2],
        "RUN |1 A=2 /bin/sh -c x # buildkit"
    );
}

#[test]
fn bases_hand_down_their_configuration() {
    let config = |text: &str| graph(text, &options()).unwrap().target;
    let target = config("FROM base\nENV HOME=/home\nWORKDIR app\nLABEL b=1");
    insta::assert_snapshot!(serde_json::to_string(&target.config).unwrap(), @r#"{"User":"web","Env":["PATH=/bin","HOME=/home"],"Entrypoint":["/init"],"Cmd":["sh"],"WorkingDir":"/srv/app","Labels":{"a":"base","b":"1"}}"#);
    assert_eq!(target.author.as_deref(), Some("base"));
    assert_eq!(target.base_history.len(), 1);
    // ENTRYPOINT clears an inherited CMD, but not one of this stage.
    assert_eq!(config("FROM base\nENTRYPOINT [\"a\"]").config.cmd, None);
    assert!(
        config("FROM base\nCMD [\"b\"]\nENTRYPOINT [\"a\"]")
            .config
            .cmd
            .is_some()
    );
    assert_eq!(
        config("FROM base AS a\nCMD [\"b\"]\nFROM a\nENTRYPOINT [\"a\"]")
            .config
            .cmd,
        None
    );
    let scratch = config("FROM scratch");
    assert_eq!(
        (
            scratch.config.working_dir.as_str(),
            scratch.config.env.len()
        ),
        ("/", 1)
    );
}

#[test]
fn heredocs_become_scripts() {
    let args = |text: &str| {
        let graph = graph(text, &options()).unwrap();
        let Action::Run(run) = graph.steps[0].action.clone() else {
            panic!("not a RUN")
        };
        (run.args.join("|"), run.script)
    };
    let (shell, script) = args("FROM scratch\nRUN <<EOF\necho $X\nEOF\n");
    assert_eq!((shell.as_str(), script), ("/bin/sh|-c|echo $X\n", None));
    let (shell, script) = args("FROM scratch\nRUN <<EOF\n#!/bin/python\nprint()\nEOF\n");
    assert_eq!(shell, "/bin/sh|-c|/dev/pipes/EOF");
    assert_eq!(
        script,
        Some(("EOF".into(), "#!/bin/python\nprint()\n".into()))
    );
}

#[test]
fn mistakes_point_at_their_place() {
    for (text, args, expected) in [
        (
            "FROM $BASE",
            &[][..],
            "Dockerfile:1: the name of the base image is empty: `$BASE` has no value [declare it before the first FROM, `ARG BASE=VALUE`, or set it by a build argument]",
        ),
        (
            "ARG IMAGE=x\nFROM $IMAG",
            &[],
            "Dockerfile:2: the name of the base image is empty: `$IMAG` has no value [did you mean `IMAGE`?]",
        ),
        (
            "FROM a AS builder\nFROM scratch\nCOPY --from=Builde:R /a /",
            &[],
            "Dockerfile:3: `library/Builde` is not a repository name: it must be lower case [did you mean the stage `builder`?]",
        ),
        (
            "FROM scratch AS a\nCOPY --from=b /x /\nFROM scratch AS b\nCOPY --from=a /x /",
            &[],
            "Dockerfile:2: stage `b` comes after this one",
        ),
        ("FROM scratch\nEXPOSE $P", &[("P", "1")], ""),
        (
            "FROM scratch\nARG P\nEXPOSE $P",
            &[("P", "x")],
            "Dockerfile:3: invalid port `x` []",
        ),
        (
            "FROM scratch\nSTOPSIGNAL ${S:?needed}",
            &[],
            "Dockerfile:2: S: needed []",
        ),
        (
            "FROM scratch\nARG U\nADD $U /",
            &[("U", "git@h:a/b.git")],
            "Dockerfile:3: git is fetched by https only: `git@h:a/b.git`",
        ),
        (
            "FROM scratch\nARG M\nCOPY --chmod=$M a /",
            &[("M", "x")],
            "Dockerfile:3: the mode is neither octal nor symbolic []",
        ),
        (
            "FROM --platform=$P scratch",
            &[],
            "Dockerfile:1: the platform is empty: `$P` has no value",
        ),
        (
            "FROM --platform=a/b/c/d scratch",
            &[],
            "Dockerfile:1: `a/b/c/d` is not a platform",
        ),
    ] {
        let got = graph(text, &with_args(args)).map_or_else(|error| error, |_| String::new());
        assert!(
            got.starts_with(expected) && got.is_empty() == expected.is_empty(),
            "{text}: {got}"
        );
    }
    let wrong = Options {
        target: Some("rel".into()),
        ..options()
    };
    let error = graph("FROM scratch AS release\nFROM scratch", &wrong).unwrap_err();
    assert_eq!(
        error,
        "target stage `rel` does not exist, the stages are release"
    );
}

#[test]
fn named_contexts_stand_in_for_images_and_stages() {
    let options = Options {
        contexts: [
            ("base".into(), ContextKind::Image),
            ("alpine".into(), ContextKind::Image),
        ]
        .into(),
        ..options()
    };
    let text = "FROM scratch AS base\nRUN false\nFROM alpine\nCOPY --from=base /a /\n";
    let (file, _) = dockerfile::parse("Dockerfile", text).into_result().unwrap();
    let plan = plan(&file, &options).unwrap();
    let names: Vec<_> = plan.bases.iter().map(|base| base.name.clone()).collect();
    assert_eq!(
        names,
        [
            BaseName::Context("alpine".into()),
            BaseName::Context("base".into())
        ]
    );
    let got = shown(text, &options);
    assert!(
        !got.contains("RUN false") && got.contains("from Base(BaseId(1))"),
        "{got}"
    );
}

#[test]
fn misspelled_platforms_are_told() {
    let from = graph("FROM --platform=linux/amd46 x\n", &options()).unwrap_err();
    assert_eq!(
        from,
        "Dockerfile:1: unknown platform `linux/amd46` [did you mean `linux/amd64`?]"
    );
    let build = Options {
        platform: "lnux/arm64".parse().unwrap(),
        ..options()
    };
    assert_eq!(
        graph("FROM x\n", &build).unwrap_err(),
        "unknown platform `lnux/arm64`, did you mean `linux/arm64`?"
    );
    // What resembles nothing may exist.
    let build = Options {
        platform: "haiku/sparc64".parse().unwrap(),
        ..options()
    };
    graph("FROM x\n", &build).unwrap();
}

#[test]
fn all_malformed_substitutions_are_told_at_once() {
    let error = graph("FROM x\nENV A=${B\nRUN a\nWORKDIR ${C^}\n", &options()).unwrap_err();
    assert_eq!(error.lines().count(), 2, "{error}");
}

#[test]
fn a_base_is_named_by_digest() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let text = format!("FROM alpine:3@{digest}\n");
    let (file, _) = dockerfile::parse("Dockerfile", &text)
        .into_result()
        .unwrap();
    let options = options();
    let plan = plan(&file, &options).unwrap();
    let name = plan.bases[0].name.to_string();
    assert_eq!(name, format!("docker.io/library/alpine:3@{digest}"));
}
