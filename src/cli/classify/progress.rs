//! How far a run has come: a small file beside the output, from which another run goes on.
//!
//! It is written only after the output that it speaks of is on the disk, and replaced as a whole.
//! Whatever moment the process ends at, the file that is there is true; what the output holds past
//! its length is cut off and made again.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::input::Position;
use crate::cli::Failure;

/// How many rows there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts {
    /// Bad ones included.
    pub(super) read: u64,
    pub(super) written: u64,
    pub(super) bad: u64,
}

/// A state that a run can go on from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Everything that the output depends on beside the input.
    pub(super) options: Map<String, Value>,
    /// Input that is done.
    pub(super) input: Position,
    /// Rows that are done.
    pub(super) rows: Counts,
    /// Length of the output that holds them.
    pub(super) output_bytes: u64,
    /// The same of `--rejects`.
    pub(super) rejects_bytes: u64,
    /// Input columns that the header was written with.
    pub(super) columns: Option<Vec<String>>,
}

impl Progress {
    /// Of a run that has not done anything yet.
    pub(super) fn new(options: Map<String, Value>) -> Self {
        let input = Position { bytes: 0, sha256: String::new() };
        Self { options, input, rows: Counts::default(), output_bytes: 0, rejects_bytes: 0, columns: None }
    }

    /// # Errors
    /// Names the first option that differs from those of the run that is to be gone on with.
    pub(super) fn check_options(&self, options: &Map<String, Value>) -> Result<(), Failure> {
        for (name, now) in options {
            let then = self.options.get(name).unwrap_or(&Value::Null);
            if then != now {
                let what = format!(
                    "--resume: the output was begun with {name} {then}, but now it is {now}; give the same options, \
                     or begin again with --overwrite"
                );
                return Err(Failure::Usage(what));
            }
        }
        Ok(())
    }
}

/// The file beside the output.
#[derive(Debug, Clone)]
pub(super) struct ProgressFile(PathBuf);

impl ProgressFile {
    pub(super) fn of(output: &Path) -> Self {
        Self(with_suffix(output, ".progress"))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// What is in it; `None` where there is no such file.
    ///
    /// # Errors
    /// It cannot be read, or holds something else.
    pub(super) fn load(&self) -> Result<Option<Progress>, Failure> {
        match fs::read(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::Usage(format!("cannot read {}: {error}", self.0.display()))),
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
                let what = "is not the progress of a run that can be resumed; begin again with --overwrite";
                Failure::Usage(format!("{} {what}: {error}", self.0.display()))
            }),
        }
    }

    /// Replaces what is in it, so that it survives even a loss of power.
    pub(super) fn save(&self, progress: &Progress) -> io::Result<()> {
        let new = with_suffix(&self.0, ".new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(progress)?)?;
        file.sync_all()?;
        fs::rename(&new, &self.0)?;
        self.sync_folder()
    }

    /// The run is complete.
    pub(super) fn remove(&self) -> io::Result<()> {
        fs::remove_file(&self.0)?;
        self.sync_folder()
    }

    fn sync_folder(&self) -> io::Result<()> {
        let folder = self.0.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress() -> Progress {
        let options = serde_json::json!({"threshold": 0.1, "model": "auto"});
        Progress {
            options: options.as_object().unwrap().clone(),
            input: Position { bytes: 10, sha256: "ab".to_owned() },
            rows: Counts { read: 3, written: 2, bad: 1 },
            output_bytes: 20,
            rejects_bytes: 30,
            columns: Some(vec!["text".to_owned()]),
        }
    }

    #[test]
    fn what_was_saved_is_loaded_until_it_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let file = ProgressFile::of(&folder.path().join("out.csv"));
        assert_eq!(file.path(), folder.path().join("out.csv.progress"));
        assert_eq!(file.load().unwrap(), None);
        file.save(&progress()).unwrap();
        assert_eq!(file.load().unwrap(), Some(progress()));
        file.remove().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_is_something_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = ProgressFile::of(&folder.path().join("out.csv"));
        file.save(&progress()).unwrap();
        let whole = fs::read(file.path()).unwrap();
        for bytes in [&whole[..whole.len() - 1], b"", b"{}", b"text\n"] {
            fs::write(file.path(), bytes).unwrap();
            let Err(Failure::Usage(what)) = file.load() else { panic!("{bytes:?} was taken") };
            assert!(what.contains("out.csv.progress") && what.contains("--overwrite"), "{what}");
        }
    }

    #[test]
    fn an_option_that_differs_is_named() {
        let now = |options: Value| progress().check_options(options.as_object().unwrap());
        assert!(now(serde_json::json!({"threshold": 0.1, "model": "auto"})).is_ok());
        for (options, named) in [
            (serde_json::json!({"threshold": 0.2, "model": "auto"}), "threshold 0.1, but now it is 0.2"),
            (serde_json::json!({"threshold": 0.1, "model": "auto", "strict": true}), "strict null"),
        ] {
            let Err(Failure::Usage(what)) = now(options) else { panic!("{named} was taken") };
            assert!(what.contains(named), "{what}");
        }
    }
}
