/** mpchat.js with a socket that the test plays: what is sent, what comes of what is received, and of a loss. */

import assert from 'node:assert/strict';
import test from 'node:test';
import { inspect } from 'node:util';

import { ChatError, PAYLOAD_LIMIT, backoff, connect } from '../../mpchat/web/mpchat.js';

/** The server's end of a connection. As in the package `ws`, an error without a listener is thrown. */
class Socket extends EventTarget {
  sent = [];
  closed = null;
  #heard = new Set();

  constructor(url, protocols) {
    super();
    Object.assign(this, { url, protocols });
    Socket.made.push(this);
  }

  static made = [];

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close(code) {
    this.closed = code ?? 1005;
  }

  addEventListener(type, act) {
    this.#heard.add(type);
    super.addEventListener(type, act);
  }

  happen(type, more = {}) {
    assert.ok(this.#heard.has(type), `nobody listens for ${type}`);
    this.dispatchEvent(Object.assign(new Event(type), more));
  }

  give(...objects) {
    for (const each of objects) this.happen('message', { data: JSON.stringify(each) });
  }
}

async function until(holds, what) {
  const end = Date.now() + 10_000;
  while (!holds()) {
    assert.ok(Date.now() < end, `waited for ${what}`);
    await new Promise((resolve) => { setTimeout(resolve, 1); });
  }
}

const WELCOME = { name: 'alice', room: 'lobby', seq: 0, epoch: 'one', members: 1, recovered: false, lost: null, token: 't' };
const number = (seq, from = 'bob') => ({ message: `m${seq}`, from, room: 'lobby', seq, at: 5 });

/** A chat whose first connection has got its welcome; `events` are those that have come so far. */
async function entered(welcome = {}, options = {}) {
  Socket.made = [];
  const opened = connect('ws://a/ws', { name: 'alice', WebSocket: Socket, backoff: () => 0, ...options });
  const [socket] = Socket.made;
  socket.happen('open');
  socket.give({ welcome: { ...WELCOME, ...welcome } });
  const chat = await opened;
  const events = [];
  const reading = (async () => { for await (const event of chat.events()) events.push(event); })();
  return { chat, socket, events, reading };
}

/** Let the connection be lost and made again. */
async function again(socket) {
  const count = Socket.made.length;
  socket.happen('close', { reason: '' });
  await until(() => Socket.made.length > count, 'another connection');
  const next = Socket.made.at(-1);
  next.happen('open');
  return next;
}

const settled = () => new Promise((resolve) => { setTimeout(resolve, 5); });
const texts = (events) => events.filter((each) => each.type === 'message').map((each) => each.text);
const losses = (events) => events.filter((each) => each.type === 'lost').map((each) => [each.first, each.last]);
const types = (events) => events.map((each) => each.type);
const code = (wanted) => (error) => error instanceof ChatError && error.code === wanted;

test('a chat begins with a join, and nothing of before the welcome is an event', async () => {
  Socket.made = [];
  const opened = connect('ws://a/ws', { name: 'alice', room: 'games', token: 'old', WebSocket: Socket });
  const [socket] = Socket.made;
  assert.deepEqual(socket.protocols, ['mpchat']);
  socket.happen('open');
  assert.deepEqual(socket.sent, [{ join: { name: 'alice', room: 'games', token: 'old' } }]);
  socket.give({ message: 'to plain clients' }, { welcome: { ...WELCOME, room: 'games' } });
  const chat = await opened;
  assert.equal(chat.state, 'online');
  chat.close();
  assert.equal(socket.closed, 1000);
  const events = [];
  for await (const event of chat.events()) events.push(event.type);
  assert.deepEqual(events, ['connecting', 'welcome']);
});

test('each number is an event once, in order, and a number that did not come is named', async () => {
  const { chat, socket, events } = await entered({ seq: 7 });
  socket.give(number(5), number(6), number(6), number(5), number(7), number(8), number(11), number(9));
  await settled();
  assert.deepEqual(texts(events), ['m5', 'm6', 'm7', 'm8', 'm11']);
  assert.deepEqual(losses(events), [[9, 10]]);
  chat.close();
});

test('after a loss it resumes by number, epoch and token', async () => {
  const { chat, socket, events } = await entered();
  socket.give(number(1), number(2));
  const next = await again(socket);
  assert.deepEqual(next.sent, [{ join: { name: 'alice', room: 'lobby', token: 't', after: 2, epoch: 'one' } }]);
  next.give({ message: 'to plain clients' });
  next.give({ welcome: { ...WELCOME, seq: 4, recovered: true } }, number(2), number(3), number(4), number(5));
  await settled();
  assert.deepEqual(texts(events), ['m1', 'm2', 'm3', 'm4', 'm5']);
  assert.deepEqual(losses(events), []);
  const welcomes = events.filter((each) => each.type === 'welcome');
  assert.deepEqual(welcomes.map((each) => each.again), [false, true]);
  chat.close();
});

test('a loss before the first message resumes from the number of the welcome', async () => {
  const { chat, socket } = await entered({ seq: 40 });
  const next = await again(socket);
  assert.equal(next.sent[0].join.after, 40);
  chat.close();
});

test('what the server has no more is named, and the next number is not', async () => {
  const { chat, socket, events } = await entered();
  socket.give(number(1));
  const next = await again(socket);
  next.give({ welcome: { ...WELCOME, seq: 9, lost: [2, 6] } }, number(7), number(8), number(9));
  await settled();
  assert.deepEqual(texts(events), ['m1', 'm7', 'm8', 'm9']);
  assert.deepEqual(losses(events), [[2, 6]]);
  chat.close();
});

test('a server that numbers anew is named, and its messages come from its beginning', async () => {
  const { chat, socket, events } = await entered();
  socket.give(number(1), number(2));
  const next = await again(socket);
  next.give({ welcome: { ...WELCOME, epoch: 'two', seq: 1, lost: [3, null] } }, number(1), number(2));
  await settled();
  assert.deepEqual(texts(events), ['m1', 'm2', 'm1', 'm2']);
  assert.deepEqual(losses(events), [[3, null]]);
  const last = await again(next);
  assert.deepEqual([last.sent[0].join.after, last.sent[0].join.epoch], [2, 'two']);
  chat.close();
});

test('a message that was said is given back when it comes back, and not when it is another one', async () => {
  const { chat, socket } = await entered();
  const [first, second] = [chat.say('m1'), chat.tell('bob', 'psst')];
  assert.deepEqual(socket.sent.slice(1), [{ message: 'm1' }, { message: 'psst', to: 'bob' }]);
  socket.give(number(1, 'bob'), number(2, 'alice'), { ...number(3, 'alice'), message: 'm1' });
  socket.give({ message: 'psst', from: 'alice', to: 'bob', at: 5 });
  assert.deepEqual([(await first).seq, (await first).mine], [3, true]);
  assert.equal((await second).to, 'bob');
  chat.close();
});

test('the same text to the room and to one member are two', async () => {
  const { chat, socket } = await entered();
  const [aloud, quietly] = [chat.say('x'), chat.tell('bob', 'x')];
  socket.give({ message: 'x', from: 'alice', to: 'bob', at: 5 }, { ...number(1, 'alice'), message: 'x' });
  assert.deepEqual([(await aloud).seq, (await quietly).to], [1, 'bob']);
  chat.close();
});

test('the same text in the history of the room does not confirm a message', async () => {
  const said = { ...number(7, 'alice'), message: 'hello' };
  for (const arrives of [false, true]) {
    const { chat, socket } = await entered({ seq: 7 });
    const hello = chat.say('hello');
    socket.give(said);
    const state = await Promise.race([hello.catch(() => 'rejected'), settled()]);
    assert.equal(state, undefined, 'number 7 was said before');
    if (arrives) socket.give({ ...said, seq: 8 });
    chat.close();
    if (arrives) assert.equal((await hello).seq, 8);
    else await assert.rejects(hello, code('unconfirmed'));
  }
});

test('after a loss, what is missed confirms what was said before, and what comes then what was said since', async () => {
  const { chat, socket } = await entered();
  const first = chat.say('hello');
  const next = await again(socket);
  next.give({ welcome: { ...WELCOME, seq: 2, recovered: true } });
  const second = chat.say('hello');
  next.give(number(1));
  next.give({ ...number(2, 'alice'), message: 'hello' }, { ...number(3, 'alice'), message: 'hello' });
  assert.deepEqual([(await first).seq, (await second).seq], [2, 3]);
  chat.close();
});

test('after a loss, a message that was missed does not confirm one that was said since', async () => {
  const { chat, socket } = await entered();
  const next = await again(socket);
  next.give({ welcome: { ...WELCOME, seq: 1, recovered: true } });
  const [hello, quietly] = [chat.say('hello'), chat.tell('bob', 'hello')];
  next.give({ ...number(1, 'alice'), message: 'hello' }, { message: 'hello', from: 'alice', to: 'bob', at: 5 });
  next.give({ ...number(2, 'alice'), message: 'hello' });
  assert.deepEqual([(await hello).seq, (await quietly).to], [2, 'bob']);
  chat.close();
});

test('a message that was not taken is rejected with the reason, and is no other event', async () => {
  const { chat, socket, events } = await entered();
  const said = [chat.say('a'), chat.tell('nobody', 'b'), chat.say('c')];
  socket.give({ error: { code: 'no_such_name', text: 'x' } }, { error: { code: 'muted', text: 'x', times: 2 } });
  await assert.rejects(said[1], code('no_such_name'));
  await assert.rejects(said[0], code('muted'));
  await assert.rejects(said[2], code('muted'));
  await settled();
  assert.ok(!types(events).includes('refused'));
  socket.give({ error: { code: 'muted', text: 'of nothing known' } });
  await settled();
  assert.ok(types(events).includes('refused'));
  chat.close();
});

test('an error after a loss rejects what was said since, not what was said before', async () => {
  const { chat, socket } = await entered();
  const before = chat.say('before');
  const next = await again(socket);
  next.give({ welcome: { ...WELCOME, seq: 1, recovered: true } });
  const since = chat.say('since');
  next.give({ error: { code: 'muted', text: 'x' } });
  await assert.rejects(since, code('muted'));
  next.give({ ...number(1, 'alice'), message: 'before' });
  assert.equal((await before).seq, 1);
  chat.close();
});

test('a private message without a name is said to nobody', async () => {
  const { chat, socket } = await entered();
  for (const name of [undefined, null, 5]) assert.throws(() => chat.tell(name, 'secret'), TypeError);
  assert.equal(socket.sent.length, 1);
  chat.close();
});

test('a message that was on its way at a loss is confirmed by what is missed, else unconfirmed', async () => {
  const { chat, socket } = await entered();
  const said = [chat.say('arrived'), chat.say('lost'), chat.tell('bob', 'psst')];
  const next = await again(socket);
  await assert.rejects(said[2], code('unconfirmed'));
  next.give({ welcome: { ...WELCOME, seq: 2, recovered: true } }, { ...number(1, 'alice'), message: 'arrived' });
  assert.equal((await said[0]).seq, 1);
  const state = await Promise.race([said[1].catch(() => 'rejected'), settled()]);
  assert.equal(state, undefined, 'number 2 may still be it');
  next.give(number(2));
  await assert.rejects(said[1], code('unconfirmed'));
  assert.deepEqual(next.sent.length, 1, 'nothing is sent twice');
  chat.close();
});

test('without a connection nothing is sent, and the caller is told', async () => {
  const { chat, socket } = await entered({}, { backoff: () => 60 });
  const asked = chat.who();
  socket.happen('close', { reason: '' });
  await assert.rejects(asked, code('offline'));
  await assert.rejects(chat.say('x'), code('offline'));
  await assert.rejects(chat.rooms(), code('offline'));
  assert.equal(chat.state, 'waiting');
  chat.wake();
  assert.equal(Socket.made.length, 2);
  chat.close();
});

test('answers and errors belong to the oldest request that they fit', async () => {
  const { chat, socket } = await entered();
  const [who, room, rooms, history] = [chat.who(), chat.enter('games'), chat.rooms('a'), chat.history(71, 20)];
  assert.deepEqual(socket.sent.slice(1), [
    { who: {} }, { join: { room: 'games' } }, { rooms: { after: 'a' } }, { history: { before: 71, limit: 20 } },
  ]);
  socket.give({ who: { room: 'lobby', names: ['alice'], members: 1, next: null } });
  socket.give({ error: { code: 'room_full', text: 'x' } });
  socket.give({ rooms: { rooms: [], count: 0, next: null } });
  socket.give({ history: { room: 'lobby', messages: [{ message: 'hi', from: 'alice', seq: 70, at: 5 }], next: 70 } });
  assert.deepEqual((await who).names, ['alice']);
  await assert.rejects(room, code('room_full'));
  assert.equal((await rooms).count, 0);
  const page = await history;
  const message = { type: 'message', text: 'hi', mine: true, from: 'alice', room: 'lobby', seq: 70, at: 5 };
  assert.deepEqual([page.messages, page.next], [[message], 70]);
  chat.close();
});

test('a question that the proof does not allow is rejected, and later answers belong to later ones', async () => {
  for (const wrong of ['not_allowed', 'auth_required']) {
    const { chat, socket, events } = await entered();
    const asked = [chat.who(), chat.rooms(), chat.history()];
    for (const each of asked) {
      socket.give(refusal(wrong));
      await assert.rejects(each, code(wrong));
    }
    const who = chat.who();
    socket.give({ who: { room: '놀이방', names: ['앨리스'], members: 1, next: null } });
    assert.deepEqual((await who).names, ['앨리스']);
    await settled();
    assert.ok(!types(events).includes('refused'));
    chat.close();
  }
});

test('a missing proof was named for the older one of a message and a question', async () => {
  for (const saysFirst of [true, false]) {
    const { chat, socket } = await entered();
    const acts = [() => chat.say('안녕'), () => chat.who()];
    const [first, second] = (saysFirst ? acts : acts.reverse()).map((act) => act());
    for (const each of [first, second]) {
      socket.give(refusal('auth_required'));
      await assert.rejects(each, code('auth_required'));
    }
    chat.close();
  }
});

test('a room that is entered has its own numbers, also one that the operator has chosen', async () => {
  const { chat, socket, events } = await entered();
  socket.give(number(1), number(2));
  const wanted = chat.enter('games');
  socket.give({ welcome: { ...WELCOME, room: 'games', seq: 1 } }, { ...number(1), room: 'games', message: 'g1' });
  assert.equal((await wanted).room, 'games');
  socket.give({ error: { code: 'room_closed', text: 'x' } }, { welcome: { ...WELCOME, seq: 2 } }, number(2));
  await settled();
  assert.deepEqual(texts(events), ['m1', 'm2', 'g1', 'm2']);
  assert.equal(chat.room, 'lobby');
  chat.close();
});

test('the welcome into the lobby after a closed room answers no request to enter', async () => {
  const { chat, socket } = await entered({ room: 'x' });
  const closed = [{ error: { code: 'room_closed', text: 'x' } }, { welcome: WELCOME }];
  const full = chat.enter('y');
  socket.give(...closed, { error: { code: 'room_full', text: 'x' } });
  await assert.rejects(full, code('room_full'));
  assert.equal(chat.room, 'lobby');
  const granted = chat.enter('z');
  socket.give(...closed, { welcome: { ...WELCOME, room: 'z' } });
  assert.equal((await granted).room, 'z');
  chat.close();
});

test('a room that was closed just before a loss leaves the next welcome to the next join', async () => {
  const { chat, socket, events } = await entered({ room: 'x' });
  socket.give({ error: { code: 'room_closed', text: 'x' } });
  const next = await again(socket);
  next.give({ welcome: { ...WELCOME, room: 'x', recovered: true } });
  const wanted = chat.enter('y');
  next.give({ welcome: { ...WELCOME, room: 'y' } });
  assert.equal((await wanted).room, 'y');
  await settled();
  const welcomes = events.filter((each) => each.type === 'welcome');
  assert.deepEqual(welcomes.map((each) => each.again), [false, true, false]);
  chat.close();
});

test('a first join that is rejected, and a server that is not there, end the chat', async () => {
  for (const [act, wanted] of [
    [(socket) => { socket.happen('open'); socket.give({ error: { code: 'name_taken', text: 'x' } }); }, 'name_taken'],
    [(socket) => { socket.happen('error'); socket.happen('close', { reason: '' }); }, 'unreachable'],
  ]) {
    Socket.made = [];
    const opened = connect('ws://a/ws', { name: 'alice', WebSocket: Socket, backoff: () => 0 });
    act(Socket.made[0]);
    await assert.rejects(opened, code(wanted));
    await settled();
    assert.equal(Socket.made.length, 1);
  }
});

test('a name that is held is asked for again; one that was taken away is not', async () => {
  const { chat, socket, events, reading } = await entered();
  const next = await again(socket);
  next.give({ error: { code: 'name_taken', text: 'held' } });
  await until(() => Socket.made.length === 3, 'another try');
  const last = Socket.made[2];
  last.happen('open');
  last.give({ welcome: { ...WELCOME, recovered: true } });
  assert.equal(chat.state, 'online');
  last.give({ error: { code: 'taken_over', text: 'elsewhere' } });
  await reading;
  const rejected = events.filter((each) => each.type === 'rejected').map((each) => [each.code, each.retrying]);
  assert.deepEqual(rejected, [['name_taken', true], ['taken_over', false]]);
  assert.deepEqual([chat.state, Socket.made.length], ['ended', 3]);
});

test('a kick ends the chat: it is told, requests end, and no other connection follows', async () => {
  const { chat, socket, events, reading } = await entered();
  const asked = [chat.who(), chat.enter('games')];
  socket.give({ error: { code: 'kicked', text: 'the operator' } });
  socket.happen('close', { reason: 'kicked' });
  await reading;
  for (const each of asked) await assert.rejects(each, code('offline'));
  await assert.rejects(chat.say('x'), code('offline'));
  await settled();
  assert.deepEqual(events.slice(2), [
    { type: 'rejected', code: 'kicked', text: 'the operator', retrying: false },
    { type: 'disconnected', reason: 'the operator', retrying: false },
  ]);
  assert.deepEqual([chat.state, Socket.made.length], ['ended', 1]);
});

/** A chat that shows each of these tokens, one for each time that it asks. */
const tokens = (...all) => ({ jwt: () => all.shift() });
const refusal = (code, more = {}) => ({ error: { code, text: `${code}!`, ...more } });
const proofs = () => Socket.made.map(({ sent }) => sent[0]?.join?.jwt);

test('the proof goes with the join of each connection, and with no change of rooms', async () => {
  for (const [kind, value] of [['password', '비밀번호 1'], ['secret', '우리 반'], ['jwt', 'e.y.J']]) {
    const { chat, socket } = await entered({ name: '앨리스' }, { name: '앨리스', [kind]: value });
    assert.deepEqual(socket.sent, [{ join: { name: '앨리스', room: 'lobby', [kind]: value } }]);
    const moved = chat.enter('놀이방');
    assert.deepEqual(socket.sent[1], { join: { room: '놀이방' } });
    socket.give({ welcome: { ...WELCOME, room: '놀이방' } });
    await moved;
    const next = await again(socket);
    assert.equal(next.sent[0].join[kind], value);
    chat.close();
  }
});

test('two proofs, or one that is no text, are the mistake of the program', async () => {
  const make = (options) => () => connect('ws://a/ws', { name: 'alice', WebSocket: Socket, ...options });
  Socket.made = [];
  assert.throws(make({ password: 'a', jwt: 'b' }), TypeError);
  assert.throws(make({ password: 'a', secret: 'b' }), TypeError);
  assert.throws(make({ password: 5 }), TypeError);
  assert.throws(make({ secret: () => 'a' }), TypeError);
  assert.equal(Socket.made.length, 0);
  const { chat } = await entered({}, { password: 'a', jwt: undefined, secret: null });
  chat.close();
});

test('with a token the name may be left out, and the welcome gives it', async () => {
  const { chat, socket } = await entered({ name: '밥', role: 'operator', expires: 1900000000.5 }, { name: undefined, jwt: 'x' });
  assert.deepEqual(socket.sent, [{ join: { room: 'lobby', jwt: 'x' } }]);
  assert.deepEqual([chat.name, chat.role, chat.expires], ['밥', 'operator', 1900000000.5]);
  const next = await again(socket);
  assert.equal(next.sent[0].join.name, '밥');
  next.give({ welcome: { ...WELCOME, name: '밥', recovered: true } });
  assert.deepEqual([chat.role, chat.expires], ['member', null]);
  chat.close();
});

test('a first join that needs another proof ends the chat, with the kinds that the server takes', async () => {
  for (const [code, kinds] of [
    ['auth_required', ['password', 'secret']], ['bad_credentials', []], ['not_allowed', []], ['expired', []],
    ['try_later', []],
  ]) {
    Socket.made = [];
    // The token comes from a function: it is not asked for a second one.
    const opened = connect('ws://a/ws', { name: 'alice', WebSocket: Socket, backoff: () => 0, ...tokens('one', 'two') });
    await until(() => Socket.made.length === 1, 'a connection');
    Socket.made[0].happen('open');
    Socket.made[0].give(refusal(code, kinds.length ? { proofs: kinds } : {}));
    await assert.rejects(opened, (error) => {
      assert.ok(error instanceof ChatError);
      assert.deepEqual([error.code, error.text, error.message, error.proofs], [code, `${code}!`, `${code}!`, kinds]);
      return true;
    });
    await settled();
    assert.equal(Socket.made.length, 1);
  }
});

test('a function may take its time with the token, and its error ends the first attempt', async () => {
  Socket.made = [];
  let give;
  const jwt = () => new Promise((resolve) => { give = resolve; });
  const opened = connect('ws://a/ws', { WebSocket: Socket, jwt });
  await settled();
  assert.equal(Socket.made.length, 0);
  give('late');
  await until(() => Socket.made.length === 1, 'a connection');
  Socket.made[0].happen('open');
  assert.deepEqual(Socket.made[0].sent, [{ join: { room: 'lobby', jwt: 'late' } }]);
  Socket.made[0].give({ welcome: WELCOME });
  (await opened).close();

  const failure = new Error('no account');
  await assert.rejects(connect('ws://a/ws', { WebSocket: Socket, jwt: async () => { throw failure; } }), failure);
  await assert.rejects(connect('ws://a/ws', { WebSocket: Socket, jwt: () => undefined }), TypeError);
  assert.equal(Socket.made.length, 1);
});

test('a function that fails at a reconnect is asked again later, and a chat that is closed meanwhile stays closed', async () => {
  let late;
  const answers = [() => 'one', () => { throw new Error('away'); }, () => 'three', () => new Promise((resolve) => { late = resolve; })];
  const { chat, socket, events, reading } = await enteredLater({ jwt: () => answers.shift()() });
  socket.happen('close', { reason: '' });
  await until(() => Socket.made.length === 2, 'another connection');
  Socket.made[1].happen('open');
  assert.deepEqual(proofs(), ['one', 'three']);
  Socket.made[1].give({ welcome: { ...WELCOME, recovered: true } });
  await settled();
  assert.equal(types(events).filter((each) => each === 'waiting').length, 2);
  const rejected = events.filter((each) => each.type === 'rejected').map((each) => [each.code, each.retrying]);
  assert.deepEqual(rejected, [['no_token', true]]);
  Socket.made[1].happen('close', { reason: '' });
  await until(() => late !== undefined, 'the fourth token to be asked for');
  chat.close();
  await reading;
  late('four');
  await settled();
  assert.deepEqual([chat.state, Socket.made.length], ['ended', 2]);
});

async function enteredLater(options, welcome = {}) {
  Socket.made = [];
  const opened = connect('ws://a/ws', { name: 'alice', WebSocket: Socket, backoff: () => 0, ...options });
  await until(() => Socket.made.length === 1, 'a connection');
  const [socket] = Socket.made;
  socket.happen('open');
  socket.give({ welcome: { ...WELCOME, ...welcome } });
  const chat = await opened;
  const events = [];
  const reading = (async () => { for await (const event of chat.events()) events.push(event); })();
  return { chat, socket, events, reading };
}

test('a token that ends on a connection is followed by a fresh one, and nothing is lost or doubled', async () => {
  const waited = [];
  const backoff = (attempt) => { waited.push(attempt); return 60; };
  const { chat, socket, events } = await enteredLater({ ...tokens('one', 'two'), backoff });
  socket.give(number(1), number(2));
  const said = chat.say('m3');
  socket.give(refusal('expired'));
  socket.happen('close', { reason: '' });
  await until(() => Socket.made.length === 2, 'another connection');
  const next = Socket.made[1];
  next.happen('open');
  assert.deepEqual(next.sent, [
    { join: { name: 'alice', room: 'lobby', token: 't', jwt: 'two', after: 2, epoch: 'one' } },
  ]);
  next.give({ welcome: { ...WELCOME, seq: 3, recovered: true, expires: 9e9 } }, number(2), number(3, 'alice'), number(4));
  assert.equal((await said).seq, 3);
  await settled();
  assert.deepEqual(texts(events), ['m1', 'm2', 'm3', 'm4']);
  assert.deepEqual([losses(events), waited, chat.expires], [[], [], 9e9]);
  const rejected = events.filter((each) => each.type === 'rejected').map((each) => [each.code, each.retrying]);
  assert.deepEqual(rejected, [['expired', true]]);
  chat.close();
});

test('a fresh token that is over too ends the chat, and one that was granted allows the next end', async () => {
  const { chat, socket, events, reading } = await enteredLater(tokens('one', 'two', 'three', 'four', 'five'));
  socket.happen('close', { reason: '' });
  for (const count of [2, 3]) {
    await until(() => Socket.made.length === count, 'another connection');
    Socket.made.at(-1).happen('open');
    if (count === 2) Socket.made[1].give(refusal('expired'));
  }
  Socket.made[2].give({ welcome: { ...WELCOME, recovered: true } }, refusal('expired'));
  await until(() => Socket.made.length === 4, 'the fourth token');
  Socket.made[3].happen('open');
  Socket.made[3].give(refusal('expired'));
  await reading;
  assert.deepEqual(proofs(), ['one', 'two', 'three', 'four']);
  const rejected = events.filter((each) => each.type === 'rejected').map((each) => [each.code, each.retrying]);
  assert.deepEqual(rejected, [['expired', true], ['expired', true], ['expired', false]]);
  assert.equal(chat.state, 'ended');
});

test('tokens that end again and again within moments wait between two attempts', async () => {
  const attempts = [];
  const backoff = (attempt) => { attempts.push(attempt); return 0; };
  const { chat } = await enteredLater({ jwt: () => 'brief', backoff });
  for (const count of [2, 3, 4]) {
    Socket.made.at(-1).give(refusal('expired'));
    await until(() => Socket.made.length === count, 'another connection');
    Socket.made.at(-1).happen('open');
    Socket.made.at(-1).give({ welcome: { ...WELCOME, recovered: true } });
  }
  assert.deepEqual(attempts, [1, 2]);
  chat.close();
});

test('on a reconnect a proof that counts no more ends the chat, and too many attempts are waited for', async () => {
  for (const [code, retrying] of [
    ['expired', false], ['bad_credentials', false], ['auth_required', false], ['not_allowed', false], ['try_later', true],
  ]) {
    const { chat, socket, events } = await entered({}, { jwt: 'fixed' });
    const next = await again(socket);
    next.give(refusal(code, code === 'auth_required' ? { proofs: ['secret'] } : {}));
    await settled();
    if (retrying) await until(() => Socket.made.length === 3, 'another try');
    const rejected = events.find((each) => each.type === 'rejected');
    assert.deepEqual(rejected, {
      type: 'rejected', code, text: `${code}!`, retrying, ...(code === 'auth_required' ? { proofs: ['secret'] } : {}),
    });
    assert.deepEqual([chat.state === 'ended', Socket.made.length], [!retrying, retrying ? 3 : 2], code);
    chat.close();
  }
});

test('a fixed token that ends on a connection ends the chat', async () => {
  const { chat, socket, events, reading } = await entered({}, { jwt: 'fixed' });
  const moving = chat.enter('games');
  socket.give(number(1), refusal('expired'));
  await reading;
  await assert.rejects(moving, code('offline'));
  assert.deepEqual(types(events).slice(2), ['message', 'rejected', 'disconnected']);
  assert.equal(Socket.made.length, 1);
});

test('a renewal keeps the room and its numbers, and the fresh token is shown from then on', async () => {
  const { chat, socket, events } = await entered({ expires: 100 }, { jwt: 'old' });
  socket.give(number(1));
  const said = chat.say('m2');
  const renewed = chat.renew('새로운');
  await settled();
  assert.deepEqual(socket.sent[2], { join: { jwt: '새로운', after: 1, epoch: 'one' } });
  socket.give({ welcome: { ...WELCOME, seq: 2, recovered: true, expires: 200 } }, number(2, 'alice'), number(3));
  assert.equal((await renewed).expires, 200);
  assert.equal((await said).seq, 2);
  await settled();
  assert.deepEqual(texts(events), ['m1', 'm2', 'm3']);
  const welcomes = events.filter((each) => each.type === 'welcome').map((each) => [each.again, each.expires, each.role]);
  assert.deepEqual(welcomes, [[false, 100, 'member'], [true, 200, 'member']]);
  assert.equal(chat.expires, 200);
  const next = await again(socket);
  assert.equal(next.sent[0].join.jwt, '새로운');
  chat.close();
});

test('a renewal that is rejected leaves the connection and the token as they are', async () => {
  for (const wrong of ['expired', 'bad_credentials', 'not_allowed', 'try_later']) {
    const { chat, socket } = await entered({}, { jwt: 'old' });
    const renewed = chat.renew('bad');
    await settled();
    // What comes then shows that the connection goes on, so the error was about the fresh token.
    socket.give(refusal(wrong), { pong: 0 });
    await assert.rejects(renewed, code(wrong));
    assert.equal(chat.state, 'online');
    const next = await again(socket);
    assert.equal(next.sent[0].join.jwt, 'old');
    chat.close();
  }
});

test('a fresh token that meets the end of the old one on its way is shown by the next connection', async () => {
  const { chat, socket, events } = await entered({}, { name: '앨리스', jwt: 'old' });
  socket.give(number(1));
  const renewed = chat.renew('새로운');
  await settled();
  socket.give(refusal('expired'));
  await assert.rejects(renewed, code('expired'));
  const next = await again(socket);
  assert.deepEqual([next.sent[0].join.jwt, next.sent[0].join.after], ['새로운', 1]);
  next.give({ welcome: { ...WELCOME, seq: 2, recovered: true, expires: 9e9 } }, number(2));
  await settled();
  assert.deepEqual([texts(events), losses(events), chat.expires], [['m1', 'm2'], [], 9e9]);
  assert.deepEqual(types(events).filter((each) => each === 'rejected'), []);
  assert.equal((await again(next)).sent[0].join.jwt, '새로운');
  chat.close();
});

test('a fresh token that is over too ends the chat, on the same connection or at the next join', async () => {
  const late = await entered({}, { jwt: 'old' });
  const renewed = late.chat.renew('bad');
  await settled();
  late.socket.give(refusal('expired'), refusal('expired'));
  await late.reading;
  await assert.rejects(renewed, code('expired'));
  assert.deepEqual([late.chat.state, Socket.made.length], ['ended', 1]);

  const { chat, socket, events, reading } = await entered({}, { jwt: 'old' });
  chat.renew('bad');
  await settled();
  socket.give(refusal('expired'));
  const next = await again(socket);
  assert.equal(next.sent[0].join.jwt, 'bad');
  next.give(refusal('expired'));
  await reading;
  const rejected = events.filter((each) => each.type === 'rejected').map((each) => [each.code, each.retrying]);
  assert.deepEqual([rejected, chat.state], [[['expired', false]], 'ended']);
});

test('where a function gives the tokens, it is asked for each connection, whatever a renewal has shown', async () => {
  const { chat, socket } = await enteredLater(tokens('one', 'two'));
  chat.renew('shown');
  await settled();
  socket.give(refusal('expired'));
  socket.happen('close', { reason: '' });
  await until(() => Socket.made.length === 2, 'another connection');
  Socket.made[1].happen('open');
  assert.deepEqual(proofs(), ['one', 'two']);
  chat.close();
});

test('a renewal asks the function, waits for a change of rooms, and needs a token from somewhere', async () => {
  const { chat, socket } = await enteredLater(tokens('one', 'two', 'three'));
  const [moved, renewed] = [chat.enter('games'), chat.renew()];
  await settled();
  assert.equal(socket.sent.length, 2);
  socket.give({ welcome: { ...WELCOME, room: 'games', seq: 8 } });
  await moved;
  await until(() => socket.sent.length === 3, 'the renewal');
  assert.deepEqual(socket.sent[2], { join: { jwt: 'two', after: 8, epoch: 'one' } });
  socket.give({ welcome: { ...WELCOME, room: 'games', seq: 8, recovered: true } });
  await renewed;
  assert.equal((await again(socket)) && proofs()[0], 'one');
  chat.close();
  const plain = await entered();
  await assert.rejects(plain.chat.renew(), TypeError);
  await assert.rejects(plain.chat.renew(5), TypeError);
  plain.chat.close();
});

test('a promise that nobody looks at ends no program', async () => {
  const unseen = [];
  const note = (error) => unseen.push(error.code ?? error.name);
  process.on('unhandledRejection', note);
  const { chat, socket } = await entered({}, { jwt: 'old' });
  chat.renew();
  chat.renew('새로운');
  await settled();
  chat.history();
  chat.enter('놀이방');
  socket.give(refusal('bad_credentials'), refusal('not_joined'), refusal('room_full'));
  await settled();
  chat.close();
  process.off('unhandledRejection', note);
  assert.deepEqual(unseen, []);
});

test('a room that is closed while a renewal is on its way is left, and its numbers too', async () => {
  const { chat, socket, events } = await entered({ room: 'x', seq: 50 }, { jwt: 'old' });
  const renewed = chat.renew('new');
  await settled();
  socket.give({ error: { code: 'room_closed', text: 'x' } }, { welcome: { ...WELCOME, seq: 2 } });
  socket.give({ welcome: { ...WELCOME, seq: 2, lost: [51, null] } }, number(2), number(3));
  await renewed;
  await settled();
  assert.deepEqual([texts(events), losses(events)], [['m2', 'm3'], []]);
  chat.close();
});

test('an operator moderates, and each answer belongs to its request', async () => {
  const { chat, socket } = await entered({ role: 'operator' }, { password: 'p' });
  const asked = [
    chat.kick('밥'), chat.ban('192.0.2.0/24'), chat.ban('밥', 600), chat.unban('밥'), chat.mute('밥', 60), chat.unmute('밥'),
    chat.closeRoom('놀이방'),
  ];
  assert.deepEqual(socket.sent.slice(1), [
    { kick: { name: '밥' } }, { ban: { name: '192.0.2.0/24' } }, { ban: { name: '밥', for: 600 } },
    { unban: { name: '밥' } }, { mute: { name: '밥', for: 60 } }, { unmute: { name: '밥' } }, { close: { room: '놀이방' } },
  ]);
  const answer = (action, target, count = 0) => ({ moderated: { action, target, count } });
  // A kick asks the workers: its answer may be later than that of another request.
  socket.give(answer('ban', '192.0.2.0/24', 3), answer('ban', '밥', 1), answer('kick', '밥', 1), answer('close', '놀이방', 4));
  socket.give(answer('unban', '밥'), answer('mute', '밥'), answer('unmute', '밥'), answer('kick', 'nobody asked'));
  const got = (await Promise.all(asked)).map(({ action, target, count }) => [action, target, count]);
  assert.deepEqual(got, [
    ['kick', '밥', 1], ['ban', '192.0.2.0/24', 3], ['ban', '밥', 1], ['unban', '밥', 0], ['mute', '밥', 0],
    ['unmute', '밥', 0], ['close', '놀이방', 4],
  ]);
  chat.close();
});

test('an operator\'s request that is not granted is rejected with the reason', async () => {
  for (const wrong of ['not_allowed', 'no_such_name', 'bad_name', 'bad_room', 'failed', 'not_a_message']) {
    const { chat, socket } = await entered();
    const asked = chat.kick('밥');
    socket.give(refusal(wrong));
    await assert.rejects(asked, code(wrong));
    chat.close();
  }
  const { chat, socket } = await entered();
  const asked = chat.kick('밥');
  socket.happen('close', { reason: '' });
  await assert.rejects(asked, code('offline'));
  await assert.rejects(chat.ban('밥'), code('offline'));
  chat.close();
});

test('a ban or a mute for a time that is none is sent to nobody', async () => {
  const { chat, socket } = await entered({ role: 'operator' });
  for (const seconds of [NaN, Infinity, -Infinity, 0, -1, 0.5, 315_360_001, null, '600', true]) {
    for (const act of ['ban', 'mute']) assert.throws(() => chat[act]('밥', seconds), RangeError, `${act} ${seconds}`);
  }
  assert.equal(socket.sent.length, 1);
  for (const seconds of [1, 1.5, 315_360_000, undefined]) chat.ban('밥', seconds);
  assert.deepEqual(socket.sent.slice(1).map((each) => each.ban.for), [1, 1.5, 315_360_000, undefined]);
  chat.close();
});

test('a name that is not there was named by the older one of a private message and a kick', async () => {
  for (const kickFirst of [true, false]) {
    const { chat, socket } = await entered();
    const acts = [() => chat.kick('x'), () => chat.tell('y', 'psst')];
    const [first, second] = (kickFirst ? acts : acts.reverse()).map((act) => act());
    socket.give(refusal('no_such_name'));
    await assert.rejects(first, code('no_such_name'));
    socket.give(refusal('no_such_name'));
    await assert.rejects(second, code('no_such_name'));
    chat.close();
  }
});

test('no proof is in an event, an error, or in what a chat looks like', async () => {
  for (const options of [{ password: 'geheim1' }, { secret: 'geheim1' }, { jwt: 'geheim1' }, { jwt: () => 'geheim1' }]) {
    const { chat, socket, events, reading } = await enteredLater(options);
    const told = [inspect(chat, { showHidden: true, depth: 9 }), JSON.stringify(chat)];
    const renewed = chat.renew('geheim1').catch((error) => error);
    await settled();
    socket.give(refusal('bad_credentials'));
    told.push(inspect(await renewed, { depth: 9 }));
    await again(socket);
    Socket.made[1].give(refusal('bad_credentials'));
    await reading;
    told.push(JSON.stringify(events));
    assert.ok(!told.join().includes('geheim1'));
  }
});

test('a server that says nothing any more is asked, and then left', async () => {
  const { socket, events, chat } = await entered({}, { silence: 0.02, patience: 0.02 });
  await until(() => socket.sent.some((each) => 'ping' in each), 'a ping');
  await until(() => Socket.made.length > 1, 'another connection');
  assert.equal(socket.closed, 1005);
  socket.give(number(1));
  await settled();
  assert.deepEqual(texts(events), [], 'what was given up says nothing more');
  chat.close();
});

test('a connection that is not made in time is tried again', async () => {
  const { chat, socket } = await entered({}, { patience: 0.02, silence: 0 });
  socket.happen('close', { reason: '' });
  await until(() => Socket.made.length > 3, 'more tries');
  assert.equal(Socket.made[1].closed, 1005);
  chat.close();
});

test('an attempt that fails without a close is followed by the next one', async () => {
  const { chat, socket } = await entered({}, { patience: 60 });
  socket.happen('close', { reason: '' });
  await until(() => Socket.made.length === 2, 'another try');
  Socket.made[1].happen('error');
  await until(() => Socket.made.length === 3, 'the try after it');
  // What follows from the one that was given up changes nothing.
  Socket.made[1].happen('close', { reason: '' });
  assert.equal(chat.state, 'connecting');
  chat.close();
});

test('waiting grows while no connection is made, however long the last one has lasted', async () => {
  const attempts = [];
  const { chat, socket } = await entered({}, { backoff: (attempt) => { attempts.push(attempt); return 0; } });
  const real = Date.now;
  try {
    Date.now = () => real() + 60_000;
    socket.happen('close', { reason: '' });
    for (let made = 2; made < 8; made += 1) {
      await until(() => Socket.made.length === made, 'another try');
      Socket.made.at(-1).happen('close', { reason: '' });
    }
  } finally {
    Date.now = real;
  }
  assert.deepEqual(attempts, [0, 1, 2, 3, 4, 5, 6]);
  chat.close();
});

test('a connection that the server makes and ends does not count as steady, and one that lasts does', async () => {
  const attempts = [];
  const { chat, socket } = await entered({}, { backoff: (attempt) => { attempts.push(attempt); return 0; } });
  const real = Date.now;
  let [last, later] = [socket, 0];
  try {
    Date.now = () => real() + later;
    for (const seconds of [1, 1, 1, 6, 1]) {
      later += seconds * 1000;
      last = await again(last);
      last.give({ welcome: { ...WELCOME, recovered: true } });
    }
  } finally {
    Date.now = real;
  }
  assert.deepEqual(attempts, [0, 1, 2, 0, 1]);
  chat.close();
});

test('what no frame can hold is not sent, and half of a surrogate pair is replaced', async () => {
  const { chat, socket } = await entered();
  await assert.rejects(chat.say('가'.repeat(PAYLOAD_LIMIT / 3)), code('too_long'));
  chat.say('a\ud800b\udc00 🙂');
  chat.tell('b\ud800 🙂', 'c');
  chat.enter('\udc00games 🙂');
  assert.deepEqual(socket.sent.slice(1), [
    { message: 'a\ufffdb\ufffd 🙂' }, { message: 'c', to: 'b\ufffd 🙂' }, { join: { room: '\ufffdgames 🙂' } },
  ]);
  chat.close();
});

test('other keys and other JSON are no error', async () => {
  const { chat, socket, events } = await entered();
  socket.give({ later: 1 }, [], { pong: 0 }, { joined: { room: 'lobby', names: ['alice'], count: 1, members: 1 } });
  socket.happen('message', { data: 'not JSON' });
  socket.give({ left: { room: 'lobby', names: ['bob'], count: 1, members: 1, reason: 'closed' } });
  await settled();
  assert.deepEqual(types(events).slice(2), ['refused', 'left']);
  chat.close();
});

test('an error whose kinds of proof are null is the error that it says', async () => {
  Socket.made = [];
  const opened = connect('ws://a/ws', { name: '앨리스', WebSocket: Socket });
  Socket.made[0].happen('open');
  Socket.made[0].give(refusal('auth_required', { proofs: null }));
  await assert.rejects(opened, (error) => error.code === 'auth_required' && error.proofs.length === 0);
  const { socket, events, reading } = await entered();
  socket.give(refusal('kicked', { proofs: null, times: null }));
  await reading;
  assert.deepEqual(events[2], { type: 'rejected', code: 'kicked', text: 'kicked!', retrying: false });
});

// What a server sends, each in its form.
const FRAMES = [
  { message: '안녕', from: '밥', room: 'lobby', seq: 1, at: 5 },
  { message: '귓속말', from: '밥', to: 'alice', at: 5 },
  { error: { code: 'muted', text: 'x', times: 2, proofs: ['password'] } },
  { error: { code: 'kicked', text: 'x' } },
  { welcome: { ...WELCOME, role: 'operator', expires: 9e9, lost: [1, null] } },
  { joined: { room: 'lobby', names: ['밥'], count: 1, members: 2 } },
  { left: { room: 'lobby', names: ['밥'], count: 1, members: 1, reason: 'closed' } },
  { moderated: { action: 'kick', target: '밥', count: 1 } },
  { who: { room: 'lobby', names: ['밥'], members: 1, next: null } },
  { rooms: { rooms: [{ room: 'lobby', members: 1 }], count: 1, next: null } },
  { history: { room: 'lobby', messages: [{ message: '안녕', from: '밥', seq: 1, at: 5 }], next: null } },
];

/** All that a value becomes when one part of it is something else, or is not there. */
function* broken(value) {
  yield* [null, 5, true, 'x', [], {}, [null], 1e999];
  if (value === null || typeof value !== 'object') return;
  for (const key of Object.keys(value)) {
    const { [key]: part, ...rest } = value;
    if (!Array.isArray(value)) yield rest;
    for (const other of broken(part)) yield Array.isArray(value) ? [other] : { ...value, [key]: other };
  }
}

test('what the client cannot read ends no program and no chat, and is told', async () => {
  const { chat, socket, events } = await entered();
  const unreadable = [
    { joined: { count: 1 } }, { left: { count: 1, names: [null] } }, { error: true }, { error: { code: 'kicked', text: 'x', proofs: 5 } },
    { welcome: {} }, { welcome: { ...WELCOME, seq: null } }, { moderated: 'kick' }, { who: { names: '밥' } },
    { history: { messages: null } }, { rooms: [] }, { joined: 0, left: { count: 1 } }, { who: { names: ['밥'] }, rooms: true }, { message: '안녕', from: '밥', room: 'lobby', seq: '1', at: 5 },
  ];
  socket.give(...unreadable);
  await settled();
  assert.deepEqual(events.slice(2).map((each) => each.code), unreadable.map(() => 'not_json'));
  assert.equal(chat.state, 'online');
  socket.give(number(1));
  await settled();
  assert.deepEqual(texts(events), ['m1']);
  chat.close();
});

test('a frame with any one part broken ends no program', async () => {
  const failures = [];
  const note = (error) => failures.push(error);
  process.on('uncaughtException', note);
  let given = 0;
  for (const frame of FRAMES) {
    for (const each of broken(frame)) {
      for (const first of [true, false]) {
        Socket.made = [];
        const opened = connect('ws://a/ws', { name: 'alice', WebSocket: Socket });
        const [socket] = Socket.made;
        socket.happen('open');
        if (!first) {
          socket.give({ welcome: WELCOME });
          const chat = await opened;
          for (const asked of [chat.who(), chat.rooms(), chat.history(), chat.kick('밥')]) asked.catch(note);
        }
        // As text, since JSON.stringify would make null of Infinity.
        const data = JSON.stringify(each, (_, value) => (value === Infinity ? '∞' : value)).replaceAll('"∞"', '1e999');
        socket.happen('message', { data });
        given += 1;
        // A chat without a welcome is ended by the loss.
        opened.then((chat) => chat.close(), () => {});
        await null;
        if (socket.closed === null) socket.happen('close', { reason: '' });
      }
    }
  }
  await settled();
  process.off('uncaughtException', note);
  const unexpected = failures.filter((error) => !(error instanceof ChatError));
  assert.deepEqual([unexpected, given > 500], [[], true]);
});

test('waiting grows, has a bound, and is never nothing', () => {
  const most = (attempt) => Math.max(...Array.from({ length: 300 }, () => backoff(attempt)));
  const least = (attempt) => Math.min(...Array.from({ length: 300 }, () => backoff(attempt)));
  assert.ok(most(0) <= 0.5 && most(3) > 0.5 && most(3) <= 4);
  assert.ok(most(50) <= 20 && most(5000) > 10);
  assert.ok(least(0) >= 0.1);
});

// Several hosts: a welcome that answers no request, and the farewell of one host.

const AGAIN = { ...WELCOME, epoch: 'two', token: 'new', again: true };
const own = (seq, text) => ({ ...number(seq, 'alice'), message: text });

test('an unasked welcome that lost nothing goes on behind what has come', async () => {
  const { chat, socket, events } = await entered();
  socket.give(number(1), number(2), { welcome: { ...AGAIN, seq: 3, recovered: true } }, number(3), number(4));
  await settled();
  assert.deepEqual(texts(events), ['m1', 'm2', 'm3', 'm4']);
  assert.deepEqual(losses(events), []);
  assert.deepEqual(events.filter((each) => each.type === 'welcome').map((each) => each.again), [false, true]);
  const next = await again(socket);
  assert.deepEqual(next.sent, [{ join: { name: 'alice', room: 'lobby', token: 'new', after: 4, epoch: 'two' } }]);
  chat.close();
});

test('an unasked welcome tells once what is uncertain, from below what has come, and the new numbers follow', async () => {
  const { chat, socket, events } = await entered();
  socket.give(number(1), number(2), number(3));
  socket.give({ welcome: { ...AGAIN, seq: 4, lost: [2, null] } }, number(2), number(3), number(4), number(5));
  await settled();
  assert.deepEqual(texts(events), ['m1', 'm2', 'm3', 'm2', 'm3', 'm4', 'm5']);
  assert.deepEqual(losses(events), [[2, null]]);
  assert.ok(!types(events).includes('disconnected'));
  chat.close();
});

test('an unasked welcome answers no request for another room, nor a question', async () => {
  const { chat, socket, events } = await entered();
  socket.give(number(1));
  const [wanted, who] = [chat.enter('게임방'), chat.who()];
  socket.give({ welcome: { ...AGAIN, seq: 1, recovered: true } }, number(2));
  assert.equal(await Promise.race([wanted, settled()]), undefined);
  assert.equal(chat.room, 'lobby');
  socket.give({ welcome: { ...WELCOME, epoch: 'two', room: '게임방', seq: 7 } }, { ...number(8), room: '게임방' });
  socket.give({ who: { room: '게임방', names: ['alice'], members: 1, next: null } });
  assert.equal((await wanted).room, '게임방');
  assert.equal((await who).room, '게임방');
  await settled();
  assert.deepEqual(texts(events), ['m1', 'm2', 'm8']);
  assert.deepEqual(losses(events), []);
  chat.close();
});

test('a join that resumes may be answered by the unasked welcome alone', async () => {
  const { chat, socket, events } = await entered();
  socket.give(number(1));
  const next = await again(socket);
  next.give({ welcome: { ...AGAIN, seq: 2, recovered: true } }, number(3));
  await settled();
  assert.equal(chat.state, 'online');
  assert.deepEqual(losses(events), [[2, 2]]);
  const wanted = chat.enter('x');
  next.give({ welcome: { ...WELCOME, room: 'x' } });
  assert.equal((await wanted).room, 'x');
  chat.close();
});

test('a room that is spelled otherwise after the loss of the log is the same room', async () => {
  const { chat, socket, events } = await entered({ room: 'Games' });
  socket.give({ ...number(1), room: 'Games' }, { welcome: { ...AGAIN, room: 'games', seq: 3, recovered: true } });
  socket.give({ ...number(3), room: 'games' });
  await settled();
  assert.deepEqual(losses(events), [[2, 2]]);
  assert.equal(chat.room, 'games');
  chat.close();
});

test('what was said before the loss of the log comes back under a new number, or is unconfirmed', async () => {
  const { chat, socket } = await entered({ seq: 9 });
  socket.give(number(10));
  const [came, lost, later] = [chat.say('왔다'), chat.say('잃었다'), chat.say('나중')];
  const [psst, next] = [chat.tell('bob', '가'), chat.tell('bob', '나')];
  socket.give({ welcome: { ...AGAIN, seq: 6, lost: [5, null] } }, number(5), own(6, '왔다'));
  assert.equal((await came).seq, 6);
  assert.equal(await Promise.race([lost, settled()]), undefined, 'it may still come');
  socket.give(own(7, '나중'), { message: '나', from: 'alice', to: 'bob', at: 5 });
  assert.equal((await later).seq, 7);
  await assert.rejects(lost, code('unconfirmed'));
  assert.equal((await next).text, '나');
  await assert.rejects(psst, code('unconfirmed'));
  chat.close();
});

test('a message from before a lost connection is still waited for after an unasked welcome', async () => {
  const { chat, socket } = await entered();
  const [came, lost] = [chat.say('왔다'), chat.say('잃었다')];
  const next = await again(socket);
  next.give({ welcome: { ...WELCOME, seq: 2, recovered: true } });
  const since = chat.say('새로');
  next.give({ welcome: { ...AGAIN, seq: 4, lost: [1, null] } }, number(1), number(2), own(3, '왔다'));
  assert.equal((await came).seq, 3);
  assert.equal(await Promise.race([lost, settled()]), undefined);
  next.give(own(4, '새로'));
  assert.equal((await since).seq, 4);
  await assert.rejects(lost, code('unconfirmed'));
  chat.close();
});

test('a renewal that was under way tells no loss twice, and sends nothing twice', async () => {
  const { chat, socket, events } = await entered({}, { jwt: 'old' });
  socket.give(number(1), number(2));
  const renewed = chat.renew('새로운');
  await settled();
  socket.give({ welcome: { ...AGAIN, seq: 2, lost: [2, null] } }, number(2), number(3));
  assert.equal(await Promise.race([renewed, settled()]), undefined);
  socket.give({ welcome: { ...WELCOME, epoch: 'two', seq: 3, lost: [2, null] } }, number(2), number(3), number(4));
  await renewed;
  await settled();
  assert.deepEqual(texts(events), ['m1', 'm2', 'm2', 'm3', 'm4']);
  assert.deepEqual(losses(events), [[2, null]]);
  chat.close();
});

test('a farewell is the server\'s word and confirms no message', async () => {
  const { chat, socket, events } = await entered();
  const said = chat.say('안녕히 계세요');
  socket.give({ message: '안녕히 계세요' });
  assert.equal(await Promise.race([said, settled()]), undefined);
  assert.deepEqual(events.at(-1), { type: 'message', text: '안녕히 계세요', mine: false });
  const next = await again(socket);
  next.give({ welcome: { ...WELCOME, seq: 0, recovered: true } });
  await assert.rejects(said, code('unconfirmed'));
  chat.close();
});
