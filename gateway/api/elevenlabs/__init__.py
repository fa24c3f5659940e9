"""ElevenLabs' API: what its client and the plugins of LiveKit Agents and Pipecat call."""
