//! What the process and its container hold, as the kernel and `sysinfo` tell it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// How long the proportional size of mapped files is kept while their resident pages stay.
const ROLLUP_AGE: Duration = Duration::from_secs(5);

/// By how much the resident pages of mapped files may move before it is read anew.
const ROLLUP_DRIFT_BYTES: u64 = 1 << 20;

/// One reading. All figures in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Reading {
    /// Proportional set size: a page that several mappings share counts once. The resident set
    /// where the kernel does not tell it.
    pub resident_bytes: u64,
    /// Memory of the process with no file behind it.
    pub anonymous_bytes: u64,
    /// Resident pages of mapped files, which the kernel can take back.
    pub file_bytes: u64,
    /// Anonymous, shared and kernel memory of the process or of its whole container, whichever is
    /// more: what the kernel cannot take back.
    pub unreclaimable_bytes: u64,
    /// The tightest memory limit among the container and those around it.
    pub container_limit_bytes: Option<u64>,
    /// What counts towards that limit now, page cache included.
    pub container_usage_bytes: Option<u64>,
    /// Page faults of the process that had to read from disk, since its start.
    pub major_faults: u64,
    /// Bytes that the process has had read from disk since its start, reading ahead included.
    pub disk_read_bytes: u64,
    /// Times that the kernel has killed in this container.
    pub container_kills: Option<u64>,
}

/// Takes readings of the running process.
pub struct Meter {
    system: Option<System>,
    pid: Pid,
    container: Option<ContainerFiles>,
    rollup: Rollup,
}

/// The proportional set size costs a walk through all mapped pages, milliseconds of it. Anonymous
/// pages belong to this process alone and count in full, so it moves with them from reading to
/// reading; the walk is made anew when the resident pages of files have moved.
#[derive(Debug, Clone, Copy, Default)]
struct Rollup {
    at: Option<Instant>,
    /// Resident pages of files that it was read at.
    file_bytes: u64,
    /// Proportional size of everything but anonymous memory.
    shared_bytes: u64,
}

impl Meter {
    /// A meter of this process and the container it is in.
    #[must_use]
    pub fn new() -> Self {
        let system = System::new()
            .inspect_err(|error| log::warn!("sysinfo cannot read this system ({error}); only /proc is read"))
            .ok();
        Self {
            system,
            pid: Pid::from_u32(std::process::id()),
            container: ContainerFiles::find(),
            rollup: Rollup::default(),
        }
    }

    /// Reads everything anew.
    pub fn read(&mut self) -> Reading {
        self.rollup.at = None;
        self.read_cheaply()
    }

    /// The same at little cost: what mapped files take is read only when their resident pages have
    /// moved, or after some seconds.
    pub fn read_cheaply(&mut self) -> Reading {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let kib = |text: &str, key| kib_field(text, key).unwrap_or(0);
        let mut reading = Reading {
            resident_bytes: self.pss_bytes(kib(&status, "RssAnon:"), kib(&status, "RssFile:")),
            anonymous_bytes: kib(&status, "RssAnon:"),
            file_bytes: kib(&status, "RssFile:"),
            major_faults: major_faults().unwrap_or(0),
            disk_read_bytes: disk_read_bytes().unwrap_or(0),
            container_kills: self.container.as_ref().and_then(ContainerFiles::kills),
            ..Reading::default()
        };
        reading.unreclaimable_bytes = reading.anonymous_bytes + kib(&status, "RssShmem:") + kib(&status, "VmPTE:");
        let Some(system) = &mut self.system else { return reading };
        let only_memory = ProcessRefreshKind::nothing().with_memory();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[self.pid]), false, only_memory);
        let Some(process) = system.process(self.pid) else { return reading };
        if reading.resident_bytes == 0 {
            reading.resident_bytes = process.memory();
        }
        if let Some(limits) = process.cgroup_limits() {
            let container = self.container.as_ref().map_or(0, ContainerFiles::unreclaimable_bytes);
            reading.container_limit_bytes = Some(limits.total_memory);
            reading.container_usage_bytes = Some(limits.total_memory.saturating_sub(limits.free_memory));
            reading.unreclaimable_bytes = reading.unreclaimable_bytes.max(limits.rss).max(container);
        }
        reading
    }

    /// 0 where the kernel does not tell it.
    fn pss_bytes(&mut self, anonymous_bytes: u64, file_bytes: u64) -> u64 {
        let kept = self.rollup;
        let is_recent = kept.at.is_some_and(|at| at.elapsed() < ROLLUP_AGE);
        if is_recent && kept.file_bytes.abs_diff(file_bytes) <= ROLLUP_DRIFT_BYTES {
            return kept.shared_bytes + anonymous_bytes;
        }
        let rollup = fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
        let Some(pss_bytes) = kib_field(&rollup, "Pss:") else { return 0 };
        let walked_anonymous_bytes = kib_field(&rollup, "Pss_Anon:").unwrap_or(anonymous_bytes);
        let shared_bytes = pss_bytes.saturating_sub(walked_anonymous_bytes);
        self.rollup = Rollup { at: Some(Instant::now()), file_bytes, shared_bytes };
        pss_bytes
    }
}

impl Default for Meter {
    fn default() -> Self {
        Self::new()
    }
}

/// The memory files of this process's cgroup that `sysinfo` does not read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ContainerFiles {
    folder: PathBuf,
    /// Where the controller is mounted: no group that can be seen is above it.
    root: PathBuf,
    is_v1: bool,
}

impl ContainerFiles {
    fn find() -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let found = locate(&groups, &mounts)?;
        found.folder.join("memory.stat").is_file().then_some(found)
    }

    /// Anonymous and shared memory and what the kernel keeps, of the group whose limit is the
    /// tightest: neighbours in a group around this one use up the same limit.
    fn unreclaimable_bytes(&self) -> u64 {
        let folder = self.tightest();
        let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let field = |key| plain_field(&stat, key).unwrap_or(0);
        if self.is_v1 {
            let kernel = number_in(&folder.join("memory.kmem.usage_in_bytes")).unwrap_or(0);
            field("total_rss") + field("total_shmem") + kernel
        } else {
            field("anon") + field("shmem") + field("kernel").saturating_sub(field("slab_reclaimable")) + field("sock")
        }
    }

    /// This group, or the one around it with a lower limit.
    fn tightest(&self) -> &Path {
        let file = if self.is_v1 { "memory.limit_in_bytes" } else { "memory.max" };
        // A group without a limit says "max", or has no such file: no number.
        let limit = |folder: &Path| number_in(&folder.join(file)).unwrap_or(u64::MAX);
        self.folder
            .ancestors()
            .take_while(|folder| folder.starts_with(&self.root))
            .min_by_key(|folder| limit(folder))
            .unwrap_or(&self.folder)
    }

    fn kills(&self) -> Option<u64> {
        let file = if self.is_v1 { "memory.oom_control" } else { "memory.events" };
        plain_field(&fs::read_to_string(self.folder.join(file)).ok()?, "oom_kill")
    }
}

/// Finds the folder of the memory controller: version 1 where it has the controller, else version 2.
fn locate(groups: &str, mounts: &str) -> Option<ContainerFiles> {
    let v1 = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let controllers = fields.nth(1)?;
        controllers.split(',').any(|name| name == "memory").then(|| fields.next())?
    });
    let v2 = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let (path, is_v1) = v1.map(|path| (path, true)).or_else(|| v2.map(|path| (path, false)))?;
    let (root, folder) = mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ');
        let (root, point) = (place.nth(3)?, place.next()?);
        let mut kind = kind.split(' ');
        let file_system = kind.next()?;
        let options = kind.nth(1)?;
        let is_it = if is_v1 {
            file_system == "cgroup" && options.split(',').any(|option| option == "memory")
        } else {
            file_system == "cgroup2"
        };
        // Inside a container the mount shows only the part of the tree below the container's own group.
        let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
        is_it.then(|| (Path::new(point).to_path_buf(), Path::new(point).join(below)))
    })?;
    Some(ContainerFiles { folder, root, is_v1 })
}

fn number_in(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A line such as `shmem 4096`.
fn plain_field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// A line such as `Pss:   123 kB`, in bytes.
fn kib_field(text: &str, key: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

fn disk_read_bytes() -> Option<u64> {
    let io = fs::read_to_string("/proc/self/io").ok()?;
    io.lines().find_map(|line| line.strip_prefix("read_bytes:"))?.trim().parse().ok()
}

/// Field 12 of `/proc/self/stat`, counted after the command's closing parenthesis.
fn major_faults() -> Option<u64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(9)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_of_this_process_is_plausible() {
        let reading = Meter::new().read();
        assert!(reading.resident_bytes > 1 << 20, "{reading:?}");
        assert!(reading.anonymous_bytes > 100 << 10, "{reading:?}");
        assert!(reading.unreclaimable_bytes >= reading.anonymous_bytes, "{reading:?}");
    }

    #[test]
    fn anonymous_memory_that_is_touched_shows_up() {
        let mut meter = Meter::new();
        let before = meter.read();
        let ballast = vec![1_u8; 32 << 20];
        let after = meter.read();
        assert!(after.anonymous_bytes >= before.anonymous_bytes + (30 << 20), "{before:?} {after:?}");
        let more = vec![1_u8; 32 << 20];
        let cheap = meter.read_cheaply();
        assert!(cheap.resident_bytes >= after.resident_bytes + (30 << 20), "{after:?} {cheap:?}");
        assert_eq!(ballast[12345] + more[12345], 2);
    }

    #[test]
    fn the_memory_controller_is_found_in_both_versions() {
        let v1_mounts = "36 24 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                         39 24 0:34 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";
        let v1 = locate("5:cpu:/\n4:memory:/jobs/a\n0::/", v1_mounts).unwrap();
        assert_eq!((v1.folder, v1.is_v1), (PathBuf::from("/sys/fs/cgroup/memory/jobs/a"), true));
        let v2_mounts = "30 23 0:26 /../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate";
        let v2 = locate("0::/", v2_mounts).unwrap();
        assert_eq!((v2.folder, v2.is_v1), (PathBuf::from("/sys/fs/cgroup"), false));
        let inner = "30 23 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup ro";
        assert_eq!(locate("0::/docker/abc/x", inner).unwrap().folder, PathBuf::from("/sys/fs/cgroup/x"));
    }

    #[test]
    fn fields_are_read_by_their_whole_name() {
        assert_eq!(plain_field("shmem_thp 1\nshmem 4096\n", "shmem"), Some(4096));
        assert_eq!(kib_field("Pss_Dirty: 8 kB\nPss:   12 kB\n", "Pss:"), Some(12 * 1024));
    }
}
