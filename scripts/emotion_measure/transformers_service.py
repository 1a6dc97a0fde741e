"""A service as many write it: FastAPI around the text-classification pipeline of transformers, in float32.

    python -m emotion_measure.transformers_service CHECKPOINT --port 8000
"""

import argparse

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline


class Query(BaseModel):
    """Body of a request."""

    text: str


def application(checkpoint: str) -> FastAPI:
    """One pipeline, called from FastAPI's thread pool (an `async` function would hold up every other request)."""
    classifier = pipeline("text-classification", model=checkpoint, device="cpu", dtype=torch.float32, top_k=None)
    app = FastAPI()

    @app.post("/analyze")
    def analyze(query: Query) -> dict:
        found = classifier([query.text], truncation=True)[0]
        scores = {each["label"]: each["score"] for each in found}
        return {"emotion": found[0]["label"], "confidence": found[0]["score"], "all_scores": scores}

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", help="folder of a fine-tuned sequence classifier")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    uvicorn.run(application(arguments.checkpoint), host="127.0.0.1", port=arguments.port)
