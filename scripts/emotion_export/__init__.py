"""From a Hugging Face checkpoint to a model bundle that the server maps into memory."""
