// One callback: what came, what became of it, and its body for those who ask for it.

import { bytes, count, details, duration, h, table, when } from './dom.js';
import { bodyAddress, bodyOf, get, onceAtATime, post, remove } from './api.js';
import { confirm } from './dialog.js';
import { state } from './callbacks.js';
import { showBody } from './body.js';

export function show(page, { id }) {
	const draw = onceAtATime(async () => {
		let message;
		let overview;
		try {
			[message, overview] = await Promise.all([get(`spool/messages/${encodeURIComponent(id)}`), get('overview')]);
		} catch (error) {
			page.replaceChildren(h('h1', {}, 'Callback'), h('p', { class: 'error' }, error.message),
				h('p', {}, 'It was delivered and not kept, or dropped. ', h('a', { href: '#/callbacks' }, 'Look at all callbacks')));
			return;
		}
		page.replaceChildren(
			h('p', {}, h('a', { href: '#/callbacks' }, '← Callbacks')),
			h('h1', { class: 'code' }, message.id), h('p', {}, state(message)),
			overview.read_only ? '' : actions(message, draw, gone),
			h('h2', {}, 'What came'), facts(message),
			h('h2', {}, 'Header'), header(message.header ?? {}),
			h('h2', {}, 'Attempts'), attempts(message),
			h('h2', {}, 'Body'), body(message));
	});
	const gone = () => { if (page.isConnected) location.hash = '#/callbacks'; };
	draw();
}

function facts(message) {
	return details([
		['Received', when(message.received_at)],
		['Request', h('span', { class: 'code' }, `${message.method} ${message.uri}`)],
		['Host', message.host],
		['User', message.user],
		['Route', message.route],
		['Request id', message.request_id ? h('span', { class: 'code' }, message.request_id) : null],
		['Type', message.content_type],
		['Size', bytes(message.size)],
		['Next attempt', message.next_attempt_at ? when(message.next_attempt_at) : null],
		['Delivered', message.delivered_at ? when(message.delivered_at) : null],
		['Given up', message.died_at ? when(message.died_at) : null],
		['Last error', message.last_error],
	]);
}

function header(fields) {
	const names = Object.keys(fields).sort();
	if (names.length === 0) return h('p', {}, 'Nothing that may be shown.');
	return details(names.map((name) => [name, h('span', { class: 'code' }, fields[name].join('\n'))]));
}

function attempts(message) {
	const history = message.history ?? [];
	if (history.length === 0) return h('p', {}, message.state === 'pending' ? 'None yet: its turn has not come.' : 'None is known.');
	const withGateway = history.some((attempt) => attempt.gateway);
	const rows = history.map((attempt) => h('tr', { class: attempt.status >= 200 && attempt.status <= 299 ? 'good' : 'bad' },
		h('td', {}, when(attempt.at)),
		h('td', {}, attempt.status ? `answered ${attempt.status}` : attempt.error),
		h('td', { class: 'number' }, duration(attempt.took_seconds)),
		h('td', { class: 'code' }, attempt.upstream || '–'),
		withGateway ? h('td', {}, attempt.gateway || '–') : null));
	const columns = ['When', 'What came of it', { title: 'Took', class: 'number' }, 'Upstream'];
	const earlier = message.attempts - history.length;
	return h('div', {}, earlier > 0 ? h('p', {}, `The last ${history.length}; ${count(earlier, 'earlier one')} ${earlier === 1 ? 'is' : 'are'} not kept.`) : null,
		table('Attempts', withGateway ? [...columns, 'Gateway'] : columns, rows, { class: 'timeline' }));
}

// A transcript is about people: it is shown to those who ask for it.
function body(message) {
	const place = h('div', { 'aria-live': 'polite' });
	const open = h('button', {
		type: 'button',
		onclick: async () => {
			open.disabled = true;
			place.replaceChildren(h('p', {}, 'Fetching …'));
			try {
				place.replaceChildren(...showBody(message, await bodyOf(message.id)));
				open.remove();
			} catch (error) {
				place.replaceChildren(h('p', { class: 'error' }, error.message));
				open.disabled = false;
			}
		},
	}, `Show the body (${bytes(message.size)})`);
	return h('div', {}, h('div', { class: 'buttons' }, open, h('a', { href: bodyAddress(message.id), download: message.id }, 'Save it as a file')), place);
}

function actions(message, changed, gone) {
	const path = `spool/messages/${encodeURIComponent(message.id)}`;
	const again = {
		title: 'Send this callback again?', action: 'Send again',
		text: ['It is delivered to its service once more, with the webhook-id that it had.',
			message.state === 'delivered' ? 'The service took it before: it must be able to tell a repeat by its webhook-id.' : 'Its schedule of attempts begins anew.'],
		act: async () => {
			await post(`${path}/replay`);
			return 'It will be sent again.';
		},
	};
	const drop = {
		title: 'Drop this callback?', action: 'Drop', danger: true,
		text: ['It is forgotten. Deepgram keeps no transcript, so there is no other copy.'],
		act: async () => {
			await remove(path);
			return 'Dropped.';
		},
	};
	return h('div', { class: 'buttons' },
		h('button', { type: 'button', onclick: async () => await confirm(again) && changed() }, 'Send again …'),
		h('button', { type: 'button', class: 'danger', onclick: async () => await confirm(drop) && gone() }, 'Drop …'));
}
