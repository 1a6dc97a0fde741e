//! The API's own description: `GET /openapi.json` for programs, `GET /docs` for people.

use std::future::{Ready, ready};
use std::sync::OnceLock;

use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};
use utoipa::OpenApi;

use super::error::{self, ApiError, ErrorKind};
use super::pages::PageFile;
use super::{
    ApiState, exposition, hugging_face, kserve_v1, methods, native, ndjson, open_inference, operations, python_compat,
    root, tei,
};
use crate::model::Role;

static DOCS_PAGE: PageFile = PageFile::new("index.html", include_str!("docs/index.html"));

static DOCS_FILES: [PageFile; 2] =
    [PageFile::new("docs.css", include_str!("docs/docs.css")), PageFile::new("docs.js", include_str!("docs/docs.js"))];

#[derive(OpenApi)]
#[openapi(
    info(
        title = "emotion-server",
        description = "Reads the emotions in English text. The native API is `POST /analyze`; the other paths speak the \
                       contracts of systems whose clients work here unchanged. Every request may carry \
                       `X-Request-Timeout-Ms`, the longest time that its answer is of use."
    ),
    tags(
        (name = "native", description = "Our own contract"),
        (name = "tei", description = "text-embeddings-inference"),
        (name = "hugging face", description = "Hugging Face Inference API"),
        (name = "open inference", description = "Open Inference Protocol, version 2 (KServe, Triton)"),
        (name = "kserve v1", description = "KServe, version 1"),
        (name = "python service", description = "Paths of the Python service that this one replaces"),
        (name = "operations", description = "For those who run the server")
    ),
    paths(
        native::analyze_texts,
        ndjson::analyze_lines,
        tei::predict_handler,
        tei::info,
        hugging_face::classify_handler,
        kserve_v1::predict,
        kserve_v1::models,
        kserve_v1::readiness,
        python_compat::emotion_v2,
        python_compat::emotion,
        open_inference::infer::infer,
        open_inference::infer::infer_version,
        open_inference::metadata::server,
        open_inference::metadata::live,
        open_inference::metadata::readiness,
        open_inference::metadata::models,
        open_inference::metadata::model,
        open_inference::metadata::model_readiness,
        open_inference::metadata::model_version,
        open_inference::metadata::model_version_readiness,
        open_inference::repository::index,
        open_inference::repository::load,
        open_inference::repository::unload,
        root::alive,
        root::predict,
        operations::live,
        operations::readiness,
        operations::health,
        operations::models,
        exposition::metrics,
        operations::load,
        operations::unload
    )
)]
struct ApiDescription;

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(methods::get("/openapi.json", description))
        .service(methods::get("/docs", docs))
        .service(methods::get("/docs/{file}", docs_file));
}

fn description(state: web::Data<ApiState>) -> Ready<Result<HttpResponse, ApiError>> {
    static DESCRIPTION: OnceLock<Bytes> = OnceLock::new();
    let bytes = match DESCRIPTION.get() {
        Some(bytes) => Ok(bytes.clone()),
        None => written(&state).map(|bytes| DESCRIPTION.get_or_init(|| bytes).clone()),
    };
    ready(match bytes {
        Ok(bytes) => Ok(HttpResponse::Ok().content_type("application/json").body(bytes)),
        Err(error) => Err(ApiError::new(ErrorKind::Internal, error.to_string())),
    })
}

fn written(state: &ApiState) -> Result<Bytes, serde_json::Error> {
    let mut description = serde_json::to_value(ApiDescription::openapi())?;
    let residency = state.classifier.residency();
    let names = Role::ALL.map(|role| residency.name_of(role));
    let models = json!(["auto", "heavy", "light", names[0], names[1]]);
    let loadable = json!(["heavy", "light", names[0], names[1]]);
    let paths = description.get_mut("paths").and_then(Value::as_object_mut);
    for (path, operation) in paths.into_iter().flatten().flat_map(|(path, item)| {
        item.as_object_mut().into_iter().flatten().map(move |(_, operation)| (path, operation))
    }) {
        // Who may be late with an answer is who reads texts; a stream's come after its headers.
        let answers = &mut operation["responses"];
        if answers.get("504").is_some() && answers["200"]["content"].get("application/x-ndjson").is_none() {
            answers["200"]["headers"]["x-cache"] = json!({
                "description": "There if no model had to run: all texts of the request were known",
                "schema": {"type": "string", "enum": ["hit"]},
            });
        }
        // Raw tensors follow the JSON part, if they are asked for.
        if path.ends_with("/infer") {
            operation["responses"]["200"]["content"]["application/octet-stream"] = json!({});
        }
        let known = if path.contains("/repository/") { &loadable } else { &models };
        for parameter in operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten() {
            match parameter["name"].as_str() {
                Some("model" | "id") => parameter["schema"] = json!({"type": "string", "enum": known}),
                Some("role") => parameter["schema"] = json!({"type": "string", "enum": ["heavy", "light"]}),
                Some("version") => parameter["schema"] = json!({"type": "string", "enum": ["1"]}),
                _ => {}
            }
        }
    }
    // The key that tells two contracts apart, and one of two fields: what a derive cannot say.
    let schema = |name: &str| format!("#/components/schemas/{name}");
    description["paths"]["/"]["post"]["requestBody"]["content"]["application/json"]["schema"] = json!({"oneOf": [
        {"$ref": schema("HuggingFaceRequest"), "required": ["parameters"]},
        {"$ref": schema("TeiPredictRequest"), "not": {"required": ["parameters"]}},
    ]});
    description["components"]["schemas"]["AnalyzeRequest"]["oneOf"] =
        json!([{"required": ["text"]}, {"required": ["texts"]}]);
    description["components"]["schemas"]["AnalyzeRequest"]["properties"]["model"]["enum"] = models;
    Ok(serde_json::to_vec(&description)?.into())
}

fn docs(http: HttpRequest) -> Ready<HttpResponse> {
    ready(DOCS_PAGE.reply(&http))
}

fn docs_file(http: HttpRequest) -> Ready<Result<HttpResponse, ApiError>> {
    let name = http.match_info().get("file").unwrap_or_default();
    match DOCS_FILES.iter().find(|file| file.name == name) {
        Some(file) => ready(Ok(file.reply(&http))),
        None => error::not_found(http),
    }
}
