"""The same service with less: FastAPI around ONNX Runtime and a tokenizer, without torch and transformers.

    python -m emotion_measure.onnxruntime_service CHECKPOINT GRAPH --port 8000
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from tokenizers import Tokenizer


class Query(BaseModel):
    """Body of a request."""

    text: str


def application(checkpoint: Path, graph: str) -> FastAPI:
    """One session with the threads that ONNX Runtime chooses, called from FastAPI's thread pool."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    labels = [config["id2label"][str(index)] for index in range(len(config["id2label"]))]
    multi_label = config["problem_type"] == "multi_label_classification"
    # roberta and mpnet count positions from the padding id + 1.
    first = 0 if config["model_type"] == "bert" else config["pad_token_id"] + 1
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(config["max_position_embeddings"] - first)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = {each.name for each in session.get_inputs()}
    app = FastAPI()

    @app.post("/analyze")
    def analyze(query: Query) -> dict:
        encoded = tokenizer.encode(query.text)
        columns = {
            "input_ids": encoded.ids,
            "attention_mask": encoded.attention_mask,
            "token_type_ids": encoded.type_ids,
        }
        inputs = {name: np.array([row], np.int64) for name, row in columns.items() if name in names}
        logits = session.run(["logits"], inputs)[0][0]
        scores = 1 / (1 + np.exp(-logits)) if multi_label else np.exp(logits) / np.exp(logits).sum()
        ranked = sorted(zip(labels, map(float, scores), strict=True), key=lambda pair: -pair[1])
        return {"emotion": ranked[0][0], "confidence": ranked[0][1], "all_scores": dict(ranked)}

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="folder of a fine-tuned sequence classifier")
    parser.add_argument("graph", help="its ONNX graph")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    uvicorn.run(application(arguments.checkpoint, arguments.graph), host="127.0.0.1", port=arguments.port)
