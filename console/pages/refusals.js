// Why was that callback refused, and what to do about it?

import { bytes, empty, h, table, when } from './dom.js';
import { get, onceAtATime } from './api.js';

export function show(page) {
	const list = h('div', { 'aria-live': 'polite' });
	const draw = onceAtATime(async () => {
		let refusals;
		try {
			refusals = await get('refusals');
		} catch (error) {
			list.replaceChildren(h('p', { class: 'error' }, error.message));
			return;
		}
		list.replaceChildren(refusals.length === 0
			? empty('Nothing was refused since the gateway was started.')
			: table('Refused callbacks, the latest first', ['When', 'Reason', 'What to do', 'Answer', 'Request', 'From', { title: 'Size', class: 'number' }], refusals.map(row)));
	});
	page.append(h('h1', {}, 'Refusals'),
		h('p', {}, 'The last callbacks that were turned away since this gateway was started, the latest first.'),
		h('div', { class: 'buttons' }, h('button', { type: 'button', onclick: draw }, 'Look again')), list);
	draw();
}

function row(refusal) {
	return h('tr', {},
		h('td', {}, when(refusal.at)),
		h('td', { class: 'code' }, refusal.reason),
		h('td', { class: 'words' }, refusal.remedy),
		h('td', { class: 'number' }, String(refusal.status)),
		h('td', { class: 'long' }, h('span', {}, `${refusal.method} ${refusal.host}${refusal.path}`), h('small', {}, refusal.kind)),
		h('td', { class: 'code' }, refusal.client_ip),
		h('td', { class: 'number' }, refusal.size === undefined ? 'unknown' : bytes(refusal.size)));
}
