/**
 * Page: the chat in a browser. Puts together the client (mpchat.js), the log, the lists beside it, and the composer.
 *
 * Nothing that another person has written enters the document other than as the text of a node; see rows.js.
 */

import { kept } from './kept.js';
import { parse, visible } from './lines.js';
import { Log } from './log.js';
import { DEFAULT_ROOM, OPERATOR, connect } from './mpchat.js';
import { fill, lineOf, make, row } from './rows.js';
import { Side } from './side.js';
import { SignIn } from './signin.js';
import { WORDS, errorText, translate } from './words.js';

const PAGE = 50;
// Names that a line about people who come and go has at most.
const NAMES_IN_LINE = 8;
// The server's reason for a member that left in order: no news.
const CLOSED = 'closed';
// Errors that end the connection of a member who is in.
const ENDS = new Set(['kicked', 'taken_over', 'expired']);
// Errors that do not say that what was written in the form is wrong.
const UNJUDGED = new Set(['auth_required', 'try_later']);

const $ = (id) => document.getElementById(id);

let chat = null;
// Changes with each room that is entered: an answer that was asked for in another one is not for this one.
let visit = 0;
// The server keeps nothing with a lower number than this.
let floor = 1;
let asking = false;
// Messages up to this number were there before: not announced, not unread.
let old = 0;
// The highest number that has come.
let newest = 0;
let unread = 0;
// Changes whenever all is seen.
let look = 0;
let returning = false;
// Rooms that were asked for and not answered yet. A line typed now may be meant for the next room.
let moving = 0;
// Why the room that the member was in is no more.
let closure = '';
let countdown = null;
// Why the sign-in counts no more, and the proof of the chat: in memory only. {name, proof}
let lapse = null;
let shown = null;

translate(document);
const side = new Side({ tell: beginTelling, enter, moderate });
const signIn = new SignIn();
const log = new Log($('log'), $('list'), { row, older: askForOlder, moved });

// The entrance

function roomInAddress() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return '';
  }
}

/** Show the form; after an error with what was given there. */
function showEntrance(error, name = kept.name.get(), room = roomInAddress() || kept.room.get() || DEFAULT_ROOM) {
  chat = null;
  kept.inside.set('');
  document.title = 'mpchat';
  $('chat').hidden = true;
  $('entrance').hidden = false;
  $('name').value = name;
  $('first-room').value = room;
  $('refusal').textContent = error ? errorText(error) : '';
  const isAboutProof = error && signIn.refused(error);
  // A proof that is good, but not for this room.
  const isForOthers = error?.code === 'not_allowed' && $('proof').value !== '';
  const wrong = error?.code === 'bad_room' || isForOthers ? ['first-room'] : isAboutProof ? ['proof'] : ['name'];
  // Or a token for another name: the code is the same.
  if (isForOthers && signIn.namesItself && name) wrong.unshift('name');
  for (const id of ['name', 'first-room', 'proof']) {
    $(id).setAttribute('aria-invalid', String(Boolean(error) && wrong.includes(id) && !UNJUDGED.has(error.code)));
  }
  $(wrong[0]).focus();
  if (wrong[0] === 'proof') $('proof').select();
}

/** `proof`: an option of the client with its text, as {password: '…'}; empty without one. */
async function start(name, room, token, proof = {}) {
  const button = $('enter');
  button.disabled = true;
  button.textContent = WORDS.entering;
  $('refusal').textContent = '';
  const address = new URL('ws', location.href);
  address.protocol = address.protocol === 'https:' ? 'wss:' : 'ws:';
  address.hash = '';
  try {
    chat = await connect(address, { name: name || undefined, room, token, ...proof });
  } catch (error) {
    showEntrance(error, name, room);
    return;
  } finally {
    button.disabled = false;
    button.textContent = WORDS.enter;
  }
  shown = { name: chat.name, proof };
  lapse = null;
  signIn.taken();
  $('entrance').hidden = true;
  $('chat').hidden = false;
  $('text').value = kept.draft.get();
  grow();
  $('text').focus();
  read(chat);
}

$('join').addEventListener('submit', (event) => {
  event.preventDefault();
  const name = $('name').value.trim();
  if ((name || signIn.namesItself) && !$('enter').disabled) {
    // The token is that of one name.
    const token = name === kept.ownName.get() ? kept.token.get() : '';
    start(name, $('first-room').value.trim() || DEFAULT_ROOM, token, signIn.proof);
  } else {
    $('name').focus();
  }
});

function leave() {
  kept.token.set('');
  shown = null;
  const left = chat;
  $('outbox').replaceChildren();
  showEntrance();
  left?.close();
}

$('leave').addEventListener('click', () => {
  side.close();
  leave();
});

// Events of the client

async function read(from) {
  for await (const event of from.events()) {
    if (chat === from) take(event);
  }
}

function take(event) {
  switch (event.type) {
    case 'message':
      takeMessage(event);
      break;
    case 'welcome':
      welcome(event);
      break;
    case 'joined':
    case 'left':
      side[event.type](event);
      comeAndGo(event);
      break;
    case 'lost':
      // Numbers from before mean other messages now.
      if (event.last === null) {
        floor = Infinity;
        old = newest = 0;
      }
      note('lost', event.last === null ? WORDS.lostAnew : WORDS.lost(event.first, event.last));
      break;
    case 'refused':
      // The welcome to another room follows, and clears the log.
      if (event.code === 'room_closed') closure = errorText({ ...event, message: visible(event.text) });
      // The chat is closed to this member now: the attempt to come back is rejected, and that is told.
      else if (event.code !== 'auth_required') note('failed', errorText({ ...event, message: visible(event.text) }));
      break;
    case 'rejected':
      note('failed', rejectionText({ ...event, message: visible(event.text) }));
      if (!event.retrying && SignIn.isMeantBy(event)) lapse = { ...event, message: visible(event.text) };
      break;
    case 'disconnected':
      returning = true;
      showState();
      break;
    case 'waiting':
      showState(event.seconds);
      break;
    default:
      showState();
  }
}

/** The text for an error that has ended the chat, or that keeps out a member who was in before. */
function rejectionText(error) {
  if (error.code === 'auth_required') return WORDS.signInToGoOn;
  return ENDS.has(error.code) ? errorText(error) : WORDS.notLetIn(errorText(error));
}

function welcome(event) {
  kept.name.set(event.name);
  kept.room.set(event.room);
  kept.ownName.set(event.name);
  kept.ownRoom.set(event.room);
  kept.token.set(chat.token);
  kept.inside.set('yes');
  if (!event.again) {
    visit += 1;
    floor = 1;
    asking = false;
    // Each room has its own log. A private message exists only here, so it stays until the member has seen it.
    unread = log.clear((entry) => entry.unseen === look && entry.room === undefined);
    old = event.seq;
    newest = 0;
    showTop();
  } else if (returning) {
    note('back', WORDS.back);
  }
  if (closure) note('failed', closure);
  closure = '';
  returning = false;
  $('room').textContent = visible(event.room);
  $('text').placeholder = $('text-label').textContent = WORDS.writeTo(visible(event.room));
  for (const item of $('outbox').children) item.hidden = (item.dataset.room ?? event.room) !== event.room;
  if (!moving) showAddress(event.room);
  side.entered(chat, event.members);
  showState();
  showTitle();
}

/** Let the address name the room, in the room's own spelling. */
function showAddress(room, how = 'replaceState') {
  if (roomInAddress() !== room) history[how](null, '', `#${encodeURIComponent(room)}`);
}

function takeMessage(event) {
  if (event.room !== undefined && event.room !== chat.room) return;
  // The farewell of a host has no time.
  event.at ??= Date.now() / 1000;
  const fresh = event.seq === undefined || event.seq > old;
  const seen = document.visibilityState === 'visible' && document.hasFocus() && log.following;
  if (fresh && !event.mine && !seen) {
    // A mark before the first message that was not seen.
    if (unread === 0) event.unread = true;
    event.unseen = look;
    unread += 1;
    showTitle();
  }
  if (event.mine && event.seq !== undefined && event.seq > old) {
    unread = 0;
    look += 1;
    showTitle();
  }
  newest = event.seq ?? newest;
  if (event.seq === 1) showTop();
  log.append(event);
  if (fresh && !event.mine) announce(lineOf(event));
}

/** Show a line that is no message. It belongs to the day of what stands above it. */
function note(type, text) {
  log.append({ type, text, at: log.last?.at });
  // The status line has announced 'back' already.
  if (type !== 'back') announce(text);
}

function help() {
  const lines = chat.role === OPERATOR ? [...WORDS.help, ...WORDS.helpForOperators] : WORDS.help;
  log.append({ type: 'help', lines, at: log.last?.at });
  announce(lines.join('. '));
}

function comeAndGo({ type, names, count, reason }) {
  const last = log.last;
  const together = last?.type === type && last.reason === reason;
  const entry = together ? last : { type, reason, names: [], count: 0, at: last?.at };
  entry.names = [...entry.names, ...names].slice(0, NAMES_IN_LINE);
  entry.count += count;
  const why = reason && reason !== CLOSED ? visible(reason) : '';
  const shown = entry.names.map(visible).join(', ');
  const more = entry.count - entry.names.length;
  entry.text = WORDS[type](more > 0 ? WORDS.andMore(shown, more) : shown, why);
  if (together) log.amendLast();
  else log.append(entry);
}

// Older messages

/** The lowest number that is here; without one, the next number at the entrance. */
function oldest() {
  return log.find((entry) => entry.seq !== undefined)?.seq ?? old + 1;
}

async function askForOlder() {
  // The newest come by themselves at the entrance.
  if (asking || chat?.state !== 'online' || newest < old || oldest() <= floor) return;
  asking = true;
  const asked = visit;
  showTop();
  try {
    const page = await chat.history(oldest(), PAGE);
    if (asked !== visit || page.room !== chat.room) return;
    const here = oldest();
    const before = page.messages.filter((message) => message.seq < here);
    if (page.next === null || page.messages.length === 0) floor = before[0]?.seq ?? here;
    asking = false;
    log.prepend(before);
  } catch {
    // The connection was lost; the next look upwards asks again.
  } finally {
    if (asked === visit) asking = false;
    showTop();
  }
}

function showTop() {
  $('top').textContent = asking ? WORDS.older : oldest() <= floor ? WORDS.beginning : '';
}

// What was not seen

function moved() {
  if (log.following && document.hasFocus() && document.visibilityState === 'visible' && unread) {
    unread = 0;
    look += 1;
    showTitle();
  }
  $('jump').hidden = log.following;
  $('jump').classList.toggle('fresh', unread > 0);
  $('jump-text').textContent = unread > 0 ? WORDS.jumpUnread(unread) : WORDS.jump;
}

$('jump').addEventListener('click', () => {
  log.toEnd();
  $('text').focus();
});

function showTitle() {
  if (!chat) return;
  document.title = `${unread ? `(${unread}) ` : ''}${visible(chat.room)} · mpchat`;
}

window.addEventListener('focus', moved);
document.addEventListener('visibilitychange', moved);

function announce(line) {
  const said = $('announcer');
  said.append(make('p', '', line));
  while (said.childElementCount > 5) said.firstElementChild.remove();
}

// The connection

function showState(seconds = 0) {
  clearInterval(countdown);
  const state = chat.state;
  $('chat').classList.toggle('online', state === 'online');
  $('chat').classList.toggle('ended', state === 'ended');
  $('state-text').textContent = WORDS[state === 'waiting' ? 'connecting' : state];
  $('trouble').hidden = state === 'online' || (!returning && state !== 'ended');
  $('send').disabled = state !== 'online';
  if (state === 'online') {
    $('trouble-text').textContent = '';
    return;
  }
  let left = Math.ceil(seconds);
  const show = () => {
    $('trouble-text').textContent = state === 'ended' ? WORDS.ended : WORDS.waiting(left);
    left -= 1;
  };
  show();
  if (state === 'waiting') countdown = setInterval(show, 1000);
  $('try').textContent = state !== 'ended' ? WORDS.tryNow : lapse ? WORDS.signIn : WORDS.comeBack;
  $('try').hidden = state !== 'ended' && state !== 'waiting';
}

$('try').addEventListener('click', () => {
  if (chat.state === 'ended') {
    const { name, room } = chat;
    // A proof that counts no more is not shown again.
    showEntrance(lapse, name, room);
    if (!lapse) start(name, room, kept.token.get(), shown?.name === name ? shown.proof : {});
    lapse = null;
  } else {
    chat.wake();
    // The button goes.
    $('text').focus();
  }
});

for (const [target, name] of [[window, 'online'], [window, 'offline'], [document, 'visibilitychange'], [window, 'pageshow']]) {
  target.addEventListener(name, () => {
    if (!document.hidden) chat?.wake();
  });
}

// Rooms

/** Enter a room. `how`: the method of `history` that changes the address; replaceState when the address led here. */
async function enter(room, how = 'pushState') {
  if (room === chat?.room) return;
  const before = location.hash;
  moving += 1;
  try {
    await chat.enter(room);
    $('text').focus();
  } catch (error) {
    note('failed', errorText({ code: error.code, message: visible(error.message) }));
  } finally {
    moving -= 1;
    // An address that has changed meanwhile is the next room: its event comes.
    if (!moving && chat && location.hash === before) showAddress(chat.room, how);
  }
}

window.addEventListener('hashchange', () => {
  const room = roomInAddress();
  if (!room) return;
  if (!chat) $('first-room').value = room;
  else if (room !== chat.room) enter(room, 'replaceState');
});

// The composer

function grow() {
  const text = $('text');
  text.style.height = 'auto';
  text.style.height = `${text.scrollHeight + 2}px`;
}

function write(text) {
  $('text').value = text;
  kept.draft.set(text);
  grow();
}

function beginTelling(name) {
  const text = $('text');
  write(`/msg ${name} ${text.value.replace(/^\/msg \S+ /, '')}`);
  text.focus();
  text.setSelectionRange(text.value.length, text.value.length);
}

$('text').addEventListener('input', () => {
  kept.draft.set($('text').value);
  grow();
});

$('text').addEventListener('keydown', (event) => {
  // Enter also ends a composition (Korean, Japanese): then it does not send. 229 is the code that Safari gives it.
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  submit();
});

$('composer').addEventListener('submit', (event) => {
  event.preventDefault();
  submit();
  $('text').focus();
});

function submit() {
  const wanted = parse($('text').value.trimEnd());
  if (wanted === null) return;
  if (chat.state !== 'online' && wanted.what !== 'quit' && wanted.what !== 'help') {
    note('failed', WORDS.wait);
    log.toEnd();
    return;
  }
  if (moving && wanted.what === 'say') {
    note('failed', WORDS.moving);
    log.toEnd();
    return;
  }
  write('');
  act(wanted);
}

async function act(wanted) {
  switch (wanted.what) {
    case 'say':
      post(wanted.text, null);
      break;
    case 'tell':
      post(wanted.text, wanted.name);
      break;
    case 'enter':
      await enter(wanted.room);
      break;
    case 'quit':
      leave();
      break;
    case 'help':
      help();
      log.toEnd();
      break;
    case 'moderate':
      await moderate(wanted.action, wanted.target, wanted.seconds);
      break;
    case 'incomplete':
      note('failed', WORDS.incomplete(WORDS.usage[wanted.word]));
      log.toEnd();
      break;
    case 'unknown':
      note('failed', WORDS.unknown(visible(wanted.word)));
      log.toEnd();
      break;
    default:
      await list(wanted.what);
  }
}

async function moderate(action, target, seconds) {
  const from = chat;
  try {
    const done = await from[action === 'close' ? 'closeRoom' : action](target, seconds);
    if (chat === from) note('answer', WORDS.moderated[action](visible(done.target), done.count));
  } catch (error) {
    if (chat !== from) return;
    const isMute = action === 'mute' && error.code === 'bad_name';
    const text = WORDS.moderationErrors[isMute ? 'only_names' : error.code];
    note('failed', text ?? errorText({ code: error.code, message: visible(error.message) }));
  }
  log.toEnd();
}

async function list(what) {
  try {
    if (what === 'who') {
      const { room, members, names, next } = await chat.who();
      const shown = names.map(visible).join(', ') + (next ? ', …' : '');
      note('answer', WORDS.whoLine(visible(room), members, shown));
    } else {
      const { rooms, next } = await chat.rooms();
      const shown = rooms.map((each) => `${visible(each.room)} (${each.members})`).join(', ') + (next ? ', …' : '');
      note('answer', WORDS.roomsLine(shown));
    }
  } catch (error) {
    note('failed', errorText({ code: error.code, message: visible(error.message) }));
  }
  log.toEnd();
}

/** Say a text. Until it has come back it stands below the messages, and so it does when it was not taken. */
async function post(text, name) {
  const from = chat;
  const item = make('li', 'sending');
  if (name === null) item.dataset.room = from.room;
  const shown = fill(make('div', 'text'), name === null ? text : `${visible(name)}: ${text}`);
  shown.dir = 'auto';
  item.append(make('div', 'body', shown));
  const why = make('p', 'why');
  $('outbox').append(item);
  log.toEnd();
  try {
    await (name === null ? from.say(text) : from.tell(name, text));
    item.remove();
  } catch (error) {
    item.className = 'failed';
    why.textContent = errorText({ code: error.code, message: visible(error.message) });
    const again = make('button', 'plain', WORDS.sendAgain);
    const discard = make('button', 'plain', WORDS.discard);
    again.type = discard.type = 'button';
    again.addEventListener('click', () => {
      if (chat.state !== 'online' || (moving && name === null)) return;
      item.remove();
      post(text, name);
      $('text').focus();
    });
    discard.addEventListener('click', () => {
      item.remove();
      $('text').focus();
    });
    why.append(' ', again, discard);
    item.append(why);
    announce(why.textContent);
    if (log.following) log.toEnd();
  }
}

// The beginning

if (kept.inside.get() && kept.ownName.get()) {
  const [name, room] = [kept.ownName.get(), roomInAddress() || kept.ownRoom.get()];
  $('entrance').hidden = false;
  $('name').value = name;
  $('first-room').value = room;
  start(name, room, kept.token.get());
} else {
  showEntrance();
}
