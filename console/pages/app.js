// Which page is shown. An address is #/name, #/name/id or #/name?parameters; each page is a module
// of its own, loaded when it is first wanted:
//
//	export function show(page, { id, parameters }) → a function that ends what the page began, or nothing
//
// What a page shows is all in an element of its own. That is taken away when somebody goes on, so that
// an answer which comes late is drawn where nobody sees it, and never over another page.

import { h, tellAges } from './dom.js';
import { tellConnection } from './api.js';

const pages = {
	'': { title: 'Overview', load: () => import('./overview.js') },
	callbacks: { title: 'Callbacks', load: () => import('./callbacks.js') },
	callback: { title: 'Callback', within: 'callbacks', load: () => import('./callback.js') },
	streams: { title: 'Streams', load: () => import('./streams.js') },
	refusals: { title: 'Refusals', load: () => import('./refusals.js') },
};

const main = document.getElementById('main');
let end = null;
let turn = 0;

async function route() {
	if (location.hash && !location.hash.startsWith('#/')) return;
	const [path, parameters = ''] = location.hash.slice(2).split('?');
	const [name, id] = path.split('/').map(decodeURIComponent);
	const page = pages[name];
	const mine = ++turn;

	end?.();
	end = null;
	document.querySelector('dialog[open]')?.close(); // its question was about the page before
	tellConnection('', '');
	for (const link of document.querySelectorAll('nav a')) {
		const here = link.getAttribute('href') === `#/${page?.within ?? name}`;
		if (here) link.setAttribute('aria-current', 'page');
		else link.removeAttribute('aria-current');
	}
	if (!page) {
		main.replaceChildren(h('h1', {}, 'No such page'), h('p', {}, h('a', { href: '#/' }, 'Go to the overview')));
		return;
	}
	document.title = `${page.title} – Deepgram callbacks`;
	try {
		const module = await page.load();
		if (mine !== turn) return; // somebody went on meanwhile
		const shown = h('div');
		main.replaceChildren(shown);
		end = module.show(shown, { id, parameters: new URLSearchParams(parameters) }) ?? null;
	} catch (error) {
		if (mine !== turn) return;
		main.replaceChildren(h('h1', {}, 'The gateway does not answer'), h('p', {}, error.message),
			h('p', {}, h('button', { type: 'button', onclick: route }, 'Try again')));
	}
}

addEventListener('hashchange', () => {
	route();
	main.focus({ preventScroll: true });
	scrollTo(0, 0);
});
document.getElementById('skip').addEventListener('click', () => main.focus());
setInterval(() => document.hidden || tellAges(), 1000);
route();
