// Plays samples through an analyser that measures the level.

export class Player {
  /** Call it from a click or key event: browsers play no audio before one. `onProgress({played, gaps, over})`. */
  static async open(sampleRate, onProgress) {
    const context = new AudioContext({ sampleRate });
    await context.audioWorklet.addModule("/web/player-worklet.js");
    return new Player(context, onProgress);
  }

  constructor(context, onProgress) {
    this.context = context;
    this.node = new AudioWorkletNode(context, "player", { numberOfInputs: 0, outputChannelCount: [1] });
    this.analyser = new AnalyserNode(context, { fftSize: 1024 });
    this.window = new Float32Array(this.analyser.fftSize);
    this.node.connect(this.analyser).connect(context.destination);
    this.node.port.onmessage = ({ data }) => onProgress(data);
  }

  async begin() {
    this.stop();
    await this.context.resume();
  }

  push(samples) {
    this.node.port.postMessage({ type: "samples", samples });
  }

  end() {
    this.node.port.postMessage({ type: "end" });
  }

  stop() {
    this.node.port.postMessage({ type: "stop" });
  }

  /** Returns the root mean square of the audio playing now; full scale is 1. */
  level() {
    this.analyser.getFloatTimeDomainData(this.window);
    return Math.sqrt(this.window.reduce((sum, value) => sum + value * value, 0) / this.window.length);
  }
}
