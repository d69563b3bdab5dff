package auth

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	caddy.RegisterModule(Provider{})
	goleak.VerifyTestMain(m)
}

const (
	longPassword  = "q2Zk0Vw7LrX9sT4nB6mH1cJ8fD3gP5yA"
	otherPassword = "A5yP3gD8fJ1cH6mB4nT9sX7LrV0wZk2q"

	// "correct horse", in bcrypt of cost 4 and in argon2id with 64 KiB
	bcryptHash   = "$2a$04$ChzYtOCeslL9e2B277nRluPa9pECjHBuIPH9yh.4Q04Ng2WS2WVKi"
	argon2idHash = "$argon2id$v=19$m=64,t=1,p=1$" +
		"MDEyMzQ1Njc4OWFiY2RlZg$MjZP1+1U9JUbDWvDvtLyEsZiNXOKEUxfi6O2oe46uxA"
)

// provision returns an error in place of a policy that is not valid.
func provision(t testing.TB, config string) (*Policy, error) {
	t.Helper()
	p := new(Policy)
	require.NoError(t, json.Unmarshal([]byte(config), p))
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	return p, p.Provision(ctx)
}

func mustProvision(t testing.TB, config string) *Policy {
	t.Helper()
	p, err := provision(t, config)
	require.NoError(t, err)
	return p
}

func TestProvisionRefusesWhatCannotBeRight(t *testing.T) {
	plain := func(password string) string {
		return fmt.Sprintf(`{"basic_auth_plain":{"accounts":[{"username":"alice","password":%q}]}}`,
			password)
	}
	hashed := func(algorithm, hash string) string {
		return fmt.Sprintf(
			`{"basic_auth":{"hash":{"algorithm":%q},"accounts":[{"username":"alice","password":%q}]}}`,
			algorithm, hash,
		)
	}
	t.Setenv("AUTH_TEST_EMPTY", "")
	t.Setenv("AUTH_TEST_SHORT", "short")
	for name, test := range map[string]struct{ config, message string }{
		"nothing": {`{}`, "no credential is configured"},
		"anonymous and a credential": {`{"anonymous":true,"callback_secret":["a-secret-of-2025"]}`,
			"anonymous: it lets everyone in"},
		"anonymous and a required token": {
			`{"anonymous":true,"dg_token":{"key_ids":["51f1ad0b-4c3f-4d0e-9f61-0123456789a1"]}}`,
			"anonymous: it lets everyone in",
		},
		"only a token that may be absent": {
			`{"dg_token":{"key_ids":["51f1ad0b-4c3f-4d0e-9f61-0123456789a1"],"if_present":true}}`,
			"a caller that carries nothing would be let in; remove if_present, or configure " +
				"another credential",
		},
		"unknown require": {`{"callback_secret":["a-secret-of-2025"],"require":"some"}`,
			`require: "some" is neither "all" nor "any"`},
		"no guesses": {
			`{"callback_secret":["a-secret-of-2025"],"guess_limit":{"guesses":0,"window":1000}}`,
			"guess_limit: the number of guesses (0)",
		},
		"too many guesses": {
			`{"callback_secret":["a-secret-of-2025"],"guess_limit":{"guesses":100001,"window":1000}}`,
			"guess_limit: 100001 guesses are no limit",
		},
		"short callback secret": {
			`{"callback_secret":["a-secret-of-2025","fifteen-letters"]}`,
			"callback_secret: secret 2: it has 15 characters, but needs at least 16",
		},
		"short in characters": {`{"callback_secret":["ééééééééé"]}`, "it has 9 characters"},
		"short once it is known": {`{"callback_secret":["{env.AUTH_TEST_SHORT}"]}`,
			"callback_secret: secret 1: it has 5 characters"},
		"short query secret": {`{"query_secret":{"parameter":"p","secrets":["x"]}}`,
			"query_secret: secret 1: it has 1 characters"},
		"negative guesses": {
			`{"callback_secret":["a-secret-of-2025"],"guess_limit":{"guesses":-1,"window":1000}}`,
			"guess_limit: ",
		},
		"no window": {
			`{"callback_secret":["a-secret-of-2025"],"guess_limit":{"guesses":1}}`, "guess_limit: ",
		},
		"token without identifiers": {`{"dg_token":{}}`, "dg_token: no API key identifier is configured"},
		"empty token": {`{"dg_token":{"key_ids":["k",""]}}`,
			"dg_token: API key identifier 2: it is empty"},
		"no callback secret":    {`{"callback_secret":[]}`, "callback_secret: no secret is configured"},
		"empty callback secret": {`{"callback_secret":[""]}`, "callback_secret: secret 1: it is empty"},
		"callback secret too long": {
			`{"callback_secret":["` + strings.Repeat("x", maxCredential+1) + `"]}`,
			"callback_secret: secret 1: it has more than 4096 bytes",
		},
		"callback secret and line break": {`{"callback_secret":["a-secret-of-2025\n"]}`,
			"callback_secret: secret 1: it has a control character in it"},
		"query without parameter": {`{"query_secret":{"secrets":["a-secret-of-2025"]}}`,
			"query_secret: parameter: it is empty"},
		"query without secrets": {`{"query_secret":{"parameter":"p"}}`,
			"query_secret: no secret is configured"},
		"empty query secret": {`{"query_secret":{"parameter":"p","secrets":[""]}}`,
			"query_secret: secret 1: it is empty"},
		"no plain accounts": {`{"basic_auth_plain":{}}`, "basic_auth_plain: no account is configured"},
		"plain without username": {
			`{"basic_auth_plain":{"accounts":[{"password":"` + longPassword + `"}]}}`,
			"basic_auth_plain: account 1: username: it is empty",
		},
		"username with a colon": {
			`{"basic_auth_plain":{"accounts":[{"username":"a:b","password":"` + longPassword + `"}]}}`,
			"basic_auth_plain: account 1: username: Basic Auth cannot carry a colon",
		},
		"plain password of 31": {plain(longPassword[:31]),
			`basic_auth_plain: account "alice": password: it has 31 characters,` +
				` but what is not hashed needs at least 32`},
		"plain password of 16 é": {plain(strings.Repeat("é", 16)), "it has 16 characters"},
		"unset variable": {plain("{env.AUTH_TEST_UNSET}"),
			`account "alice": password: the placeholder {env.AUTH_TEST_UNSET} is empty`},
		"empty variable": {plain("{env.AUTH_TEST_EMPTY}"),
			`account "alice": password: the placeholder {env.AUTH_TEST_EMPTY} is empty`},
		"no such file": {plain("{file./no/such/file}"),
			`account "alice": password: the placeholder {file./no/such/file} is empty`},
		"placeholder of a request": {plain("{http.request.host}"),
			`account "alice": password: a placeholder in it is not known`},
		"unset variable in a secret": {plain("sesame{env.AUTH_TEST_UNSET}"),
			`account "alice": password: a placeholder in it is empty`},
		"no hashed accounts": {`{"basic_auth":{}}`, "basic_auth: no account is configured"},
		"unknown algorithm":  {hashed("sha1", bcryptHash), "basic_auth: hash: "},
		"not a hash": {hashed("bcrypt", "sesame"),
			`basic_auth: account "alice": password: it is not a hash`},
		"bcrypt too short": {hashed("bcrypt", bcryptHash[:59]),
			`basic_auth: account "alice": password: it is not a bcrypt hash`},
		"bcrypt with a cost of 32": {hashed("bcrypt", strings.Replace(bcryptHash, "$04$", "$32$", 1)),
			`account "alice": password: it is not a bcrypt hash: the cost`},
		"argon2id where bcrypt should be": {hashed("bcrypt", argon2idHash),
			`account "alice": password: it is not a bcrypt hash`},
		"bcrypt where argon2id should be": {hashed("argon2id", bcryptHash),
			`account "alice": password: it is not an argon2id hash`},
		"argon2id without passes": {hashed("argon2id",
			strings.Replace(argon2idHash, "t=1", "t=0", 1)), `t and p of at least 1`},
		"argon2id without threads": {hashed("argon2id",
			strings.Replace(argon2idHash, "p=1", "p=0", 1)), `t and p of at least 1`},
		"argon2id with 256 threads": {hashed("argon2id",
			strings.Replace(argon2idHash, "p=1", "p=256", 1)), `a parameter is out of range`},
		"argon2id without a tag": {hashed("argon2id",
			argon2idHash[:strings.LastIndex(argon2idHash, "$")+1]), `a tag of at least 16`},
		"a username twice": {`{"basic_auth":{"accounts":[{"username":"alice","password":"` +
			bcryptHash + `"},{"username":"alice","password":"` + bcryptHash + `"}]}}`,
			`basic_auth: account "alice": there are two of that name`},
		"two realms": {`{"basic_auth":{"realm":"a","accounts":[{"username":"alice","password":"` +
			bcryptHash + `"}]},
			"basic_auth_plain":{"realm":"b","accounts":[{"username":"alice","password":"` +
			longPassword + `"}]}}`, "realm: it differs"},
		"line break in a realm": {
			`{"basic_auth":{"realm":"a\r\nb","accounts":[{"username":"alice","password":"` +
				bcryptHash + `"}]}}`, "realm: a control character",
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := provision(t, test.config)
			require.ErrorContains(t, err, test.message)
		})
	}
}

func TestProvisionErrorsHoldNothingOfTheValues(t *testing.T) {
	const secret = "sesame"
	refused := 0
	t.Setenv("AUTH_TEST_SECRET", secret)
	file := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(file, []byte(secret+"\x00"), 0o600))
	for _, value := range []string{
		secret, secret + "{", secret + "{" + secret + "}", "{" + secret + "}", "{env." + secret + "}x{",
		secret + "\n",
		"{env.AUTH_TEST_SECRET}", "{file." + file + "}", "$2a$" + secret, "$argon2id$" + secret,
		"$argon2id$v=19$m=" + secret + ",t=1,p=1$$",
		"$argon2id$v=19$m=64,t=1,p=1$" + secret + "$" + secret,
	} {
		quoted, err := json.Marshal(value)
		require.NoError(t, err)
		for _, config := range []string{
			`{"basic_auth_plain":{"accounts":[{"username":"alice","password":%s}]}}`,
			`{"basic_auth":{"accounts":[{"username":"alice","password":%s}]}}`,
			`{"basic_auth":{"hash":{"algorithm":"argon2id"},"accounts":[{"username":"alice",` +
				`"password":%s}]}}`,
			`{"callback_secret":[%s,""]}`,
			`{"dg_token":{"key_ids":[%s,""]}}`,
			`{"query_secret":{"parameter":"p","secrets":[%s,""]}}`,
		} {
			_, err := provision(t, fmt.Sprintf(config, quoted))
			if err == nil {
				continue // it can be a password
			}
			refused++
			for _, verb := range []string{"%v", "%+v", "%#v"} {
				require.NotContains(t, fmt.Sprintf(verb, err), secret, "%s with %s", config, value)
			}
		}
	}
	require.Greater(t, refused, 60)
}

func TestPlaceholdersAreResolvedInEveryCredential(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(file, []byte(longPassword+"\n"), 0o600))
	t.Setenv("AUTH_TEST_USER", "alice")
	t.Setenv("AUTH_TEST_HASH", bcryptHash)
	t.Setenv("AUTH_TEST_TAIL", otherPassword[20:])
	p := mustProvision(t, `{
		"basic_auth": {"accounts": [
			{"username": "{env.AUTH_TEST_USER}", "password": "{env.AUTH_TEST_HASH}"}
		]},
		"basic_auth_plain": {"accounts": [
			{"username": "{env.AUTH_TEST_USER}", "password": "{file.`+file+`}"},
			{"username": "bob", "password": "`+otherPassword[:20]+`{env.AUTH_TEST_TAIL}"}
		]},
		"dg_token": {"key_ids": ["{file.`+file+`}"]},
		"callback_secret": ["{file.`+file+`}"],
		"query_secret": {"parameter": "token", "secrets": ["a\\{literal\\}brace in it", "{file.`+file+
		`}"]}
	}`)
	for _, login := range [][2]string{{"alice", "correct horse"}, {"alice", longPassword},
		{"bob", otherPassword}} {
		for _, query := range []string{"token=a{literal}brace+in+it", "token=" + longPassword} {
			r := request("GET", "/?"+query)
			r.SetBasicAuth(login[0], login[1])
			r.Header.Set("dg-token", longPassword)
			admission, err := p.Admit(r)
			require.NoError(t, err)
			require.Equal(t, Admission{User: login[0], BodySecret: true, Identified: true}, admission)
		}
	}
	require.NoError(t,
		p.VerifyMessage([]byte(`{"metadata":{"extra":{"callback_secret":"`+longPassword+`"}}}`)))
}

func TestGuessLimitHasADefault(t *testing.T) {
	p := mustProvision(t,
		`{"basic_auth":{"accounts":[{"username":"alice","password":"`+bcryptHash+`"}]}}`)
	require.Equal(t, 20, p.judge.basic.hashed.guesses.limit)
	require.Equal(t, time.Minute, p.judge.basic.hashed.guesses.window)
}

// The JSON is what Caddy's documentation shows and what the Caddyfile adapts to.
func TestPolicyMarshalsToTheDocumentedJSON(t *testing.T) {
	p := Policy{
		BasicAuth: &BasicAuth{
			HashRaw:  json.RawMessage(`{"algorithm":"bcrypt"}`),
			Accounts: []caddyauth.Account{{Username: "a", Password: "h"}},
			Realm:    "r",
		},
		BasicAuthPlain: &BasicAuthPlain{
			Accounts: []PlainAccount{{Username: "a", Password: "p"}},
			Realm:    "r",
		},
		DGToken:        &DGToken{KeyIDs: []string{"k"}, IfPresent: true},
		CallbackSecret: []string{"a-secret-of-2025"},
		QuerySecret:    &QuerySecret{Parameter: "p", Secrets: []string{"a-secret-of-2025"}},
		Require:        "any",
		Anonymous:      true,
		GuessLimit:     &GuessLimit{Guesses: 5, Window: caddy.Duration(time.Second)},
	}
	text, err := json.Marshal(p)
	require.NoError(t, err)
	require.JSONEq(t, `{
		"basic_auth": {
			"hash": {"algorithm": "bcrypt"},
			"accounts": [{"username": "a", "password": "h"}],
			"realm": "r"
		},
		"basic_auth_plain": {"accounts": [{"username": "a", "password": "p"}], "realm": "r"},
		"dg_token": {"key_ids": ["k"], "if_present": true},
		"callback_secret": ["a-secret-of-2025"],
		"query_secret": {"parameter": "p", "secrets": ["a-secret-of-2025"]},
		"require": "any",
		"anonymous": true,
		"guess_limit": {"guesses": 5, "window": 1000000000}
	}`, string(text))
}
