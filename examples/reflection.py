"""Speaks one text without generated code: the messages come from the gateway's server reflection.

Needs grpcio and grpcio-reflection.
"""

import os
import wave

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVER = os.environ.get("LIGHTTTS_SERVER", "127.0.0.1:50050")
KEY = os.environ.get("LIGHTTTS_API_KEY", "none")

with grpc.insecure_channel(SERVER) as channel, wave.open("reflection.wav", "wb") as out:
    out.setparams((1, 2, 24_000, 0, "NONE", ""))  # without them, close() hides the error of a failed call
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    method = pool.FindServiceByName("lighttts.v1.TextToSpeech").FindMethodByName("Synthesize")
    Request, Response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    synthesize = channel.unary_stream(
        "/lighttts.v1.TextToSpeech/Synthesize", Request.SerializeToString, Response.FromString
    )
    request = Request(config={"voice_name": "anna", "seed": 7}, text="Good morning, Alice, welcome to London.")
    for response in synthesize(request, metadata=(("x-api-key", KEY),)):
        if response.HasField("started"):
            out.setparams((1, 2, response.started.sample_rate, 0, "NONE", ""))
        elif response.HasField("audio"):
            out.writeframesraw(response.audio.pcm)
