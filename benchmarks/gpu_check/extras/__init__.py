"""Steps that use what a GPU machine may lack: torchaudio, the MPS daemon. Without it they say so and succeed."""
