"""What are the nouns? Frozen records and the error tree; numpy and pydantic only, no onnx and no torch."""
