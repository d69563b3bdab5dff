package e2e_test

import (
	"testing"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
)

// hashedAuth has the hash of "correct horse", at the lowest cost.
const hashedAuth = "basic_auth {\ndeepgram " +
	"$2a$04$5grEWANqxjEPf3GUwGP6feXo64hsfDUQ4lAt95.4jYAM7f1vNrJPa\n}\n"

// attempt is what a request carries as credentials, and the status that it has to get.
type attempt struct {
	userinfo, query string
	submit          []string // parameters of the request
	noToken         bool     // the sender's dg-token is off
	status          int      // what the gateway answers; 200 is the service
}

func secret(value string) []string { return []string{"extra", "callback_secret:" + value} }

const (
	allOfThem = plainAuth + "dg_token " + apiKeyID +
		"\ncallback_secret s3cret-0123456789\nquery_secret key q-s3cret-0123456789\n"
	wrong = "deepgram:fedcba9876543210fedcba9876543210@"
)

var credentials = []struct {
	name     string
	gateway  string
	attempts map[string]attempt
}{
	{"basic_auth, hashed", hashedAuth, map[string]attempt{
		"right":          {userinfo: "deepgram:correct%20horse@", status: 200},
		"wrong password": {userinfo: "deepgram:battery%20staple@", status: 401},
		"unknown user":   {userinfo: "somebody:correct%20horse@", status: 401},
		"none":           {status: 401},
	}},
	{"basic_auth plain", plainAuth, map[string]attempt{
		"right":          {userinfo: login, status: 200},
		"wrong password": {userinfo: wrong, status: 401},
		"unknown user":   {userinfo: "somebody:" + password + "@", status: 401},
		"no password":    {userinfo: "deepgram@", status: 401},
		"none":           {status: 401},
	}},
	{"dg_token", "dg_token another-id " + apiKeyID, map[string]attempt{
		"right": {status: 200},
		"none":  {noToken: true, status: 401},
	}},
	{"dg_token of another key", "dg_token another-id", map[string]attempt{
		"wrong": {status: 401},
	}},
	{"dg_token if_present", plainAuth + "dg_token " + apiKeyID + " {\nif_present\n}",
		map[string]attempt{
			"right":                     {userinfo: login, status: 200},
			"none":                      {userinfo: login, noToken: true, status: 200},
			"none and a wrong password": {userinfo: wrong, noToken: true, status: 401},
			"right without a password":  {status: 401},
		}},
	{"dg_token of another key if_present", plainAuth + "dg_token another-id {\nif_present\n}",
		map[string]attempt{
			"wrong": {userinfo: login, status: 401},
			"none":  {userinfo: login, noToken: true, status: 200},
		}},
	{"callback_secret", "callback_secret new-s3cret-0123456789 s3cret-0123456789", map[string]attempt{
		"right":              {submit: secret("s3cret-0123456789"), status: 200},
		"the other of two":   {submit: secret("new-s3cret-0123456789"), status: 200},
		"wrong":              {submit: secret("s3cre"), status: 401},
		"empty":              {submit: secret(""), status: 401},
		"under another name": {submit: []string{"extra", "secret:s3cret-0123456789"}, status: 401},
		"in the text, not its place": {submit: []string{"tag", `"callback_secret":"s3cret-0123456789"`},
			status: 401},
		"none": {status: 401},
	}},
	{"query_secret", "query_secret key q-s3cret-0123456789", map[string]attempt{
		"right":                {query: "&key=q-s3cret-0123456789", status: 200},
		"wrong":                {query: "&key=q-s3cre", status: 401},
		"right and then wrong": {query: "&key=q-s3cret-0123456789&key=x", status: 401},
		"none":                 {status: 401},
	}},
	{"require all", allOfThem, map[string]attempt{
		"right": {userinfo: login, query: "&key=q-s3cret-0123456789",
			submit: secret("s3cret-0123456789"), status: 200},
		"a wrong password": {userinfo: wrong, query: "&key=q-s3cret-0123456789",
			submit: secret("s3cret-0123456789"), status: 401},
		"no dg-token": {userinfo: login, query: "&key=q-s3cret-0123456789",
			submit: secret("s3cret-0123456789"), noToken: true, status: 401},
		"a wrong callback secret": {userinfo: login, query: "&key=q-s3cret-0123456789",
			submit: secret("x"), status: 401},
		"no callback secret": {userinfo: login, query: "&key=q-s3cret-0123456789", status: 401},
		"a wrong query secret": {userinfo: login, query: "&key=x",
			submit: secret("s3cret-0123456789"), status: 401},
		"only the callback secret": {submit: secret("s3cret-0123456789"), noToken: true, status: 401},
	}},
	{"require any", allOfThem + "require any", map[string]attempt{
		"only the password":        {userinfo: login, noToken: true, status: 200},
		"only the dg-token":        {status: 200},
		"only the callback secret": {submit: secret("s3cret-0123456789"), noToken: true, status: 200},
		"only the query secret":    {query: "&key=q-s3cret-0123456789", noToken: true, status: 200},
		"one right, all else wrong": {
			userinfo: wrong, query: "&key=q-s3cret-0123456789", submit: secret("x"), noToken: true,
			status: 200,
		},
		"all wrong": {userinfo: wrong, query: "&key=x", submit: secret("x"), noToken: true, status: 401},
		"none":      {noToken: true, status: 401},
	}},
	{"anonymous", "anonymous", map[string]attempt{
		"nothing": {noToken: true, status: 200},
	}},
	{"methods", "anonymous\nmethods POST", map[string]attempt{
		"POST": {status: 200},
		"PUT":  {submit: []string{"callback_method", "put"}, status: 405},
	}},
	{"max_body", "anonymous\nmax_body 100B", map[string]attempt{
		"too large": {status: 413},
	}},
}

func TestOnlyTheRightCredentialsReachTheService(t *testing.T) {
	for _, test := range credentials {
		t.Run(test.name, func(t *testing.T) {
			// One sender sends dg-token and the other does not. Both call the same gateway.
			s, wire := newService(t), newTap(t)
			l := start(t, setup{upstream: s.addr, gateway: test.gateway, tap: wire, simulator: quick})
			tryAll(t, l, s, test.attempts, false)
			l.reload(func(s *setup) { s.simulator += "dg_token off\n" })
			tryAll(t, l, s, test.attempts, true)
		})
	}
}

func tryAll(t *testing.T, l *loop, s *service, attempts map[string]attempt, noToken bool) {
	t.Helper()
	for name, a := range attempts {
		if a.noToken != noToken {
			continue
		}
		before := s.connections.Load()
		id := l.transcribe(2,
			append(a.submit, "callback", l.callback("http", a.userinfo, "/hook?a=1"+a.query))...)
		statuses, delivered := l.attempts(id)
		require.Equal(t, a.status == 200, delivered, name)
		sent := take(t, l.setup.tap.requests)
		if delivered {
			require.Equal(t, []int{200}, statuses, name)
			got := take(t, s.requests)
			require.Equal(t, sent.body, got.body, name)
			require.Empty(t, got.header.Get("Authorization"), name)
		} else {
			require.Equal(t, []int{a.status, a.status, a.status, a.status}, statuses, name)
			require.Equal(t, before, s.connections.Load(), name)
			for range 3 {
				take(t, l.setup.tap.requests)
			}
		}
		require.Empty(t, s.requests, name)
	}
}

// The service gets the URL without the query secret.
func TestQuerySecretDoesNotReachTheService(t *testing.T) {
	s := newService(t)
	l := start(t, setup{upstream: s.addr, gateway: "query_secret key q-s3cret-0123456789"})
	l.transcribe(2, "callback",
		l.callback("http", "", "/hook?"+presigned+"&key=q-s3cret-0123456789&z=1"))
	require.Equal(t, "/hook?"+presigned+"&z=1", take(t, s.requests).target)
}

func TestOtherPortsAreRefused(t *testing.T) {
	s := newService(t)
	l := start(t, setup{upstream: s.addr, gateway: "anonymous", ports: "443 8443", simulator: quick})
	statuses, delivered := l.attempts(l.transcribe(2, "callback", l.callback("http", "", "/hook")))
	require.False(t, delivered)
	require.Equal(t, []int{403, 403, 403, 403}, statuses)
	_, _, err := l.dial("callback", l.callback("ws", "", "/live"))
	require.ErrorIs(t, err, websocket.ErrBadHandshake)
	require.Zero(t, s.connections.Load())
}

// A stream that is refused is refused in its handshake, and so is the speaker's.
func TestStreamWithoutTheRightCredentialsIsNeverOpened(t *testing.T) {
	for _, test := range []struct {
		name, gateway string
		attempt
	}{
		{"wrong hashed password", hashedAuth, attempt{userinfo: "deepgram:battery%20staple@"}},
		{"wrong plain password", plainAuth, attempt{userinfo: wrong}},
		{"no password", plainAuth, attempt{}},
		{"wrong dg-token", "dg_token another-id", attempt{}},
		{"wrong query secret", "query_secret key q-s3cret-0123456789", attempt{query: "&key=x"}},
		{"one of two wrong", plainAuth + "query_secret key q-s3cret-0123456789",
			attempt{userinfo: login, query: "&key=x"}},
		{"none of two right", plainAuth + "query_secret key q-s3cret-0123456789\nrequire any",
			attempt{userinfo: wrong, query: "&key=x"}},
		// The secret could come only in the messages, after the handshake.
		{"only a callback secret", "callback_secret s3cret-0123456789",
			attempt{submit: secret("s3cret-0123456789")}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newService(t)
			l := start(t, setup{upstream: s.addr, gateway: test.gateway})
			_, res, err := l.dial(append(test.submit, "callback",
				l.callback("ws", test.userinfo, "/live?a=1"+test.query))...)
			require.ErrorIs(t, err, websocket.ErrBadHandshake)
			require.Equal(t, 502, res.StatusCode)
			require.Equal(t, "handshake answered 401", l.waitFor("callback connection failed", nil)["error"])
			require.Zero(t, s.connections.Load())
		})
	}
}
