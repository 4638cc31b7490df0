//! What people see of a build: numbered steps with their output, as `docker buildx --progress plain` prints them, or one
//! JSON object a line. It decides nothing; it is told.
//!
//! Output of steps is foreign text: control characters are shown, not obeyed.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How much of the end of a step's output is kept for messages, in bytes.
const TAIL: usize = 1024;

/// A longer line of output is cut, in bytes.
const MAX_LINE: usize = 16 * 1024;

/// How progress is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Style {
    /// Lines for people.
    #[default]
    #[value(alias = "auto")]
    Plain,
    /// One JSON object a line.
    Json,
    /// Nothing.
    Quiet,
}

/// Where progress goes. Cheap to clone.
#[derive(Clone)]
pub struct Progress(Arc<Mutex<Sink>>);

struct Sink {
    style: Style,
    writer: Box<dyn Write + Send>,
    count: usize,
    /// The step that wrote last and is not done.
    current: Option<usize>,
    /// What is to be told at the end.
    warnings: Vec<Warning>,
}

/// Something doubtful about the Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The rule, such as `StageNameCasing`.
    pub rule: &'static str,
    /// What is doubtful.
    pub message: String,
    /// The name of the file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
}

/// One step on display.
pub struct Vertex {
    progress: Progress,
    number: usize,
    name: String,
    started: Instant,
    tail: Mutex<Tail>,
}

#[derive(Default)]
struct Tail {
    lines: VecDeque<String>,
    bytes: usize,
}

/// What happens to a step.
#[derive(Clone, Copy)]
enum Event<'a> {
    Started,
    Missed(&'a str),
    Output(&'a str),
    Done,
    Cached,
    Failed(&'a str),
}

impl Progress {
    /// Progress in `style`, written to `writer`.
    pub fn new(style: Style, writer: impl Write + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Sink {
            style,
            writer: Box::new(writer),
            count: 0,
            current: None,
            warnings: Vec::new(),
        })))
    }

    /// Progress on standard error.
    pub fn stderr(style: Style) -> Self {
        Self::new(style, std::io::stderr())
    }

    /// Begins a step.
    pub fn start(&self, name: impl Into<String>) -> Vertex {
        let name = escape(name.into().as_bytes());
        let mut sink = self.sink();
        sink.count += 1;
        let vertex = Vertex {
            progress: self.clone(),
            number: sink.count,
            name,
            started: Instant::now(),
            tail: Mutex::default(),
        };
        sink.tell(&vertex, Event::Started);
        drop(sink);
        vertex
    }

    /// Text of our own, as it is: the drawing of a failure. In JSON, the member `text` of an object of its own.
    pub fn text(&self, text: &str) {
        let mut sink = self.sink();
        let _ = match sink.style {
            Style::Json => {
                let line = serde_json::json!({"event": "text", "text": text});
                writeln!(sink.writer, "{line}")
            }
            Style::Plain | Style::Quiet => writeln!(sink.writer, "{text}"),
        };
    }

    /// Keeps warnings for the end; what is known already is not kept again.
    pub fn warn(&self, warnings: impl IntoIterator<Item = Warning>) {
        let mut sink = self.sink();
        for warning in warnings {
            if !sink.warnings.contains(&warning) {
                sink.warnings.push(warning);
            }
        }
    }

    /// Tells the warnings that were kept, with their number. In JSON, each is an object of its own.
    pub fn tell_warnings(&self) {
        let mut sink = self.sink();
        let warnings = std::mem::take(&mut sink.warnings);
        // Progress that cannot be written is no reason to fail a build.
        let _ = sink.write_warnings(&warnings);
    }

    fn sink(&self) -> MutexGuard<'_, Sink> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vertex {
    /// A line that the step wrote, without its end. A line that overwrites itself, as progress bars do, counts by what it
    /// shows at last.
    pub fn output(&self, line: &[u8]) {
        let shown = line
            .trim_ascii_end()
            .rsplit(|&b| b == b'\r')
            .next()
            .unwrap_or_default();
        let text = escape(&shown[..shown.len().min(MAX_LINE)]);
        self.tail
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(&text);
        self.progress.sink().tell(self, Event::Output(&text));
    }

    /// The cache was asked and had no answer, for this reason.
    pub fn missed(&self, reason: &str) {
        let reason = escape(reason.as_bytes());
        self.progress.sink().tell(self, Event::Missed(&reason));
    }

    /// The step was executed.
    pub fn done(&self) {
        self.progress.sink().tell(self, Event::Done);
    }

    /// The step was answered by the cache.
    pub fn cached(&self) {
        self.progress.sink().tell(self, Event::Cached);
    }

    /// The step failed.
    pub fn failed(&self, message: &str) {
        let message = escape(message.as_bytes());
        self.progress.sink().tell(self, Event::Failed(&message));
    }

    /// The last lines of output, at most 1 KiB.
    pub fn tail(&self) -> String {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.lines
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("\n")
    }
}

impl Tail {
    fn push(&mut self, line: &str) {
        let mut start = line.len().saturating_sub(TAIL - 1);
        while !line.is_char_boundary(start) {
            start += 1;
        }
        self.bytes += line.len() - start + 1;
        self.lines.push_back(line[start..].to_owned());
        while self.bytes > TAIL {
            let Some(first) = self.lines.pop_front() else {
                break;
            };
            self.bytes -= first.len() + 1;
        }
    }
}

impl Sink {
    fn write_warnings(&mut self, warnings: &[Warning]) -> std::io::Result<()> {
        match self.style {
            Style::Quiet => return Ok(()),
            Style::Json => {
                for Warning {
                    rule,
                    message,
                    file,
                    line,
                } in warnings
                {
                    let line = serde_json::json!({
                        "event": "warning", "rule": rule, "text": message, "file": file, "line": line,
                    });
                    writeln!(self.writer, "{line}")?;
                }
                return Ok(());
            }
            Style::Plain => {}
        }
        match warnings.len() {
            0 => return Ok(()),
            1 => writeln!(
                self.writer,
                " 1 warning found (use --check to see its place):"
            )?,
            count => writeln!(
                self.writer,
                " {count} warnings found (use --check to see their places):"
            )?,
        }
        for warning in warnings {
            let Warning {
                rule,
                message,
                line,
                ..
            } = warning;
            writeln!(
                self.writer,
                " - {rule}: {} (line {line})",
                escape(message.as_bytes())
            )?;
        }
        Ok(())
    }

    fn tell(&mut self, vertex: &Vertex, event: Event<'_>) {
        // Progress that cannot be written is no reason to fail a build.
        let _ = match self.style {
            Style::Quiet => Ok(()),
            Style::Json => self.tell_json(vertex, event),
            Style::Plain => self.tell_plain(vertex, event),
        };
    }

    fn tell_plain(&mut self, vertex: &Vertex, event: Event<'_>) -> std::io::Result<()> {
        let number = vertex.number;
        let elapsed = vertex.started.elapsed();
        if self.current != Some(number) {
            if let Some(other) = self.current {
                writeln!(self.writer, "#{other} ...\n")?;
            }
            writeln!(self.writer, "#{number} {}", vertex.name)?;
            self.current = Some(number);
        }
        let end = match event {
            Event::Started => return Ok(()),
            Event::Missed(reason) => {
                return writeln!(self.writer, "#{number} not cached: {reason}");
            }
            Event::Output(line) => {
                return writeln!(self.writer, "#{number} {} {line}", seconds(elapsed, 3));
            }
            Event::Done => format!("DONE {}s", seconds(elapsed, 1)),
            Event::Cached => "CACHED".into(),
            Event::Failed(message) => format!("ERROR: {message}"),
        };
        self.current = None;
        writeln!(self.writer, "#{number} {end}\n")
    }

    fn tell_json(&mut self, vertex: &Vertex, event: Event<'_>) -> std::io::Result<()> {
        let (event, text) = match event {
            Event::Started => ("started", None),
            Event::Missed(reason) => ("missed", Some(reason)),
            Event::Output(line) => ("output", Some(line)),
            Event::Done => ("done", None),
            Event::Cached => ("cached", None),
            Event::Failed(message) => ("failed", Some(message)),
        };
        let line = serde_json::json!({
            "vertex": vertex.number, "name": vertex.name, "event": event, "text": text,
            "seconds": vertex.started.elapsed().as_secs_f64(),
        });
        writeln!(self.writer, "{line}")
    }
}

fn seconds(duration: Duration, digits: usize) -> String {
    format!("{:.digits$}", duration.as_secs_f64())
}

/// Foreign bytes as one line of text: control characters and what is not UTF-8 are shown as escapes.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for c in String::from_utf8_lossy(bytes).chars() {
        match c {
            '\t' => text.push('\t'),
            // Bidirectional controls rearrange the text around them.
            c if c.is_control()
                || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
            {
                text.extend(c.escape_default());
            }
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn text(buffer: &Buffer) -> String {
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        // Times differ from run to run.
        regex::Regex::new(r"\d+\.\d+")
            .unwrap()
            .replace_all(&text, "T")
            .into_owned()
    }

    #[test]
    fn plain_progress_reads_as_that_of_buildx() {
        let buffer = Buffer::default();
        let progress = Progress::new(Style::Plain, buffer.clone());
        let make = progress.start("[build 2/5] RUN make");
        make.missed("files changed: a\n.c");
        make.output(b"cc -o a");
        let copy = progress.start("[build 3/5] COPY a b");
        make.output(b"\x1b[31m10%\rdone\x07\xff\r\n");
        make.done();
        copy.cached();
        progress.start("[4/5] RUN false").failed("exit code: 1");
        insta::assert_snapshot!(text(&buffer), @r"
        #1 [build 2/5] RUN make
        #1 not cached: files changed: a\n.c
        #1 T cc -o a
        #1 ...

        #2 [build 3/5] COPY a b
        #2 ...

        #1 [build 2/5] RUN make
        #1 T done\u{7}�
        #1 DONE Ts

        #2 [build 3/5] COPY a b
        #2 CACHED

        #3 [4/5] RUN false
        #3 ERROR: exit code: 1
        ");
    }

    #[test]
    fn json_progress_is_one_object_a_line() {
        let buffer = Buffer::default();
        let vertex = Progress::new(Style::Json, buffer.clone()).start("a\nb");
        vertex.missed("base changed");
        vertex.output(b"x");
        vertex.done();
        let text = text(&buffer);
        let events: Vec<_> = text
            .lines()
            .map(|line| {
                let line: serde_json::Value =
                    serde_json::from_str(&line.replace(":T", ":0")).unwrap();
                line["event"].as_str().unwrap().to_owned()
            })
            .collect();
        assert_eq!(events, ["started", "missed", "output", "done"]);
        assert!(text.contains(r"a\\nb"));
    }

    #[test]
    fn warnings_are_told_once_and_counted() {
        let warning = |rule, line| Warning {
            rule,
            message: "a\nb".into(),
            file: "Dockerfile".into(),
            line,
        };
        for (style, expected) in [
            (
                Style::Plain,
                " 2 warnings found (use --check to see their places):\n - A: a\\nb (line 1)\n - B: a\\nb (line 2)\n",
            ),
            (
                Style::Json,
                "{\"event\":\"warning\",\"file\":\"Dockerfile\",\"line\":1,\"rule\":\"A\",\"text\":\"a\\nb\"}\n\
                 {\"event\":\"warning\",\"file\":\"Dockerfile\",\"line\":2,\"rule\":\"B\",\"text\":\"a\\nb\"}\n",
            ),
            (Style::Quiet, ""),
        ] {
            let buffer = Buffer::default();
            let progress = Progress::new(style, buffer.clone());
            progress.warn([warning("A", 1), warning("B", 2)]);
            // The same build for another platform.
            progress.warn([warning("A", 1)]);
            progress.tell_warnings();
            progress.tell_warnings();
            assert_eq!(text(&buffer), expected);
        }
    }

    #[test]
    fn the_end_of_the_output_is_kept() {
        let vertex = Progress::new(Style::Quiet, std::io::sink()).start("x");
        for number in 0..1000 {
            vertex.output(format!("line {number}").as_bytes());
        }
        let tail = vertex.tail();
        assert!(
            tail.len() <= TAIL && tail.ends_with("line 998\nline 999"),
            "{tail}"
        );
        vertex.output("ü".repeat(5000).as_bytes());
        assert!(vertex.tail().len() <= TAIL && vertex.tail().ends_with('ü'));
    }
}
