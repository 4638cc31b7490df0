//! What people see of a build: numbered steps with their output, as `docker buildx --progress plain` prints them, a view
//! that is redrawn on a terminal ([`live`]), or one JSON object a line. It decides nothing; it is told.
//!
//! Output of steps is foreign text: control characters are shown, not obeyed.

mod live;
mod output;
mod raw;
mod style;

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use self::live::{End, Live, Size};
use self::output::Output;
pub use self::style::Style;

/// A longer line of output is cut, in bytes.
const MAX_LINE: usize = 16 * 1024;

/// How often the view of a terminal is redrawn.
const REDRAW: Duration = Duration::from_millis(100);

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
    /// What a terminal shows, as long as it is redrawn.
    live: Option<Live>,
    begun: Instant,
    color: bool,
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
    written: Mutex<Output>,
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
        let sink = Arc::new(Mutex::new(Sink {
            style,
            writer: Box::new(writer),
            count: 0,
            current: None,
            warnings: Vec::new(),
            live: (style == Style::Tty).then(Live::default),
            begun: Instant::now(),
            color: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        }));
        if style == Style::Tty {
            let sink = Arc::downgrade(&sink);
            std::thread::spawn(move || redraw(&sink));
        }
        Self(sink)
    }

    /// Progress on standard error, in the form that can be had there. It starts a thread where that is redrawn.
    pub fn stderr(style: Style) -> Self {
        let stderr = std::io::stderr();
        let style = style.possible(stderr.is_terminal());
        Self::new(style, stderr)
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
            written: Mutex::default(),
        };
        sink.tell(&vertex, Event::Started);
        drop(sink);
        vertex
    }

    /// Text of our own, as it is: the drawing of a failure. In JSON, the member `text` of an object of its own.
    pub fn text(&self, text: &str) {
        let mut sink = self.sink();
        let _ = if sink.style == Style::Json {
            let line = serde_json::json!({"event": "text", "text": text});
            writeln!(sink.writer, "{line}")
        } else {
            sink.settle();
            writeln!(sink.writer, "{text}")
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

    /// Tells the warnings that were kept, with their number, and ends the view of a terminal. In JSON, each is an object of
    /// its own.
    pub fn tell_warnings(&self) {
        let mut sink = self.sink();
        sink.settle();
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
        if let Some(told) = self.written().push(&text) {
            self.progress.sink().tell(self, Event::Output(told));
        }
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
        self.written().tail()
    }

    fn written(&self) -> MutexGuard<'_, Output> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink {
    fn write_warnings(&mut self, warnings: &[Warning]) -> std::io::Result<()> {
        match self.style {
            Style::Quiet | Style::Rawjson => return Ok(()),
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
            Style::Auto | Style::Plain | Style::Tty => {}
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
            Style::Rawjson => {
                let status = raw::status(vertex, event, jiff::Timestamp::now());
                writeln!(self.writer, "{status}")
            }
            Style::Tty => {
                self.tell_live(vertex, event);
                Ok(())
            }
            Style::Auto | Style::Plain => self.tell_plain(vertex, event),
        };
    }

    /// Changes what a terminal shows; it is drawn by the thread for that.
    fn tell_live(&mut self, vertex: &Vertex, event: Event<'_>) {
        let now = self.begun.elapsed();
        let Some(live) = &mut self.live else { return };
        let number = vertex.number;
        match event {
            Event::Started => live.started(&vertex.name, now),
            Event::Missed(_) => {}
            Event::Output(line) => live.output(number, line),
            Event::Done => live.ended(number, End::Done, now),
            Event::Cached => live.ended(number, End::Cached, now),
            Event::Failed(message) => {
                live.output(number, message);
                live.ended(number, End::Failed, now);
            }
        }
    }

    /// Draws what a terminal shows now, in one piece.
    fn draw(&mut self) {
        let Some(live) = &mut self.live else { return };
        let frame = live.frame(self.begun.elapsed(), terminal_size(), self.color);
        let text = live.draw(&frame);
        // Progress that cannot be written is no reason to fail a build.
        let _ = self.writer.write_all(text.as_bytes());
        let _ = self.writer.flush();
    }

    /// Draws a terminal for the last time: what has ended stays, what runs is gone.
    fn settle(&mut self) {
        self.draw();
        if let Some(mut live) = self.live.take() {
            let _ = self.writer.write_all(live.clear().as_bytes());
        }
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

/// Draws what a terminal shows, until nothing is to be drawn any more.
fn redraw(sink: &Weak<Mutex<Sink>>) {
    let draw = |sink: &Mutex<Sink>| {
        let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
        sink.draw();
        sink.live.is_some()
    };
    while sink.upgrade().is_some_and(|sink| draw(&sink)) {
        std::thread::park_timeout(REDRAW);
    }
}

/// The size of the terminal at standard error, or that of an old one.
fn terminal_size() -> Size {
    let found = rustix::termios::tcgetwinsize(std::io::stderr()).ok();
    let found = found.filter(|size| size.ws_col > 0 && size.ws_row > 0);
    found.map_or(
        Size {
            width: 80,
            height: 24,
        },
        |size| Size {
            width: size.ws_col.into(),
            height: size.ws_row.into(),
        },
    )
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
    use super::output::TAIL;
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

    #[test]
    fn raw_progress_is_what_clients_of_buildkit_read() {
        let buffer = Buffer::default();
        let progress = Progress::new(Style::Rawjson, buffer.clone());
        let vertex = progress.start("[1/1] RUN");
        vertex.output(b"x");
        vertex.failed("exit code: 1");
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let (started, log, failed) = (
            &lines[0]["vertexes"][0],
            &lines[1]["logs"][0],
            &lines[2]["vertexes"][0],
        );
        assert_eq!(started["name"], "[1/1] RUN");
        assert_eq!(log["vertex"], started["digest"]);
        assert_eq!(log["data"], "eAo=");
        assert_eq!(failed["error"], "exit code: 1");
        assert!(started["completed"].is_null() && failed["completed"].is_string());
        assert!(failed["started"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn a_terminal_keeps_what_has_ended_and_the_rest_is_cleared() {
        let buffer = Buffer::default();
        let progress = Progress::new(Style::Tty, buffer.clone());
        progress.start("[1/2] COPY").done();
        let running = progress.start("[2/2] RUN");
        running.output(b"x");
        progress.tell_warnings();
        running.done();
        progress.text("the end");
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches("[1/2] COPY").count(), 1);
        assert!(text.ends_with("\x1b[Jthe end\n"), "{text:?}");
    }
}
