//! Models whose files are not what they should be: the error names the file and what is wrong, and
//! the other model goes on answering. Plain exports from the hub load too.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::folders::{Folders, config, cut_short, damage, write_config};
use crate::shared::{answered, assert_error, log_with};
use crate::support::{Server, cache_folder, models_folder};

const TEXT: &str = "I am so happy, this is the best day of my life!";

/// A server whose heavy model is in the folder `broken`, and whose light one is sound.
fn start(folders: &Folders) -> Server {
    folders.link("ekman");
    let mut command = folders.command(&[("HEAVY_MODEL", "broken")]);
    // Nothing that is broken gets as far as writing there.
    Server::start_command({
        command.env("MODEL_CACHE_DIR", cache_folder());
        command
    })
}

fn assert_refused_and_light_answers(server: &Server, says: &[&str]) {
    let reply = answered(&server.post("/analyze", &json!({"text": TEXT})));
    assert_eq!((&reply["model"]["role"], &reply["basic_emotion"]), (&json!("light"), &json!("joy")), "{reply}");
    assert_eq!(reply["fallback"], json!({"from": "heavy", "reason": "load_failed"}), "{reply}");

    let strict = server.post("/analyze", &json!({"text": TEXT, "model": "heavy", "strict": true}));
    assert_error("strict", &strict, 503, "unavailable", "broken cannot be loaded; the log and GET /models say why");
    assert!(strict.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);

    let heavy = &server.get("/models").json["models"][0];
    assert_eq!((&heavy["state"], &heavy["reason"]), (&json!("barred"), &json!("load_failed")), "{heavy}");
    let error = heavy["error"].as_str().unwrap();
    let log = log_with(server, "was not loaded");
    let line = log.lines().find(|line| line.contains("ERROR") && line.contains("was not loaded")).unwrap();
    for what in says {
        assert!(error.contains(what), "the error does not say {what:?}: {error}");
        assert!(line.contains(what), "the log does not say {what:?}: {line}");
    }
    assert!(!log.contains("panic"), "{log}");
    assert_eq!(server.get("/readyz").status, 200);
}

/// What is said of a copy of the light model that `change` was done to.
fn assert_broken(change: impl Fn(&Path), says: &[&str]) {
    let folders = Folders::new();
    change(&folders.copy("ekman", "broken"));
    assert_refused_and_light_answers(&start(&folders), says);
}

/// What is said of a model's description that `change` was done to.
fn assert_bad_config(model: &str, change: impl Fn(&mut Value), says: &str) {
    let folders = Folders::new();
    let folder = folders.copy_config(model, "broken");
    let mut changed = config(&folder);
    change(&mut changed);
    write_config(&folder, &changed);
    assert_refused_and_light_answers(&start(&folders), &["config.json", says]);
}

#[test]
fn a_missing_file_is_named() {
    assert_broken(
        |folder| fs::remove_file(folder.join("int8.bin")).unwrap(),
        &["int8.bin", "cannot read", "No such file"],
    );
}

#[test]
fn weights_cut_short_are_named_with_both_lengths() {
    assert_broken(
        |folder| cut_short(&folder.join("int8.bin")),
        &["int8.bin has", "bytes but the bundle says", "it was cut short or belongs to another model"],
    );
}

#[test]
fn weights_with_a_damaged_region_are_named() {
    assert_broken(|folder| damage(&folder.join("int8.bin"), 65536), &["int8.bin has SHA-256", "it is damaged"]);
}

#[test]
fn damaged_weights_are_found_by_the_probes_where_nothing_can_be_prepared() {
    let folders = Folders::new();
    folders.link("ekman");
    damage(&folders.copy("ekman", "broken").join("int8.bin"), 4 << 20);
    // A file where the folder would be made.
    fs::write(folders.cache(), "").unwrap();
    let server = Server::start_command(folders.command(&[("HEAVY_MODEL", "broken")]));
    assert_refused_and_light_answers(&server, &["int8.bin has SHA-256", "it is damaged"]);
    log_with(&server, "no prepared weights for ekman");
}

#[test]
fn a_broken_tokenizer_is_named() {
    assert_broken(|folder| cut_short(&folder.join("tokenizer.json")), &["tokenizer.json has", "it was cut short"]);
    assert_broken(|folder| damage(&folder.join("tokenizer.json"), 1000), &["tokenizer.json has SHA-256"]);
}

#[test]
fn the_graph_of_another_model_is_named() {
    let foreign = models_folder().join("goemotions/int8.onnx");
    assert_broken(
        |folder| {
            fs::copy(&foreign, folder.join("int8.onnx")).unwrap();
        },
        &["int8.onnx has", "belongs to another model"],
    );
}

#[test]
fn the_graph_of_another_model_is_named_even_where_the_description_was_made_to_fit() {
    let foreign = models_folder().join("goemotions");
    assert_broken(
        |folder| {
            let mut changed = config(folder);
            let files = config(&foreign)["emotion_server"]["files"].clone();
            for file in ["int8.onnx", "int8.bin", "embeddings.bin"] {
                fs::copy(foreign.join(file), folder.join(file)).unwrap();
                changed["emotion_server"]["files"][file] = files[file].clone();
            }
            write_config(folder, &changed);
        },
        &["int8.onnx is not the graph of this model", "its logits are 28 wide, but config.json names 7 labels"],
    );
}

#[test]
fn a_description_that_is_not_json_is_named() {
    for (content, says) in [("", "EOF"), ("{", "EOF"), ("not JSON", "expected"), ("[]", "invalid length")] {
        let folders = Folders::new();
        fs::write(folders.copy_config("ekman", "broken").join("config.json"), content).unwrap();
        let server = start(&folders);
        assert_refused_and_light_answers(&server, &["config.json is not a model configuration", says]);
    }
}

#[test]
fn labels_that_cannot_be_right_are_named() {
    assert_bad_config(
        "ekman",
        |config| config["id2label"]["7"] = json!("hope"),
        "id2label has 8 labels, but the probe",
    );
    assert_bad_config("ekman", |config| config["id2label"]["6"] = json!("joy"), "id2label has the label \"joy\" twice");
    assert_bad_config("ekman", |config| config["id2label"] = json!({}), "id2label is missing or empty");
    assert_bad_config("ekman", |config| config["id2label"] = json!({"1": "joy"}), "none with the id 0");
}

#[test]
fn thresholds_that_cannot_be_right_are_named() {
    fn thresholds(config: &mut Value) -> &mut Value {
        &mut config["emotion_server"]["thresholds"]
    }
    assert_bad_config(
        "goemotions",
        |config| drop(thresholds(config).as_object_mut().unwrap().remove("grief")),
        "thresholds lack the label \"grief\"",
    );
    assert_bad_config(
        "goemotions",
        |config| thresholds(config)["grief"] = json!(1.5),
        "the threshold of \"grief\" is 1.5, but it must be from 0 to 1",
    );
    assert_bad_config(
        "goemotions",
        |config| thresholds(config)["hope"] = json!(0.5),
        "thresholds has the label \"hope\", which id2label has not",
    );
    assert_bad_config("goemotions", |config| thresholds(config)["grief"] = json!("high"), "not a model configuration");
}

#[test]
fn a_description_of_another_time_is_refused() {
    assert_bad_config(
        "ekman",
        |config| config["emotion_server"]["format"] = json!(2),
        "bundle format 2 is not known here, only 1: update the server",
    );
    assert_bad_config(
        "ekman",
        |config| config["emotion_server"]["max_length"] = json!(513),
        "max_length is 513, but it must be from 8 to 512",
    );
}

#[test]
fn a_missing_precision_is_named_with_those_that_are_there() {
    let folders = Folders::new();
    let folder = folders.copy_config("ekman", "broken");
    let mut changed = config(&folder);
    changed["emotion_server"]["precisions"].as_object_mut().unwrap().remove("int8");
    write_config(&folder, &changed);
    assert_refused_and_light_answers(&start(&folders), &["broken has no int8 graph; it has int4"]);
}

#[test]
fn a_broken_light_model_leaves_the_heavy_one_answering() {
    let folders = Folders::new();
    folders.link("ekman");
    fs::write(folders.copy_config("ekman", "broken").join("config.json"), "{").unwrap();
    let variables = [("HEAVY_MODEL", "ekman"), ("LIGHT_MODEL", "broken")];
    let mut command = folders.command(&variables);
    command.env("MODEL_CACHE_DIR", cache_folder());
    let server = Server::start_command(command);
    let light = server.post("/analyze", &json!({"text": TEXT, "model": "light"}));
    assert_error("light", &light, 503, "unavailable", "the light model broken cannot be loaded");
    let reply = answered(&server.post("/analyze", &json!({"text": TEXT})));
    assert_eq!((&reply["model"]["name"], &reply["model"]["role"]), (&json!("ekman"), &json!("heavy")));
    assert!(reply["fallback"].is_null());
}

/// The scores of the text from the model in `MODEL_DIR/name`, and what the server logged.
fn scores_of(folders: &Folders, name: &str) -> (Value, String) {
    let variables = [("LIGHT_MODEL", name), ("USE_LIGHT_MODEL", "true")];
    let server = Server::start_command(folders.command(&variables));
    let reply = answered(&server.post("/analyze", &json!({"text": TEXT})));
    assert_eq!(reply["model"]["name"], name, "{reply}");
    (reply["all_scores"].clone(), log_with(&server, "loading -> ready"))
}

#[test]
fn damaged_prepared_weights_are_made_anew() {
    let folders = Folders::new();
    let folder = folders.copy("ekman", "copy");
    let (scores, _) = scores_of(&folders, "copy");
    let prepared = folders.prepare(&folder);
    let (weights, graph) = (prepared.join("model.bin"), prepared.join("model.onnx"));
    let sound = fs::read(&weights).unwrap();
    let again = "prepared weights of copy written";

    let assert_made_anew = |says: &str| {
        let (found, log) = scores_of(&folders, "copy");
        assert!(log.contains(says) && log.contains(again) && log.contains("prepared int8"), "{log}");
        assert_eq!(found, scores);
        assert_eq!(fs::metadata(&weights).unwrap().len(), sound.len() as u64);
    };
    fs::write(&weights, vec![0x55; sound.len()]).unwrap();
    assert_made_anew("the prepared weights of copy cannot be used: ");
    cut_short(&weights);
    assert_made_anew("model.bin have");
    fs::remove_file(&graph).unwrap();
    assert_made_anew("model.onnx have 0 bytes");
    let bytes = fs::metadata(&graph).unwrap().len();
    damage(&graph, usize::try_from(bytes).unwrap());
    assert_made_anew("the prepared weights of copy cannot be used: ONNX Runtime cannot load");
    let complete = prepared.join("complete.json");
    fs::remove_file(&complete).unwrap();
    assert_made_anew("");
    // Whoever opens a pipe waits for who writes to it.
    fs::remove_file(&complete).unwrap();
    assert!(Command::new("mkfifo").arg(&complete).status().unwrap().success());
    assert_made_anew("");

    // Sound ones are used as they are.
    let (_, log) = scores_of(&folders, "copy");
    assert!(!log.contains(again), "{log}");
}

#[test]
fn shipped_prepared_weights_are_read_where_they_are_and_replaced_where_they_are_damaged() {
    let folders = Folders::new();
    let shipped = folders.prepare(&folders.copy("ekman", "copy"));
    let place = folders.models().with_file_name("shipped");
    fs::rename(folders.cache(), &place).unwrap();
    let weights = place.join(shipped.file_name().unwrap()).join("model.bin");
    let load = |says: &[&str]| {
        let place = place.to_str().unwrap();
        let variables = [("LIGHT_MODEL", "copy"), ("USE_LIGHT_MODEL", "true"), ("PREPARED_DIR", place)];
        let server = Server::start_command(folders.command(&variables));
        let reply = answered(&server.post("/analyze", &json!({"text": TEXT})));
        assert_eq!(reply["basic_emotion"], "joy", "{reply}");
        let log = log_with(&server, "loading -> ready");
        assert!(says.iter().all(|what| log.contains(what)) && log.contains("prepared int8"), "{log}");
        log
    };
    let log = load(&[]);
    assert!(!log.contains("prepared weights"), "{log}");
    assert!(!folders.cache().exists(), "nothing had to be written");

    fs::write(&weights, vec![0x55; usize::try_from(fs::metadata(&weights).unwrap().len()).unwrap()]).unwrap();
    load(&["the prepared weights of copy cannot be used", "prepared weights of copy written"]);
    assert!(weights.exists(), "the shipped ones are not the server's to remove");
    let log = load(&[]);
    assert!(!log.contains("prepared weights"), "{log}");
}

#[test]
fn plain_exports_from_the_hub_load_and_give_the_same_scores() {
    let folders = Folders::new();
    let (expected, _) = {
        folders.link("ekman");
        scores_of(&folders, "ekman")
    };
    for (graph, precision) in
        [("model_quantized.onnx", "int8"), ("onnx/model_quantized.onnx", "int8"), ("model.onnx", "fp32")]
    {
        let name = graph.replace(['/', '.'], "-");
        folders.plain_export(&name, graph);
        let (scores, log) = scores_of(&folders, &name);
        assert_eq!(scores, expected, "{graph}");
        assert!(log.contains(&format!("prepared {precision}, ")), "{graph}: {log}");
    }
}

#[test]
fn a_plain_export_that_is_not_whole_is_named() {
    type Change<'a> = &'a dyn Fn(&Path);
    let foreign = models_folder().join("goemotions");
    let cases: [(Change<'_>, &[&str]); 6] = [
        (
            &|folder| fs::remove_file(folder.join("model.onnx")).unwrap(),
            &["no ONNX graph found", "onnx/model_quantized.onnx"],
        ),
        (&|folder| fs::remove_file(folder.join("tokenizer.json")).unwrap(), &["cannot read", "tokenizer.json"]),
        (&|folder| fs::write(folder.join("tokenizer.json"), "{}").unwrap(), &["tokenizer.json is not a tokenizer"]),
        (&|folder| cut_short(&folder.join("model.onnx")), &["ONNX Runtime cannot load", "model.onnx"]),
        (&|folder| fs::remove_file(folder.join("int8.bin")).unwrap(), &["ONNX Runtime cannot load", "int8.bin"]),
        (
            &|folder| {
                fs::copy(foreign.join("int8.onnx"), folder.join("model.onnx")).unwrap();
                for weights in ["int8.bin", "embeddings.bin"] {
                    fs::copy(foreign.join(weights), folder.join(weights)).unwrap();
                }
            },
            &["model.onnx is not the graph of this model", "its logits are 28 wide, but config.json names 7 labels"],
        ),
    ];
    for (change, says) in cases {
        let folders = Folders::new();
        folders.plain_export("broken", "model.onnx");
        change(&folders.models().join("broken"));
        assert_refused_and_light_answers(&start(&folders), says);
    }
}
