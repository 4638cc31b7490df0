//! The rules: names, what they are about, and an example of each. What finds them is in the modules beside this one and,
//! where base images or the context must be known, in the engine. `docs/lint.md` is written from this table.

use std::fmt;

use crate::diagnostic::Diagnostic;
use crate::span::Span;
use crate::suggest::nearest;

/// What a rule is, for the documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// What is asked for, as one sentence without a period.
    pub description: &'static str,
    /// Why, in a sentence or two.
    pub why: &'static str,
    /// A file that breaks the rule. Its base image is for another platform only in the rule about that, and its context
    /// ignores `*.log`.
    pub bad: &'static str,
    /// The same without the mistake.
    pub good: &'static str,
}

macro_rules! rules {
    ($($name:ident: $description:literal, $why:literal, bad $bad:literal, good $good:literal;)*) => {
        /// A rule, by the name that the reference frontend gives it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $(#[doc = $description] $name,)*
        }

        impl Rule {
            /// All rules.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The name, as `# check=skip=` takes it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// What it is about.
            pub fn about(self) -> About {
                match self {
                    $(Self::$name => About { description: $description, why: $why, bad: $bad, good: $good },)*
                }
            }
        }
    };
}

rules! {
    ConsistentInstructionCasing: "All instructions of a file should be in the same letter case",
        "Instructions are found by eye; one that looks different is overlooked.",
        bad "FROM alpine\nRUN true\nworkdir /src\n",
        good "FROM alpine\nRUN true\nWORKDIR /src\n";
    CopyIgnoredFile: "A file that .dockerignore leaves out should not be copied",
        "The build fails at that step, because the file is not part of the context.",
        bad "FROM alpine\nCOPY build.log /\n",
        good "FROM alpine\nCOPY build.txt /\n";
    DuplicateStageName: "The names of stages should be unique",
        "COPY --from and --target find the last stage of a name, FROM the nearest one above.",
        bad "FROM alpine AS build\nFROM alpine AS build\n",
        good "FROM alpine AS build\nFROM alpine AS test\n";
    ExposeInvalidFormat: "EXPOSE should name ports of the container, without an address or a host port",
        "EXPOSE is documentation; where a port is published is said when a container is started.",
        bad "FROM alpine\nEXPOSE 127.0.0.1:80:8080\n",
        good "FROM alpine\nEXPOSE 8080\n";
    ExposeProtoCasing: "The protocol in EXPOSE should be in lower case",
        "The configuration of the image has it in lower case.",
        bad "FROM alpine\nEXPOSE 80/TCP\n",
        good "FROM alpine\nEXPOSE 80/tcp\n";
    FromAsCasing: "AS should be in the letter case of its FROM",
        "Instructions are found by eye; one that looks different is overlooked.",
        bad "FROM alpine as build\n",
        good "FROM alpine AS build\n";
    FromPlatformFlagConstDisallowed: "FROM --platform should not be a constant",
        "The stage is then of that platform whatever platform is built for. Where that is meant, give the stage a name that \
         says so, as in `FROM --platform=linux/amd64 alpine AS build-amd64`.",
        bad "FROM --platform=linux/amd64 alpine\nRUN true\n",
        good "FROM --platform=$BUILDPLATFORM alpine\nRUN true\n";
    InvalidBaseImagePlatform: "The base image should be for the platform that is built for",
        "An image with one platform is taken as it is, and its programs cannot be executed on another.",
        bad "FROM other-platform\n",
        good "FROM alpine\n";
    InvalidDefaultArgInFrom: "The defaults of global arguments should make a valid FROM",
        "The file cannot be built without the argument, and tools that only read it do not know the base.",
        bad "ARG TAG\nFROM alpine:${TAG}\n",
        good "ARG TAG=3.22\nFROM alpine:${TAG}\n";
    InvalidDefinitionDescription: "A comment right above a stage or argument should describe it",
        "Tools that list stages and arguments show that comment. It has the form `# name description`; leave a blank line \
         below a comment that is something else. The rule is experimental: `# check=experimental=InvalidDefinitionDescription` \
         turns it on.",
        bad "# check=experimental=all\nFROM scratch\n# The version to install\nARG VERSION=1\n",
        good "# check=experimental=all\nFROM scratch\n# VERSION is what is installed\nARG VERSION=1\n";
    JSONArgsRecommended: "CMD and ENTRYPOINT should be JSON arrays",
        "In shell form a shell is process 1, and it does not pass signals on: the container is not stopped but killed.",
        bad "FROM alpine\nCMD sleep 60\n",
        good "FROM alpine\nCMD [\"sleep\", \"60\"]\n";
    LegacyKeyValueFormat: "ENV and LABEL should have `=` between key and value",
        "Without it the instruction takes one pair only, and everything behind the blank is its value.",
        bad "FROM alpine\nENV DIR /src\n",
        good "FROM alpine\nENV DIR=/src\n";
    MaintainerDeprecated: "MAINTAINER is deprecated, a label says the same",
        "Tools that read images know labels.",
        bad "FROM alpine\nMAINTAINER me@example.com\n",
        good "FROM alpine\nLABEL org.opencontainers.image.authors=\"me@example.com\"\n";
    MultipleInstructionsDisallowed: "CMD, ENTRYPOINT and HEALTHCHECK should stand once in a stage",
        "Only the last one has an effect.",
        bad "FROM alpine\nCMD [\"a\"]\nCMD [\"b\"]\n",
        good "FROM alpine\nCMD [\"b\"]\n";
    NoEmptyContinuation: "A continued instruction should not have blank lines",
        "A later syntax will not accept them, and whoever reads the file takes the instruction to end there.",
        bad "FROM alpine\nRUN true && \\\n\n    false\n",
        good "FROM alpine\nRUN true && \\\n    false\n";
    RedundantTargetPlatform: "FROM --platform=$TARGETPLATFORM should be left out",
        "That is the platform of every stage that does not say another one.",
        bad "FROM --platform=$TARGETPLATFORM alpine\n",
        good "FROM alpine\n";
    ReservedStageName: "A stage should not have the name `scratch` or `context`",
        "These words mean the empty image and the build context.",
        bad "FROM alpine AS context\n",
        good "FROM alpine AS files\n";
    SecretsUsedInArgOrEnv: "Secrets should not be in ARG or ENV",
        "Whoever has the image reads them in its configuration and history. `RUN --mount=type=secret` leaves no trace.",
        bad "FROM alpine\nARG API_TOKEN\n",
        good "FROM alpine\nARG API_VERSION\n";
    StageNameCasing: "Names of stages should be in lower case",
        "Names are compared without letter case; written alike, they are found by searching.",
        bad "FROM alpine AS Build\n",
        good "FROM alpine AS build\n";
    UndefinedArgInFrom: "FROM should use arguments that are declared above the first FROM",
        "An argument that is not declared has no value.",
        bad "FROM alpine${SUFFIX}\n",
        good "ARG SUFFIX=-slim\nFROM alpine${SUFFIX}\n";
    UndefinedVar: "Variables should be defined before they are used",
        "A variable that is not defined is empty.",
        bad "FROM alpine\nARG VERSION=1\nCOPY app-$VERSOIN /\n",
        good "FROM alpine\nARG VERSION=1\nCOPY app-$VERSION /\n";
    WorkdirRelativePath: "The first WORKDIR of a stage should be absolute",
        "A relative one depends on the working directory of the base image, which may change.",
        bad "FROM alpine\nWORKDIR src\n",
        good "FROM alpine\nWORKDIR /src\n";
}

impl Rule {
    /// The rule of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|rule| rule.name() == name)
    }

    /// The name of a rule that `name` is probably a misspelling of.
    pub fn similar(name: &str) -> Option<&'static str> {
        nearest(name, Self::ALL.iter().map(|rule| rule.name()))
    }

    /// Whether it must be asked for.
    pub fn is_experimental(self) -> bool {
        self == Self::InvalidDefinitionDescription
    }

    /// Where the documentation has it: `docs/lint.md#stagenamecasing`.
    pub fn anchor(self) -> String {
        format!("docs/lint.md#{}", self.name().to_lowercase())
    }

    /// A finding of this rule.
    pub fn at(self, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic::warning(self.name(), span, message)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
