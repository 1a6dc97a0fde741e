//! `prepare`: writes the prepared weights of the models, in an image build or as the server's child.

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::config::ModelArgs;
use crate::inference::prepared::{PrepareError, PreparedStore};
use crate::logging::{self, LogFormat};
use crate::model::Bundle;
use crate::residency::loader::chain;
use crate::residency::reclaim;

/// Arguments of `prepare`.
#[derive(Debug, Args)]
pub(super) struct PrepareArgs {
    /// Prepare only the model in this folder
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,

    /// End with the process of this id, which started this one
    #[arg(long, value_name = "PID", hide = true)]
    end_with: Option<u32>,

    #[command(flatten)]
    models: ModelArgs,
}

pub(super) fn run(log_format: LogFormat, arguments: &PrepareArgs) -> Result<(), Failure> {
    logging::start(log_format, false);
    if let Some(parent) = arguments.end_with {
        reclaim::end_with(parent).map_err(|error| Failure::failed(&error))?;
    }
    // When memory runs out, it is this process that has to go, not the server that waits for it.
    reclaim::go_first_when_memory_runs_out();
    let models = &arguments.models;
    let store = PreparedStore::new(models.cache_directory());
    let folders = match &arguments.bundle {
        Some(folder) => vec![folder.clone()],
        None => {
            let settings = models.residency_settings()?;
            let heavy = (!settings.use_light_model).then_some(settings.heavy.0);
            heavy.into_iter().chain([settings.light.0]).collect()
        }
    };
    for folder in folders {
        let bundle = Bundle::open(&folder, models.model_precision).map_err(|error| Failure::failed(&error))?;
        reclaim::bound_own_heap(bundle.memory.preparing_peak_bytes);
        let weights = store.write(models.onnxruntime_library.as_deref(), &bundle).map_err(|error| match error {
            PrepareError::Bundle(damage) => Failure::Damaged(chain(&damage)),
            error @ (PrepareError::Write { .. }
            | PrepareError::Locked { .. }
            | PrepareError::Graph(_)
            | PrepareError::Runtime(_)
            | PrepareError::Session(_)) => Failure::failed(&error),
        })?;
        println!("{} {}: {}", bundle.name, bundle.precision, weights.graph(&bundle).display());
    }
    Ok(())
}
