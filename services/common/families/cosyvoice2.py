"""CosyVoice2 (spec sections 1 to 8)."""

from __future__ import annotations

from services.common.families.family import ModelFamily, SpeechIds, TextRules

_MARKS = """
<|im_start|> <|im_end|> <|endofprompt|> [breath] <strong> </strong> [noise] [laughter] [cough] [clucking]
[accent] [quick_breath] <laughter> </laughter> [hissing] [sigh] [vocalized-noise] [lipsmack] [mn]
"""

COSYVOICE2 = ModelFamily(
    name="cosyvoice2",
    repository="FunAudioLLM/CosyVoice2-0.5B",
    speech_tokenizer="speech_tokenizer_v2.onnx",
    mel_fmax=8000.0,
    speech=SpeechIds(rows=3, eos=0, fill=2, prompt_rows=None, output_bias=True),
    text=TextRules(special_tokens=tuple(_MARKS.split()), prompts_end=False),
    flow="conformer-unet",
    vocoder="hift",
    unused=(
        "CosyVoice-BlankEN/model.safetensors",
        "flow.cache.pt",
        "flow.decoder.estimator*.onnx",
        "flow.encoder*.zip",
        "*.batch.onnx",
        "*.plan",
        "vllm/*",
    ),
)
