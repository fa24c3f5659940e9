// Draws a bar per chunk: it starts at the chunk's arrival and is as wide as the chunk's audio is long.

const SECONDS_SHOWN = 8; // initially; the axis is rescaled for more
const ROWS = 4;

export class Arrivals {
  constructor(canvas) {
    this.canvas = canvas;
    this.clear();
  }

  clear() {
    this.bars = [];
    this.draw();
  }

  /** `at`: seconds since the request; `seconds`: of audio. */
  add(at, seconds) {
    this.bars.push({ at, seconds });
    this.draw();
  }

  draw() {
    const context = this.canvas.getContext("2d");
    const { width, height } = this.canvas;
    const end = Math.max(SECONDS_SHOWN, ...this.bars.map(({ at, seconds }) => at + seconds));
    context.clearRect(0, 0, width, height);
    context.fillStyle = "#8a949d";
    context.font = "11px system-ui, sans-serif";
    for (let second = 0; second < end; second += Math.ceil(end / 10)) {
      context.fillText(`${second} s`, (second / end) * width + 2, height - 3);
    }
    this.bars.forEach(({ at, seconds }, number) => {
      context.fillStyle = number ? "#6cc7cf" : "#f0a24a";
      context.fillRect((at / end) * width, 2 + (number % ROWS) * 10, Math.max(2, (seconds / end) * width - 1), 8);
    });
  }
}
