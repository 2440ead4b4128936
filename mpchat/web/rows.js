/** Rows: an entry of the log as an element. Text of others enters as the text of a node, names isolated by `bdi`. */

import { ACTION, colour, pieces, visible } from './lines.js';
import { WORDS, showDay, showMoment, showTime } from './words.js';

// Seconds within which messages of one sender stand under one name.
const TOGETHER = 300;
// Characters and lines of a message that is shown in full at once.
const LONG = 1500;
const MANY_LINES = 16;

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

/** Fill an element with a message's text. */
export function fill(element, text) {
  for (const piece of pieces(text)) {
    element.append(piece.hidden ? make('span', 'control', piece.text) : piece.text);
  }
  return element;
}

/** Return a message as one line, for a screen reader or a title. */
export function lineOf(message) {
  const who = message.from === undefined ? WORDS.operator : visible(message.from);
  if (message.text.startsWith(ACTION)) return `${who} ${visible(message.text.slice(ACTION.length))}`;
  return `${who}: ${visible(message.text)}`;
}

/** Make the row of an entry; `previous` stands above it. */
export function row(entry, previous) {
  const made = document.createElement('li');
  if (entry.at !== undefined && sameDay(entry, previous) === false) {
    made.append(make('div', 'day', showDay(entry.at)));
  }
  if (entry.unread) made.append(make('div', 'unread', WORDS.unread));
  if (entry.type === 'message') message(made, entry, previous);
  else note(made, entry);
  return made;
}

function sameDay(entry, previous) {
  if (previous?.at === undefined) return previous === undefined ? false : null;
  return new Date(entry.at * 1000).toDateString() === new Date(previous.at * 1000).toDateString();
}

function note(made, entry) {
  made.classList.add('note', entry.type);
  if (entry.type === 'help') made.append(make('ul', '', ...WORDS.help.map((each) => make('li', '', each))));
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
  fill(text, action ? entry.text.slice(ACTION.length) : entry.text);
  const body = make('div', 'body', head, text, time);
  if (isLong(entry.text)) {
    text.classList.add('long');
    const more = make('button', 'plain', WORDS.showAll);
    more.type = 'button';
    more.addEventListener('click', () => {
      text.classList.remove('long');
      more.remove();
    });
    text.after(more);
  }
  if (!entry.mine && entry.from !== undefined && !action) made.append(disc(entry.from));
  made.append(body);
}

function isFollowed(entry, previous) {
  return previous?.type === 'message' && previous.from === entry.from && previous.to === entry.to
    && entry.from !== undefined && !previous.text.startsWith(ACTION)
    && entry.at - previous.at < TOGETHER && sameDay(entry, previous) === true;
}

function isLong(text) {
  return text.length > LONG || text.split('\n', MANY_LINES + 1).length > MANY_LINES;
}
