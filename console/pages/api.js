// The gateway's answers. All addresses are relative to the page, so that the console works below
// any path. They are made whole here without the user and the password that the page's own address
// may have: fetch refuses such ones.

const here = new URL('.', location.origin + location.pathname);
const addressOf = (path) => new URL(`api/${path}`, here).href;

/** An answer that says no, in the gateway's words. */
export class Refused extends Error {
	constructor(status, message) {
		super(message);
		this.status = status;
	}
}

/** Parameters for a URL; those without a value are left out. */
export function query(parameters) {
	const given = Object.entries(parameters ?? {}).filter(([, value]) => value !== '' && value !== null && value !== undefined);
	return given.length > 0 ? `?${new URLSearchParams(given)}` : '';
}

async function ask(path, options) {
	const response = await fetch(addressOf(path), {
		...options,
		// A page of another origin cannot send this field without asking first.
		headers: { 'Deepgram-Console': '1' },
		credentials: 'same-origin',
		cache: 'no-store',
	});
	if (response.ok) return response;
	let message = `${response.status} ${response.statusText}`;
	try {
		message = (await response.json()).error ?? message;
	} catch {
		// Something before the gateway answered, or nothing did.
	}
	throw new Refused(response.status, message);
}

async function answer(path, options) {
	const response = await ask(path, options);
	return response.status === 204 || response.headers.get('Content-Length') === '0' ? null : response.json();
}

export const get = (path, parameters, signal) => answer(path + query(parameters), { signal });
export const post = (path, parameters) => answer(path + query(parameters), { method: 'POST' });
export const remove = (path, parameters) => answer(path + query(parameters), { method: 'DELETE' });

/**
 * Has something done once at a time: who asks for it meanwhile has it done once more afterwards. So
 * no answer that comes late is drawn over a newer one.
 */
export function onceAtATime(act) {
	let busy = false;
	let wanted = false;
	return async () => {
		wanted = true;
		if (busy) return;
		busy = true;
		try {
			while (wanted) {
				wanted = false;
				await act();
			}
		} finally {
			busy = false;
		}
	};
}

export const bodyOf = async (id) => (await ask(`spool/messages/${encodeURIComponent(id)}/body`)).arrayBuffer();

/** Where a body is to be saved from. */
export const bodyAddress = (id) => addressOf(`spool/messages/${encodeURIComponent(id)}/body`);

const connection = document.getElementById('connection');

/** Says at the top of the page whether what it shows is up to date. */
export function tellConnection(state, text) {
	connection.className = state;
	if (connection.textContent !== text) connection.textContent = text;
}

const retryPause = 3000;
const pollPause = 5000;
const firstEvent = 5000; // comes at once, unless something on the way keeps events back
const silence = 40_000; // the gateway gives a sign of life every 15 seconds

/**
 * Follows a resource for as long as the page is looked at: by server-sent events, or by asking again
 * where something on the way does not let those through. Returns a function that ends it.
 */
export function follow(topic, show) {
	let source = null;
	let asking = null;
	let timer = 0;
	let failures = 0;
	let ended = false;

	function shown(data) {
		failures = 0;
		tellConnection('live', 'Live');
		show(data);
	}

	function lost() {
		stop();
		failures++;
		tellConnection('lost', 'The gateway does not answer. Trying again …');
		timer = setTimeout(start, retryPause);
	}

	// A connection may be gone without anybody having said so, as when the computer has slept.
	function heard() {
		clearTimeout(timer);
		timer = setTimeout(lost, silence);
	}

	async function poll() {
		asking = new AbortController();
		const { signal } = asking; // of this time
		try {
			const data = await get(topic, null, AbortSignal.any([signal, AbortSignal.timeout(silence)]));
			if (signal.aborted) return;
			shown(data);
			timer = setTimeout(poll, pollPause);
		} catch (error) {
			if (signal.aborted) return;
			if (error instanceof Refused && error.status < 500) tellConnection('lost', error.message);
			else lost();
		}
	}

	function listen() {
		source = new EventSource(addressOf(`events?topic=${topic}`));
		source.addEventListener('message', (event) => {
			heard();
			shown(JSON.parse(event.data));
		});
		source.addEventListener('alive', heard);
		source.addEventListener('error', lost);
		timer = setTimeout(() => {
			failures = 1; // next it is asked for without events
			lost();
		}, firstEvent);
	}

	function start() {
		stop();
		if (ended || document.hidden) return;
		if (failures > 0 && failures % 2 === 0) poll(); // events may be what does not get through
		else listen();
	}

	function stop() {
		clearTimeout(timer);
		source?.close();
		source = null;
		asking?.abort();
		asking = null;
	}

	// A page that nobody sees costs nothing.
	document.addEventListener('visibilitychange', start);
	start();
	return () => {
		ended = true;
		stop();
		document.removeEventListener('visibilitychange', start);
	};
}
