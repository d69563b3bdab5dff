package app

import (
	"maps"
	"slices"

	"github.com/caddy-deepgram/deepgram-callback/auth"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// The reasons of refusals that neither [auth] nor [spool] has.
const (
	ReasonTarget       = "target"
	ReasonPort         = "port"
	ReasonMethod       = "method"
	ReasonMaxBody      = "max_body"
	ReasonBody         = "body"
	ReasonUnwritable   = "unwritable"
	ReasonHandshake    = "handshake"
	ReasonMaxStreams   = "max_streams"
	ReasonShuttingDown = "shutting_down"
	ReasonSpoolClosed  = "spool_closed"
)

// remedies has every reason for which a callback is refused: in words what it means,
// and after a colon what an operator does about it.
var remedies = map[string]string{
	ReasonTarget: "the request's target is no path that a callback can have: " +
		"correct the callback URL; where it has none such, this was no callback, but a scanner",
	ReasonPort: "the port is not among ports: add that of the callback URL; " +
		"behind a load balancer, have it send X-Forwarded-Port, and make it a trusted proxy",
	ReasonMethod: "the method is not among methods, or streams are off: add PUT to methods " +
		"for callback_method=put; take stream off away for live streams",

	auth.ReasonBasicAuthMissing: "no user name and password came: put them into the callback URL, " +
		"https://USER:PASSWORD@…; see that nothing in between takes Authorization away",
	auth.ReasonBasicAuthWrong: "the password is wrong: compare it, and the user name, " +
		"with those in the callback URL; keep the old one beside the new one until nobody comes " +
		"with it; if it never was right, somebody guesses",
	auth.ReasonBasicAuthError: "the password could not be compared: the log line has the error; " +
		"look at the hash in basic_auth",
	auth.ReasonDGTokenMissing: "no dg-token header came: " +
		"see that nothing in between takes it away; " +
		"where others than Deepgram call, use if_present and a second credential",
	auth.ReasonDGTokenWrong: "dg-token names another API key: " +
		"give dg_token the identifier of the key with which requests are submitted, which is not " +
		"the key itself",
	auth.ReasonQuerySecretMissing: "the parameter of query_secret is missing: " +
		"submit with it in the callback URL; see that its & and = are escaped there",
	auth.ReasonQuerySecretWrong: "the secret in the query is wrong: " +
		"compare query_secret with the callback URL; keep the old one beside the new one until " +
		"nobody comes with it",
	auth.ReasonCallbackSecretMissing: "there is no callback secret in the body: " +
		"submit with extra=callback_secret:SECRET",
	auth.ReasonCallbackSecretWrong: "the callback secret in the body is wrong: " +
		"compare callback_secret with the extra that was submitted; keep the old one beside the " +
		"new one until nobody comes with it",
	auth.ReasonCallbackSecretNotJSON: "the body is no JSON object, such as audio: " +
		"callback_secret is for results of speech-to-text; use another credential",
	auth.ReasonGuessLimit: "too many wrong guesses from this address: " +
		"correct the credential that comes from there; what is right passes nevertheless",
	auth.ReasonHashQueue: "too many unknown passwords at a time: " +
		"it is tried again; basic_auth plain hashes nothing and so has no such limit",

	ReasonMaxBody: "the body is larger than max_body: raise max_body",
	ReasonBody: "the body broke off or was malformed: " +
		"look at the network and at what stands between the sender and here",
	auth.ReasonBodyTimeout: "the body came too slowly while its secret was searched: " +
		"look at the network and at what stands between the sender and here",
	auth.ReasonCallbackSecretStorage: "there is no room for more bodies whose secret is searched: " +
		"it is tried again; a credential in the URL needs no room",
	ReasonUnwritable: "header_up or a rewrite makes of the request what is no HTTP: " +
		"look at the placeholders in it",

	ReasonHandshake: "the WebSocket handshake is malformed: " +
		"see that what stands in between passes HTTP/1.1 upgrades on as they are",
	ReasonMaxStreams: "as many streams are live as max_streams allows: " +
		"raise it, or look in streams list for streams that should have ended",
	ReasonShuttingDown: "the gateway was shutting down: nothing; new streams go to the next process",

	ReasonSpoolClosed: "the inbox was closed just then, by a reload or a shutdown: " +
		"it is tried again; if it goes on, the log says why the inbox does not open",
	string(spool.ReasonFull): "the inbox is full: deliver what waits, or raise max_size",
	string(spool.ReasonDisk): "the file system of the inbox is full: make room there",
	string(spool.ReasonSync): "the disk could not confirm what was written to the inbox: " +
		"look at the disk, and at the kernel's log",
	string(spool.ReasonWrite): "writing to the inbox failed: the log line has the error; " +
		"look at the disk, and at the kernel's log",
	string(spool.ReasonUnavailable): "the database of the inbox cannot be reached: " +
		"look at the database and the network; it is tried again, and everything goes on by itself",
	string(spool.ReasonDamaged): "the inbox is damaged on disk: look at the disk; " +
		"caddy deepgram-callback spool recover saves what is whole",
}

// Reasons are all reasons for which a callback is refused, in alphabetical order.
func Reasons() []string { return slices.Sorted(maps.Keys(remedies)) }

// Remedy says what a reason means, and after a colon what to do about it. It is
// empty for what is no reason.
func Remedy(reason string) string { return remedies[reason] }
