/** Rows: an entry of the log as an element. Text of others enters as the text of a node, names isolated by `bdi`. */

import { ACTION, colour, pieces, visible } from './lines.js';
import { WORDS, showDay, showMoment, showTime } from './words.js';

// Seconds within which messages of one sender stand under one name.
const TOGETHER = 300;
// Characters and lines of a message that is shown in full at once.
const LONG = 1500;
const MANY_LINES = 16;
// Characters of a long message that are in the document before a click. And elements for hidden characters in one
// text; further escapes are plain text. Without both limits one message could fill every browser's memory.
const BEGINNING = 4000;
const MOST_PIECES = 200;

/** Make an element: `make('p', 'kind', …children)`. Strings become text nodes. */
export function make(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** Make a name that neither reorders nor restyles what stands beside it. */
export function nameOf(name, className = 'name') {
  return make('bdi', `${className} colour-${colour(name)}`, visible(name));
}

/** Make the disc with a name's first letter. */
export function disc(name) {
  const [letter] = visible(name).normalize('NFC');
  const made = make('span', `disc colour-${colour(name)}`, (letter ?? '').toUpperCase());
  made.setAttribute('aria-hidden', 'true');
  return made;
}

function plain(found) {
  return found.map((piece) => piece.text).join('');
}

/** Fill an element with a message's text. */
export function fill(element, text) {
  const found = pieces(text);
  for (const piece of found.slice(0, MOST_PIECES)) {
    element.append(piece.hidden ? make('span', 'control', piece.text) : piece.text);
  }
  element.append(plain(found.slice(MOST_PIECES)));
  return element;
}

/** Return another member's message as text, for a screen reader. */
export function lineOf(message) {
  const who = message.from === undefined ? WORDS.operator : visible(message.from);
  if (message.to !== undefined) return `${who} (${WORDS.toYou}): ${plain(pieces(message.text))}`;
  if (message.text.startsWith(ACTION)) return `${who} ${plain(pieces(message.text.slice(ACTION.length)))}`;
  return `${who}: ${plain(pieces(message.text))}`;
}

/** Make the row of an entry; `previous` stands above it. */
export function row(entry, previous) {
  const made = document.createElement('li');
  if (entry.type === 'message' && !sameDay(entry, previous)) {
    made.append(make('div', 'day', showDay(entry.at)));
  }
  if (entry.unread) made.append(make('div', 'unread', WORDS.unread));
  if (entry.type === 'message') message(made, entry, previous);
  else note(made, entry);
  return made;
}

function sameDay(entry, previous) {
  if (previous?.at === undefined) return false;
  return new Date(entry.at * 1000).toDateString() === new Date(previous.at * 1000).toDateString();
}

function note(made, entry) {
  made.classList.add('note', entry.type);
  if (entry.type === 'help') made.append(make('ul', '', ...entry.lines.map((each) => make('li', '', each))));
  else made.append(make('p', '', entry.text));
}

function message(made, entry, previous) {
  made.classList.add('message');
  if (entry.seq !== undefined) made.dataset.seq = entry.seq;
  if (entry.mine) made.classList.add('mine');
  if (entry.to !== undefined) made.classList.add('private');
  if (entry.from === undefined) made.classList.add('announcement');
  const action = entry.from !== undefined && entry.to === undefined && entry.text.startsWith(ACTION);
  const follows = !entry.unread && !action && isFollowed(entry, previous);
  if (follows) made.classList.add('follows');
  if (action) made.classList.add('action');

  const time = make('time', '', showTime(entry.at));
  time.dateTime = new Date(entry.at * 1000).toISOString();
  time.title = showMoment(entry.at);
  const who = entry.from === undefined ? make('strong', 'name', WORDS.operator) : nameOf(entry.from);
  const head = make('div', 'head', who);
  if (entry.to !== undefined) {
    const badge = entry.mine ? WORDS.toOther(visible(entry.to)) : WORDS.toYou;
    head.append(' ', make('bdi', 'badge', badge));
  }
  const text = make('div', 'text');
  text.dir = 'auto';
  const whole = action ? entry.text.slice(ACTION.length) : entry.text;
  const body = make('div', 'body', head, text, time);
  if (isLong(whole)) {
    text.classList.add('long');
    fill(text, whole.slice(0, BEGINNING).replace(/[\ud800-\udbff]$/, ''));
    const more = make('button', 'plain', WORDS.showAll);
    more.type = 'button';
    more.addEventListener('click', () => {
      text.classList.remove('long');
      text.replaceChildren();
      fill(text, whole);
      text.tabIndex = -1;
      text.focus({ preventScroll: true });
      more.remove();
    });
    text.after(more);
  } else {
    fill(text, whole);
  }
  if (!entry.mine && entry.from !== undefined && !action) made.append(disc(entry.from));
  made.append(body);
}

function isFollowed(entry, previous) {
  return previous?.type === 'message' && previous.from === entry.from && previous.to === entry.to
    && entry.from !== undefined && !previous.text.startsWith(ACTION)
    && entry.at - previous.at < TOGETHER && sameDay(entry, previous);
}

function isLong(text) {
  return text.length > LONG || text.split('\n', MANY_LINES + 1).length > MANY_LINES;
}
