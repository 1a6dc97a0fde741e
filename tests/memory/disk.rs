//! Cache folders that cannot take prepared weights.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::group::Group;
use crate::limits::assert_well;
use crate::load::{Load, text};
use crate::support;

/// A file system in a file, mounted for one test.
struct Mounted(PathBuf);

impl Mounted {
    /// Of this size, on disk; `None` where nothing can be mounted and a test may be skipped.
    fn new(megabytes: u64, options: &str) -> Option<Self> {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap().keep();
        let (image, point) = (folder.join("image"), folder.join("mounted"));
        fs::create_dir(&point).unwrap();
        fs::File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
        let runs = |program: &str, arguments: &[&str]| {
            Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
        };
        let (image, point) = (image.display().to_string(), point.display().to_string());
        let made = runs("mkfs.ext4", &["-q", "-m", "0", &image]) && runs("mount", &["-o", options, &image, &point]);
        let mounted = Self(folder);
        if !made {
            support::skip("no file system can be mounted here: run as root, with mkfs.ext4 and mount");
            return None;
        }
        Some(mounted)
    }

    fn point(&self) -> PathBuf {
        self.0.join("mounted")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _not_mounted = Command::new("umount").arg("-l").arg(self.point()).output();
        let _left = fs::remove_dir_all(&self.0);
    }
}

fn serves_without_prepared_weights(cache: &Path, logged: &str) {
    let Some(group) = Group::of_memory(512) else { return };
    let folder = cache.display().to_string();
    let server = group.start(&[("MODEL_CACHE_DIR", &folder)]);
    let seen = Load::start(&server, 4, 40, text).finish();
    assert_well(&group, &server, &seen);
    assert_eq!(seen.by("heavy"), 40, "{:?}\n{}", seen.answers, server.log());
    assert_eq!(server.get("/models").json["models"][0]["weights"], "plain");
    assert!(server.log().contains("loading its own files without prepacking"), "{}", server.log());
    assert!(server.log().contains(logged), "{}", server.log());
    let left: Vec<_> = fs::read_dir(cache).into_iter().flatten().flatten().filter(|e| e.path().is_dir()).collect();
    assert!(left.iter().all(|entry| entry.file_name() == "lost+found"), "{left:?}");
}

#[test]
fn a_disk_that_fills_up_costs_speed_but_no_answer() {
    let Some(disk) = Mounted::new(64, "loop") else { return };
    serves_without_prepared_weights(&disk.point(), "ended with exit status");
}

#[test]
fn a_cache_folder_that_cannot_be_written_costs_speed_but_no_answer() {
    let Some(disk) = Mounted::new(8, "loop,ro") else { return };
    serves_without_prepared_weights(&disk.point(), "ended with exit status");
}

#[test]
fn a_cache_folder_in_memory_is_not_written_to() {
    let folder = Path::new("/dev/shm").join(format!("emotion-test-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    serves_without_prepared_weights(&folder, "lies in memory");
    fs::remove_dir_all(&folder).unwrap();
}
