"""One utterance between the gateway and the llm workers."""
