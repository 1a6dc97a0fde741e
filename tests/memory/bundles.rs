//! Models and files that the tests make once and keep in the build's own folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::support;

/// Name of the bundle of roberta-base's shape with random weights.
pub const RANDOM_ROBERTA: &str = "roberta-random";

/// What is kept is made by one test; others wait for it.
static MAKING: Mutex<()> = Mutex::new(());

fn kept() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("memory")
}

/// A copy of the ONNX Runtime library that no other process maps: pages that others brought into
/// memory would not be charged to the server.
pub fn library() -> PathBuf {
    let _alone = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let copy = kept().join("libonnxruntime.so.1.32.0");
    if !copy.is_file() {
        fs::create_dir_all(kept()).unwrap();
        fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("lib/libonnxruntime.so.1.32.0"), &copy).unwrap();
    }
    copy
}

/// A models folder with the shipped light model and a heavy one of roberta-base's shape; `None`
/// where Python cannot make it and a test may be skipped.
pub fn with_random_roberta() -> Option<PathBuf> {
    let _alone = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let models = kept().join("models");
    let (bundle, checkpoint) = (models.join(RANDOM_ROBERTA), kept().join("roberta-checkpoint"));
    if !bundle.join("config.json").is_file() {
        let python = project.join(".venv/bin/python");
        let runs = |script: &str, arguments: &[&std::ffi::OsStr]| {
            let status = Command::new(&python).arg(project.join(script)).args(arguments).status();
            status.is_ok_and(|status| status.success())
        };
        let made = runs("tests/memory/make_roberta.py", &[checkpoint.as_os_str()])
            && runs(
                "scripts/export.py",
                &[
                    checkpoint.as_os_str(),
                    "--role".as_ref(),
                    "heavy".as_ref(),
                    "--output".as_ref(),
                    bundle.as_os_str(),
                    "--precisions".as_ref(),
                    "int8".as_ref(),
                ],
            );
        if !made {
            support::skip(&format!("{} cannot make a checkpoint and export it; run `make setup`", python.display()));
            return None;
        }
    }
    let light = models.join("ekman");
    if !light.exists() {
        std::os::unix::fs::symlink(support::models_folder().join("ekman"), &light).unwrap();
    }
    Some(models)
}
