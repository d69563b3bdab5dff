package auth

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func request(method, target string) *http.Request {
	r := httptest.NewRequest(method, target, nil)
	r.RemoteAddr = "192.0.2.1:1234"
	return r
}

// refusal requires err to be one.
func refusal(t testing.TB, err error) *Refusal {
	t.Helper()
	require.Error(t, err)
	refused, ok := errors.AsType[*Refusal](err)
	require.True(t, ok, "%T is no refusal: %v", err, err)
	return refused
}

const plainConfig = `"basic_auth_plain":{"accounts":[` +
	`{"username":"alice","password":"` + longPassword + `"},` +
	`{"username":"alice","password":"` + otherPassword + `"},` +
	`{"username":"bob","password":"` + longPassword + `x"}]}`

func TestAdmit(t *testing.T) {
	const (
		hashed = `"basic_auth":{"accounts":[{"username":"carol","password":"` + bcryptHash + `"}]}`
		token  = `"dg_token":{"key_ids":["51f1ad0b-4c3f-4d0e-9f61-0123456789a1",` +
			`"51f1ad0b-4c3f-4d0e-9f61-0123456789a2"]}`
		ifPresent = `"dg_token":{"key_ids":["51f1ad0b-4c3f-4d0e-9f61-0123456789a1",` +
			`"51f1ad0b-4c3f-4d0e-9f61-0123456789a2"],"if_present":true}`
		query = `"query_secret":{"parameter":"token","secrets":["s1-0123456789abcd",` +
			`"s 2+0123456789abcd"]}`
		body = `"callback_secret":["a-secret-of-2025"]`
		any  = `"require":"any"`
	)
	type caller struct {
		user, password string
		authorization  []string
		token          []string
		query          string
	}
	for name, test := range map[string]struct {
		config string
		caller caller
		want   Admission
		reason string
	}{
		"anonymous": {`"anonymous":true`, caller{}, Admission{}, ""},
		"anonymous with anything": {`"anonymous":true`,
			caller{user: "x", token: []string{"x"}}, Admission{}, ""},
		"anonymous, token if present, absent": {`"anonymous":true,` + ifPresent, caller{},
			Admission{}, ""},
		"anonymous, token if present, right": {`"anonymous":true,` + ifPresent,
			caller{token: []string{"51f1ad0b-4c3f-4d0e-9f61-0123456789a2"}}, Admission{}, ""},
		"anonymous, token if present, wrong": {`"anonymous":true,` + ifPresent,
			caller{token: []string{"key-3"}}, Admission{}, ReasonDGTokenWrong},
		"plain right": {plainConfig,
			caller{user: "alice", password: longPassword}, Admission{User: "alice", Identified: true}, ""},
		"plain right, the other of a rotation": {plainConfig,
			caller{user: "alice", password: otherPassword}, Admission{User: "alice", Identified: true}, ""},
		"plain wrong": {plainConfig,
			caller{user: "alice", password: longPassword + "x"}, Admission{}, ReasonBasicAuthWrong},
		"plain of somebody else": {plainConfig,
			caller{user: "bob", password: longPassword}, Admission{}, ReasonBasicAuthWrong},
		"plain, boundary moved": {plainConfig,
			caller{user: "alic", password: "e" + longPassword}, Admission{}, ReasonBasicAuthWrong},
		"plain missing": {plainConfig, caller{}, Admission{}, ReasonBasicAuthMissing},
		"another scheme": {plainConfig,
			caller{authorization: []string{"Bearer x"}}, Admission{}, ReasonBasicAuthWrong},
		"not base64": {plainConfig,
			caller{authorization: []string{"Basic !"}}, Admission{}, ReasonBasicAuthWrong},
		"no colon": {plainConfig,
			caller{authorization: []string{"Basic YWxpY2U="}}, Admission{}, ReasonBasicAuthWrong},
		"empty field": {plainConfig, caller{authorization: []string{""}},
			Admission{}, ReasonBasicAuthWrong},
		"two fields": {plainConfig,
			caller{user: "alice", password: longPassword, authorization: []string{"Basic eDp5"}},
			Admission{}, ReasonBasicAuthWrong},
		"longer than any": {plainConfig,
			caller{user: "alice", password: strings.Repeat("x", 2*maxCredential)}, Admission{},
			ReasonBasicAuthWrong},
		"hashed right": {hashed,
			caller{user: "carol", password: "correct horse"},
			Admission{User: "carol", Identified: true}, ""},
		"hashed wrong": {hashed, caller{user: "carol", password: "battery"},
			Admission{}, ReasonBasicAuthWrong},
		"hashed unknown user": {hashed,
			caller{user: "dave", password: "correct horse"}, Admission{}, ReasonBasicAuthWrong},
		"the hash as password": {hashed,
			caller{user: "carol", password: bcryptHash}, Admission{}, ReasonBasicAuthWrong},
		"hashed and plain, the hashed one": {hashed + "," + plainConfig,
			caller{user: "carol", password: "correct horse"},
			Admission{User: "carol", Identified: true}, ""},
		"hashed and plain, the plain one": {hashed + "," + plainConfig,
			caller{user: "alice", password: longPassword}, Admission{User: "alice", Identified: true}, ""},
		"token right": {token,
			caller{token: []string{"51f1ad0b-4c3f-4d0e-9f61-0123456789a2"}},
			Admission{Identified: true}, ""},
		"token wrong":   {token, caller{token: []string{"key-3"}}, Admission{}, ReasonDGTokenWrong},
		"token empty":   {token, caller{token: []string{""}}, Admission{}, ReasonDGTokenWrong},
		"token missing": {token, caller{}, Admission{}, ReasonDGTokenMissing},
		"token twice": {token,
			caller{token: []string{"51f1ad0b-4c3f-4d0e-9f61-0123456789a1",
				"51f1ad0b-4c3f-4d0e-9f61-0123456789a1"}}, Admission{}, ReasonDGTokenWrong},
		"token longer than any": {token,
			caller{token: []string{strings.Repeat("x", maxCredential+1)}}, Admission{}, ReasonDGTokenWrong},
		"query right": {query,
			caller{query: "a=b&token=s1-0123456789abcd&c"}, Admission{Identified: true}, ""},
		"query right, escaped": {query,
			caller{query: "%74oken=s+2%2b0123456789abcd"}, Admission{Identified: true}, ""},
		"query wrong": {query, caller{query: "token=s2"}, Admission{}, ReasonQuerySecretWrong},
		"query not escaped right": {query, caller{query: "token=s1-0123456789abcd%"},
			Admission{}, ReasonQuerySecretWrong},
		"query without value": {query, caller{query: "token"}, Admission{}, ReasonQuerySecretWrong},
		"query missing": {query,
			caller{query: "Token=s1&tokens=s1&x=token=s1-0123456789abcd"}, Admission{},
			ReasonQuerySecretMissing},
		"query twice": {query,
			caller{query: "token=s1-0123456789abcd&token=s1-0123456789abcd"}, Admission{},
			ReasonQuerySecretWrong},
		"query with a semicolon": {query,
			caller{query: "token=s1-0123456789abcd;a=b"}, Admission{}, ReasonQuerySecretWrong},
		"body": {body, caller{}, Admission{BodySecret: true}, ""},
		"all of all": {
			plainConfig + "," + token + "," + query + "," + body,
			caller{user: "bob", password: longPassword + "x",
				token: []string{"51f1ad0b-4c3f-4d0e-9f61-0123456789a1"},
				query: "token=s1-0123456789abcd"},
			Admission{User: "bob", BodySecret: true, Identified: true}, "",
		},
		"all but Basic Auth": {
			plainConfig + "," + token + "," + query + "," + body,
			caller{token: []string{"51f1ad0b-4c3f-4d0e-9f61-0123456789a1"},
				query: "token=s1-0123456789abcd"}, Admission{}, ReasonBasicAuthMissing,
		},
		"all but the token": {
			plainConfig + "," + token + "," + query + "," + body,
			caller{user: "bob", password: longPassword + "x", query: "token=s1-0123456789abcd"},
			Admission{}, ReasonDGTokenMissing,
		},
		"all but the query": {
			plainConfig + "," + token + "," + query + "," + body,
			caller{user: "bob", password: longPassword + "x",
				token: []string{"51f1ad0b-4c3f-4d0e-9f61-0123456789a1"}}, Admission{}, ReasonQuerySecretMissing,
		},
		"all, a hashed password wrong": {hashed + "," + token,
			caller{user: "carol", password: "staple",
				token: []string{"51f1ad0b-4c3f-4d0e-9f61-0123456789a1"}}, Admission{}, ReasonBasicAuthWrong},
		"all, token if present, absent": {plainConfig + "," + ifPresent,
			caller{user: "alice", password: longPassword}, Admission{User: "alice", Identified: true}, ""},
		"all, token if present, wrong": {plainConfig + "," + ifPresent,
			caller{user: "alice", password: longPassword, token: []string{"x"}}, Admission{},
			ReasonDGTokenWrong},
		"all, token if present, only that": {plainConfig + "," + ifPresent,
			caller{token: []string{"51f1ad0b-4c3f-4d0e-9f61-0123456789a1"}}, Admission{},
			ReasonBasicAuthMissing},
		"any: Basic Auth": {any + "," + plainConfig + "," + token + "," + query + "," + body,
			caller{user: "alice", password: longPassword}, Admission{User: "alice", Identified: true}, ""},
		"any: token": {any + "," + plainConfig + "," + token + "," + query + "," + body,
			caller{token: []string{"51f1ad0b-4c3f-4d0e-9f61-0123456789a1"}},
			Admission{Identified: true}, ""},
		"any: query": {any + "," + plainConfig + "," + token + "," + query + "," + body,
			caller{query: "token=s1-0123456789abcd"}, Admission{Identified: true}, ""},
		"any: hashed": {any + "," + hashed + "," + token,
			caller{user: "carol", password: "correct horse"},
			Admission{User: "carol", Identified: true}, ""},
		"any: the body is left": {
			any + "," + plainConfig + "," + token + "," + query + "," + body,
			caller{user: "x", token: []string{"x"}, query: "token=x"}, Admission{BodySecret: true}, "",
		},
		"any: a hashed password wrong, then body": {any + "," + hashed + "," + body,
			caller{user: "carol", password: "staple"}, Admission{BodySecret: true}, ""},
		"any: one wrong, one right": {any + "," + plainConfig + "," + token,
			caller{user: "alice", password: longPassword, token: []string{"x"}},
			Admission{User: "alice", Identified: true}, ""},
		"any: none": {any + "," + plainConfig + "," + token, caller{}, Admission{}, ReasonDGTokenMissing},
		"any: a wrong one says more": {any + "," + plainConfig + "," + token,
			caller{user: "x"}, Admission{}, ReasonBasicAuthWrong},
		"any: token if present, absent is nothing": {any + "," + plainConfig + "," + ifPresent,
			caller{}, Admission{}, ReasonDGTokenMissing},
		"any: token if present, right": {any + "," + plainConfig + "," + ifPresent,
			caller{token: []string{"51f1ad0b-4c3f-4d0e-9f61-0123456789a1"}},
			Admission{Identified: true}, ""},
		"any: token if present, wrong": {any + "," + plainConfig + "," + ifPresent,
			caller{user: "alice", password: longPassword, token: []string{"x"}}, Admission{},
			ReasonDGTokenWrong},
		"any: token if present, wrong, and body": {any + "," + body + "," + ifPresent,
			caller{token: []string{"x"}}, Admission{}, ReasonDGTokenWrong},
	} {
		t.Run(name, func(t *testing.T) {
			p := mustProvision(t, "{"+test.config+"}")
			r := request("POST", "/hook")
			r.URL.RawQuery = test.caller.query
			if test.caller.user != "" {
				r.SetBasicAuth(test.caller.user, test.caller.password)
			}
			for _, value := range test.caller.authorization {
				r.Header.Add("Authorization", value)
			}
			for _, value := range test.caller.token {
				r.Header.Add("dg-token", value)
			}
			admission, err := p.Admit(r)
			require.Equal(t, test.want, admission)
			if test.reason == "" {
				require.NoError(t, err)
				return
			}
			refused := refusal(t, err)
			require.Equal(t, test.reason, refused.Reason)
			require.Equal(t, http.StatusUnauthorized, refused.Status)
			require.NotEmpty(t, refused.Challenges)
			for _, verb := range []string{"%v", "%+v", "%#v"} {
				for _, secret := range []string{longPassword, "correct horse", "staple", "51f1ad0b", "s1-"} {
					require.NotContains(t, fmt.Sprintf(verb, err), secret)
				}
			}
		})
	}
}

func TestNothingIsHashedWhileAnotherCredentialIsWrong(t *testing.T) {
	p, comparer := countingPolicy(t,
		`"dg_token":{"key_ids":["51f1ad0b-4c3f-4d0e-9f61-0123456789a1"]},`+
			`"query_secret":{"parameter":"token","secrets":["s1-0123456789abcd"]}`)
	for _, target := range []string{"/", "/?token=s1-0123456789abcd", "/?token=s2"} {
		r := request("POST", target)
		r.SetBasicAuth("alice", "right")
		if target != "/?token=s1-0123456789abcd" {
			r.Header.Set("dg-token", "51f1ad0b-4c3f-4d0e-9f61-0123456789a1")
		}
		_, err := p.Admit(r)
		require.Equal(t, http.StatusUnauthorized, refusal(t, err).Status)
	}
	require.Zero(t, comparer.calls.Load())
}

func TestNothingIsHashedWhileAnotherCredentialSuffices(t *testing.T) {
	p, comparer := countingPolicy(t,
		`"require":"any","dg_token":{"key_ids":["51f1ad0b-4c3f-4d0e-9f61-0123456789a1"]}`)
	r := request("POST", "/")
	r.SetBasicAuth("alice", "wrong")
	r.Header.Set("dg-token", "51f1ad0b-4c3f-4d0e-9f61-0123456789a1")
	_, err := p.Admit(r)
	require.NoError(t, err)
	require.Zero(t, comparer.calls.Load())
}

func TestChallenges(t *testing.T) {
	const hashed = `"accounts":[{"username":"carol","password":"` + bcryptHash + `"}]`
	for name, test := range map[string]struct {
		config     string
		challenges []string
	}{
		"plain": {plainConfig, []string{`Basic realm="restricted", charset="UTF-8"`}},
		"hashed": {`"basic_auth":{` + hashed + `,"realm":"a \"b\" \\ c"}`,
			[]string{`Basic realm="a \"b\" \\ c", charset="UTF-8"`}},
		"both": {
			`"basic_auth":{` + hashed + `},"basic_auth_plain":{"realm":"r",` +
				`"accounts":[{"username":"a","password":"` + longPassword + `"}]}`,
			[]string{`Basic realm="r", charset="UTF-8"`},
		},
		"token": {`"dg_token":{"key_ids":["51f1ad0b-4c3f-4d0e-9f61-0123456789a1"]}`,
			[]string{`DeepgramCallback realm="restricted"`}},
		"query": {`"query_secret":{"parameter":"p","secrets":["a-secret-of-2025"]}`,
			[]string{`DeepgramCallback realm="restricted"`}},
		"two": {plainConfig + `,"dg_token":{"key_ids":["51f1ad0b-4c3f-4d0e-9f61-0123456789a1"]}`,
			[]string{`Basic realm="restricted", charset="UTF-8"`, `DeepgramCallback realm="restricted"`}},
	} {
		t.Run(name, func(t *testing.T) {
			p := mustProvision(t, "{"+test.config+"}")
			_, err := p.Admit(request("POST", "/"))
			header := make(http.Header)
			refusal(t, err).WriteHeaders(header)
			require.Equal(t, http.Header{"Www-Authenticate": test.challenges}, header)
		})
	}
}

func TestRetryAfterIsInWholeSecondsAndAtLeastOne(t *testing.T) {
	for wait, want := range map[time.Duration]string{
		time.Nanosecond:         "1",
		time.Second:             "1",
		1001 * time.Millisecond: "2",
		time.Minute:             "60",
	} {
		header := make(http.Header)
		(&Refusal{Status: 429, RetryAfter: wait}).WriteHeaders(header)
		require.Equal(t, http.Header{"Retry-After": {want}}, header)
	}
}
