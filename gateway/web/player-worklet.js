// Plays pieces of samples one after the other and reports the position, and the gaps before the end.

class Player extends AudioWorkletProcessor {
  constructor() {
    super();
    this.reset();
    this.port.onmessage = ({ data }) => {
      if (data.type === "samples") this.pieces.push(data.samples);
      else if (data.type === "end") this.ended = true;
      else this.reset();
    };
  }

  reset() {
    this.pieces = [];
    this.offset = 0;
    this.played = 0;
    this.gaps = 0;
    this.dry = true;
    this.ended = false;
    this.reported = false;
    this.blocks = 0;
  }

  process(inputs, outputs) {
    const channel = outputs[0][0];
    const filled = this.fill(channel);
    if (filled < channel.length && !this.dry && !this.ended) this.gaps += 1;
    this.dry = filled < channel.length;
    this.played += filled;
    this.blocks += 1;
    const over = this.ended && this.dry && !this.reported;
    if (over || this.blocks % 8 === 0) {
      this.reported = over || this.reported;
      this.port.postMessage({ played: this.played, gaps: this.gaps, over });
    }
    return true;
  }

  fill(channel) {
    let filled = 0;
    while (filled < channel.length && this.pieces.length) {
      const piece = this.pieces[0];
      const part = piece.subarray(this.offset, this.offset + channel.length - filled);
      channel.set(part, filled);
      filled += part.length;
      this.offset += part.length;
      if (this.offset === piece.length) {
        this.pieces.shift();
        this.offset = 0;
      }
    }
    return filled;
  }
}

registerProcessor("player", Player);
