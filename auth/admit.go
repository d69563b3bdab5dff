// The decision: which of the configured credentials a request carries, and
// whether that is enough.

package auth

import (
	"net/http"
	"net/netip"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-deepgram/deepgram-callback/internal/sender"
)

// Admission is what is known of a caller that is let in or, with BodySecret, may
// be.
type Admission struct {
	// The username of the account, where Basic Auth has let the caller in.
	User string

	// Whether the callback secret in the body still has to be right: VerifyBody
	// or, for a WebSocket, VerifyMessage has to succeed before any byte of the
	// body goes on.
	BodySecret bool

	// Whether header and query alone have carried a right credential.
	Identified bool
}

// Identify makes the name of the caller's account known to the access log and to other handlers,
// as Caddy's own authentication does.
func (a Admission) Identify(r *http.Request) {
	if a.User == "" {
		return
	}
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set("http.auth.user.id", a.User)
	}
}

// verdict is what one check says about its credential.
type verdict int

const (
	notConfigured verdict = iota
	absent
	wrong
	right
	undecided // hashing the password has to tell
)

// judge is a provisioned Policy. The checks that are not configured are nil, and
// say so when they are asked.
type judge struct {
	requireAny bool
	anonymous  bool
	basic      *basicCheck
	token      *tokenCheck
	query      *queryCheck
	body       digestSet
	secrets    *secretGuesses
	challenges []string
}

// Admit checks the credentials in the header and the query of a request, the cheapest first. The
// error is a *Refusal. Admit blocks only for a password that has to be hashed: while it waits for
// its turn, which it does for 5 seconds at most, while it is hashed, or until the request is
// cancelled.
func (p *Policy) Admit(r *http.Request) (Admission, error) {
	j := p.judge
	token := j.token.check(r.Header)
	if token == wrong && j.token.ifPresent {
		return Admission{}, j.refuseHeaders(r, ReasonDGTokenWrong)
	}
	if j.anonymous {
		return Admission{}, nil
	}
	query := j.query.check(r.URL.RawQuery)
	login, basic := j.basic.check(r.Header)
	if j.requireAny {
		return j.admitAny(r, token, query, basic, login)
	}
	return j.admitAll(r, token, query, basic, login)
}

// admitAll requires every configured credential to be right, and has a password
// hashed only when everything else in header and query is.
func (j *judge) admitAll(
	r *http.Request, token, query, basic verdict, login login,
) (Admission, error) {
	if token == absent && j.token.ifPresent {
		token = notConfigured
	}
	if reason := firstReason(token, query, basic); reason != "" {
		return Admission{}, j.refuseHeaders(r, reason)
	}
	if basic == undecided {
		if refusal := j.hash(r, login); refusal != nil {
			return Admission{}, refusal
		}
	}
	identified := token == right || query == right || basic != notConfigured
	return Admission{User: login.username, BodySecret: j.body != nil, Identified: identified}, nil
}

// admitAny requires one credential to be right. If none in header and query is,
// the one in the body decides, where that is configured.
func (j *judge) admitAny(
	r *http.Request, token, query, basic verdict, login login,
) (Admission, error) {
	if basic == right {
		return Admission{User: login.username, Identified: true}, nil
	}
	if token == right || query == right {
		return Admission{Identified: true}, nil
	}
	var refusal *Refusal
	if basic == undecided {
		if refusal = j.hash(r, login); refusal == nil {
			return Admission{User: login.username, Identified: true}, nil
		}
	}
	switch {
	case j.body != nil:
		return Admission{BodySecret: true}, nil
	case refusal != nil:
		return Admission{}, refusal
	}
	return Admission{}, j.refuseHeaders(r, mostTelling(token, query, basic))
}

// hash has the password of a login hashed, and returns nil if it is right.
func (j *judge) hash(r *http.Request, login login) *Refusal {
	outcome := j.basic.hashed.check(r, login)
	switch outcome.reason {
	case "":
		return nil
	case ReasonGuessLimit, ReasonHashQueue:
		return &Refusal{
			Status:     http.StatusTooManyRequests,
			RetryAfter: outcome.retryAfter,
			Reason:     outcome.reason,
		}
	default:
		refusal := j.refuse(outcome.reason)
		refusal.Cause = outcome.cause
		return refusal
	}
}

// refuseHeaders is the refusal for what stands in header and query. A wrong token
// or query secret is counted as a guess.
func (j *judge) refuseHeaders(r *http.Request, reason string) *Refusal {
	switch reason {
	case ReasonDGTokenWrong:
		return j.refuseGuess(sender.Network(r), reason, j.token.tried(r.Header))
	case ReasonQuerySecretWrong:
		return j.refuseGuess(sender.Network(r), reason, j.query.tried(r.URL.RawQuery))
	}
	return j.refuse(reason)
}

// refuseGuess is the refusal of a wrong secret, or of one more than an address may
// try; tried stands for the secret.
func (j *judge) refuseGuess(address netip.Prefix, reason string, tried digest) *Refusal {
	if retryAfter, tooMany := j.secrets.count(address, tried); tooMany {
		return &Refusal{
			Status:     http.StatusTooManyRequests,
			RetryAfter: retryAfter,
			Reason:     ReasonGuessLimit,
		}
	}
	return j.refuse(reason)
}

func (j *judge) refuse(reason string) *Refusal {
	return &Refusal{Status: http.StatusUnauthorized, Challenges: j.challenges, Reason: reason}
}

// firstReason is the reason to refuse by the first credential that is missing or
// wrong, in the order in which they are checked, or "".
func firstReason(token, query, basic verdict) string {
	switch {
	case token == absent:
		return ReasonDGTokenMissing
	case token == wrong:
		return ReasonDGTokenWrong
	case query == absent:
		return ReasonQuerySecretMissing
	case query == wrong:
		return ReasonQuerySecretWrong
	case basic == absent:
		return ReasonBasicAuthMissing
	case basic == wrong:
		return ReasonBasicAuthWrong
	}
	return ""
}

// mostTelling is the reason to refuse by the first credential that is wrong or,
// where none is, by the first that is missing.
func mostTelling(token, query, basic verdict) string {
	onlyWrong := func(v verdict) verdict {
		if v == absent {
			return notConfigured
		}
		return v
	}
	if reason := firstReason(onlyWrong(token), onlyWrong(query), onlyWrong(basic)); reason != "" {
		return reason
	}
	return firstReason(token, query, basic)
}
