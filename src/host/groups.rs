//! Where the kernel keeps this process's control groups: its own and those around it, in version 1 and 2.

use std::fs;
use std::path::{Path, PathBuf};

/// The groups of one controller that hold this process and can be seen from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Groups {
    /// The process's own group first, then those around it, outwards.
    pub(crate) folders: Vec<PathBuf>,
    /// Whether it is version 1, which names its files differently.
    pub(crate) is_v1: bool,
}

impl Groups {
    /// The groups of `controller`, such as `memory`; `None` where there are none or none is mounted.
    pub(crate) fn of(controller: &str) -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        Self::locate(controller, &groups, &mounts)
    }

    /// The same from what `/proc/self/cgroup` and `/proc/self/mountinfo` say. Version 1 where that has
    /// the controller, else version 2.
    pub(crate) fn locate(controller: &str, groups: &str, mounts: &str) -> Option<Self> {
        let has_it = |list: &str| list.split(',').any(|name| name == controller);
        let v1 = groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            has_it(fields.next()?).then(|| fields.next())?
        });
        let v2 = groups.lines().find_map(|line| line.strip_prefix("0::"));
        let (path, is_v1) = v1.map(|path| (path, true)).or_else(|| v2.map(|path| (path, false)))?;
        let mounted = |line| {
            let (place, kind): (&str, &str) = str::split_once(line, " - ")?;
            let mut place = place.split(' ').skip(3);
            let (root, point) = (place.next()?, place.next()?);
            let mut kind = kind.split(' ');
            let (file_system, options) = (kind.next()?, kind.nth(1)?);
            let is_it = if is_v1 { file_system == "cgroup" && has_it(options) } else { file_system == "cgroup2" };
            is_it.then(|| (Path::new(point), Path::new(path).strip_prefix(root).ok()))
        };
        // A mount may show only the part of the tree below a container's group, or may begin above what
        // a namespace can name. The one that shows most of the way to this process tells most.
        let (point, below) = mounts
            .lines()
            .filter_map(mounted)
            .max_by_key(|(_, below)| below.map_or(0, |below| below.components().count() + 1))?;
        let own = point.join(below.unwrap_or(Path::new("")));
        let folders = own.ancestors().take_while(|folder| folder.starts_with(point)).map(Path::to_path_buf).collect();
        Some(Self { folders, is_v1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn located(groups: &str, mounts: &str) -> (Vec<PathBuf>, bool) {
        let found = Groups::locate("memory", groups, mounts).unwrap();
        (found.folders, found.is_v1)
    }

    fn paths(paths: &[&str]) -> Vec<PathBuf> {
        paths.iter().map(PathBuf::from).collect()
    }

    const V1: &str = "36 24 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                      39 24 0:34 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";
    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate";

    #[test]
    fn the_own_group_comes_first_and_then_those_around_it_in_both_versions() {
        let v1 = ["/sys/fs/cgroup/memory/jobs/a", "/sys/fs/cgroup/memory/jobs", "/sys/fs/cgroup/memory"];
        assert_eq!(located("5:cpu,cpuacct:/\n4:memory:/jobs/a\n0::/", V1), (paths(&v1), true));
        let v2 = ["/sys/fs/cgroup/pod/c", "/sys/fs/cgroup/pod", "/sys/fs/cgroup"];
        assert_eq!(located("0::/pod/c", V2), (paths(&v2), false));
        let cpu = Groups::locate("cpu", "5:cpu,cpuacct:/b\n4:memory:/jobs/a", V1).unwrap();
        assert_eq!(cpu.folders[0], Path::new("/sys/fs/cgroup/cpu/b"));
    }

    #[test]
    fn a_controller_that_version_1_does_not_have_is_looked_for_in_version_2() {
        let mounts = format!("{V1}\n41 24 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw");
        let found = Groups::locate("pids", "4:memory:/a\n0::/b", &mounts).unwrap();
        assert_eq!((found.folders[0].as_path(), found.is_v1), (Path::new("/sys/fs/cgroup/unified/b"), false));
    }

    #[test]
    fn a_container_that_sees_only_its_own_part_of_the_tree_finds_it() {
        let own = paths(&["/sys/fs/cgroup"]);
        // A namespace of its own; the host's mount seen from one; a bind mount of the own group alone.
        assert_eq!(located("0::/", V2), (own.clone(), false));
        assert_eq!(located("0::/", "30 23 0:26 /../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw"), (own.clone(), false));
        let bound = "30 23 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup ro";
        assert_eq!(located("0::/docker/abc", bound), (own.clone(), false));
        assert_eq!(located("0::/docker/abc/x", bound).0[0], Path::new("/sys/fs/cgroup/x"));
        let v1 = "39 24 0:34 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup ro,memory";
        assert_eq!(located("4:memory:/docker/abc", v1), (paths(&["/sys/fs/cgroup/memory"]), true));
    }

    #[test]
    fn of_several_mounts_the_one_that_shows_most_of_the_way_is_taken() {
        let mounts = format!("29 23 0:26 /pod/c /mnt ro - cgroup2 cgroup2 rw\n{V2}");
        assert_eq!(located("0::/pod/c", &mounts).0.len(), 3);
    }

    #[test]
    fn without_a_mount_or_a_controller_there_are_none() {
        assert_eq!(Groups::locate("memory", "4:memory:/a", V2), None);
        assert_eq!(Groups::locate("memory", "4:cpu:/a", V1), None);
        assert_eq!(Groups::locate("memory", "", ""), None);
    }
}
