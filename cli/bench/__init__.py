"""`light-tts bench`: offers loads to a running server and measures what listeners receive."""
