"""Ways to run the flow estimator: compiled, ONNX Runtime, TensorRT."""
