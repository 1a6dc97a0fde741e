//! How far a run is: a bar for people, and a line at the end for everyone.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::progress::Counts;
use crate::logging;

/// Pause between two drawings while nothing happens.
const TICK: Duration = Duration::from_millis(250);

/// Drawings a second, at most.
const DRAWINGS_PER_SECOND: u8 = 5;

/// With a known end.
const BAR: &str = "{wide_bar} {percent:>3} %  {msg}  {eta} left";

/// Without one.
const SPINNER: &str = "{spinner} {msg}  {elapsed}";

/// A bar on standard error, if that is a terminal.
pub(super) struct Bar {
    bar: ProgressBar,
    started: Instant,
    before: Counts,
}

impl Bar {
    /// `total_bytes` is the length of the input where it is known. Nothing is drawn unless
    /// `is_wanted`, nor where nobody would see it.
    pub(super) fn new(total_bytes: Option<u64>, is_wanted: bool) -> Self {
        let bar = if is_wanted && io::stderr().is_terminal() {
            let target = ProgressDrawTarget::stderr_with_hz(DRAWINGS_PER_SECOND);
            let bar = ProgressBar::with_draw_target(total_bytes, target);
            let template = if total_bytes.is_some() { BAR } else { SPINNER };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.enable_steady_tick(TICK);
            bar
        } else {
            ProgressBar::hidden()
        };
        Self { bar, started: Instant::now(), before: Counts::default() }
    }

    /// Counts from here: what another run did says nothing of this one's speed.
    pub(super) fn start_from(&mut self, rows: Counts, input_bytes: u64) {
        self.before = rows;
        self.started = Instant::now();
        self.bar.set_position(input_bytes);
        self.bar.reset_eta();
    }

    pub(super) fn update(&self, rows: Counts, input_bytes: u64) {
        self.bar.set_position(input_bytes);
        self.bar.set_message(format!("{} rows, {:.0} rows/s", rows.read, self.rate(rows)));
    }

    /// Writes a line without spoiling the bar.
    pub(super) fn tell(&self, line: &str) {
        let is_drawn = !self.bar.is_hidden();
        self.bar.suspend(|| {
            logging::tell(line);
            if is_drawn {
                // Before the bar is drawn again.
                logging::flush();
            }
        });
    }

    /// Takes the bar away and says what was done.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// One line about the whole run.
    pub(super) fn summary(&self, rows: Counts, output: &str) -> String {
        let before = match self.before.read {
            0 => String::new(),
            read => format!(" ({read} of them before)"),
        };
        format!(
            "{} rows read{before}, {} written to {output}, {} bad, {:.1} s, {:.0} rows/s",
            rows.read,
            rows.written,
            rows.bad,
            self.started.elapsed().as_secs_f64(),
            self.rate(rows)
        )
    }

    fn rate(&self, rows: Counts) -> f64 {
        let seconds = self.started.elapsed().as_secs_f64();
        if seconds > 0.0 { (rows.read - self.before.read) as f64 / seconds } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_can_be_drawn() {
        for template in [BAR, SPINNER] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn the_summary_tells_what_was_done_before() {
        let mut bar = Bar::new(None, false);
        let rows = |read, written, bad| Counts { read, written, bad };
        let line = bar.summary(rows(10, 9, 1), "out.csv");
        assert!(line.starts_with("10 rows read, 9 written to out.csv, 1 bad, "), "{line}");
        bar.start_from(rows(10, 9, 1), 100);
        let line = bar.summary(rows(30, 29, 1), "out.csv");
        assert!(line.starts_with("30 rows read (10 of them before), 29 written"), "{line}");
    }
}
