/**
 * Lines: the meaning of a typed text, and text of others made safe to show. Pure.
 *
 * The commands are those of `mpchat chat`. Chat text is hostile: it enters a page only as the text of a node, and
 * only in the pieces that {@link pieces} returns.
 */

import { LONGEST_SANCTION } from './mpchat.js';

/** The beginning of a text that says what its sender does; it travels like any other text. */
export const ACTION = '/me ';
/** How many colours a name can have; see `--name-0` and so on in style.css. */
export const COLOURS = 10;

// A name, and maybe for how long: a number of seconds, or with a unit.
const SANCTION = /^(?<target>\S+)(?:\s+for\s+(?<count>\d+(?:\.\d+)?)\s*(?<unit>[A-Za-z]*))?$/;
const SECONDS = { '': 1, s: 1, ms: 0.001, m: 60, h: 3600 };

// Format characters that real text needs: the two joiners (Indic scripts, Persian, emoji families), the soft hyphen.
// All others of these categories are invisible or reorder the text around them. As in mpchat/text.py.
const HIDDEN = /(?![\u200c\u200d\u00ad])[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}]/gu;
const HIDDEN_IN_TEXT = /(?![\u200c\u200d\u00ad\n\t])[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}]/gu;

/**
 * Return what a typed text asks for, as an object with `what`; null for a blank one.
 *
 * `say` {text}, `tell` {name, text}, `enter` {room}, `who`, `rooms`, `help`, `quit`, `moderate` {action, target, and
 * maybe seconds}, `incomplete` {word}, `unknown` {word}.
 */
export function parse(text) {
  if (!text.trim()) return null;
  if (text.startsWith('//')) return { what: 'say', text: text.slice(1) };
  if (!text.startsWith('/')) return { what: 'say', text };
  const [, word, argument] = /^(\S+)\s*([^]*)$/.exec(text.trimEnd());
  switch (word) {
    case '/quit':
    case '/help':
    case '/who':
    case '/rooms':
      return { what: word.slice(1) };
    case '/join':
      return argument ? { what: 'enter', room: argument } : { what: 'incomplete', word };
    case '/me':
      return argument ? { what: 'say', text: ACTION + argument } : { what: 'incomplete', word };
    case '/msg': {
      const [, name, rest] = /^(\S*)\s*([^]*)$/.exec(argument);
      return rest ? { what: 'tell', name, text: rest } : { what: 'incomplete', word };
    }
    case '/kick':
    case '/unban':
    case '/unmute':
    case '/close':
      return /^\S+$/.test(argument) ? { what: 'moderate', action: word.slice(1), target: argument } : { what: 'incomplete', word };
    case '/ban':
    case '/mute':
      return sanction(word, argument) ?? { what: 'incomplete', word };
    default:
      return { what: 'unknown', word };
  }
}

/** Return what `/ban NAME [for 10m]` asks for, null when it is written in another way. */
function sanction(word, argument) {
  const found = SANCTION.exec(argument);
  if (!found) return null;
  const { target, count, unit } = found.groups;
  const asked = { what: 'moderate', action: word.slice(1), target };
  if (count === undefined) return asked;
  const seconds = Number(count) * SECONDS[unit.toLowerCase()];
  return seconds >= 1 && seconds <= LONGEST_SANCTION ? { ...asked, seconds } : null;
}

function escaped(char) {
  if (char === '\n') return '\\n';
  if (char === '\t') return '\\t';
  const code = char.codePointAt(0);
  if (code <= 0xff) return `\\x${code.toString(16).padStart(2, '0')}`;
  return code <= 0xffff ? `\\u${code.toString(16).padStart(4, '0')}` : `\\U${code.toString(16).padStart(8, '0')}`;
}

/** Return a name or a server's line with a backslash escape for each character that does not print. */
export function visible(text) {
  return text.replace(HIDDEN, escaped);
}

/** Cut a message's text into pieces `{text, hidden}`; hidden ones are escapes. Line breaks and tabs stay. */
export function pieces(text) {
  const found = [];
  let begin = 0;
  const whole = text.replaceAll('\r\n', '\n');
  for (const match of whole.matchAll(HIDDEN_IN_TEXT)) {
    if (match.index > begin) found.push({ text: whole.slice(begin, match.index), hidden: false });
    const last = found.at(-1);
    if (last?.hidden) last.text += escaped(match[0]);
    else found.push({ text: escaped(match[0]), hidden: true });
    begin = match.index + match[0].length;
  }
  if (begin < whole.length) found.push({ text: whole.slice(begin), hidden: false });
  return found;
}

/** Return the number of a name's colour: the same on each screen and each day. */
export function colour(name) {
  let hash = 2166136261;
  for (const char of name.normalize('NFC').toLowerCase()) {
    hash = Math.imul(hash ^ char.codePointAt(0), 16777619);
  }
  return ((hash ^ (hash >>> 15)) >>> 0) % COLOURS;
}
