// Shows the text, and marks the word that is being played.

export class SpokenText {
  constructor(element) {
    this.element = element;
    this.clear("");
  }

  clear(text) {
    this.characters = [...text]; // offsets count code points
    this.words = new Map(); // by the place in the text
    this.marked = null;
    this.show();
  }

  /** `words`: of an audio event. One that goes on comes again with its length. */
  add(words) {
    for (const word of words) this.words.set(word.text_offset, word);
  }

  /** `sample`: the listener's position. */
  play(sample) {
    const begun = [...this.words.values()].filter(({ first_sample }) => first_sample <= sample);
    const last = begun.reduce((one, other) => (other.first_sample >= (one?.first_sample ?? 0) ? other : one), null);
    const over = last && !last.open && sample >= last.first_sample + last.samples;
    const word = over ? null : last;
    if (word?.text_offset === this.marked?.text_offset) return;
    this.marked = word;
    this.show();
  }

  show() {
    const part = (from, to) => this.characters.slice(from, to).join("");
    if (!this.marked) {
      this.element.replaceChildren(this.words.size ? part(0) : "");
      return;
    }
    const { text_offset: from, length } = this.marked;
    const mark = document.createElement("mark");
    mark.textContent = part(from, from + length);
    this.element.replaceChildren(part(0, from), mark, part(from + length));
  }
}
