//! `models`: lists the models in the models' folder, or verifies every file's hash.

use std::path::Path;

use clap::Args;

use super::Failure;
use crate::config::{ConfigError, ModelArgs, models_in};
use crate::model::{Bundle, BundleError, Precision};
use crate::residency::loader::chain;

/// Arguments of `models`.
#[derive(Debug, Args)]
pub(super) struct ModelsArgs {
    /// Read every file and compare it with its hash
    #[arg(long)]
    verify: bool,

    #[command(flatten)]
    models: ModelArgs,
}

pub(super) fn run(arguments: &ModelsArgs) -> Result<(), Failure> {
    let directory = arguments.models.model_directory()?;
    let names = models_in(&directory);
    if names.is_empty() {
        let what = format!("{} holds no model; a model is a folder with a config.json", directory.display());
        return Err(ConfigError { setting: "MODEL_DIR", what }.into());
    }
    let broken: usize = names.iter().map(|name| list(&directory, name, arguments.verify)).sum();
    match broken {
        0 => Ok(()),
        1 => Err(Failure::Failed("1 model cannot be used as it is".to_owned())),
        _ => Err(Failure::Failed(format!("{broken} models cannot be used as they are"))),
    }
}

/// Prints a line for each precision of the model; tells how many of them are broken.
fn list(directory: &Path, name: &str, verify: bool) -> usize {
    let mut broken = 0;
    let mut listed = 0;
    let mut missing = None;
    for precision in [Precision::Int8, Precision::Int4] {
        let result = Bundle::open(&directory.join(name), precision).and_then(|bundle| {
            if verify {
                bundle.verify_hashes()?;
            }
            Ok(bundle)
        });
        match result {
            Ok(bundle) => {
                listed += 1;
                println!(
                    "{name} {}: {} labels, at most {} tokens, revision {}{}",
                    bundle.precision,
                    bundle.labels.len(),
                    bundle.max_length,
                    bundle.revision(),
                    verdict(verify, &bundle),
                );
                if !bundle.is_native {
                    break;
                }
            }
            // A bundle need not have both.
            Err(error) if matches!(error, BundleError::NoSuchPrecision { .. }) => missing = Some(error),
            Err(error) => {
                broken += 1;
                println!("{name} {precision}: {}", chain(&error));
                // A description that is wrong is wrong for both.
                if matches!(error, BundleError::Config { .. } | BundleError::Invalid { .. }) {
                    break;
                }
            }
        }
    }
    if let (0, 0, Some(error)) = (listed, broken, missing) {
        println!("{name}: {error}");
        return 1;
    }
    broken
}

fn verdict(verified: bool, bundle: &Bundle) -> String {
    match (verified, bundle.files.len()) {
        (false, _) => String::new(),
        (true, 0) => ", a plain export without hashes".to_owned(),
        (true, files) => format!(", {files} files verified"),
    }
}
