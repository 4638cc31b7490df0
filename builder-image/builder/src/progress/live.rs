//! The view for a terminal: what is done stays in the text above, what runs is below, with its last lines of output and a
//! clock. Pure: events and a time become lines, and lines become the bytes that put them on the screen.

use std::collections::VecDeque;
use std::fmt::Write;
use std::time::Duration;

/// How many lines of output of one step are shown while it runs.
const RUNNING_LINES: usize = 6;

/// How many lines of output of a failed step stay.
const FAILED_LINES: usize = 20;

/// The terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    /// Columns.
    pub(super) width: usize,
    /// Lines.
    pub(super) height: usize,
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It was executed.
    Done,
    /// The cache had it.
    Cached,
    /// It failed.
    Failed,
}

struct Step {
    name: String,
    started: Duration,
    /// How and when it ended.
    end: Option<(End, Duration)>,
    output: VecDeque<String>,
}

/// All steps, and what of them was shown.
#[derive(Default)]
pub(super) struct Live {
    steps: Vec<Step>,
    /// Steps that have ended and were not shown since, in that order.
    settled: Vec<usize>,
    /// Lines that the last frame may overwrite.
    drawn: usize,
}

/// What is to be shown now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Frame {
    /// What stays.
    pub(super) settled: Vec<String>,
    /// What the next frame replaces.
    pub(super) live: Vec<String>,
}

impl Live {
    /// A step has begun; steps are numbered from 1 in this order.
    pub(super) fn started(&mut self, name: &str, now: Duration) {
        self.steps.push(Step {
            name: name.to_owned(),
            started: now,
            end: None,
            output: VecDeque::new(),
        });
    }

    /// The step has written a line.
    pub(super) fn output(&mut self, number: usize, line: &str) {
        let Some(step) = self.steps.get_mut(number.wrapping_sub(1)) else {
            return;
        };
        if step.output.len() == FAILED_LINES {
            step.output.pop_front();
        }
        step.output.push_back(line.to_owned());
    }

    /// The step has ended.
    pub(super) fn ended(&mut self, number: usize, end: End, now: Duration) {
        let Some(step) = self.steps.get_mut(number.wrapping_sub(1)) else {
            return;
        };
        if step.end.replace((end, now)).is_none() {
            self.settled.push(number - 1);
        }
    }

    /// What is to be shown at `now`. What has ended is in one frame only.
    pub(super) fn frame(&mut self, now: Duration, size: Size, color: bool) -> Frame {
        let mut frame = Frame::default();
        for index in std::mem::take(&mut self.settled) {
            let step = &self.steps[index];
            let Some((end, at)) = &step.end else { continue };
            let (mark, paint) = match end {
                End::Done => ("", "34"),
                End::Cached => ("CACHED ", "34"),
                End::Failed => ("ERROR ", "31"),
            };
            let time = at.saturating_sub(step.started);
            let line = timed(&format!(" => {mark}{}", step.name), time, size.width);
            frame.settled.push(painted(line, paint, color));
            if *end == End::Failed {
                frame.settled.extend(lines(step, FAILED_LINES, size.width));
            }
        }
        let running: Vec<_> = self.steps.iter().filter(|s| s.end.is_none()).collect();
        let done = self.steps.len() - running.len();
        let title = format!(
            "[+] Building {:.1}s ({done}/{})",
            now.as_secs_f64(),
            self.steps.len()
        );
        frame.live.push(cut(&title, size.width));
        // One line for the title, and one where the cursor waits.
        let room = size.height.saturating_sub(2).max(1);
        let shown = running.len().min(room);
        let hidden = running.len() - shown;
        let each = (room - shown)
            .checked_div(shown)
            .unwrap_or(0)
            .min(RUNNING_LINES);
        for step in &running[hidden..] {
            let time = now.saturating_sub(step.started);
            let line = timed(&format!(" => {}", step.name), time, size.width);
            frame.live.push(line);
            frame.live.extend(lines(step, each, size.width));
        }
        frame
    }

    /// The bytes that show `frame` in place of the one before.
    pub(super) fn draw(&mut self, frame: &Frame) -> String {
        let mut text = self.rewind();
        for line in frame.settled.iter().chain(&frame.live) {
            // What was longer before is cleared behind the new text, so that nothing blinks.
            let _ = writeln!(text, "{line}\x1b[K");
        }
        text.push_str("\x1b[J");
        self.drawn = frame.live.len();
        text
    }

    /// The bytes that take away what the next frame would replace.
    pub(super) fn clear(&mut self) -> String {
        let mut text = self.rewind();
        if self.drawn > 0 {
            text.push_str("\x1b[J");
        }
        self.drawn = 0;
        text
    }

    /// Moves to the first line that may be overwritten.
    fn rewind(&self) -> String {
        match self.drawn {
            0 => String::new(),
            lines => format!("\r\x1b[{lines}A"),
        }
    }
}

/// The last lines that a step wrote.
fn lines(step: &Step, most: usize, width: usize) -> impl Iterator<Item = String> {
    let skipped = step.output.len().saturating_sub(most);
    let lines = step.output.iter().skip(skipped);
    lines.map(move |line| cut(&format!(" => => # {line}"), width))
}

/// A text with a duration at the right edge.
fn timed(text: &str, time: Duration, width: usize) -> String {
    let time = format!("{:.1}s", time.as_secs_f64());
    let text = cut(text, width.saturating_sub(time.len() + 1));
    let gap = width.saturating_sub(columns(&text) + time.len());
    format!("{text}{}{time}", " ".repeat(gap))
}

/// A text that fits into `width` columns.
fn cut(text: &str, width: usize) -> String {
    let text = text.replace('\t', " ");
    if columns(&text) <= width {
        return text;
    }
    let mut shown = String::new();
    for c in text.chars() {
        if columns(&shown) + columns_of(c) >= width {
            break;
        }
        shown.push(c);
    }
    shown.push('…');
    shown
}

fn columns(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

/// How many columns a character takes, rather too many than too few: a line that wraps would not be overwritten.
const fn columns_of(c: char) -> usize {
    if (c as u32) < 0x1100 { 1 } else { 1 + wide(c) }
}

const fn wide(c: char) -> usize {
    // Dashes, quotes, dots and arrows are narrow; what is not known is taken for wide.
    if matches!(c, '\u{2010}'..='\u{2027}' | '\u{2190}'..='\u{21ff}') {
        0
    } else {
        1
    }
}

fn painted(line: String, paint: &str, color: bool) -> String {
    if color {
        format!("\x1b[{paint}m{line}\x1b[0m")
    } else {
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size {
        width: 40,
        height: 12,
    };

    fn at(tenths: u64) -> Duration {
        Duration::from_millis(tenths * 100)
    }

    fn shown(frame: &Frame) -> String {
        format!(
            "{}\n---\n{}",
            frame.settled.join("\n"),
            frame.live.join("\n")
        )
    }

    #[test]
    fn what_is_done_stays_and_what_runs_is_below() {
        let mut live = Live::default();
        live.started("[internal] load build definition from Dockerfile", at(0));
        live.ended(1, End::Done, at(1));
        live.started("[1/3] COPY a /", at(1));
        live.ended(2, End::Cached, at(1));
        live.started("[2/3] RUN make", at(1));
        live.output(3, "cc -o a");
        live.output(3, "a line that is longer than the terminal is wide");
        insta::assert_snapshot!(shown(&live.frame(at(21), SIZE, false)), @r"
         => [internal] load build definiti… 0.1s
         => CACHED [1/3] COPY a /           0.0s
        ---
        [+] Building 2.1s (2/3)
         => [2/3] RUN make                  2.0s
         => => # cc -o a
         => => # a line that is longer than the…
        ");
        live.output(3, "last");
        live.ended(3, End::Failed, at(30));
        insta::assert_snapshot!(shown(&live.frame(at(31), SIZE, false)), @r"
         => ERROR [2/3] RUN make            2.9s
         => => # cc -o a
         => => # a line that is longer than the…
         => => # last
        ---
        [+] Building 3.1s (3/3)
        ");
        // What was shown is not shown again.
        insta::assert_snapshot!(shown(&live.frame(at(32), SIZE, false)), @r"

        ---
        [+] Building 3.2s (3/3)
        ");
    }

    #[test]
    fn the_last_lines_share_what_room_there_is() {
        let mut live = Live::default();
        for step in 1..=3 {
            live.started(&format!("[{step}/3] RUN"), at(0));
            for line in 0..9 {
                live.output(step, &format!("line {line}"));
            }
        }
        for (height, lines, last) in [(50, 22, 6), (12, 10, 2), (5, 4, 0), (4, 3, 0), (1, 2, 0)] {
            let size = Size { height, ..SIZE };
            let frame = live.frame(at(1), size, false);
            assert_eq!(frame.live.len(), lines, "{height}");
            assert!(lines < height.max(3), "{height}: it would scroll");
            let output = frame.live.iter().filter(|line| line.contains('#'));
            assert_eq!(output.count(), 3.min(lines - 1) * last, "{height}");
        }
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for width in [0, 1, 5, 10, 40] {
            for text in [
                "",
                "abc",
                "[2/3] RUN echo äöü",
                "日本語日本語日本語",
                "a\tb",
            ] {
                assert!(columns(&cut(text, width)) <= width.max(1), "{width} {text}");
                let line = timed(text, at(123), width);
                assert!(columns(&line) <= width.max(6), "{width} {line}");
            }
        }
        assert_eq!(timed("a", at(5), 10), "a     0.5s");
    }

    #[test]
    fn a_frame_replaces_the_one_before_in_one_piece() {
        let mut live = Live::default();
        live.started("[1/1] RUN", at(0));
        let frame = live.frame(at(0), SIZE, true);
        let first = live.draw(&frame);
        assert!(!first.contains("\x1b[2A"));
        live.ended(1, End::Done, at(1));
        let frame = live.frame(at(1), SIZE, true);
        let second = live.draw(&frame).replace('\x1b', "^").replace('\r', "<");
        insta::assert_snapshot!(second, @r"
        <^[2A^[34m => [1/1] RUN                       0.1s^[0m^[K
        [+] Building 0.1s (1/1)^[K
        ^[J
        ");
        assert_eq!(live.clear().replace('\x1b', "^"), "\r^[1A^[J");
        assert_eq!(live.clear(), "");
    }
}
