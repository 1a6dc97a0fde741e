//! What this process holds, as the files of `/proc/self` tell it.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::fields::kib_field;
use super::memory::Reading;
use crate::host::HeldFile;

/// How long the proportional size of mapped files is kept while their resident pages stay.
const WALK_AGE: Duration = Duration::from_secs(5);

/// By how much the resident pages of mapped files may move before it is read anew.
const WALK_DRIFT_BYTES: u64 = 1 << 20;

/// The files, held open. All but `status` may be missing.
pub(super) struct ProcessFiles {
    status: Option<HeldFile>,
    rollup: Option<HeldFile>,
    stat: Option<HeldFile>,
    io: Option<HeldFile>,
    walk: Option<Walk>,
}

/// The proportional set size costs a walk through all mapped pages, milliseconds of it. Anonymous
/// pages belong to this process alone and count in full, so it moves with them from reading to
/// reading; the walk is made anew when the resident pages of files have moved.
#[derive(Debug, Clone, Copy)]
struct Walk {
    at: Instant,
    /// Resident pages of files that it was made at.
    file_bytes: u64,
    /// Proportional size of everything but anonymous memory.
    shared_bytes: u64,
}

impl ProcessFiles {
    pub(super) fn open() -> Self {
        let [status, rollup, stat, io] = ["status", "smaps_rollup", "stat", "io"]
            .map(|file| HeldFile::open(&Path::new("/proc/self").join(file)).ok());
        Self { status, rollup, stat, io, walk: None }
    }

    /// Lets the next reading make the walk anew.
    pub(super) fn forget_walk(&mut self) {
        self.walk = None;
    }

    pub(super) fn read_into(&mut self, reading: &mut Reading) -> io::Result<()> {
        let Some(status) = &mut self.status else { return Err(io::Error::other("/proc/self/status is closed")) };
        let status = status.read()?;
        let kib = |key| kib_field(status, key).unwrap_or(0);
        let anonymous_bytes = kib("RssAnon:");
        reading.anonymous_bytes = anonymous_bytes;
        reading.file_bytes = kib("RssFile:");
        reading.unreclaimable_bytes = anonymous_bytes + kib("RssShmem:") + kib("VmPTE:");
        reading.resident_bytes = self.pss_bytes(anonymous_bytes, reading.file_bytes);
        reading.major_faults = told(&mut self.stat, major_faults).unwrap_or(reading.major_faults);
        reading.disk_read_bytes = told(&mut self.io, disk_read_bytes).unwrap_or(reading.disk_read_bytes);
        Ok(())
    }

    /// 0 where the kernel does not tell it.
    fn pss_bytes(&mut self, anonymous_bytes: u64, file_bytes: u64) -> u64 {
        let is_recent =
            |walk: &Walk| walk.at.elapsed() < WALK_AGE && walk.file_bytes.abs_diff(file_bytes) <= WALK_DRIFT_BYTES;
        if let Some(walk) = self.walk.filter(is_recent) {
            return walk.shared_bytes + anonymous_bytes;
        }
        let figures = |text: &str| Some((kib_field(text, "Pss:")?, kib_field(text, "Pss_Anon:")));
        let Some((pss_bytes, walked_anonymous_bytes)) = told(&mut self.rollup, figures) else { return 0 };
        let shared_bytes = pss_bytes.saturating_sub(walked_anonymous_bytes.unwrap_or(anonymous_bytes));
        self.walk = Some(Walk { at: Instant::now(), file_bytes, shared_bytes });
        pss_bytes
    }
}

fn told<T>(file: &mut Option<HeldFile>, figure: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    figure(file.as_mut()?.read().ok()?)
}

fn disk_read_bytes(io: &str) -> Option<u64> {
    io.lines().find_map(|line| line.strip_prefix("read_bytes:"))?.trim().parse().ok()
}

/// Field 12 of `/proc/self/stat`, counted after the command's closing parenthesis.
fn major_faults(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(9)?.parse().ok()
}
