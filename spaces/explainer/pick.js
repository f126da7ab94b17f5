// Pickers: a click sends the index of the button to the server, and arrow keys move the focus.
const buttons = () => [...element.querySelectorAll('[data-pick]')];

element.addEventListener('click', async (event) => {
  const copy = event.target.closest('[data-copy]');
  if (copy) {
    const code = copy.parentElement.querySelector('code');
    try {
      await navigator.clipboard.writeText(code.textContent);
      copy.textContent = 'Copied';
    } catch {  // the clipboard needs HTTPS; select the code instead, for the keyboard
      getSelection().selectAllChildren(code);
      copy.textContent = 'Selected: press Ctrl+C';
    }
    return;
  }
  const button = event.target.closest('[data-pick]');
  if (!button) return;
  for (const each of buttons()) {
    if (each.hasAttribute('aria-pressed')) each.setAttribute('aria-pressed', each === button);
    each.tabIndex = each === button ? 0 : -1;
  }
  trigger('select', { index: Number(button.dataset.pick) });
});

element.addEventListener('keydown', (event) => {
  const all = buttons();
  const current = all.indexOf(document.activeElement);
  if (current < 0) return;
  const columns = element.querySelector('.map') ? element.querySelectorAll('tbody tr:first-child [data-pick]').length : 1;
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
  const to = event.key === 'Home' ? 0 : event.key === 'End' ? all.length - 1 : current + (steps[event.key] ?? 0);
  if (to === current || !(to in all)) return;
  event.preventDefault();
  all[current].tabIndex = -1;
  all[to].tabIndex = 0;
  all[to].focus();
});
