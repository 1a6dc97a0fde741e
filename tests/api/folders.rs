//! Folders of models that a test may change, and a cache of prepared weights of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{command, models_folder};

/// A folder for `MODEL_DIR` and one for `MODEL_CACHE_DIR`, removed when dropped. They are in the
/// build's folder, because weights are not prepared where temporary files lie in memory.
pub struct Folders(TempDir);

impl Folders {
    /// Without any model.
    pub fn new() -> Self {
        let folders = Self(TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
        fs::create_dir(folders.models()).unwrap();
        folders
    }

    pub fn models(&self) -> PathBuf {
        self.0.path().join("models")
    }

    /// Is made by who writes to it first.
    pub fn cache(&self) -> PathBuf {
        self.0.path().join("prepared")
    }

    /// A shipped model under its own name.
    pub fn link(&self, model: &str) {
        std::os::unix::fs::symlink(models_folder().join(model), self.models().join(model)).unwrap();
    }

    /// An int8 copy of a shipped model that calls itself `name`, so that its prepared weights are its own.
    pub fn copy(&self, model: &str, name: &str) -> PathBuf {
        let folder = self.copy_config(model, name);
        for file in ["tokenizer.json", "int8.onnx", "int8.bin", "embeddings.bin"] {
            fs::copy(models_folder().join(model).join(file), folder.join(file)).unwrap();
        }
        folder
    }

    /// Only the description of a shipped model, that calls itself `name`.
    pub fn copy_config(&self, model: &str, name: &str) -> PathBuf {
        let folder = self.models().join(name);
        fs::create_dir(&folder).unwrap();
        let mut config = config(&models_folder().join(model));
        config["emotion_server"]["name"] = name.into();
        write_config(&folder, &config);
        folder
    }

    /// The light model's graph as it would come from the hub: `graph` is where it lies in the
    /// folder, its weights are beside it, and `config.json` has no section of ours.
    pub fn plain_export(&self, name: &str, graph: &str) -> PathBuf {
        let light = models_folder().join("ekman");
        let folder = self.models().join(name);
        let graph = folder.join(graph);
        let beside = graph.parent().unwrap();
        fs::create_dir_all(beside).unwrap();
        fs::copy(light.join("int8.onnx"), &graph).unwrap();
        for weights in ["int8.bin", "embeddings.bin"] {
            fs::copy(light.join(weights), beside.join(weights)).unwrap();
        }
        fs::copy(light.join("tokenizer.json"), folder.join("tokenizer.json")).unwrap();
        let mut config = config(&light);
        config.as_object_mut().unwrap().remove("emotion_server");
        write_config(&folder, &config);
        folder
    }

    /// The program with these folders and variables.
    pub fn command(&self, variables: &[(&str, &str)]) -> Command {
        let mut command = command(variables);
        command.env("MODEL_DIR", self.models()).env("MODEL_CACHE_DIR", self.cache());
        command
    }

    /// Prepares the weights of the model in `folder` and returns the folder that they are in.
    pub fn prepare(&self, folder: &Path) -> PathBuf {
        let output = self.command(&[]).args(["prepare", "--bundle"]).arg(folder).output().unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let graph = told.trim().split_once(": ").unwrap().1;
        Path::new(graph).parent().unwrap().to_owned()
    }
}

pub fn config(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap()
}

pub fn write_config(folder: &Path, config: &Value) {
    fs::write(folder.join("config.json"), serde_json::to_vec_pretty(config).unwrap()).unwrap();
}

/// Inverts the bytes in the middle of a file.
pub fn damage(file: &Path, bytes: usize) {
    let mut content = fs::read(file).unwrap();
    let start = (content.len() - bytes) / 2;
    content[start..start + bytes].iter_mut().for_each(|byte| *byte = !*byte);
    fs::write(file, content).unwrap();
}

/// Leaves the first half of a file.
pub fn cut_short(file: &Path) {
    let content = fs::read(file).unwrap();
    fs::write(file, &content[..content.len() / 2]).unwrap();
}
