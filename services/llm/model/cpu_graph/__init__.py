"""The decode step on a CPU, where small calls cost more than their arithmetic: an ONNX Runtime graph, quick draws."""
