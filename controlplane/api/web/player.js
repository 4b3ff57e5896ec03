// The player: the browser's own audio element under controls that any keyboard can use, with the tracks drawn above.

import { duration, element, party, partyText, timeOfDay, trackName } from './format.js';

const choices = [['dual', 'Stereo, caller left'], ['mix', 'Both, mixed'], ['caller', 'Caller only'], ['callee', 'Callee only']];
const speeds = [0.75, 1, 1.25, 1.5, 2];

export class Player {
  #recording;
  #audio = element('audio', { preload: 'metadata' });
  #play = element('button', { type: 'button', className: 'play', 'aria-label': 'Play', 'aria-keyshortcuts': 'Space' });
  #seek = element('input', { type: 'range', className: 'seek', min: 0, step: 0.1, value: 0, 'aria-label': 'Position' });
  #time = element('output', { className: 'time' });
  #channels = element('select', { 'aria-label': 'Channels' }, ...choices.map(([value, text]) => element('option', { value }, text)));
  #speed = element('select', { 'aria-label': 'Speed' }, ...speeds.map((speed) => element('option', { value: speed, selected: speed === 1 }, `${speed}×`)));
  #head = element('div', { className: 'playhead', 'aria-hidden': 'true' });
  #message = element('p', { className: 'bad', role: 'alert', hidden: true });

  constructor(recording) {
    this.#recording = recording;
    const skip = (seconds, text) => element('button', { type: 'button', title: `${Math.abs(seconds)} s ${seconds < 0 ? 'back' : 'on'}`, onclick: () => this.#jump(this.#audio.currentTime + seconds) }, text);
    this.place = element('div', { className: 'player', role: 'group', 'aria-label': 'Player' },
      this.#lanes(),
      element('div', { className: 'controls' }, this.#play, skip(-10, '−10 s'), skip(10, '+10 s'), this.#time, element('span', { className: 'grow' }), this.#speed),
      element('div', { className: 'controls' }, this.#channels, element('span', { className: 'grow' }), this.#download('opus', 'Opus'), this.#download('wav', 'WAV')),
      this.#message, this.#audio);
    this.#play.addEventListener('click', () => this.toggle());
    this.#seek.addEventListener('input', () => this.#jump(Number(this.#seek.value)));
    this.#channels.addEventListener('change', () => this.#load());
    this.#speed.addEventListener('change', () => { this.#audio.playbackRate = Number(this.#speed.value); });
    for (const name of ['play', 'pause', 'ended', 'timeupdate', 'durationchange', 'seeked']) this.#audio.addEventListener(name, () => this.#show());
    this.#audio.addEventListener('error', () => this.#fail());
    this.#load();
    this.#show();
  }

  /** It plays, or has been moved from its beginning: not to be replaced under somebody's hands. */
  get used() { return this.playing || this.#audio.currentTime > 0; }

  get playing() { return !this.#audio.paused && !this.#audio.ended; }

  toggle() {
    if (this.playing) return this.#audio.pause();
    // The file of a call that goes on has grown since it was opened.
    if (this.#recording.state === 'active' && (this.#audio.currentTime === 0 || this.#audio.ended)) this.#load();
    this.#audio.play().catch((error) => { if (error.name !== 'AbortError') this.#fail(); });
  }

  destroy() {
    cancelAnimationFrame(this.#frame);
    this.#audio.pause();
    this.#audio.removeAttribute('src');
    this.#audio.load();
  }

  #address(format, channels) { return `/api/v1/recordings/${this.#recording.id}/audio?format=${format}&channels=${channels}`; }

  /** Takes the chosen channels, and goes on where it was. */
  #load() {
    const at = this.#audio.currentTime;
    const playing = this.playing;
    this.#message.hidden = true;
    this.#audio.src = this.#address('opus', this.#channels.value);
    this.#audio.playbackRate = Number(this.#speed.value);
    if (at > 0) this.#audio.currentTime = at;
    if (playing) this.toggle();
    for (const link of this.place?.querySelectorAll('a[data-format]') ?? []) link.href = this.#address(link.dataset.format, this.#channels.value);
  }

  #download(format, text) {
    const link = element('a', { className: 'button', href: this.#address(format, 'dual'), download: '', title: `Save as .${format}, channels as chosen` }, `↓ ${text}`);
    link.dataset.format = format;
    return link;
  }

  get #length() { return Number.isFinite(this.#audio.duration) ? this.#audio.duration : this.#recording.duration_seconds; }

  #jump(seconds) {
    this.#audio.currentTime = Math.min(Math.max(0, seconds), this.#length);
    this.#show();
  }

  #frame = 0;

  #show() {
    cancelAnimationFrame(this.#frame);
    const at = this.#audio.currentTime;
    const text = `${duration(at)} of ${duration(this.#length)}`;
    this.#seek.max = this.#length;
    this.#seek.value = at;
    this.#seek.setAttribute('aria-valuetext', text);
    this.#time.textContent = `${duration(at)} / ${duration(this.#length)}`;
    this.#head.style.left = `${(100 * Math.min(1, at / (this.#length || 1))).toFixed(3)}%`;
    this.#play.classList.toggle('playing', this.playing);
    this.#play.setAttribute('aria-label', this.playing ? 'Pause' : 'Play');
    if (this.playing) this.#frame = requestAnimationFrame(() => this.#show());
  }

  /** Some of the audio cannot be read any more, and is silent. */
  tell(gaps) {
    const where = gaps.slice(0, 3).map((gap) => timeOfDay(gap.from));
    const times = where.flatMap((time, index) => (index === 0 ? [time] : [', ', time]));
    this.#message.replaceChildren(`${gaps.length === 1 ? 'A piece' : `${gaps.length} pieces`} of the stored audio cannot be read and ${gaps.length === 1 ? 'is' : 'are'} silent: at `, ...times, gaps.length > 3 ? ', …' : '', ` (${gaps[0].reason})`);
    this.#message.hidden = false;
  }

  /** The element says only that it failed; the API says why. */
  async #fail() {
    let reason = 'The browser cannot play this audio.';
    try {
      const response = await fetch(this.#audio.src, { headers: { range: 'bytes=0-0' } });
      if (!response.ok) reason = (await response.json()).detail;
    } catch {
      reason = 'The appliance does not answer.';
    }
    this.#message.textContent = reason;
    this.#message.hidden = false;
  }

  /** A lane per track: where it has audio, and where the recorder has none. Clicking goes there. */
  #lanes() {
    const total = this.#recording.duration_seconds || 1;
    const first = Math.min(...this.#recording.tracks.flatMap((track) => track.streams.map((stream) => Date.parse(stream.from))));
    const percent = (seconds) => `${(100 * Math.min(1, Math.max(0, seconds / total))).toFixed(3)}%`;
    const part = (className, from, to, title) => {
      const bar = element('span', { className, title });
      bar.style.left = percent(from);
      bar.style.width = percent(to - from);
      return bar;
    };
    const bars = element('div', { className: 'bars' }, ...this.#recording.tracks.map((track) => element('div', { className: `lane ${track.side}` },
      part('audio', track.start_offset_seconds, track.start_offset_seconds + track.duration_seconds, trackName(this.#recording, track)),
      ...this.#recording.gaps.map((gap) => {
        const since = (text) => (Date.parse(text) - first) / 1000;
        return part('gap', since(gap.from), gap.to ? since(gap.to) : total, `Nothing was recorded: ${gap.reason}`);
      }))), this.#head);
    bars.addEventListener('click', (event) => {
      const box = bars.getBoundingClientRect();
      this.#jump(((event.clientX - box.left) / box.width) * this.#length);
    });
    return element('div', { className: 'lanes' },
      element('div', { className: 'names' }, ...this.#recording.tracks.map((track) => element('span', { title: trackName(this.#recording, track) }, this.#speaker(track)))),
      bars,
      element('span'), this.#seek);
  }

  #speaker(track) {
    const someone = this.#recording.parties.find((candidate) => candidate.id === track.party) ?? party(this.#recording, track.side === 'near' ? 'caller' : 'callee');
    return partyText(someone);
  }
}
