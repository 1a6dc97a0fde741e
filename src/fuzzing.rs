//! What the fuzz targets in `fuzz/` call: readers of bytes that others write. Compiled for them, and
//! for the test that gives the kept corpus to each.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use crate::api::fuzzing as api;
use crate::app::connection::framing::against_actix;
use crate::graph::pack::Plan;
use crate::inference::layout::set_plain_apart;
use crate::model::bundle::{Bundle, Precision};

/// The name of a target's file and of its corpus, and what reads the bytes.
type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 13] = [
    ("analyze", api::analyze),
    ("analyze_lines", api::analyze_lines),
    ("bundle", bundle),
    ("framing", against_actix::check),
    ("graph", graph),
    ("hugging_face", api::hugging_face),
    ("kserve_v1", api::kserve_v1),
    ("open_inference", api::open_inference),
    ("open_inference_binary", api::open_inference_binary),
    ("open_inference_repository", api::open_inference_repository),
    ("python_compat", api::python_compat),
    ("root", api::root),
    ("tei", api::tei),
];

/// Gives the bytes to the target of this name; a defect panics.
///
/// # Panics
/// Where there is no such target.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(target, _)| *target == name);
    assert!(target.is_some(), "there is no target {name}");
    if let Some((_, read)) = target {
        read(bytes);
    }
}

/// Bytes of each weights file: enough for graphs that move parts of it.
const WEIGHTS: [u8; 8192] = [7; 8192];

/// A folder of this process for the readers of files.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("emotion-fuzz-{}", std::process::id()));
    for (name, bytes) in [("int8.onnx", &b""[..]), ("tokenizer.json", b""), ("int8.bin", &WEIGHTS)] {
        write(&folder, name, bytes);
    }
    folder
});

fn write(folder: &Path, name: &str, bytes: &[u8]) {
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(folder.join(name), bytes));
    assert!(written.is_ok(), "{} cannot be written", folder.display());
}

/// `config.json` of a bundle, or of a plain export where it has no section of its own.
fn bundle(bytes: &[u8]) {
    let plain = FOLDER.join("plain");
    write(&plain, "model.onnx", b"");
    write(&plain, "tokenizer.json", b"");
    for folder in [&*FOLDER, &plain] {
        write(folder, "config.json", bytes);
        if let Ok(bundle) = Bundle::open(folder, Precision::Int8) {
            assert!(!bundle.labels.is_empty() && bundle.max_length >= 8, "{bundle:?}");
            assert!(bundle.activation.bytes(1, 8) <= bundle.activation.bytes(8, bundle.max_length), "{bundle:?}");
            assert_eq!(bundle.revision().len(), 12);
        }
    }
}

/// The graph beside weights that are to be packed, or laid out anew.
fn graph(bytes: &[u8]) {
    let (graph, weights) = (FOLDER.join("model.onnx"), FOLDER.join("model.bin"));
    write(&FOLDER, "model.onnx", bytes);
    write(&FOLDER, "model.bin", &WEIGHTS);
    if let Ok(Some(plan)) = Plan::of(&graph) {
        let packed = FOLDER.join("packed");
        write(&packed, "model.onnx", b"");
        // A graph that says more than its weights hold is an error, and no more.
        let _refused = plan.write(&packed.join("model.onnx"), &packed.join("packed.bin"));
    }
    if set_plain_apart(&graph, &weights).is_err() {
        assert!(fs::read(&graph).is_ok_and(|kept| kept == bytes), "the graph did not stay as it was");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn names(folder: &Path) -> BTreeSet<String> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn every_input_of_the_fuzzers_corpus_is_read_without_a_defect() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let targets: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(names(&fuzz.join("fuzz_targets")), targets);
        assert_eq!(names(&fuzz.join("corpus")), targets);
        let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
        for name in &targets {
            assert!(manifest.contains(&format!("name = \"{name}\"")), "fuzz/Cargo.toml lacks {name}");
            let inputs: Vec<_> = fs::read_dir(fuzz.join("corpus").join(name)).unwrap().collect();
            assert!(inputs.len() >= 3, "the corpus of {name} is empty");
            for input in inputs {
                let input = input.unwrap().path();
                println!("{}", input.display());
                run(name, &fs::read(input).unwrap());
            }
        }
        fs::remove_dir_all(&*FOLDER).unwrap();
    }
}
