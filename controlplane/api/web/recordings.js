// The list of recordings: filter, pages, and the rows one moves through with the arrow keys.

import { ask, day, duration, element, lossCell, party, partyCell, partyText, stateBadge, timeOfDay } from './format.js';

const PAGE = 50;
/** Counting looks at many recordings: while the list stands, it is done again this often at most. */
const COUNT_AGAIN_MS = 10_000;

export class RecordingList {
  #rows = new Map();
  #next = null;
  #asking = null;
  #selected = null;
  #countedAt = 0;
  #table = document.getElementById('recordings');
  #card = document.getElementById('recordings-card');
  #empty = document.getElementById('recordings-empty');
  #more = document.getElementById('more');
  #count = document.getElementById('count');
  #status = document.getElementById('recordings-status');
  #search = document.getElementById('search');
  #period = document.getElementById('period');
  #state = document.getElementById('state');
  #between = document.getElementById('between');
  #from = document.getElementById('from');
  #to = document.getElementById('to');
  #fields = document.getElementById('fields');
  #fewerMore = document.getElementById('fewer-more');
  #number = document.getElementById('number');
  #numberKind = document.getElementById('number-kind');
  #name = document.getElementById('name');
  #tag = document.getElementById('tag');
  #hold = document.getElementById('hold');

  constructor() {
    const form = document.getElementById('filter');
    let typing;
    form.addEventListener('submit', (event) => { event.preventDefault(); this.load(); });
    form.addEventListener('input', () => {
      this.#between.hidden = this.#period.value !== 'between';
      clearTimeout(typing);
      typing = setTimeout(() => this.load(), 250);
    });
    this.#fewerMore.addEventListener('click', () => {
      const open = this.#fields.hidden;
      this.#fields.hidden = !open;
      this.#fewerMore.setAttribute('aria-expanded', String(open));
      this.#fewerMore.textContent = open ? 'Fewer fields' : 'More fields';
      if (open) this.#number.focus();
      else if (this.#inFields()) { this.#number.value = this.#name.value = this.#tag.value = ''; this.#hold.checked = false; this.load(); }
    });
    this.#more.addEventListener('click', () => this.#fetch(this.#next));
    this.#table.addEventListener('click', (event) => {
      // The whole row is a target for the mouse; the link in it is what keyboards and readers use.
      if (!event.target.closest('a')) event.target.closest('tr')?.querySelector('a')?.click();
    });
    this.#table.addEventListener('keydown', (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1, j: 1, k: -1 }[event.key];
      if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
      const links = [...this.#table.querySelectorAll('tbody a')];
      const target = links[links.indexOf(document.activeElement) + step];
      if (target) { event.preventDefault(); target.focus(); target.scrollIntoView({ block: 'nearest' }); }
    });
  }

  focusFirst() { this.#table.querySelector('tbody a')?.focus(); }

  select(id) {
    this.#selected = id;
    for (const row of this.#table.querySelectorAll('tbody tr[data-id]')) mark(row, row.dataset.id === id);
  }

  /** Begins anew with the filter as it stands. */
  load() {
    this.#rows.clear();
    this.#countedAt = 0;
    return this.#fetch(null);
  }

  #refreshing;

  /** Something was added: the newest page again, soon, without losing the older ones shown. */
  refresh() {
    this.#refreshing ??= setTimeout(() => { this.#refreshing = undefined; this.#fetch(null, true); }, 400);
  }

  async #fetch(cursor, keepNext = false) {
    this.#asking?.abort();
    const asking = this.#asking = new AbortController();
    this.#card.setAttribute('aria-busy', 'true');
    try {
      const counts = !cursor && Date.now() - this.#countedAt > COUNT_AGAIN_MS;
      const page = await ask(`/api/v1/recordings?${this.#query(cursor, counts)}`, asking.signal);
      const shownBefore = this.#rows.size;
      for (const recording of page.recordings) this.#rows.set(recording.id, recording);
      if (!keepNext || shownBefore === 0) this.#next = page.next;
      if (page.count) {
        this.#countedAt = Date.now();
        this.#showCount(page.count);
      }
      this.#render();
    } catch (error) {
      if (error.name === 'AbortError') return;
      this.#empty.textContent = error.message;
      this.#empty.hidden = false;
    }
    this.#card.setAttribute('aria-busy', 'false');
  }

  #showCount({ value, exact }) {
    this.#count.textContent = `${exact ? '' : 'about '}${value.toLocaleString('en')}`;
    this.#count.hidden = false;
  }

  #query(cursor, counts) {
    const query = new URLSearchParams({ limit: PAGE, state: this.#state.value });
    const search = this.#search.value.trim();
    if (search) query.set('text', search);
    if (this.#number.value.trim()) query.set(this.#numberKind.value, this.#number.value.trim());
    if (this.#name.value.trim()) query.set('name', this.#name.value.trim());
    if (this.#tag.value.trim()) query.set('tag', this.#tag.value.trim());
    if (this.#hold.checked) query.set('hold', 'true');
    const { from, to } = this.#times();
    if (from) query.set('from', from.toISOString());
    if (to) query.set('to', to.toISOString());
    if (cursor) query.set('cursor', cursor);
    if (counts) query.set('count', 'true');
    return query;
  }

  #times() {
    const hoursAgo = (hours) => ({ from: new Date(Date.now() - hours * 3_600_000) });
    switch (this.#period.value) {
      case 'hour': return hoursAgo(1);
      case 'today': return { from: new Date(new Date().setHours(0, 0, 0, 0)) };
      case 'week': return hoursAgo(7 * 24);
      case 'month': return hoursAgo(30 * 24);
      case 'between': return { from: this.#from.value && new Date(this.#from.value), to: this.#to.value && new Date(this.#to.value) };
      default: return {};
    }
  }

  #render() {
    const focused = document.activeElement?.closest('#recordings tr')?.dataset.id;
    const recordings = [...this.#rows.values()].sort((a, b) => (a.started_at < b.started_at ? 1 : a.started_at > b.started_at ? -1 : a.id < b.id ? 1 : -1));
    const bodies = [];
    let heading = null;
    for (const recording of recordings) {
      const itsDay = day(recording.started_at);
      if (itsDay !== heading) {
        heading = itsDay;
        bodies.push(element('tbody', {}, element('tr', { className: 'day' }, element('th', { scope: 'rowgroup', colspan: 6 }, itsDay))));
      }
      bodies.at(-1).append(this.#row(recording));
    }
    for (const body of [...this.#table.tBodies]) body.remove();
    this.#table.append(...bodies);
    this.#table.hidden = recordings.length === 0;
    this.#empty.hidden = recordings.length > 0;
    this.#empty.textContent = this.#filtered() ? 'No recording matches this filter.' : 'Nothing recorded yet.';
    this.#more.hidden = !this.#next;
    this.#status.textContent = `${recordings.length} recordings shown`;
    if (focused) this.#table.querySelector(`tr[data-id="${focused}"] a`)?.focus();
  }

  #filtered() {
    return this.#search.value.trim() !== '' || this.#period.value !== '' || this.#state.value !== 'finished' || this.#inFields();
  }

  #inFields() {
    return [this.#number, this.#name, this.#tag].some((field) => field.value.trim() !== '') || this.#hold.checked;
  }

  #row(recording) {
    const caller = party(recording, 'caller');
    const callee = party(recording, 'callee');
    const link = element('a', { href: `#/recordings/${recording.id}`, 'aria-label': `${partyText(caller)} to ${partyText(callee)}` }, timeOfDay(recording.started_at));
    const row = element('tr', {},
      element('td', {}, link),
      element('td', {}, partyCell(caller)),
      element('td', {}, partyCell(callee)),
      element('td', { className: 'number' }, duration(recording.duration_seconds)),
      element('td', {}, stateBadge(recording.state)),
      element('td', {}, lossCell(recording)));
    row.dataset.id = recording.id;
    mark(row, recording.id === this.#selected);
    return row;
  }
}

function mark(row, selected) {
  row.classList.toggle('selected', selected);
  const link = row.querySelector('a');
  if (selected) link.setAttribute('aria-current', 'true');
  else link.removeAttribute('aria-current');
}
