//! The Open Inference Protocol, version 2: JSON, raw tensors, metadata and repository.

use std::io::Write;

use serde_json::{Value, json};

use crate::support::{ADMIN_KEY, Reply, Server};

const HAPPY: &str = "I am so happy that you came!";
const ANGRY: &str = "I hate you, you make me so angry!";

fn tensor(shape: Value, data: Value) -> Value {
    json!({"inputs": [{"name": "text", "shape": shape, "datatype": "BYTES", "data": data}]})
}

fn elements(texts: &[&str]) -> Vec<u8> {
    texts.iter().flat_map(|text| [&(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()).collect()
}

/// A body of a JSON part and a raw part, sent as Triton's client does: without a content type.
fn post_binary(server: &Server, json: &Value, raw: &[u8]) -> reqwest::blocking::Response {
    let json = json.to_string();
    let request = server.client().post(server.url("/v2/models/heavy/infer"));
    let request = request.header("Inference-Header-Content-Length", json.len());
    request.body([json.as_bytes(), raw].concat()).send().unwrap()
}

#[test]
fn tensors_in_json_are_answered_with_scores_and_labels() {
    let server = Server::start(&[]);
    let mut request = tensor(json!([2]), json!([HAPPY, ANGRY]));
    request["id"] = json!("17");
    let reply = server.post("/v2/models/heavy/infer", &request);
    assert_eq!(reply.status, 200, "{}", reply.text);
    let answer = &reply.json;
    assert_eq!((&answer["model_name"], &answer["model_version"]), (&json!("goemotions"), &json!("1")));
    assert_eq!(answer["id"], "17");
    let [scores, labels] = answer["outputs"].as_array().unwrap().as_slice() else { panic!("{}", reply.text) };
    assert_eq!((&scores["name"], &scores["datatype"]), (&json!("scores"), &json!("FP32")));
    assert_eq!(scores["shape"], json!([2, 28]));
    assert_eq!(scores["data"].as_array().unwrap().len(), 56);
    assert_eq!(
        (&labels["name"], &labels["datatype"], &labels["shape"]),
        (&json!("labels"), &json!("BYTES"), &json!([2]))
    );
    assert_eq!(labels["data"], json!(["joy", "anger"]));

    let names = server.get("/v2/models/heavy").json["label_names"].clone();
    let joy = names.as_array().unwrap().iter().position(|name| name == "joy").unwrap();
    let highest =
        scores["data"].as_array().unwrap()[..28].iter().map(|score| score.as_f64().unwrap()).fold(0.0, f64::max);
    assert_eq!(scores["data"][joy], highest, "scores are in the order of label_names");

    let column = server.post("/v2/models/heavy/infer", &tensor(json!([2, 1]), json!([[HAPPY], [ANGRY]])));
    assert_eq!(column.json["outputs"], answer["outputs"], "a column of nested texts is the same");
    let version = server.post("/v2/models/goemotions/versions/1/infer", &tensor(json!([2]), json!([HAPPY, ANGRY])));
    assert_eq!(version.json["outputs"], answer["outputs"]);
    let light = server.post("/v2/models/light/infer", &tensor(json!([1]), json!([HAPPY])));
    assert_eq!(light.json["outputs"][0]["shape"], json!([1, 7]), "{}", light.text);
    assert_eq!(light.json["model_name"], "ekman");
    assert_eq!(
        server.post("/v2/models/auto/infer", &tensor(json!([1]), json!([HAPPY]))).json["model_name"],
        "goemotions"
    );
}

#[test]
fn outputs_are_chosen_and_classified_on_request() {
    let server = Server::start(&[]);
    let mut request = tensor(json!([1]), json!([HAPPY]));
    request["outputs"] = json!([{"name": "labels"}, {"name": "scores", "parameters": {"classification": 2}}]);
    let reply = server.post("/v2/models/heavy/infer", &request);
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(reply.json["outputs"][0]["data"], json!(["joy"]));
    let classes = &reply.json["outputs"][1];
    assert_eq!((&classes["datatype"], &classes["shape"]), (&json!("BYTES"), &json!([1, 2])));
    let parts: Vec<&str> = classes["data"][0].as_str().unwrap().split(':').collect();
    assert!(parts[0].parse::<f32>().unwrap() > 0.5, "{parts:?}");
    assert_eq!((parts[1], parts[2]), ("17", "joy"));
    request["outputs"] = json!([{"name": "scores", "parameters": {"classification": 1000}}]);
    let all = server.post("/v2/models/heavy/infer", &request);
    assert_eq!(all.json["outputs"][0]["shape"], json!([1, 28]), "no more classes than there are");
}

#[test]
fn raw_tensors_go_both_ways_compressed_or_not() {
    let server = Server::start(&[]);
    let plain = server.post("/v2/models/heavy/infer", &tensor(json!([2]), json!([HAPPY, ANGRY]))).json;
    let raw = elements(&[HAPPY, ANGRY]);
    let input =
        json!({"name": "text", "shape": [2, 1], "datatype": "BYTES", "parameters": {"binary_data_size": raw.len()}});
    let request = json!({"inputs": [input], "parameters": {"binary_data_output": true}});

    let reply = post_binary(&server, &request, &raw);
    assert_eq!(reply.status(), 200);
    assert_eq!(reply.headers()["content-type"], "application/octet-stream");
    let length: usize = reply.headers()["inference-header-content-length"].to_str().unwrap().parse().unwrap();
    let body = reply.bytes().unwrap();
    let head: Value = serde_json::from_slice(&body[..length]).unwrap();
    assert_eq!(head["outputs"][0]["parameters"]["binary_data_size"], 2 * 28 * 4);
    assert!(head["outputs"][0].get("data").is_none(), "{head}");
    let scores: Vec<f32> =
        body[length..length + 224].chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
    let expected: Vec<f32> = serde_json::from_value(plain["outputs"][0]["data"].clone()).unwrap();
    assert_eq!(scores, expected);
    assert_eq!(&body[length + 224..], elements(&["joy", "anger"]));

    // JSON in, one output raw and one not.
    let mut mixed = tensor(json!([2]), json!([HAPPY, ANGRY]));
    mixed["outputs"] = json!([{"name": "scores", "parameters": {"binary_data": true}}, {"name": "labels"}]);
    let mixed = server.client().post(server.url("/v2/models/heavy/infer")).json(&mixed).send().unwrap();
    let length: usize = mixed.headers()["inference-header-content-length"].to_str().unwrap().parse().unwrap();
    let mixed = mixed.bytes().unwrap();
    let head: Value = serde_json::from_slice(&mixed[..length]).unwrap();
    assert_eq!(head["outputs"][1]["data"], json!(["joy", "anger"]));
    assert_eq!(mixed.len(), length + 224);

    let json = request.to_string();
    let whole = [json.as_bytes(), &raw].concat();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&whole).unwrap();
    let mut deflate = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    deflate.write_all(&whole).unwrap();
    for (encoding, compressed) in [("gzip", gzip.finish().unwrap()), ("deflate", deflate.finish().unwrap())] {
        let reply = server
            .client()
            .post(server.url("/v2/models/heavy/infer"))
            .header("Inference-Header-Content-Length", json.len())
            .header("Content-Encoding", encoding)
            .body(compressed)
            .send()
            .unwrap();
        assert_eq!(reply.status(), 200, "{encoding}");
        assert_eq!(reply.bytes().unwrap(), body, "{encoding}");
    }
}

#[test]
fn a_bad_tensor_is_told_what_would_be_right() {
    let server = Server::start(&[("MAX_TEXTS", "3")]);
    let input = |name: &str, datatype: &str| json!({"name": name, "shape": [1], "datatype": datatype, "data": ["a"]});
    let with_output = |output: Value| {
        let mut request = tensor(json!([1]), json!(["a"]));
        request["outputs"] = json!([output]);
        request
    };
    let mut both = tensor(json!([1]), json!(["a"]));
    both["inputs"][0]["parameters"] = json!({"binary_data_size": 5});
    let mut twice = tensor(json!([1]), json!(["a"]));
    twice["outputs"] = json!([{"name": "labels"}, {"name": "labels"}]);
    for (what, body, message) in [
        ("no inputs", json!({"inputs": []}), "there are 0 inputs; there must be one, named \"text\""),
        ("two inputs", json!({"inputs": [input("text", "BYTES"), input("text", "BYTES")]}), "there are 2 inputs"),
        ("a name of none", json!({"inputs": [input("texts", "BYTES")]}), "the only one is \"text\""),
        ("numbers", json!({"inputs": [input("text", "FP32")]}), "it must be BYTES"),
        ("a wrong length", tensor(json!([2]), json!(["a"])), "but it holds 1 texts"),
        ("a negative length", tensor(json!([-1]), json!(["a"])), "but it holds 1 texts"),
        ("two columns", tensor(json!([1, 2]), json!(["a", "b"])), "it must be [n] or [n, 1]"),
        ("no shape", tensor(json!([]), json!(["a"])), "it must be [n] or [n, 1]"),
        ("a number for a text", tensor(json!([1]), json!([1])), "texts in a list"),
        ("an empty text", tensor(json!([1]), json!([""])), "text[0] is empty"),
        ("no text", tensor(json!([0]), json!([])), "text is empty"),
        ("data twice", both, "both data and binary_data_size"),
        ("no data", json!({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES"}]}), "neither data nor"),
        ("an output of none", with_output(json!({"name": "logits"})), "outputs are \"scores\" and \"labels\""),
        (
            "classes of labels",
            with_output(json!({"name": "labels", "parameters": {"classification": 1}})),
            "\"scores\"",
        ),
        ("an output twice", twice, "asked for twice"),
        ("no JSON object", json!([]), "it must be a JSON object"),
    ] {
        let reply = server.post("/v2/models/heavy/infer", &body);
        assert_eq!(reply.status, 400, "{what}: {}", reply.text);
        assert_eq!(reply.json.as_object().unwrap().len(), 1, "{what}: {}", reply.text);
        assert!(reply.json["error"].as_str().unwrap().contains(message), "{what}: {}", reply.text);
    }
    let many = server.post("/v2/models/heavy/infer", &tensor(json!([4]), json!(["a", "b", "c", "d"])));
    assert_eq!(many.status, 413, "{}", many.text);
}

#[test]
fn bad_raw_tensors_and_header_lengths_are_refused() {
    let server = Server::start(&[]);
    let request = |size: usize| json!({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": size}}]});
    let good = elements(&["a"]);
    for (what, json, raw, message) in [
        ("a size past the end", request(99), good.clone(), "only 5 bytes are left"),
        (
            "bytes of no input",
            request(5),
            [&good[..], b"more"].concat(),
            "4 bytes behind the JSON part belong to no input",
        ),
        (
            "an element past the end",
            request(5),
            b"\x09\0\0\0a".to_vec(),
            "element 0 of the input \"text\" is cut short",
        ),
        ("half a length", request(2), b"\x01\0".to_vec(), "is cut short"),
        ("no UTF-8", request(5), b"\x01\0\0\0\xff".to_vec(), "is not UTF-8"),
        ("two elements for one", request(10), good.repeat(2), "but it holds 2 texts"),
        ("no elements", request(0), vec![], "but it holds 0 texts"),
    ] {
        let reply = post_binary(&server, &json, &raw);
        assert_eq!(reply.status(), 400, "{what}");
        let text = reply.text().unwrap();
        assert!(
            serde_json::from_str::<Value>(&text).unwrap()["error"].as_str().unwrap().contains(message),
            "{what}: {text}"
        );
    }
    for header in ["abc", "-1", "99999999", "18446744073709551616"] {
        let request = server.client().post(server.url("/v2/models/heavy/infer"));
        let reply = Reply::of(request.header("Inference-Header-Content-Length", header).body("{}"));
        assert_eq!(reply.status, 400, "{header}: {}", reply.text);
        assert!(reply.json["error"].as_str().unwrap().contains("Inference-Header-Content-Length"), "{}", reply.text);
    }
}

#[test]
fn server_and_models_describe_themselves() {
    let server = Server::start(&[]);
    assert_eq!(
        server.get("/v2").json["extensions"],
        json!(["binary_tensor_data", "classification", "model_repository"])
    );
    assert_eq!(server.get("/v2/health/live").json, json!({"live": true}));
    assert_eq!(server.get("/v2/health/ready").json, json!({"ready": true}));
    assert_eq!(server.get("/v2/models").json, json!({"models": ["goemotions", "ekman"]}));
    for (name, labels) in [("heavy", 28), ("goemotions", 28), ("light", 7), ("ekman", 7), ("auto", -1)] {
        for path in [format!("/v2/models/{name}"), format!("/v2/models/{name}/versions/1")] {
            let model = server.get(&path).json;
            assert_eq!(model["name"], name, "{model:#}");
            assert_eq!(model["inputs"], json!([{"name": "text", "datatype": "BYTES", "shape": [-1]}]));
            assert_eq!(model["outputs"][0], json!({"name": "scores", "datatype": "FP32", "shape": [-1, labels]}));
            assert!(model["label_names"].as_array().unwrap().len() >= 7);
            assert_eq!(server.get(&format!("{path}/ready")).json, json!({"name": name, "ready": true}));
        }
    }
    for path in [
        "/v2/models/none",
        "/v2/models/none/ready",
        "/v2/models/heavy/versions/2",
        "/v2/models/heavy/versions/2/ready",
        "/v2/none",
    ] {
        let reply = server.get(path);
        assert_eq!(reply.status, 404, "{path}: {}", reply.text);
        assert!(reply.json["error"].is_string(), "{path}: {}", reply.text);
    }
    assert_eq!(server.post("/v2/models/none/infer", &tensor(json!([1]), json!(["a"]))).status, 404);
    assert_eq!(server.post("/v2/models/heavy/versions/9/infer", &tensor(json!([1]), json!(["a"]))).status, 404);
}

#[test]
fn the_repository_lists_loads_and_unloads_models() {
    let server = Server::start(&[ADMIN_KEY]);
    let states = || -> Vec<(String, String)> {
        let reply = server.post("/v2/repository/index", &json!({}));
        assert_eq!(reply.status, 200, "{}", reply.text);
        let entries = reply.json.as_array().unwrap().clone();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        entries.iter().map(|entry| (text(&entry["name"]), text(&entry["state"]))).collect()
    };
    let expected = |heavy: &str, light: &str| {
        vec![("goemotions".to_owned(), heavy.to_owned()), ("ekman".to_owned(), light.to_owned())]
    };
    assert_eq!(states(), expected("UNAVAILABLE", "UNAVAILABLE"));
    assert_eq!(server.administer("/v2/repository/models/heavy/load").status, 200);
    let light = server.administer("/v2/repository/models/ekman/load");
    assert_eq!((light.status, light.json), (200, json!({"name": "ekman", "load": true})), "the body may be empty");
    assert_eq!(states(), expected("READY", "READY"));
    let unload = json!({"parameters": {"unload_dependents": false}});
    let path = server.url("/v2/repository/models/goemotions/unload");
    let reply = Reply::of(server.client().post(path).header("x-api-key", ADMIN_KEY.1).json(&unload));
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(states(), expected("UNAVAILABLE", "READY"));
    let ready = server.post("/v2/repository/index", &json!({"ready": true})).json;
    assert_eq!(ready.as_array().unwrap().len(), 1, "{ready}");

    assert_eq!(server.get("/v2/models/heavy/ready").status, 503, "what is unloaded by hand stays away");
    let barred = server.post("/v2/models/heavy/infer", &tensor(json!([1]), json!([HAPPY])));
    assert_eq!(barred.status, 503, "{}", barred.text);
    let auto = server.post("/v2/models/auto/infer", &tensor(json!([1]), json!([HAPPY])));
    assert_eq!((auto.status, &auto.json["model_name"]), (200, &json!("ekman")), "{}", auto.text);
    assert_eq!(server.administer("/v2/repository/models/goemotions/load").status, 200);
    assert_eq!(server.post("/v2/models/heavy/infer", &tensor(json!([1]), json!([HAPPY]))).status, 200);

    for path in ["/v2/repository/models/none/load", "/v2/repository/models/auto/unload"] {
        assert_eq!(server.administer(path).status, 404, "{path}");
    }
    assert_eq!(server.post("/v2/repository/index", &json!({"ready": "yes"})).status, 400);
}

#[test]
fn loading_and_unloading_need_the_admin_key() {
    let server = Server::start(&[("ADMIN_KEY", "open sesame")]);
    for path in ["/v2/repository/models/light/load", "/v2/repository/models/light/unload"] {
        let without = server.post(path, &json!({}));
        assert_eq!(without.status, 401, "{}", without.text);
        assert!(without.json["error"].as_str().unwrap().contains("ADMIN_KEY"), "{}", without.text);
        let with = Reply::of(server.client().post(server.url(path)).bearer_auth("open sesame"));
        assert_eq!(with.status, 200, "{}", with.text);
    }
    assert_eq!(server.post("/v2/repository/index", &json!({})).status, 200, "who may ask may look");
}
