//! Packed layers give the bits of ONNX Runtime's own nodes, and damaged ones an error.

use std::path::Path;

use emotion_server::graph::onnx::{Attribute, Model};
use emotion_server::inference::prepared::PreparedStore;
use emotion_server::inference::runtime;
use emotion_server::inference::session::{InferenceSession, LoadStop, SessionError, Weights, save_prepacked};
use emotion_server::model::{Bundle, Encoding, Precision};
use tempfile::TempDir;

use crate::support::models_folder;

/// Folders of models beside those of this build: a packed graph links to the embeddings.
fn folder() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn bundle(name: &str) -> Bundle {
    Bundle::open(&models_folder().join(name), Precision::Int8).unwrap()
}

fn packed(bundle: &Bundle, folder: &Path) -> Weights {
    let weights = PreparedStore::new(folder.to_path_buf()).write(None, bundle).unwrap();
    assert!(matches!(weights, Weights::Packed(_)), "{weights:?}");
    weights
}

fn load(bundle: &Bundle, weights: &Weights) -> Result<InferenceSession, SessionError> {
    InferenceSession::load(runtime::environment(None).unwrap(), bundle, weights, &LoadStop::default())
}

/// Texts of usual ids, each of so many tokens.
fn texts(lengths: &[usize]) -> Vec<Encoding> {
    let text = |(number, length): (usize, &usize)| {
        let id =
            |position: usize| if position == 0 { 0 } else { 1000 + (number * 131 + position * 37) as u32 % 20_000 };
        Encoding { input_ids: (0..*length).map(id).collect(), type_ids: Box::default() }
    };
    lengths.iter().enumerate().map(text).collect()
}

fn bits(session: &mut InferenceSession, texts: &[Encoding]) -> Vec<Vec<u32>> {
    let batch: Vec<&Encoding> = texts.iter().collect();
    let logits = session.run(&batch, false).unwrap();
    logits.outer_iter().map(|row| row.iter().map(|logit| logit.to_bits()).collect()).collect()
}

#[test]
fn packed_layers_give_the_bits_of_the_graph_as_onnx_runtime_prepares_it_and_as_it_is() {
    // One row, rows up to those of a tile, of a slice, of more than one block; a batch that is mostly padding.
    let batches: [&[usize]; 8] =
        [&[1], &[3], &[8], &[20], &[150], &[5, 7, 9], &[20; 16], &[130, 2, 40, 3, 3, 17, 90, 1, 1, 60]];
    for name in ["goemotions", "ekman"] {
        let (bundle, folder) = (bundle(name), folder());
        let prepacked = folder.path().join("prepacked.onnx");
        save_prepacked(runtime::environment(None).unwrap(), &bundle, &prepacked).unwrap();
        let mut session = load(&bundle, &packed(&bundle, folder.path())).unwrap();
        let mut references = vec![("prepacked", load(&bundle, &Weights::Prepacked(prepacked)).unwrap())];
        // Products of blocks, which the light model has two of, have other bits where they are not prepacked.
        if name == "goemotions" {
            references.push(("plain", load(&bundle, &Weights::Plain).unwrap()));
        }
        for lengths in batches {
            let texts = texts(lengths);
            let together = bits(&mut session, &texts);
            for (kind, reference) in &mut references {
                assert!(together == bits(reference, &texts), "{name}, {kind}, {lengths:?}");
            }
            for (text, together) in texts.iter().zip(&together) {
                assert!(bits(&mut session, std::slice::from_ref(text))[0] == *together, "{name}, {lengths:?}");
            }
        }
    }
}

#[test]
fn a_packed_graph_whose_layers_do_not_fit_is_refused_in_words() {
    let (bundle, folder) = (bundle("ekman"), folder());
    let weights = packed(&bundle, folder.path());
    let graph = weights.graph(&bundle).to_path_buf();
    let sound = Model::read(&graph).unwrap();
    type Change = fn(&mut Model);
    let changes: [(Change, &str); 3] = [
        (|model| layer(model).attribute[0] = Attribute::int("zero_point", 300), "zero_point is 300"),
        (|model| drop(layer(model).attribute.pop()), "no attribute least"),
        // The evenness of another layer's width, so that inputs do not fit to the weights.
        (
            |model| {
                let wide = model.graph.as_ref().unwrap().initializer.iter().find(|t| t.dims == [1536]).unwrap();
                let name = wide.name.clone().unwrap();
                layer(model).input[5] = name;
            },
            "a packed layer of 1536 inputs",
        ),
    ];
    for (change, says) in changes {
        let mut model = sound.clone();
        change(&mut model);
        model.write(&graph).unwrap();
        let refused = load(&bundle, &weights).and_then(|mut session| {
            let text = &texts(&[4])[0];
            session.run(&[text], false).map(drop)
        });
        let message = refused.unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
    }
}

/// The first packed layer.
fn layer(model: &mut Model) -> &mut emotion_server::graph::onnx::Node {
    let nodes = &mut model.graph.as_mut().unwrap().node;
    nodes.iter_mut().find(|node| node.domain.as_deref() == Some("emotion_server")).unwrap()
}
