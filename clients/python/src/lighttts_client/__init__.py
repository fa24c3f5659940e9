"""Client of light-tts: speech, conversations and voices, with retries and resumed audio.

    with Client("127.0.0.1:50050") as client:
        for chunk in client.speak("Good morning.", SynthesisConfig(voice_name="anna")):
            play(chunk.pcm)

Messages are those of lighttts/v1/tts.proto, which documents every field.
"""

from lighttts.v1.audio_pb2 import AudioChunk, AudioOutput, Word
from lighttts.v1.tts_pb2 import (
    Configured,
    CreateVoiceHeader,
    Finished,
    FirstAudio,
    Mark,
    Prompt,
    Reconnect,
    Resumed,
    Spoken,
    Started,
    SynthesisConfig,
    Voice,
    Warning,
)
from lighttts_client.aio import AsyncClient, AsyncConversation, AsyncSpeech
from lighttts_client.client import Client, Conversation, Speech
from lighttts_client.connection import Connection
from lighttts_client.conversation import Event
from lighttts_client.errors import (
    AlreadyExists,
    ConnectionLost,
    Internal,
    InvalidInput,
    LightTtsError,
    NotFound,
    Overloaded,
    PermissionDenied,
    TimedOut,
    Unauthenticated,
    Unavailable,
    Unsupported,
)
from lighttts_client.retry import Retry

__all__ = [
    "AlreadyExists",
    "AsyncClient",
    "AsyncConversation",
    "AsyncSpeech",
    "AudioChunk",
    "AudioOutput",
    "Client",
    "Configured",
    "Connection",
    "ConnectionLost",
    "Conversation",
    "CreateVoiceHeader",
    "Event",
    "Finished",
    "FirstAudio",
    "Internal",
    "InvalidInput",
    "LightTtsError",
    "Mark",
    "NotFound",
    "Overloaded",
    "PermissionDenied",
    "Prompt",
    "Reconnect",
    "Resumed",
    "Retry",
    "Speech",
    "Spoken",
    "Started",
    "SynthesisConfig",
    "TimedOut",
    "Unauthenticated",
    "Unavailable",
    "Unsupported",
    "Voice",
    "Warning",
    "Word",
]
