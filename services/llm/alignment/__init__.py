"""Which text id each speech token speaks, from the attention of the llm's heads that the model directory declares."""
