// One recording: who, when, the player, and where every packet went.

import { ask, bytes, day, duration, element, ending, party, partyText, stateBadge, timeOfDay, trackName } from './format.js';
import { AnnotationEditor } from './annotations.js';
import { Player } from './player.js';

export class Detail {
  #place = document.getElementById('detail');
  #placeholder = [...this.#place.childNodes];
  #player = null;
  #annotations = null;
  #shown = null;
  #state = null;
  #asking = null;

  /** Shows the recording, and puts the focus there when `focus`. */
  async show(id, focus) {
    if (this.#shown === id) return;
    this.#shown = id;
    this.#asking?.abort();
    const asking = this.#asking = new AbortController();
    try {
      const recording = await ask(`/api/v1/recordings/${encodeURIComponent(id)}`, asking.signal);
      this.#place.scrollTop = 0;
      this.#render(recording);
      if (focus) this.#place.focus({ preventScroll: false });
    } catch (error) {
      if (error.name === 'AbortError') return;
      this.#stop();
      this.#place.replaceChildren(element('p', { className: 'empty' }, error.message));
    }
  }

  hide() {
    this.#shown = null;
    this.#annotations = null;
    this.#asking?.abort();
    this.#stop();
    this.#place.replaceChildren(...this.#placeholder);
    document.body.classList.remove('with-detail');
  }

  /** Tags and hold were changed, here or elsewhere. */
  annotated({ recording, annotations }) {
    if (recording === this.#shown) this.#annotations?.show(annotations);
  }

  /** Audio could not be read while somebody played it. */
  damaged({ recording, gaps }) {
    if (recording === this.#shown) this.#player?.tell(gaps);
  }

  /** The recording shown has changed: its figures again. A new player only when the call has ended and none is in use. */
  update(recording) {
    if (recording.id !== this.#shown || this.#annotations?.id !== recording.id) return;
    // Events of a call know nothing of its annotations.
    recording.annotations = this.#annotations.annotations;
    this.#render(recording, this.#player && (this.#player.used || recording.state === this.#state));
  }

  togglePlay() { this.#player?.toggle(); }

  #stop() {
    this.#player?.destroy();
    this.#player = null;
  }

  /** With `keepPlayer` only what stands around the player is made anew, so that hands and ears are not disturbed. */
  #render(recording, keepPlayer = false) {
    const caller = partyText(party(recording, 'caller'));
    const callee = partyText(party(recording, 'callee'));
    const heading = element('header', {},
      element('a', { href: '#/', className: 'close', title: 'Close (Esc)', 'aria-label': 'Close' }, '✕'),
      element('h2', {}, caller, element('span', { className: 'muted', 'aria-label': 'to' }, ' → '), callee),
      element('p', { className: 'muted' }, `${day(recording.started_at)}, `, timeOfDay(recording.started_at), ` · ${duration(recording.duration_seconds)} `, stateBadge(recording.state)));
    const figures = element('div', { className: 'figures' }, parties(recording), facts(recording), tracks(recording), gaps(recording), legs(recording));
    if (keepPlayer) {
      this.#place.querySelector('header').replaceWith(heading);
      this.#place.querySelector('.figures').replaceWith(figures);
      return;
    }
    this.#stop();
    this.#state = recording.state;
    const playable = recording.tracks.some((track) => track.decodable && !track.encrypted);
    if (playable) this.#player = new Player(recording);
    // Somebody may be typing in it.
    if (this.#annotations?.id !== recording.id) this.#annotations = new AnnotationEditor(recording);
    document.body.classList.add('with-detail');
    this.#place.replaceChildren(heading, this.#player?.place ?? element('p', { className: 'notice' }, silence(recording)), this.#annotations.place, figures);
  }
}

function silence(recording) {
  if (recording.tracks.length === 0) return 'No audio was seen for this call.';
  if (recording.tracks.every((track) => track.encrypted)) return 'The media was encrypted on the wire and cannot be played.';
  return 'There is no decoder for this codec; nothing can be played.';
}

function table(caption, headings, rows) {
  return element('section', {}, element('h3', {}, caption), element('div', { className: 'scroll' }, element('table', {},
    element('thead', {}, element('tr', {}, ...headings.map((heading) => element('th', { scope: 'col' }, heading)))),
    element('tbody', {}, ...rows.map((row) => element('tr', {}, ...row.map((cell) => element('td', {}, cell))))))));
}

function parties(recording) {
  return table('Parties', ['', 'Number', 'Name', 'Address'],
    recording.parties.map((someone) => [someone.role === 'caller' ? 'Caller' : 'Callee', someone.number || '–', someone.name || '–', someone.address]));
}

function facts(recording) {
  const pair = (name, value) => [element('dt', {}, name), element('dd', {}, value)];
  return element('section', {}, element('h3', {}, 'Call'), element('dl', {},
    ...pair('Started', timeOfDay(recording.started_at)),
    ...pair('Answered', recording.answered_at ? timeOfDay(recording.answered_at) : 'Not answered'),
    ...pair('Ended', recording.ended_at ? timeOfDay(recording.ended_at) : 'Goes on'),
    ...pair('End', ending(recording.end_reason)),
    ...pair('Node', recording.node),
    ...(recording.proof ? pair('Audio', `${bytes(recording.proof.bytes)} in ${recording.proof.chunks.toLocaleString('en')} chunks, sealed`) : []),
    ...pair('Recording', element('code', {}, recording.id))));
}

function tracks(recording) {
  const rows = recording.tracks.flatMap((track) => track.streams.map((stream, index) => [
    index === 0 ? trackName(recording, track) : '',
    stream.codec,
    String(stream.packets),
    index === 0 ? lost(track.losses) : '',
    `${stream.jitter_ms_mean.toFixed(1)} / ${stream.jitter_ms_max.toFixed(1)}`,
    index === 0 ? `${track.concealed_seconds.toFixed(2)} s` : '',
    `${stream.source} → ${stream.destination}`,
    element('code', {}, `${stream.ssrc}${stream.domain ? ` ${stream.domain}` : ''}`),
  ]));
  return table('Audio on the wire', ['Track', 'Codec', 'Packets', 'Lost: network / recorder', 'Jitter ms: mean / max', 'Concealed', 'Stream', 'SSRC'], rows);
}

function lost(losses) {
  const recorder = losses.capture + losses.encoder + losses.writer;
  return element('span', { className: recorder ? 'bad' : losses.network ? 'warn' : '', title: `Capture ${losses.capture}, encoder ${losses.encoder}, writer ${losses.writer}` }, `${losses.network} / ${recorder}`);
}

function gaps(recording) {
  const rows = [...recording.gaps.map((gap) => ['Gap', gap]), ...recording.pauses.map((pause) => ['Pause', pause])];
  if (rows.length === 0) return null;
  return table('Gaps and pauses', ['', 'From', 'To', 'Reason'], rows.map(([kind, gap]) => [kind, timeOfDay(gap.from), gap.to ? timeOfDay(gap.to) : 'lasts', gap.reason]));
}

function legs(recording) {
  return table('Signalling', ['Protocol', 'From', 'To', 'Call-ID', 'End'],
    recording.legs.map((leg) => [leg.protocol.toUpperCase(), leg.from, leg.to, element('code', {}, leg.call_id), ending(leg.end_reason)]));
}
