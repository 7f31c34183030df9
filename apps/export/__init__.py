"""A trained run as .onnx files that were checked against the trained model."""
