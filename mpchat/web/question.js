/** Question: a dialog that asks before something that is hard to take back. */

const $ = (id) => document.getElementById(id);

/**
 * Ask, and return a promise of true or false. Escape means no, and no has the focus at first. Afterwards the focus is
 * where it was, if that is still there.
 */
export function ask({ title, text, yes }) {
  const dialog = $('question');
  $('question-title').textContent = title;
  $('question-text').textContent = text;
  $('question-yes').textContent = yes;
  dialog.returnValue = '';
  dialog.showModal();
  $('question-no').focus();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes'), { once: true });
  });
}

$('question-no').addEventListener('click', () => $('question').close(''));
$('question-yes').addEventListener('click', () => $('question').close('yes'));
