// Wires the page together: status in the bar, live calls by events, the list, and the recording that the address names.

import { LiveCalls } from './calls.js';
import { Detail } from './detail.js';
import { ask, bytes, element } from './format.js';
import { RecordingList } from './recordings.js';

const calls = new LiveCalls();
const list = new RecordingList();
const detail = new Detail();

// --- what happens -----------------------------------------------------------------------------------------------------

const events = new EventSource('/api/v1/events');
for (const name of ['call.started', 'call.updated', 'call.ended', 'recording.completed']) {
  events.addEventListener(name, (event) => {
    const recording = JSON.parse(event.data);
    if (name === 'call.ended' || name === 'recording.completed') calls.remove(recording.id);
    else calls.update(recording);
    if (name === 'recording.completed') list.refresh();
    if (name !== 'call.started') detail.update(recording);
  });
}
const told = (event) => JSON.parse(event.data);
events.addEventListener('recording.annotated', (event) => { detail.annotated(told(event)); list.refresh(); });
events.addEventListener('recording.damaged', (event) => detail.damaged(told(event)));
for (const name of ['volume.changed', 'store.alert']) events.addEventListener(name, () => showStatus());
// Events are not kept: after a (re)connect and after missed ones, everything is read again.
events.addEventListener('open', readAgain);
events.addEventListener('lagged', readAgain);
events.addEventListener('error', () => notice('The connection to the appliance is lost; trying again…'));

async function readAgain() {
  try {
    calls.replace((await ask('/api/v1/calls')).calls);
    notice(null);
  } catch (error) {
    notice(error.message);
  }
  list.refresh();
  showStatus();
}

function notice(text) {
  const place = document.getElementById('notice');
  place.textContent = text ?? '';
  place.hidden = !text;
}

// --- the bar ------------------------------------------------------------------------------------------------------------

async function showStatus() {
  const badge = document.getElementById('readiness');
  try {
    const status = await ask('/api/v1/status');
    document.getElementById('node').textContent = status.node;
    document.title = `Sidetone · ${status.node}`;
    document.getElementById('ports').replaceChildren(...status.ports.map((port) => element('span', {
      className: port.fallback_reason || port.frames_missed ? 'port warn' : 'port',
      title: [`${port.queues} queues, ${port.frames_received.toLocaleString('en')} frames, ${port.frames_missed.toLocaleString('en')} missed`, port.fallback_reason].filter(Boolean).join('\n'),
    }, element('strong', {}, port.interface), ` ${port.mode}`)));
    badge.textContent = status.ready ? 'Recording' : 'Not recording';
    badge.className = `badge ${status.ready ? 'complete' : 'incomplete'}`;
    badge.title = [`Version ${status.version}, since ${status.started_at}`, ...status.reasons, ...status.warnings].join('\n');
    showStorage(status.volumes);
  } catch {
    badge.textContent = 'No connection';
    badge.className = 'badge incomplete';
  }
}
setInterval(showStatus, 5000);

const states = { no_new: 'no new recordings', reserve: 'no more audio', stalled: 'does not answer' };

function showStorage(volumes) {
  const place = document.getElementById('storage');
  place.hidden = volumes.length === 0;
  place.replaceChildren('Storage', ...volumes.map((volume) => {
    const urgency = volume.state === 'ok' ? 'fine' : volume.state === 'low' ? 'soon' : 'now';
    const room = volume.total_bytes ? `${bytes(volume.free_bytes)} of ${bytes(volume.total_bytes)} free` : '';
    return element('span', { className: `volume ${urgency}`, title: `Volume ${volume.volume}` },
      element('strong', {}, volume.directory), ` ${room} `, element('span', { className: 'state' }, states[volume.state] ?? volume.state));
  }));
}

// --- the recording that the address names ----------------------------------------------------------------------------------

function follow() {
  const id = /^#\/recordings\/([0-9a-f-]{36})$/i.exec(location.hash)?.[1];
  list.select(id ?? null);
  if (id) detail.show(id, true);
  else detail.hide();
}
addEventListener('hashchange', follow);

addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest?.('input:not([type=range]), select, textarea');
  if (event.key === 'Escape' && location.hash.length > 2) { location.hash = '#/'; list.focusFirst(); }
  else if (event.key === '/' && !typing) { event.preventDefault(); document.getElementById('search').focus(); }
  else if (event.key === ' ' && !typing && !event.target.closest?.('button, a')) { event.preventDefault(); detail.togglePlay(); }
  else if (event.key === 'ArrowDown' && event.target.id === 'search') { event.preventDefault(); list.focusFirst(); }
});

list.load();
showStatus();
follow();
