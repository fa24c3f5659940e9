// A mel spectrogram that grows to the right, one column per hop of audio.

const SIZE = 1024; // samples per frame
const HOP = 256;
const BANDS = 80;
const FLOOR = 1e-5;

const melOf = (hertz) => 2595 * Math.log10(1 + hertz / 700);
const hertzOf = (mel) => 700 * (10 ** (mel / 2595) - 1);

/** Returns triangular filters over the bins of a spectrum: [first bin, weights] per band. */
function filters(sampleRate) {
  const top = melOf(sampleRate / 2);
  const edges = Array.from({ length: BANDS + 2 }, (_, i) => (hertzOf((top * i) / (BANDS + 1)) * SIZE) / sampleRate);
  return Array.from({ length: BANDS }, (_, band) => {
    const [low, peak, high] = edges.slice(band, band + 3);
    const first = Math.ceil(low);
    const count = Math.max(1, Math.floor(high) - first + 1);
    const weights = Array.from({ length: count }, (_, i) => {
      const bin = first + i;
      return Math.max(0, Math.min((bin - low) / (peak - low), (high - bin) / (high - peak)));
    });
    return [first, weights];
  });
}

/** Returns the power spectrum of a frame, by an iterative radix-2 FFT in place. */
function power(real) {
  const imaginary = new Float32Array(SIZE);
  for (let i = 1, j = 0; i < SIZE; i += 1) {
    let bit = SIZE >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) [real[i], real[j]] = [real[j], real[i]];
  }
  for (let span = 2; span <= SIZE; span *= 2) {
    for (let k = 0; k < span / 2; k += 1) {
      const cos = Math.cos((-2 * Math.PI * k) / span);
      const sin = Math.sin((-2 * Math.PI * k) / span);
      for (let i = k; i < SIZE; i += span) {
        const j = i + span / 2;
        const re = real[j] * cos - imaginary[j] * sin;
        const im = real[j] * sin + imaginary[j] * cos;
        real[j] = real[i] - re;
        imaginary[j] = imaginary[i] - im;
        real[i] += re;
        imaginary[i] += im;
      }
    }
  }
  return real.slice(0, SIZE / 2 + 1).map((re, i) => re * re + imaginary[i] * imaginary[i]);
}

const STOPS = [[14, 17, 20], [60, 30, 110], [170, 50, 110], [240, 130, 60], [250, 230, 150]];

function colour(value) {
  const at = Math.max(0, Math.min(0.999, value)) * (STOPS.length - 1);
  const [below, above] = [STOPS[Math.floor(at)], STOPS[Math.floor(at) + 1]];
  return below.map((from, i) => from + (above[i] - from) * (at % 1));
}

export class MelPicture {
  constructor(canvas, sampleRate) {
    this.canvas = canvas;
    this.sampleRate = sampleRate;
    this.filters = filters(sampleRate);
    this.hann = Float32Array.from({ length: SIZE }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / SIZE));
    this.picture = new OffscreenCanvas(canvas.width, BANDS);
    this.clear();
  }

  clear() {
    this.rest = new Float32Array(0);
    this.columns = 0;
    this.picture.getContext("2d").clearRect(0, 0, this.picture.width, BANDS);
    this.draw(0);
  }

  push(samples) {
    const joined = new Float32Array(this.rest.length + samples.length);
    joined.set(this.rest);
    joined.set(samples, this.rest.length);
    let start = 0;
    for (; start + SIZE <= joined.length; start += HOP) {
      this.addColumn(power(joined.slice(start, start + SIZE).map((value, i) => value * this.hann[i])));
    }
    this.rest = joined.slice(start);
  }

  addColumn(spectrum) {
    const context = this.picture.getContext("2d");
    const { width } = this.picture;
    if (this.columns >= width) context.drawImage(this.picture, 1, 0, width - 1, BANDS, 0, 0, width - 1, BANDS);
    const column = context.createImageData(1, BANDS);
    this.filters.forEach(([first, weights], band) => {
      const energy = weights.reduce((sum, weight, i) => sum + weight * spectrum[first + i], 0);
      const [red, green, blue] = colour((Math.log10(Math.max(energy, FLOOR)) + 3) / 6);
      column.data.set([red, green, blue, 255], 4 * (BANDS - 1 - band));
    });
    context.putImageData(column, Math.min(this.columns, width - 1), 0);
    this.columns += 1;
  }

  /** Shows the picture, with a line at `seconds` of the audio. */
  draw(seconds) {
    const context = this.canvas.getContext("2d");
    const { width, height } = this.canvas;
    context.clearRect(0, 0, width, height);
    context.imageSmoothingEnabled = false;
    context.drawImage(this.picture, 0, 0, width, height);
    const scrolled = Math.max(0, this.columns - width);
    const x = (seconds * this.sampleRate) / HOP - scrolled;
    if (seconds > 0 && x >= 0) {
      context.fillStyle = "#fff";
      context.fillRect(Math.min(x, width - 2), 0, 2, height);
    }
  }
}
