/**
 * Kept: what the page remembers. Last name, room and kind of proof for the form at the entrance; the rest for this
 * window, over a reload. Windows of one browser may have different names. A proof itself is never kept here.
 *
 * A browser may forbid storage: then nothing is remembered, and all else works.
 */

const PREFIX = 'mpchat.';

function storage(name) {
  try {
    return window[name];
  } catch {
    return undefined;
  }
}

function value(area, key) {
  return {
    get() {
      try {
        return storage(area).getItem(PREFIX + key) ?? '';
      } catch {
        return '';
      }
    },
    set(text) {
      try {
        if (text) storage(area).setItem(PREFIX + key, text);
        else storage(area).removeItem(PREFIX + key);
      } catch {
        // Not remembered.
      }
    },
  };
}

export const kept = {
  name: value('localStorage', 'name'),
  room: value('localStorage', 'room'),
  kind: value('localStorage', 'kind'),
  // Of this window: its own name and room, the token of the name, whether the member is in, and the text that is being written.
  ownName: value('sessionStorage', 'name'),
  ownRoom: value('sessionStorage', 'room'),
  token: value('sessionStorage', 'token'),
  inside: value('sessionStorage', 'inside'),
  draft: value('sessionStorage', 'draft'),
};
