// Where is my transcript? All callbacks that the inboxes have, found by what one knows of them.

import { badge, bytes, count, empty, h, number, setText, table, when } from './dom.js';
import { get, post, remove } from './api.js';
import { confirm } from './dialog.js';

const pageSize = 50;
const progressPause = 500; // milliseconds

const states = { '': 'any state', pending: 'waiting', dead: 'dead letters', delivered: 'delivered' };
const periods = { '': 'any time', '15m': 'the last 15 minutes', '1h': 'the last hour', '24h': 'the last 24 hours', '168h': 'the last 7 days' };
const filterNames = ['request_id', 'path', 'route', 'state', 'user', 'since', 'until'];

export function show(page, { parameters }) {
	const filter = Object.fromEntries(filterNames.map((name) => [name, parameters.get(name) ?? '']));
	const list = h('div', { 'aria-live': 'polite' });
	const actions = h('div', { class: 'buttons' });
	page.append(h('h1', {}, 'Callbacks'), form(filter), actions, list);
	load(list, filter);
	get('overview').then((overview) => {
		offerRoutes(page, overview, filter);
		if (!overview.read_only) actions.append(...bulkActions(filter, () => load(list, filter)));
	}, () => { /* the list says that the gateway does not answer */ });
}

function form(filter) {
	const option = (value, text, chosen) => h('option', { value, selected: value === chosen }, text);
	const since = filter.since in periods ? periods : { ...periods, [filter.since]: `since ${filter.since}` };
	return h('form', {
		class: 'filter', role: 'search',
		onsubmit: (event) => {
			event.preventDefault();
			const wanted = [...new FormData(event.target)].filter(([, value]) => value !== '');
			location.hash = `#/callbacks?${new URLSearchParams(wanted)}`;
		},
	},
	h('label', {}, 'Request id', h('input', { name: 'request_id', type: 'search', value: filter.request_id, spellcheck: 'false', autocomplete: 'off', placeholder: 'as Deepgram gave it' })),
	h('label', {}, 'Route', h('select', { name: 'route' }, option('', 'any route', filter.route), filter.route ? option(filter.route, filter.route, filter.route) : null)),
	h('label', {}, 'State', h('select', { name: 'state' }, Object.entries(states).map(([value, text]) => option(value, text, filter.state)))),
	h('label', {}, 'Received', h('select', { name: 'since' }, Object.entries(since).map(([value, text]) => option(value, text, filter.since)))),
	['path', 'user', 'until'].map((name) => filter[name] ? h('input', { type: 'hidden', name, value: filter[name] }) : null),
	h('button', { type: 'submit', class: 'primary' }, 'Find'),
	h('a', { href: '#/callbacks' }, 'Show all'));
}

function offerRoutes(page, overview, filter) {
	const select = page.querySelector('select[name=route]');
	for (const name of new Set(overview.routes.map((route) => route.route))) {
		if (name !== filter.route) select.append(h('option', { value: name }, name));
	}
}

async function load(place, filter) {
	const list = h('div'); // of this time: an answer to an earlier question is not drawn over it
	place.replaceChildren(list);
	list.append(h('p', {}, 'Looking …'));
	const rows = h('tbody');
	const more = h('button', { type: 'button' }, 'Older ones');
	let after = '';

	async function next() {
		more.disabled = true;
		try {
			const found = await get('spool/messages', { ...filter, order: 'newest', limit: pageSize, after });
			rows.append(...found.map(row));
			after = found.at(-1)?.id ?? after;
			more.hidden = found.length < pageSize;
			return found.length;
		} finally {
			more.disabled = false;
		}
	}

	const problem = h('p', { role: 'status', class: 'error' });
	more.addEventListener('click', () => next().then(() => setText(problem, ''), (error) => setText(problem, error.message)));
	try {
		if (await next() === 0) {
			list.replaceChildren(nothing(filter));
			return;
		}
	} catch (error) {
		list.replaceChildren(h('p', { class: 'error' }, error.message));
		return;
	}
	const shown = table('Callbacks, the newest first',
		['Received', 'State', 'Route', 'Request', 'Request id', { title: 'Size', class: 'number' }, { title: 'Attempts', class: 'number' }, 'Last error'], []);
	shown.querySelector('tbody').replaceWith(rows);
	list.replaceChildren(shown, more, problem);
}

function nothing(filter) {
	const filtered = Object.values(filter).some((value) => value !== '');
	if (filter.request_id) {
		return empty('No callback with this request id is here.',
			'It was delivered and not kept (spool has keep for that), or it was refused (see Refusals), or it did not come yet. Deepgram’s request log says how often it tried.');
	}
	return filtered
		? empty('Nothing matches.', 'Take a condition away, or look at all of them.')
		: empty('The inbox is empty.', 'Delivered callbacks stay to be looked at where spool has keep, as in keep 24h.');
}

function row(message) {
	return h('tr', {},
		h('td', {}, when(message.received_at)),
		h('td', {}, state(message)),
		h('td', {}, message.route),
		h('td', { class: 'long' }, h('a', { href: `#/callback/${encodeURIComponent(message.id)}` }, `${message.method} ${message.uri}`)),
		h('td', { class: 'code' }, message.request_id || '–'),
		h('td', { class: 'number' }, bytes(message.size)),
		h('td', { class: 'number' }, number(message.attempts)),
		h('td', { class: 'long' }, h('span', {}, message.last_error || '–')));
}

/** In a word where a callback is in its life. */
export function state(message) {
	if (message.state === 'dead') return badge('bad', 'dead');
	if (message.state === 'delivered') return badge('good', 'delivered');
	return message.attempts > 0 ? badge('warn', 'retrying') : badge('plain', 'waiting');
}

function bulkActions(filter, changed) {
	const kind = filter.state === 'pending' || filter.state === '' ? null : filter.state;
	if (!kind) return [h('p', { class: 'hint' }, 'Choose dead letters or delivered ones to send all of them again.')];
	const name = kind === 'dead' ? 'dead letter' : 'delivered callback';
	const problem = h('p', { role: 'status', class: 'error' });
	const run = async (title, action, danger, text, act) => {
		setText(problem, '');
		let n;
		try {
			({ count: n } = await get('spool/count', filter));
		} catch (error) {
			setText(problem, error.message);
			return;
		}
		if (!problem.isConnected) return; // somebody went on meanwhile
		if (await confirm({ title: `${title} ${count(n, name)}?`, text, action, danger, act: (progress) => act(n, progress) })) changed();
	};
	const buttons = [h('button', {
		type: 'button',
		onclick: () => run('Send again', 'Send again', false,
			['Each is delivered to its service once more, with the webhook-id that it had. Callbacks that come in meanwhile go first.'],
			(n, progress) => replay(filter, progress)),
	}, 'Send all of these again …')];
	if (kind === 'dead') {
		buttons.push(h('button', {
			type: 'button', class: 'danger',
			onclick: () => run('Drop', 'Drop', true, ['They are forgotten. Deepgram keeps no transcript, so there is no other copy.'],
				async () => `Dropped ${count((await remove('spool/messages', filter)).dropped, name)}.`),
		}, 'Drop all of these …'));
	}
	return [...buttons, problem];
}

/** Begins a replay and tells how far it is until it ends. Closing the dialog does not stop it. */
async function replay(filter, progress) {
	let job = await post('spool/replay', { ...filter, wait: false });
	while (job.state === 'running') {
		progress(`${number(job.replayed)} of ${number(job.selected)} …`);
		await new Promise((resolve) => { setTimeout(resolve, progressPause); });
		job = (await get('spool/replays')).find((other) => other.id === job.id) ?? { ...job, state: 'done' };
	}
	if (job.state === 'failed') throw new Error(`After ${number(job.replayed)}: ${job.error}`);
	return `${count(job.replayed, 'callback')} will be sent again.`;
}
