// Small things that all parts of the page share: building elements, asking the API, and writing times and parties.
// Text reaches the page through text nodes alone: what a caller put into a display name stays text.

/** An element with properties (or attributes, where the name has a dash), and children: elements or text. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.includes('-') || name === 'role' || name === 'scope' || name === 'colspan') made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== undefined && child !== null));
  return made;
}

/** A JSON document of the API, or with a patch the changed one; a refusal becomes an Error with its cause and remedy. */
export async function ask(address, signal, patch) {
  const change = patch && { method: 'PATCH', headers: { 'content-type': 'application/json' }, body: JSON.stringify(patch) };
  let response;
  try {
    response = await fetch(address, { signal, ...change });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Error('The appliance does not answer. Is it running?', { cause: error });
  }
  const document = await response.json().catch(() => null);
  if (response.ok && document) return document;
  throw new Error(document?.detail ? `${document.detail} (${document.remedy})` : `The appliance answered ${response.status}.`);
}

/** 75.4 → "1:15"; 3675 → "1:01:15". */
export function duration(seconds) {
  const whole = Math.max(0, Math.floor(Number.isFinite(seconds) ? seconds : 0));
  const minutes = Math.floor(whole / 60);
  const two = (number) => String(number).padStart(2, '0');
  const head = minutes >= 60 ? `${Math.floor(minutes / 60)}:${two(minutes % 60)}` : String(minutes);
  return `${head}:${two(whole % 60)}`;
}

const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const date = new Intl.DateTimeFormat('en-GB', { weekday: 'long', day: 'numeric', month: 'long', year: 'numeric' });

/** The browser's local time of day; hovering shows the exact time in UTC. */
export function timeOfDay(text) {
  return element('time', { dateTime: text, title: text }, clock.format(new Date(text)));
}

/** "Today", "Yesterday" or the date, in the browser's time zone. */
export function day(text, now = new Date()) {
  const then = new Date(text);
  const daysAgo = Math.round((new Date(now).setHours(0, 0, 0, 0) - new Date(then).setHours(0, 0, 0, 0)) / 86_400_000);
  if (daysAgo === 0) return 'Today';
  if (daysAgo === 1) return 'Yesterday';
  return date.format(then);
}

export function party(recording, role) {
  return recording.parties.find((candidate) => candidate.role === role);
}

/** Name over number, or whichever of them is known. */
export function partyCell(someone) {
  if (!someone || (!someone.name && !someone.number)) return element('span', { className: 'muted' }, 'withheld');
  if (!someone.name || !someone.number || someone.name === someone.number) return element('span', { className: 'strong' }, someone.name || someone.number);
  return element('span', { className: 'party' }, element('span', { className: 'strong' }, someone.name), element('span', { className: 'muted' }, someone.number));
}

export function partyText(someone) {
  return someone?.name || someone?.number || 'Withheld';
}

/** Who speaks on the track. */
export function trackName(recording, track) {
  const someone = recording.parties.find((candidate) => candidate.id === track.party);
  if (someone) return someone.role === 'caller' ? 'Caller' : 'Callee';
  return { near: 'Near', far: 'Far', mixed: 'Mixed' }[track.side];
}

/** Packets lost over all tracks, by whom. */
export function losses(recording) {
  let network = 0;
  let recorder = 0;
  for (const { losses } of recording.tracks) {
    network += losses.network;
    recorder += losses.capture + losses.encoder + losses.writer;
  }
  return { network, recorder };
}

export function lossCell(recording) {
  const { network, recorder } = losses(recording);
  const cell = element('span', { className: 'losses' });
  if (recorder) cell.append(element('span', { className: 'bad', title: 'Packets that the recorder lost' }, `${recorder} recorder`));
  if (network) cell.append(element('span', { className: 'warn', title: "Packets missing from the wire's own sequence numbers" }, `${network} network`));
  if (!network && !recorder) cell.append(element('span', { className: 'muted' }, '0'));
  return cell;
}

/** 1536 → "1.5 kB"; in powers of a thousand, as disks are sold. */
export function bytes(count) {
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];
  let unit = 0;
  while (count >= 1000 && unit < units.length - 1) { count /= 1000; unit++; }
  return `${unit === 0 || count >= 100 ? Math.round(count) : count.toFixed(1)} ${units[unit]}`;
}

export function stateBadge(state) {
  return element('span', { className: `badge ${state}` }, state);
}

/** Codecs in use, each once. */
export function codecs(recording) {
  return [...new Set(recording.tracks.flatMap((track) => track.streams.map((stream) => stream.codec.split('/')[0])))].join(', ') || '–';
}

const endings = {
  caller_hung_up: 'Caller hung up', callee_hung_up: 'Callee hung up', released: 'Released', cancelled: 'Cancelled', failed: 'Failed',
  session_expired: 'Session expired', media_silence: 'Media stopped; no end seen', replaced: 'Replaced by another leg', capture_end: 'Capture file ended',
};

export function ending(reason) {
  return reason ? (endings[reason] ?? reason) : '–';
}
