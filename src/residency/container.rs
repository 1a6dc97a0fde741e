//! The memory of the group that this process is in and of those around it: limits, and what counts towards each.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::fields::plain_field;
use super::memory::{LimitFrom, MemoryLimit};
use crate::host::{Groups, HeldFile};

/// How often the groups are looked for anew: one may get a limit that had none, or the process may be
/// moved to another.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// What the groups tell.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ContainerMemory {
    /// One for each group with a limit.
    pub(super) limits: Vec<MemoryLimit>,
    /// Times that the kernel has killed in the own group.
    pub(super) kills: Option<u64>,
    /// Whether the kernel ends all processes of a group with the one that it ends.
    pub(super) is_killed_as_one: bool,
}

/// The groups with their files held open.
pub(super) struct Container {
    /// Names the groups of this process; changes when it is moved.
    membership: Option<HeldFile>,
    last_membership: String,
    looked_at: Instant,
    groups: Vec<GroupFiles>,
}

impl Container {
    /// The groups of this process; there may be none.
    pub(super) fn find() -> Self {
        let membership = HeldFile::open(Path::new("/proc/self/cgroup")).ok();
        let mut found =
            Self { membership, last_membership: String::new(), looked_at: Instant::now(), groups: Vec::new() };
        found.look();
        found
    }

    pub(super) fn read(&mut self) -> io::Result<ContainerMemory> {
        let membership = self.membership.as_mut().and_then(|file| file.read().ok());
        if membership.is_some_and(|text| text != self.last_membership) || self.looked_at.elapsed() >= LOOK_INTERVAL {
            self.look();
        }
        read_all(&mut self.groups)
    }

    /// Opens the files of the groups. Where that cannot be done now, those from before are kept.
    fn look(&mut self) {
        self.looked_at = Instant::now();
        let Some(groups) = Groups::of("memory") else { return };
        let opened = groups.folders.iter().map(|folder| GroupFiles::open(folder, groups.is_v1));
        match opened.collect::<io::Result<Vec<_>>>() {
            Ok(opened) => {
                self.groups = opened.into_iter().flatten().collect();
                if let Some(text) = self.membership.as_mut().and_then(|file| file.read().ok()) {
                    text.clone_into(&mut self.last_membership);
                }
            }
            Err(error) => log::debug!("the memory groups cannot be looked for now: {error}"),
        }
    }
}

fn read_all(groups: &mut [GroupFiles]) -> io::Result<ContainerMemory> {
    let mut all = ContainerMemory::default();
    for (distance, group) in groups.iter_mut().enumerate() {
        if distance == 0
            && let Some(events) = &mut group.events
        {
            all.kills = plain_field(events.read()?, "oom_kill");
        }
        all.limits.extend(group.limit()?);
        if let Some(file) = &mut group.is_killed_as_one {
            all.is_killed_as_one |= file.read()?.trim() == "1";
        }
    }
    Ok(all)
}

/// The memory files of one group.
#[derive(Debug)]
struct GroupFiles {
    is_v1: bool,
    limits: Vec<(LimitFrom, HeldFile)>,
    usage: HeldFile,
    stat: HeldFile,
    /// Version 1 alone: version 2 tells it in `stat`.
    kernel: Option<HeldFile>,
    events: Option<HeldFile>,
    is_killed_as_one: Option<HeldFile>,
}

impl GroupFiles {
    /// `None` for a group without limits, such as the root, or one whose memory is counted further out.
    fn open(folder: &Path, is_v1: bool) -> io::Result<Option<Self>> {
        let open = |file: &str| HeldFile::open_if_there(&folder.join(file));
        let [limit, usage, events] = if is_v1 {
            ["memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control"]
        } else {
            ["memory.max", "memory.current", "memory.events"]
        };
        let (Some(limit), Some(usage), Some(stat)) = (open(limit)?, open(usage)?, open("memory.stat")?) else {
            return Ok(None);
        };
        let high = open("memory.high")?.map(|high| (LimitFrom::MemoryHigh, high));
        Ok(Some(Self {
            is_v1,
            limits: std::iter::once((LimitFrom::Cgroup, limit)).chain(high).collect(),
            usage,
            stat,
            kernel: open("memory.kmem.usage_in_bytes")?,
            events: open(events)?,
            is_killed_as_one: open("memory.oom.group")?,
        }))
    }

    /// The group's lower limit with what counts towards it; `None` where it has none.
    fn limit(&mut self) -> io::Result<Option<MemoryLimit>> {
        let mut lowest: Option<(u64, LimitFrom)> = None;
        for (from, file) in &mut self.limits {
            let text = file.read()?.trim();
            if text != "max" {
                let bytes = number(text)?;
                lowest = lowest.filter(|(limit, _)| *limit <= bytes).or(Some((bytes, *from)));
            }
        }
        let Some((limit_bytes, from)) = lowest else { return Ok(None) };
        let kernel = self.kernel.as_mut().map_or(Ok(0), |file| number(file.read()?.trim()))?;
        let stat = self.stat.read()?;
        let unreclaimable_bytes = if self.is_v1 { of_v1(stat).map(|bytes| bytes + kernel) } else { of_v2(stat) }
            .ok_or_else(|| io::Error::other("memory.stat does not tell the group's anonymous memory"))?;
        let usage_bytes = number(self.usage.read()?.trim())?;
        Ok(Some(MemoryLimit { from, limit_bytes, unreclaimable_bytes, usage_bytes }))
    }
}

fn number(text: &str) -> io::Result<u64> {
    text.parse().map_err(|_| io::Error::other(format!("a memory file says {text:?}, which is no number")))
}

/// Anonymous and shared memory of the group and those within it.
fn of_v1(stat: &str) -> Option<u64> {
    Some(plain_field(stat, "total_rss")? + plain_field(stat, "total_shmem").unwrap_or(0))
}

/// Anonymous, shared and kernel memory that cannot be taken back.
fn of_v2(stat: &str) -> Option<u64> {
    let field = |key: &str| plain_field(stat, key);
    let sum = |keys: &[&str]| keys.iter().filter_map(|key| field(key)).sum::<u64>();
    // Kernels before 5.18 do not tell the sum of what they hold, only its parts.
    let kernel = field("kernel").map_or_else(
        || sum(&["kernel_stack", "pagetables", "sec_pagetables", "percpu", "vmalloc", "slab_unreclaimable"]),
        |kernel| kernel.saturating_sub(sum(&["slab_reclaimable"])),
    );
    Some(field("anon")? + kernel + sum(&["shmem", "sock"]))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    const MB: u64 = 1 << 20;

    /// Folders of groups, each within the one before.
    struct Tree {
        root: tempfile::TempDir,
        innermost: PathBuf,
    }

    impl Tree {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            Self { innermost: root.path().to_path_buf(), root }
        }

        fn group(mut self, name: &str, files: &[(&str, &str)]) -> Self {
            self.innermost.push(name);
            fs::create_dir(&self.innermost).unwrap();
            for (file, text) in files {
                fs::write(self.innermost.join(file), format!("{text}\n")).unwrap();
            }
            self
        }

        fn open(&self, is_v1: bool) -> Vec<GroupFiles> {
            let folders = self.innermost.ancestors().take_while(|folder| folder.starts_with(self.root.path()));
            folders.filter_map(|folder| GroupFiles::open(folder, is_v1).unwrap()).collect()
        }
    }

    fn limits(groups: &mut [GroupFiles]) -> Vec<(LimitFrom, u64, u64)> {
        let all = read_all(groups).unwrap().limits;
        all.iter().map(|limit| (limit.from, limit.limit_bytes / MB, limit.unreclaimable_bytes / MB)).collect()
    }

    const STAT: &str =
        "anon 41943040\nfile 999999999\nkernel 5242880\nsock 1048576\nshmem 2097152\nslab_reclaimable 3145728";

    #[test]
    fn each_group_is_held_against_its_own_usage() {
        let pod = STAT.replace("anon 41943040", "anon 209715200");
        let tree = Tree::new()
            .group("pod", &[("memory.max", "268435456"), ("memory.current", "251658240"), ("memory.stat", &pod)])
            .group("own", &[("memory.max", "134217728"), ("memory.current", "52428800"), ("memory.stat", STAT)]);
        let mut groups = tree.open(false);
        assert_eq!(limits(&mut groups), [(LimitFrom::Cgroup, 128, 45), (LimitFrom::Cgroup, 256, 205)]);
        assert_eq!(read_all(&mut groups).unwrap().limits[1].usage_bytes, 240 * MB);
    }

    #[test]
    fn a_limit_that_changes_is_followed_and_max_is_none() {
        let tree = Tree::new().group(
            "own",
            &[("memory.max", "max"), ("memory.high", "max"), ("memory.current", "1"), ("memory.stat", STAT)],
        );
        let mut groups = tree.open(false);
        assert_eq!(limits(&mut groups), []);
        fs::write(tree.innermost.join("memory.max"), "314572800\n").unwrap();
        assert_eq!(limits(&mut groups), [(LimitFrom::Cgroup, 300, 45)]);
        // The lower of both counts: above memory.high the kernel makes processes wait.
        fs::write(tree.innermost.join("memory.high"), "268435456\n").unwrap();
        assert_eq!(limits(&mut groups), [(LimitFrom::MemoryHigh, 256, 45)]);
        fs::write(tree.innermost.join("memory.max"), "134217728\n").unwrap();
        assert_eq!(limits(&mut groups), [(LimitFrom::Cgroup, 128, 45)]);
    }

    #[test]
    fn kernels_that_do_not_tell_the_sum_of_their_memory_tell_its_parts() {
        let old = "anon 41943040\nfile 1\nkernel_stack 1048576\nslab 9999999\nslab_unreclaimable 4194304\n\
                   pagetables 2097152\nsock 1048576\nshmem 1048576\nslab_reclaimable 5805695";
        let files = [("memory.max", "536870912"), ("memory.current", "1"), ("memory.stat", old)];
        assert_eq!(limits(&mut Tree::new().group("own", &files).open(false)), [(LimitFrom::Cgroup, 512, 49)]);
        // Still older ones tell fewer of them.
        assert_eq!(of_v2("anon 4096\nshmem 4096\n"), Some(8192));
        assert_eq!(of_v2("file 4096\n"), None);
    }

    #[test]
    fn version_1_counts_what_is_within_a_group_and_the_kernels_part() {
        let stat = "rss 1\ntotal_rss 104857600\ntotal_shmem 1048576\ntotal_cache 99999999";
        let files = [
            ("memory.limit_in_bytes", "536870912"),
            ("memory.usage_in_bytes", "209715200"),
            ("memory.stat", stat),
            ("memory.kmem.usage_in_bytes", "2097152"),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3"),
        ];
        let mut groups = Tree::new().group("jobs", &files).open(true);
        assert_eq!(limits(&mut groups), [(LimitFrom::Cgroup, 512, 103)]);
        assert_eq!(read_all(&mut groups).unwrap().kills, Some(3));
    }

    #[test]
    fn a_group_whose_memory_is_counted_further_out_is_passed_by() {
        let counted = [("memory.max", "268435456"), ("memory.current", "1"), ("memory.stat", STAT)];
        let tree = Tree::new().group("pod", &counted).group("leaf", &[("cgroup.procs", "1")]);
        assert_eq!(limits(&mut tree.open(false)), [(LimitFrom::Cgroup, 256, 45)]);
        // The root tells what the machine uses, but has no limit.
        assert_eq!(limits(&mut Tree::new().group("root", &[("memory.stat", STAT)]).open(false)), []);
    }

    #[test]
    fn kills_are_those_of_the_own_group_and_one_death_may_be_that_of_all() {
        let group = |as_one, kills| {
            [
                ("memory.max", "268435456"),
                ("memory.current", "1"),
                ("memory.stat", STAT),
                ("memory.oom.group", as_one),
                ("memory.events", kills),
            ]
        };
        let tree = |as_one| {
            let pod = group(as_one, "low 0\noom 9\noom_kill 9\noom_group_kill 1");
            Tree::new().group("pod", &pod).group("own", &group("0", "oom 1\noom_kill 1"))
        };
        for (text, as_one) in [("1", true), ("0", false)] {
            let all = read_all(&mut tree(text).open(false)).unwrap();
            assert_eq!((all.kills, all.is_killed_as_one), (Some(1), as_one));
        }
    }

    #[test]
    fn what_is_no_number_is_an_error_and_no_limit_of_none() {
        let files = [("memory.max", "lots"), ("memory.current", "1"), ("memory.stat", STAT)];
        let error = read_all(&mut Tree::new().group("own", &files).open(false)).unwrap_err();
        assert!(error.to_string().contains("lots"), "{error}");
    }
}
