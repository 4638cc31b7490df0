//! The workloads: what is built, what changes between builds, and which commands of it are nobody's overhead.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use tests::stage::repository;

/// What is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    Web,
    C,
    Diamond,
    SmallFiles,
    LargeLayer,
    ManyRuns,
    CopyOnBase,
    LinkOnBase,
}

/// What happened before a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    /// Nothing: all directories are empty.
    Cold,
    /// As cold, but the layer is stored as it is: what is left without the compressor.
    Uncompressed,
    /// The same build.
    Unchanged,
    /// The same build, then one file was changed.
    OneFile,
}

impl Case {
    /// How the table names it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Uncompressed => "cold, not compressed",
            Self::Unchanged => "nothing changed",
            Self::OneFile => "one file changed",
        }
    }

    /// Whether all directories are empty before.
    pub(crate) const fn is_cold(self) -> bool {
        matches!(self, Self::Cold | Self::Uncompressed)
    }
}

/// Stages side by side in the diamond.
const SIDES: usize = 18;
/// Steps of the workload of many.
const RUNS: usize = 200;

const WEB: &str = "ARG BASE\nFROM ${BASE} AS dependencies\nWORKDIR /app\nCOPY dependencies.tar .\n\
    RUN mkdir packages && tar -xf dependencies.tar -C packages && rm dependencies.tar\n\
    FROM ${BASE}\nWORKDIR /app\nCOPY --from=dependencies /app/packages packages\nCOPY src src\n\
    ENV PORT=8080\nEXPOSE 8080\nUSER 1000\nCMD [\"src/file0\"]\n";

impl Workload {
    /// All, in the order of the table.
    pub(crate) const ALL: [Self; 8] = [
        Self::Web,
        Self::C,
        Self::Diamond,
        Self::SmallFiles,
        Self::LargeLayer,
        Self::ManyRuns,
        Self::CopyOnBase,
        Self::LinkOnBase,
    ];

    /// What `make bench WORKLOAD=` says.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::C => "c",
            Self::Diamond => "diamond",
            Self::SmallFiles => "small-files",
            Self::LargeLayer => "large-layer",
            Self::ManyRuns => "many-runs",
            Self::CopyOnBase => "copy-on-base",
            Self::LinkOnBase => "link-on-base",
        }
    }

    /// What it is, for people.
    pub(crate) const fn about(self) -> &'static str {
        match self {
            Self::Web => "a small web application: 2,000 files of dependencies, 50 of sources",
            Self::C => "a C project: toolchain base, generated dependencies, one program compiled",
            Self::Diamond => {
                "20 stages: one below, 18 side by side with some work each, one on top"
            }
            Self::SmallFiles => "60,000 small files copied",
            Self::LargeLayer => "one mixed layer of 1 GiB, packed and not pushed",
            Self::ManyRuns => "200 RUN steps that do nearly nothing",
            Self::CopyOnBase => "one file copied onto a base of 150 MB",
            Self::LinkOnBase => {
                "the same with `COPY --link`; crane appends the file as a layer made before"
            }
        }
    }

    /// What is measured, in order: each case builds on what the one before left.
    pub(crate) const fn cases(self) -> &'static [Case] {
        match self {
            Self::LargeLayer => &[Case::Cold, Case::Uncompressed],
            Self::LinkOnBase => &[Case::Cold],
            _ => &[Case::Cold, Case::Unchanged, Case::OneFile],
        }
    }

    /// How often it is run where `asked` are asked for: the whole table shall take less than half an hour.
    pub(crate) fn runs(self, asked: usize) -> usize {
        let most = match self {
            Self::ManyRuns => 1,
            Self::SmallFiles | Self::LargeLayer => 2,
            _ => asked,
        };
        asked.min(most)
    }

    /// Why buildah has no part in it, where it has none.
    pub(crate) const fn without_buildah(self) -> Option<&'static str> {
        match self {
            Self::LinkOnBase => Some("buildah knows no `--link`"),
            Self::ManyRuns => Some(
                "buildah fails on so many layers (`max depth exceeded`, its overlay driver's limit is 128)",
            ),
            _ => None,
        }
    }

    /// Whether the image is pushed, or else written as an OCI archive.
    pub(crate) fn is_pushed(self) -> bool {
        self != Self::LargeLayer
    }

    /// The commands of the critical path, for a shell in the root of the base with the context at `/context`: what they take
    /// is no builder's overhead.
    pub(crate) fn own_commands(self) -> Option<String> {
        Some(match self {
            Self::Web => "mkdir -p /app/packages && cd /app && tar -xf /context/dependencies.tar -C packages".into(),
            Self::C => "mkdir -p /work && cd /work && cp -r /context/. . && mkdir -p vendor && while read -r name size; do \
                head -c \"$size\" /dev/urandom | od -An -tx1 > \"vendor/$name\"; done < dependencies.txt && make"
                .into(),
            Self::Diamond => each(SIDES, |number| format!("({}) &\n", work(number))) + "wait\n",
            Self::ManyRuns => each(RUNS, |number| format!("sh -c 'echo {number} > /file{number}'\n")),
            Self::SmallFiles | Self::LargeLayer | Self::CopyOnBase | Self::LinkOnBase => {
                return None;
            }
        })
    }

    /// Writes the context into the new directory `context`; a large layer has `layer` MiB.
    pub(crate) fn write(self, context: &Path, layer: u64) -> anyhow::Result<()> {
        if self == Self::C {
            let from = repository().join("tests/benches/dockerfile");
            let copied = Command::new("cp")
                .arg("-a")
                .arg(from)
                .arg(context)
                .status()?;
            anyhow::ensure!(copied.success(), "copying the context failed");
            return Ok(());
        }
        fs_err::create_dir_all(context)?;
        let dockerfile = match self {
            Self::Web | Self::C => WEB.to_owned(),
            Self::Diamond => diamond(),
            Self::SmallFiles => "FROM scratch\nCOPY src /src\n".into(),
            Self::LargeLayer => "FROM scratch\nCOPY data /data\n".into(),
            Self::ManyRuns => many_runs(),
            Self::CopyOnBase => "ARG BASE\nFROM ${BASE}\nCOPY src /src\n".into(),
            Self::LinkOnBase => "ARG BASE\nFROM ${BASE}\nCOPY --link src /src\n".into(),
        };
        fs_err::write(context.join("Dockerfile"), dockerfile)?;
        match self {
            Self::Web => {
                files(&context.join("src"), 50, 4000)?;
                let packages = context.join("packages");
                files(&packages, 2000, 6000)?;
                let mut archive =
                    tar::Builder::new(fs_err::File::create(context.join("dependencies.tar"))?);
                archive.append_dir_all(".", &packages)?;
                archive.finish()?;
                fs_err::remove_dir_all(packages)?;
            }
            Self::SmallFiles => files(&context.join("src"), 60_000, 600)?,
            Self::LargeLayer => mixed(&context.join("data"), layer)?,
            _ => files(&context.join("src"), 1, 100)?,
        }
        Ok(())
    }

    /// Changes one file of the context, differently in each run.
    pub(crate) fn change(self, context: &Path, run: usize) -> anyhow::Result<()> {
        let (file, text) = match self {
            Self::C => (
                "src/answer.c",
                format!("int answer(void) {{\n    return {};\n}}\n", 1000 + run),
            ),
            _ => ("src/file0", format!("changed {run}\n")),
        };
        Ok(fs_err::write(context.join(file), text)?)
    }
}

/// Work for a shell that takes some tenths of a second.
fn work(number: usize) -> String {
    format!(
        "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; head -c 1000000 /dev/zero > /made{number}"
    )
}

/// The texts of `line` for each number below `count`.
fn each(count: usize, line: impl Fn(usize) -> String) -> String {
    let mut text = String::new();
    for number in 0..count {
        text += &line(number);
    }
    text
}

fn diamond() -> String {
    let sides = each(SIDES, |n| {
        format!("FROM below AS side{n}\nRUN {}\n", work(n))
    });
    let copies = each(SIDES, |n| format!("COPY --from=side{n} /made{n} /\n"));
    format!("ARG BASE\nFROM ${{BASE}} AS below\nCOPY src /src\n{sides}FROM ${{BASE}}\n{copies}")
}

fn many_runs() -> String {
    let runs = each(RUNS, |n| format!("RUN echo {n} > /file{n}\n"));
    format!("ARG BASE\nFROM ${{BASE}}\nCOPY src /src\n{runs}")
}

/// A stream of numbers that looks random and is the same each time.
struct Noise(u64);

impl Noise {
    const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// `count` files of text, a thousand to a directory but for the first, each of up to `size` bytes.
fn files(directory: &Path, count: usize, size: usize) -> anyhow::Result<()> {
    let mut noise = Noise(0x2545_f491_4f6c_dd1d);
    for number in 0..count {
        let name = if number == 0 {
            "file0".to_owned()
        } else {
            format!("d{}/file{number}", number / 1000)
        };
        let path = directory.join(name);
        if let Some(parent) = path.parent() {
            fs_err::create_dir_all(parent)?;
        }
        let length = usize::try_from(noise.next()).unwrap_or(usize::MAX) % size;
        let mut text = String::with_capacity(length + 16);
        while text.len() < length {
            write!(text, "{:x} ", noise.next() % 50_000)?;
        }
        fs_err::write(path, text)?;
    }
    Ok(())
}

/// Files of 8 MiB: of each four one of noise, one of zeros, two of text; and this program, over and over.
fn mixed(directory: &Path, mebibytes: u64) -> anyhow::Result<()> {
    fs_err::create_dir_all(directory)?;
    let program = fs_err::read(std::env::current_exe()?)?;
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    for number in 0..mebibytes / 8 {
        let mut out = std::io::BufWriter::new(fs_err::File::create(
            directory.join(format!("file{number}")),
        )?);
        let mut left: usize = 8 << 20;
        while left > 0 {
            let chunk = match number % 5 {
                0 => noise.next().to_le_bytes().to_vec(),
                1 => vec![0; 4096],
                2 => {
                    let at = usize::try_from(noise.next()).unwrap_or(0) % program.len();
                    program[at..(at + 65_536).min(program.len())].to_vec()
                }
                _ => format!("{:x} ", noise.next() % 50_000).into_bytes(),
            };
            let taken = chunk.len().min(left);
            out.write_all(&chunk[..taken])?;
            left -= taken;
        }
        out.flush()?;
    }
    Ok(())
}
