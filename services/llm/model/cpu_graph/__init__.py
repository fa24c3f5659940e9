"""The decode step as one ONNX Runtime graph, for a CPU, where many small operations cost more than their arithmetic."""
