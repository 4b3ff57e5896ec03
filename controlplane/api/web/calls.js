// The table of live calls: one row per active recording, newest first, its time counted up between events.

import { codecs, duration, element, lossCell, party, partyCell } from './format.js';

/** Rows drawn; with more calls than this the newest are shown, and the rest are counted. */
const ROWS_MAX = 200;

export class LiveCalls {
  #calls = new Map();
  #table = document.getElementById('live');
  #body = this.#table.tBodies[0];
  #empty = document.getElementById('live-empty');
  #rest = document.getElementById('live-rest');
  #count = document.getElementById('live-count');

  constructor() {
    setInterval(() => this.#tick(), 1000);
  }

  replace(calls) {
    this.#calls = new Map(calls.map((call) => [call.id, call]));
    this.#render();
  }

  update(call) {
    if (call.state === 'active') this.#calls.set(call.id, call);
    else this.#calls.delete(call.id);
    this.#render();
  }

  remove(id) {
    if (this.#calls.delete(id)) this.#render();
  }

  #rendering = false;

  /** Once per frame, however many events came. */
  #render() {
    if (this.#rendering) return;
    this.#rendering = true;
    requestAnimationFrame(() => {
      this.#rendering = false;
      const calls = [...this.#calls.values()].sort((a, b) => (a.started_at < b.started_at ? 1 : -1));
      this.#body.replaceChildren(...calls.slice(0, ROWS_MAX).map(row));
      this.#rest.textContent = `and ${calls.length - ROWS_MAX} more`;
      this.#rest.hidden = calls.length <= ROWS_MAX;
      this.#table.hidden = calls.length === 0;
      this.#empty.hidden = calls.length > 0;
      this.#count.textContent = calls.length;
      this.#count.classList.toggle('on', calls.length > 0);
      this.#tick();
    });
  }

  #tick() {
    const now = Date.now();
    for (const cell of this.#body.querySelectorAll('[data-since]')) {
      cell.textContent = duration((now - Number(cell.dataset.since)) / 1000);
    }
  }
}

function row(call) {
  const elapsed = element('a', { href: `#/recordings/${call.id}`, className: 'elapsed', title: `Since ${call.started_at}` });
  elapsed.dataset.since = Date.parse(call.started_at);
  return element('tr', {},
    element('td', {}, element('span', { className: 'dot', 'aria-hidden': 'true' }), elapsed),
    element('td', {}, partyCell(party(call, 'caller'))),
    element('td', {}, partyCell(party(call, 'callee'))),
    element('td', {}, call.answered_at ? 'Talking' : 'Ringing'),
    element('td', {}, codecs(call)),
    element('td', {}, lossCell(call)));
}
